// Draws of x_0 by the rules of formulas/data.hpp. Points go through in blocks that stay in the first-level cache, by
// loops without branches.
#include "cpu/data.hpp"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "cpu/random.hpp"
#include "fokker/formulas/data.hpp"
#include "fokker/formulas/philox.hpp"
#include "operations/data_tables.hpp"

namespace fokker::cpu {
namespace {

constexpr std::int64_t block_points = 256;

void draw_circles2(float* out, std::int64_t n, std::uint64_t seed, std::uint64_t first, std::uint64_t step) {
  float ring[block_points], z[4 * block_points];
  draw_point_uniforms(ring, n, 1, seed, first, RandomUse::data, step, 0);
  draw_point_normals(z, n, 4, seed, first, RandomUse::data, step, 1.0f, 1);
  for (std::int64_t i = 0; i < n; ++i) {
    const PlanePoint p = circles2_point(ring[i], z[4 * i], z[4 * i + 1], z[4 * i + 2]);
    out[2 * i] = p.x;
    out[2 * i + 1] = p.y;
  }
}

void draw_checker(float* out, std::int64_t n, std::uint64_t seed, std::uint64_t first, std::uint64_t step) {
  float u[3 * block_points];
  draw_point_uniforms(u, n, 3, seed, first, RandomUse::data, step, 0);
  for (std::int64_t i = 0; i < n; ++i) {
    const PlanePoint p = checker_point(u[3 * i], u[3 * i + 1], u[3 * i + 2]);
    out[2 * i] = p.x;
    out[2 * i + 1] = p.y;
  }
}

void draw_samples(float* out, std::int64_t n, std::uint64_t seed, std::uint64_t first, std::uint64_t step,
                  const std::vector<float>& samples, std::int64_t d) {
  const std::uint64_t count = samples.size() / static_cast<std::uint64_t>(d);  // < 2^32
  const std::uint64_t offset = philox_offset(RandomUse::data, 0, step);
  for (std::int64_t i = 0; i < n; ++i) {
    const PhiloxBlock words = philox4x32_10(seed, first + static_cast<std::uint64_t>(i), offset);
    const std::uint64_t chosen = stored_sample(words.word[0], words.word[1], count);
    std::copy_n(samples.data() + chosen * static_cast<std::uint64_t>(d), d, out + i * d);
  }
}

void choose_components(const MixtureTables& tables, const float* u, std::int64_t n, std::int32_t* component) {
  const std::vector<float>& thresholds = tables.thresholds;
  if (thresholds.size() > 64) {
    for (std::int64_t i = 0; i < n; ++i) {
      const auto above = std::upper_bound(thresholds.begin(), thresholds.end(), u[i]);
      component[i] = static_cast<std::int32_t>(above - thresholds.begin());
    }
    return;
  }
  std::fill_n(component, n, 0);
  for (const float threshold : thresholds) {
    for (std::int64_t i = 0; i < n; ++i) component[i] += u[i] >= threshold ? 1 : 0;
  }
}

void draw_mixture(float* out, std::int64_t n, std::uint64_t seed, std::uint64_t first, std::uint64_t step,
                  const MixtureTables& tables) {
  const std::int64_t d = tables.dimension;
  const std::vector<float>&means = tables.means, &deviations = tables.deviations, &factors = tables.factors;
  float u[block_points];
  std::int32_t component[block_points];
  draw_point_uniforms(u, n, 1, seed, first, RandomUse::data, step, 0);
  choose_components(tables, u, n, component);
  draw_point_normals(out, n, static_cast<int>(d), seed, first, RandomUse::data, step, 1.0f, 1);
  if (!deviations.empty()) {
    if (d == 2) {  // worth its own loop: the planar sets are what training draws most
      for (std::int64_t i = 0; i < n; ++i) {
        const std::int32_t k = component[i];
        out[2 * i] = means[2 * k] + deviations[k] * out[2 * i];
        out[2 * i + 1] = means[2 * k + 1] + deviations[k] * out[2 * i + 1];
      }
      return;
    }
    for (std::int64_t i = 0; i < n; ++i) {
      const float* mean = means.data() + component[i] * d;
      const float deviation = deviations[component[i]];
      for (std::int64_t j = 0; j < d; ++j) out[i * d + j] = mean[j] + deviation * out[i * d + j];
    }
    return;
  }
  thread_local std::vector<float> z;  // kept, so that draws of a training allocate once
  z.resize(d);
  for (std::int64_t i = 0; i < n; ++i) {
    float* x = out + i * d;
    std::copy_n(x, d, z.begin());
    std::copy_n(means.data() + component[i] * d, d, x);
    const float* factor = factors.data() + component[i] * d * d;
    for (std::int64_t j = 0; j < d; ++j) {
      for (std::int64_t l = 0; l < d; ++l) x[l] += z[j] * factor[j * d + l];
    }
  }
}

}  // namespace

void draw_data(const DataSet& data, View<float> out, std::uint64_t seed, std::uint64_t first_index,
               std::uint64_t step) {
  const std::int64_t d = data.dimension();
  for (std::int64_t begin = 0; begin < out.rows; begin += block_points) {
    const std::int64_t n = std::min(block_points, out.rows - begin);
    float* block = out.data + begin * d;
    const std::uint64_t first = first_index + static_cast<std::uint64_t>(begin);
    switch (data.kind()) {
      case DataSet::Kind::circles2: draw_circles2(block, n, seed, first, step); break;
      case DataSet::Kind::checker: draw_checker(block, n, seed, first, step); break;
      case DataSet::Kind::samples: draw_samples(block, n, seed, first, step, *data.stored(), d); break;
      case DataSet::Kind::blob:
      case DataSet::Kind::mixture: draw_mixture(block, n, seed, first, step, *data.tables()); break;
    }
  }
}

}  // namespace fokker::cpu
