#include "operations/sampler_stages.hpp"

#include <cmath>

namespace fokker {
namespace {

// Euler's for euler_maruyama too, whose single stage it is.
RungeKutta tableau(Scheme scheme) {
  switch (scheme) {
    case Scheme::heun: return runge_kutta_heun();
    case Scheme::rk4: return runge_kutta_classical();
    case Scheme::euler:
    case Scheme::euler_maruyama: break;
  }
  return runge_kutta_euler();
}

}  // namespace

int stages_per_step(Scheme scheme) { return tableau(scheme).stages; }

std::vector<Stage> stages_of(const ForwardSde& sde, const std::vector<double>& times, Scheme scheme) {
  const RungeKutta rule = tableau(scheme);
  std::vector<Stage> stages;
  stages.reserve((times.size() - 1) * static_cast<std::size_t>(rule.stages));
  for (std::size_t k = 0; k + 1 < times.size(); ++k) {
    const double dt = times[k + 1] - times[k];
    for (int i = 0; i < rule.stages; ++i) {
      const double t = std::lerp(times[k], times[k + 1], rule.node[i]);  // exact at both ends
      const StepCoefficients<double> c = scheme == Scheme::euler_maruyama
                                             ? reverse_sde_step(sde.formulas(), t, dt)
                                             : probability_flow_step(sde.formulas(), t, dt);
      stages.push_back({static_cast<float>(t),
                        static_cast<float>(rule.node[i]),
                        static_cast<float>(rule.weight[i]),
                        {static_cast<float>(c.linear), static_cast<float>(c.score), static_cast<float>(c.noise)}});
    }
  }
  return stages;
}

}  // namespace fokker
