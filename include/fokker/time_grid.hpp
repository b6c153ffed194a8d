#pragma once

#include <string>
#include <vector>

#include "fokker/public.hpp"
#include "fokker/sde.hpp"

namespace FOKKER_PUBLIC fokker {

// The times of an integrator's steps, strictly decreasing, from T where samples are drawn.
class TimeGrid {
 public:
  // Throws Error unless there are at least two times, finite, not negative and strictly decreasing.
  explicit TimeGrid(std::vector<double> times);
  // There is no move, which would leave a grid without times.
  TimeGrid(const TimeGrid&) = default;
  TimeGrid& operator=(const TimeGrid&) = default;

  // The paper's grid, scaled to the horizon T: 790 steps of T/800, then 100 of T/8000; ends at 0.
  static TimeGrid paper(double horizon);
  // `steps` equal steps from T to `end` ≥ 0.
  static TimeGrid uniform(double horizon, double end, int steps);
  // `steps` steps from T to `end` > 0 with a constant ratio of times. Like uniform() it throws Error where the end does
  // not lie below T or there are no steps.
  static TimeGrid geometric(double horizon, double end, int steps);
  // `steps` steps from T to `end` > 0 whose ratios r = σ/m are (r_T^{1/ρ} + k/steps (r_end^{1/ρ} − r_T^{1/ρ}))^ρ (Karras et
  // al. 2022, eq. 5, for any SDE), 1 ≤ ρ ≤ 1000: the larger ρ, the shorter the steps near the end. Throws Error where r is
  // infinite at T.
  static TimeGrid karras(const ForwardSde& sde, double end, int steps, double rho = 7);
  // steps − 1 ≥ 1 steps of karras(), and a last one to 0, as the whole grid of Karras et al. is.
  static TimeGrid edm(const ForwardSde& sde, double end, int steps, double rho = 7);
  // `steps` steps from T to `end` > 0 that are equal in the log signal-to-noise ratio −2 ln r.
  static TimeGrid log_snr(const ForwardSde& sde, double end, int steps);
  // "paper", "uniform:STEPS[:END]" (END 0 by default), "geometric:STEPS[:END]", "log-snr:STEPS[:END]",
  // "karras:STEPS[:END[:RHO]]", "edm:STEPS[:END[:RHO]]" (END t_min by default), or "file:TIMES.npy" with the times
  // themselves. Throws Error on any other text, an end that does not fit the SDE and a file that holds no such times.
  static TimeGrid parse(const std::string& text, const ForwardSde& sde);
  // Throws Error where parse() would whatever the SDE, from the text alone: no file is opened.
  static void check(const std::string& text);

  const std::vector<double>& times() const { return times_; }
  int steps() const { return static_cast<int>(times_.size()) - 1; }

 private:
  std::vector<double> times_;
};

}  // namespace fokker
