#pragma once

// What diagnostics share: fields of a potential at points on the host, and times.
#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "fokker/context.hpp"
#include "fokker/fields.hpp"
#include "fokker/model.hpp"

namespace fokker {

// Throws Error where the model is not valid or not a potential; `what` begins the sentence.
void check_potential(const std::string& what, const Model& model);

// Fields at one time and points on the host, by batches that a device holds. In double, which every context serves:
// some of what is made of them are small differences.
class HostFields {
 public:
  HostFields(const Context& context, const Model& model);

  // x [n, d]; what is not wanted is null.
  struct Wanted {
    double* value = nullptr;     // [n]
    double* score = nullptr;     // [n, d]
    double* hessian = nullptr;   // [n, d, d]
    double* residual = nullptr;  // [n]
  };
  void evaluate(double t, const double* x, std::int64_t n, const Wanted& wanted);

 private:
  Context context_;
  Fields<double> fields_;
  std::int64_t dimension_;
  Buffer<double> t_, x_, value_, score_, hessian_, residual_;
};

// log((σ² + σ²(t_min))/m²) at t: of noise to signal.
double log_noise_ratio(const ForwardSde& sde, double t);
// steps + 1 times, increasing, uniform in the log_noise_ratio: geometric near 0 and uniform where the SDE forgets.
std::vector<double> noise_ratio_times(const ForwardSde& sde, double from, double to, int steps);

}  // namespace fokker
