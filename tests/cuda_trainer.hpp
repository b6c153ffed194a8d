#pragma once

// What tests of training on CUDA share: the GPU's context, copies, data sets of every kind.
#include <cuda_runtime_api.h>

#include <cmath>
#include <cstdint>
#include <vector>

#include "backend_under_test.hpp"
#include "cuda/nccl.hpp"
#include "cuda/runtime.hpp"
#include "fokker/data.hpp"
#include "trainer_checks.hpp"

namespace fokker::testing {

inline const Context& gpu() {
  static const Context context({.backend = BackendKind::cuda});
  return context;
}

// Whether there can be ranks of GPUs: always on the emulation.
inline bool has_nccl() {
#ifndef FOKKER_EMULATION
  try {
    cuda::nccl();
  } catch (const Error&) {
    return false;
  }
#endif
  return true;
}

template <class T>
std::vector<T> on_host(const cuda::DeviceMemory& memory, std::size_t count) {
  std::vector<T> values(count);
  if (count > 0) {
    cuda::check(cudaMemcpy(values.data(), memory.data(), count * sizeof(T), cudaMemcpyDeviceToHost), "cudaMemcpy");
  }
  return values;
}

template <class T>
void to_device(T* to, const T* from, std::size_t count) {
  cuda::check(cudaMemcpy(to, from, count * sizeof(T), cudaMemcpyHostToDevice), "cudaMemcpy");
}

struct DataCase {
  const char* name;
  DataSet set;
};
inline std::vector<DataCase> data_sets() {
  const std::vector<double> weights = {1.0, 2.0, 0.5};
  const auto means = [](std::int64_t d) {
    std::vector<double> m(static_cast<std::size_t>(3 * d));
    for (std::size_t i = 0; i < m.size(); ++i) m[i] = std::sin(3.0 * static_cast<double>(i));
    return m;
  };
  const auto full = [&](std::int64_t d) {
    std::vector<double> c(static_cast<std::size_t>(3 * d * d));
    for (std::int64_t k = 0; k < 3; ++k) {
      for (std::int64_t i = 0; i < d; ++i) {
        for (std::int64_t j = 0; j < d; ++j) {
          c[static_cast<std::size_t>((k * d + i) * d + j)] = (i == j ? 1.0 : 0.3 / static_cast<double>(k + 1));
        }
      }
    }
    return DataSet::mixture(GaussianMixture(d, weights, means(d), c));
  };
  std::vector<float> stored(7 * 19);
  for (std::size_t i = 0; i < stored.size(); ++i) stored[i] = std::cos(static_cast<float>(i));
  return {{"blob", DataSet::named("blob")},
          {"circles2", DataSet::named("circles2")},
          {"checker", DataSet::named("checker")},
          {"isotropic_1", DataSet::mixture(GaussianMixture::isotropic(1, weights, means(1), {0.2, 0.1, 0.3}))},
          {"isotropic_7", DataSet::mixture(GaussianMixture::isotropic(7, weights, means(7), {0.2, 0.1, 0.3}))},
          {"full_2", full(2)},
          {"full_6", full(6)},
          {"samples_7", DataSet::samples(stored, 7)}};
}

}  // namespace fokker::testing
