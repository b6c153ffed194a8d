#pragma once

// One draw of x_0 by the rules of formulas/data.hpp: what is chosen of the source, and the coordinates four at a time
// (a Philox block of normals), so that the threads of a point can share it, or all of it by one thread.
#include <cstdint>

#include "data_launch.hpp"
#include "fokker/formulas/data.hpp"
#include "random.hpp"

namespace fokker::kernels {

// Names the words of a point.
struct PointKey {
  std::uint64_t seed, index, step;
};

FOKKER_HOST_DEVICE inline void data_uniforms(const PointKey& key, float (&u)[4]) {
  uniforms4(key.seed, key.index, RandomUse::data, 0, key.step, u);
}
FOKKER_HOST_DEVICE inline void data_normals(const PointKey& key, int quad, float (&z)[4]) {
  normals4(key.seed, key.index, RandomUse::data, 1 + static_cast<std::uint32_t>(quad), key.step, z);
}

FOKKER_HOST_DEVICE inline int quads_of(int dimension) { return (dimension + 3) / 4; }

// Whether a point's coordinates depend on all of its normals: its quads are not drawn apart.
FOKKER_HOST_DEVICE inline bool has_full_covariance(const DataSource& data) {
  return data.kind != DataKind::samples && data.mixture.factors != nullptr;
}

// The component: the number of thresholds ≤ u, by bisection. Or the stored sample.
FOKKER_HOST_DEVICE inline std::int64_t chosen_of(const DataSource& data, const PointKey& key) {
  if (data.kind == DataKind::samples) {
    const PhiloxBlock words = philox4x32_10(key.seed, key.index, philox_offset(RandomUse::data, 0, key.step));
    return static_cast<std::int64_t>(stored_sample(words.word[0], words.word[1], data.count));
  }
  float u[4];
  data_uniforms(key, u);
  int low = 0, high = data.mixture.components - 1;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (u[0] >= data.mixture.thresholds[middle]) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

FOKKER_HOST_DEVICE inline bool is_planar(DataKind kind) {
  return kind == DataKind::circles2 || kind == DataKind::checker;
}

FOKKER_HOST_DEVICE inline PlanePoint planar_point(DataKind kind, const PointKey& key) {
  float u[4];
  data_uniforms(key, u);
  if (kind == DataKind::checker) return checker_point(u[0], u[1], u[2]);
  float z[4];
  data_normals(key, 0, z);
  return circles2_point(u[0], z[0], z[1], z[2]);
}

// Coordinates 4 quad … of the point that chose `chosen`; those from d on are not written. Not of a planar set, nor
// where covariances are full.
FOKKER_HOST_DEVICE inline void data_quad(const DataSource& data, const PointKey& key, std::int64_t chosen, int quad,
                                         float (&x)[4]) {
  const int d = data.dimension;
  if (data.kind == DataKind::samples) {
    for (int w = 0; w < 4; ++w) {
      x[w] = 4 * quad + w < d ? data.samples[chosen * d + 4 * quad + w] : 0;
    }
    return;
  }
  const float deviation = data.mixture.deviations[chosen];
  float z[4];
  data_normals(key, quad, z);
  for (int w = 0; w < 4; ++w) {
    x[w] = 4 * quad + w < d ? data.mixture.means[chosen * d + 4 * quad + w] + deviation * z[w] : 0;
  }
}

// x [d], a pointer to any memory or what has its operator []. O(d²) where covariances are full.
template <class Row>
FOKKER_HOST_DEVICE inline void data_point(const DataSource& data, const PointKey& key, const Row& x) {
  const int d = data.dimension;
  if (is_planar(data.kind)) {
    const PlanePoint p = planar_point(data.kind, key);
    x[0] = p.x;
    x[1] = p.y;
    return;
  }
  const std::int64_t chosen = chosen_of(data, key);
  if (!has_full_covariance(data)) {
    for (int quad = 0; quad < quads_of(d); ++quad) {
      float part[4];
      data_quad(data, key, chosen, quad, part);
      for (int w = 0; w < 4; ++w) {
        if (4 * quad + w < d) x[4 * quad + w] = part[w];
      }
    }
    return;
  }
  for (int l = 0; l < d; ++l) x[l] = data.mixture.means[chosen * d + l];
  for (int quad = 0; quad < quads_of(d); ++quad) {
    float z[4];
    data_normals(key, quad, z);
    for (int w = 0; w < 4; ++w) {
      if (4 * quad + w >= d) break;
      const float* factor = data.mixture.factors + (chosen * d + 4 * quad + w) * d;
      for (int l = 0; l < d; ++l) x[l] += z[w] * factor[l];
    }
  }
}

}  // namespace fokker::kernels
