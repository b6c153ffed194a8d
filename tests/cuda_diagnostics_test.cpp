// The diagnostics on the CUDA backend are those of the CPU: everything they draw has the same words, and their fields
// are in double on both.
#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>

#include "backend_under_test.hpp"
#include "compare.hpp"
#include "fokker/diagnostics/energy.hpp"
#include "fokker/diagnostics/radial_slopes.hpp"
#include "fokker/diagnostics/sde_density.hpp"
#include "fokker/diagnostics/upper_bound.hpp"
#include "reverse_sde_reference.hpp"

namespace fokker {
namespace {

using testing::agrees;
using testing::rough_well;

class CudaDiagnostics : public testing::GpuTest {
 protected:
  static Context cpu() { return Context({.backend = BackendKind::cpu, .threads = 1}); }
  // Double is computed as double whatever the precision.
  static Context cuda() { return Context({.backend = BackendKind::cuda, .precision = Precision::half}); }
  static Model model(std::int64_t d) { return rough_well().model(d, 1, 1e-3); }
};

std::vector<double> values_of(const Energy& energy) {
  std::vector<double> values{energy.dissipation.value, energy.left.value, energy.right.value};
  for (const Estimate& e : energy.energy) values.push_back(e.value);
  return values;
}

TEST_F(CudaDiagnostics, DensityAndSlopes) {
  const std::vector<double> x{0.3, -0.4, 0.9, 0.1, -1, 0.2};
  const SdeDensityOptions options{.paths = 9, .steps = 4, .seed = 3};
  const SdeDensity there = sde_log_density(cuda(), model(2), 0.1, View<const double>(x, 2), options);
  const SdeDensity here = sde_log_density(cpu(), model(2), 0.1, View<const double>(x, 2), options);
  // Weights of order 1 from fields that differ by rounding in double.
  EXPECT_TRUE(agrees(there.log_density, here.log_density, {.norm = 1e-12, .absolute = 1e-12}));
  EXPECT_TRUE(agrees(there.standard_error, here.standard_error, {.norm = 1e-11, .absolute = 1e-12}));

  const RadialSlopes slopes = radial_slopes(cuda(), model(3), 0.5, {.directions = 19});
  EXPECT_TRUE(agrees(slopes.slopes, radial_slopes(cpu(), model(3), 0.5, {.directions = 19}).slopes,
                     {.norm = 1e-12, .absolute = 1e-12}));
  EXPECT_TRUE(slopes.integrable);
}

TEST_F(CudaDiagnostics, EnergyOnAGridAndTheBound) {
  const TimeGrid grid = TimeGrid::geometric(1, 0.05, 4);
  const EnergyOptions options{.nodes = 24, .box = 3};
  const Energy there = reverse_sde_energy(cuda(), model(2), grid, options);
  const Energy here = reverse_sde_energy(cpu(), model(2), grid, options);
  EXPECT_TRUE(agrees(values_of(there), values_of(here), {.norm = 1e-10, .absolute = 1e-10}));
  EXPECT_TRUE(agrees(there.mass, here.mass, {.norm = 1e-10, .absolute = 1e-10}));

  // L over the box is in double throughout; over samples it is where the samplers went in half.
  const UpperBoundOptions bound{.samples = 5, .box_points = 19};
  const UpperBound bound_there = gap_upper_bound(cuda(), model(2), here, bound);
  const UpperBound bound_here = gap_upper_bound(cpu(), model(2), here, bound);
  EXPECT_TRUE(agrees(bound_there.over_box, bound_here.over_box, {.norm = 1e-11, .absolute = 1e-11}));
  EXPECT_TRUE(agrees(bound_there.over_samples, bound_here.over_samples, {.norm = 2e-2, .absolute = 2e-2}));
}

TEST_F(CudaDiagnostics, EnergyByPaths) {
  const TimeGrid grid = TimeGrid::geometric(1, 0.05, 4);
  const EnergyOptions options{.method = EnergyMethod::paths, .samples = 32, .paths = 4, .path_steps = 2, .times = 3};
  const Context fp32({.backend = BackendKind::cuda, .precision = Precision::fp32});
  const EnergyIdentity there = energy_identity(fp32, model(1), grid, options);
  const EnergyIdentity here = energy_identity(cpu(), model(1), grid, options);
  // Samples are float on both sides and differ by its rounding; e_t and log u have slopes of order 10 there.
  EXPECT_TRUE(agrees(values_of(there.energy), values_of(here.energy), {.norm = 1e-4, .absolute = 1e-4}));
  EXPECT_NEAR(there.kl_end.value, here.kl_end.value, 1e-4);
}

}  // namespace
}  // namespace fokker
