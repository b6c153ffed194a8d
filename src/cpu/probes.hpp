#pragma once

#include "cpu/random.hpp"
#include "fokker/fields.hpp"

namespace fokker::cpu {

// out [n, d]: Hutchinson's probe `probe` of points first_index … first_index + n − 1 (absolute: Divergence::first_index
// is already in it), a function of (seed, index, probe) alone, the same for every model.
inline void draw_probes(float* out, std::int64_t n, int d, const Divergence& divergence, std::uint64_t first_index,
                        int probe) {
  const auto step = static_cast<std::uint64_t>(probe);
  if (divergence.law == ProbeLaw::gaussian) {
    draw_point_normals(out, n, d, divergence.seed, first_index, RandomUse::probe, step);
    return;
  }
  draw_point_uniforms(out, n, d, divergence.seed, first_index, RandomUse::probe, step);
  for (std::int64_t i = 0; i < n * d; ++i) out[i] = out[i] < 0.5f ? -1.0f : 1.0f;
}

// The same of points with any indices [n].
inline void draw_probes(float* out, std::int64_t n, int d, const Divergence& divergence, const std::uint64_t* indices,
                        int probe) {
  for (std::int64_t i = 0, next; i < n; i = next) {
    next = i + 1;
    while (next < n && indices[next] == indices[next - 1] + 1) ++next;
    draw_probes(out + i * d, next - i, d, divergence, indices[i], probe);
  }
}

}  // namespace fokker::cpu
