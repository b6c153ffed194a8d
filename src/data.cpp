// Draws of x_0. Point i of (seed, step) takes its words from RandomUse::data at (seed, i, step):
//   block 0    what chooses (component, ring, square, stored sample) and where in a square
//   block 1 …  normals
//     blob, mixture  word 0: component; d normals from block 1: x = μ_k + Σ_j √λ_j z_j q_j
//     circles2       word 0: ring; normals z_0 … z_3: direction (z_0, z_1)/|·|, radius mean + 0.1 z_2
//     checker        words 0, 1, 2: square, place in it
//     samples        words 0, 1: a 64-bit fraction of N
// Points go through in blocks that stay in the first-level cache, by loops without branches.
#include "fokker/data.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string_view>

#include "cpu/random.hpp"
#include "fokker/error.hpp"
#include "fokker/model.hpp"
#include "fokker/npy.hpp"
#include "fokker/philox.hpp"
#include "quote.hpp"

namespace fokker {
namespace {

constexpr std::int64_t block_points = 256;

// Blob: nine Gaussians of covariance 0.2 I, the samples scaled by 0.65.
GaussianMixture blob_mixture() {
  constexpr double scale = 0.65;
  std::vector<double> means;
  for (const double m : {2., 2., 2., -2., -2., 2., -2., -2., 0., 0., 4., 0., -4., 0., 0., 4., 0., -4.}) {
    means.push_back(scale * m);
  }
  return GaussianMixture::isotropic(2, std::vector<double>(9, 1.0), means, std::vector<double>(9, 0.2 * scale * scale));
}

// Lower-left corners and side of checker's squares: 6·(−0.5, −0.5) + 6·{(0, 0), (0.5, 0), (0.25, 0.25), …}.
constexpr float square_side = 1.5f;
constexpr float square_corners[8][2] = {{-3, -3}, {0, -3}, {-1.5f, -1.5f}, {1.5f, -1.5f},
                                        {-3, 0},  {0, 0},  {-1.5f, 1.5f},  {1.5f, 1.5f}};

bool ends_with(std::string_view text, std::string_view end) {
  return text.size() > end.size() && text.substr(text.size() - end.size()) == end;
}

void draw_circles2(float* out, std::int64_t n, std::uint64_t seed, std::uint64_t first, std::uint64_t step) {
  float ring[block_points], z[4 * block_points];
  cpu::draw_uniforms(ring, n, 1, seed, first, RandomUse::data, step, 0);
  cpu::draw_normals(z, n, 4, seed, first, RandomUse::data, step, 1.0f, 1);
  for (std::int64_t i = 0; i < n; ++i) {
    const float x = z[4 * i], y = z[4 * i + 1];
    const float radius = 2.0f * ((ring[i] < 0.5f ? 0.65f : 1.4f) + 0.1f * z[4 * i + 2]);
    const float scale = radius / std::sqrt(x * x + y * y);  // a Box–Muller pair is never (0, 0)
    out[2 * i] = scale * x;
    out[2 * i + 1] = scale * y;
  }
}

void draw_checker(float* out, std::int64_t n, std::uint64_t seed, std::uint64_t first, std::uint64_t step) {
  float u[3 * block_points];
  cpu::draw_uniforms(u, n, 3, seed, first, RandomUse::data, step, 0);
  for (std::int64_t i = 0; i < n; ++i) {
    const int square = std::min(static_cast<int>(8.0f * u[3 * i]), 7);
    out[2 * i] = square_corners[square][0] + square_side * u[3 * i + 1];
    out[2 * i + 1] = square_corners[square][1] + square_side * u[3 * i + 2];
  }
}

void draw_samples(float* out, std::int64_t n, std::uint64_t seed, std::uint64_t first, std::uint64_t step,
                  const std::vector<float>& samples, std::int64_t d) {
  const std::uint64_t count = samples.size() / static_cast<std::uint64_t>(d);  // < 2^32
  const std::uint64_t offset = philox_offset(RandomUse::data, 0, step);
  for (std::int64_t i = 0; i < n; ++i) {
    const PhiloxBlock words = philox4x32_10(seed, first + static_cast<std::uint64_t>(i), offset);
    // ⌊count · (w_0 + w_1 2^{−32}) 2^{−32}⌋: even over any count, to 2^{−32}.
    const std::uint64_t chosen = (words.word[0] * count + ((words.word[1] * count) >> 32)) >> 32;
    std::copy_n(samples.data() + chosen * static_cast<std::uint64_t>(d), d, out + i * d);
  }
}

}  // namespace

struct DataSet::MixtureTables {
  std::int64_t dimension;
  std::vector<float> thresholds;  // [K − 1] running sums of the weights: component k is the number of them ≤ u
  std::vector<float> means;       // [K, d]
  std::vector<float> deviations;  // [K] where every covariance is a multiple of I, else empty
  std::vector<float> factors;     // [K, d, d] row j is √λ_j q_j; empty where `deviations` is not

  explicit MixtureTables(const GaussianMixture& mixture)
      : dimension(mixture.dimension()),
        thresholds(mixture.cumulative_weights().begin(), mixture.cumulative_weights().end() - 1),
        means(mixture.means().begin(), mixture.means().end()) {
    const std::int64_t d = dimension, components = mixture.components();
    const std::vector<double>& c = mixture.covariances();
    bool isotropic = true;
    for (std::int64_t k = 0; k < components; ++k) {
      for (std::int64_t i = 0; i < d * d; ++i) {
        isotropic = isotropic && c[k * d * d + i] == (i % (d + 1) == 0 ? c[k * d * d] : 0.0);
      }
    }
    if (isotropic) {
      for (std::int64_t k = 0; k < components; ++k) deviations.push_back(static_cast<float>(std::sqrt(c[k * d * d])));
      return;
    }
    factors.resize(c.size());
    for (std::int64_t row = 0; row < components * d; ++row) {
      const double deviation = std::sqrt(std::max(mixture.eigenvalues()[row], 0.0));
      for (std::int64_t i = 0; i < d; ++i) {
        factors[row * d + i] = static_cast<float>(deviation * mixture.eigenvectors()[row * d + i]);
      }
    }
  }

  void choose(const float* u, std::int64_t n, std::int32_t* component) const {
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

  void draw(float* out, std::int64_t n, std::uint64_t seed, std::uint64_t first, std::uint64_t step) const {
    const std::int64_t d = dimension;
    float u[block_points];
    std::int32_t component[block_points];
    cpu::draw_uniforms(u, n, 1, seed, first, RandomUse::data, step, 0);
    choose(u, n, component);
    cpu::draw_normals(out, n, static_cast<int>(d), seed, first, RandomUse::data, step, 1.0f, 1);
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
    std::vector<float> z(d);
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
};

DataSet DataSet::mixture(GaussianMixture mixture) {
  if (mixture.components() == 0)
    throw Error("a data set was asked for of a mixture without components; allowed: 1 or more");
  // Normals start at block 1 of 2^16 blocks of four.
  if (mixture.dimension() > 4 * 65535) {
    throw Error(fmt::format("a data set of dimension {} asked for; allowed: 1 to {}", mixture.dimension(), 4 * 65535));
  }
  DataSet data;
  data.kind_ = Kind::mixture;
  data.name_ = "mixture";
  data.dimension_ = mixture.dimension();
  data.tables_ = std::make_shared<const MixtureTables>(mixture);
  data.mixture_ = std::make_shared<const GaussianMixture>(std::move(mixture));
  return data;
}

DataSet DataSet::samples(std::vector<float> samples, std::int64_t dimension) {
  if (dimension < 1) throw Error(fmt::format("samples of dimension {} given; allowed: 1 or more", dimension));
  const auto size = static_cast<std::int64_t>(samples.size());
  if (size == 0) throw Error("no samples given; allowed: 1 or more");
  if (size % dimension != 0) {
    throw Error(fmt::format("{} numbers given as samples of dimension {}; allowed: a multiple of it", size, dimension));
  }
  if (size / dimension > 0xFFFFFFFFll) {
    throw Error(fmt::format("{} samples given; allowed: fewer than 2^32", size / dimension));
  }
  const auto bad = std::find_if(samples.begin(), samples.end(), [](float v) { return !std::isfinite(v); });
  if (bad != samples.end()) {
    const std::int64_t at = bad - samples.begin();
    throw Error(fmt::format("sample {}, coordinate {} is {}; allowed: numbers that are finite in float32",
                            at / dimension, at % dimension, *bad));
  }
  DataSet data;
  data.kind_ = Kind::samples;
  data.name_ = "samples";
  data.dimension_ = dimension;
  data.samples_ = std::make_shared<const std::vector<float>>(std::move(samples));
  return data;
}

DataSet DataSet::named(const std::string& name) {
  if (name == "blob") {
    DataSet data = mixture(blob_mixture());
    data.kind_ = Kind::blob;
    data.name_ = name;
    return data;
  }
  if (name == "circles2" || name == "checker") {
    DataSet data;
    data.kind_ = name == "checker" ? Kind::checker : Kind::circles2;
    data.name_ = name;
    return data;
  }
  if (ends_with(name, ".json")) {
    Model model = load_model(name);
    auto* law = std::get_if<GaussianMixture>(&model.network);
    if (law == nullptr) throw Error(fmt::format("'{}' as a data set holds no Gaussian mixture", name));
    DataSet data = mixture(std::move(*law));
    data.name_ = name;
    return data;
  }
  if (ends_with(name, ".npy")) {
    const NpyArray array = load_npy(name);
    if (array.shape.size() != 2) {
      throw Error(fmt::format("'{}' as a data set has {} dimension(s); allowed: samples of shape [N, d]", name,
                              array.shape.size()));
    }
    try {
      DataSet data = samples(std::vector<float>(array.data.begin(), array.data.end()), array.shape[1]);
      data.name_ = name;
      return data;
    } catch (const Error& error) {
      throw Error(fmt::format("'{}' as a data set: {}", name, error.what()));
    }
  }
  throw Error(
      fmt::format("unknown data set {}; allowed: blob, circles2, checker, FILE.json (a Gaussian mixture), "
                  "FILE.npy (samples of shape [N, d])",
                  in_quotes(name)));
}

void DataSet::draw(View<float> out, std::uint64_t seed, std::uint64_t first_index, std::uint64_t step) const {
  if (out.rows == 0) return;
  if (out.device != Device::cpu || out.data == nullptr || out.rows < 0 || out.columns != dimension_) {
    throw Error(fmt::format("draws of data set '{}' into a view of {} x {}{}; allowed: N x {} on the host", name_,
                            out.rows, out.columns, out.device == Device::cpu ? "" : " on the device", dimension_));
  }
  for (std::int64_t begin = 0; begin < out.rows; begin += block_points) {
    const std::int64_t n = std::min(block_points, out.rows - begin);
    float* block = out.data + begin * dimension_;
    const std::uint64_t first = first_index + static_cast<std::uint64_t>(begin);
    switch (kind_) {
      case Kind::circles2: draw_circles2(block, n, seed, first, step); break;
      case Kind::checker: draw_checker(block, n, seed, first, step); break;
      case Kind::samples: draw_samples(block, n, seed, first, step, *samples_, dimension_); break;
      case Kind::blob:
      case Kind::mixture: tables_->draw(block, n, seed, first, step); break;
    }
  }
}

}  // namespace fokker
