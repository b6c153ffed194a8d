#pragma once

#include <string>
#include <vector>

#include "fokker/sde.hpp"

namespace fokker {

// Times at which an integrator stands, strictly decreasing from T to the end, backwards in time.
class TimeGrid {
 public:
  // At least two finite, non-negative, strictly decreasing times. Throws Error.
  explicit TimeGrid(std::vector<double> times);

  // The paper's, scaled to the horizon T: 790 steps of T/800, then 100 of T/8000; ends at 0.
  static TimeGrid paper(double horizon);
  // `steps` equal steps from T to `end` ≥ 0.
  static TimeGrid uniform(double horizon, double end, int steps);
  // `steps` steps from T to `end` > 0 with a constant ratio of times.
  static TimeGrid geometric(double horizon, double end, int steps);
  // "paper", "uniform:STEPS[:END]" (END 0 by default), "geometric:STEPS[:END]" (END t_min by default), or
  // "file:TIMES.npy" with the times themselves.
  static TimeGrid parse(const std::string& text, const ForwardSde& sde);
  // Throws Error where parse() would for any SDE: looks at the text alone, and opens no file.
  static void check(const std::string& text);

  const std::vector<double>& times() const { return times_; }
  int steps() const { return static_cast<int>(times_.size()) - 1; }

 private:
  std::vector<double> times_;
};

}  // namespace fokker
