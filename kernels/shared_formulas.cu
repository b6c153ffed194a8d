// Every formula that the CPU and a CUDA backend share, called once from device code: activations with their
// derivatives, coefficients of the forward SDEs, forms of a network's output, Philox words, uniforms and normals, steps
// of the integrators, of fixed size and by tolerance; standardised columns; times and points of training and Adam's step,
// which are float everywhere. Nothing launches these kernels; they exist to be compiled, so that a header which stops
// being device code stops the build.
#include "fokker/formulas/activation.hpp"
#include "fokker/formulas/adaptive.hpp"
#include "fokker/formulas/draws.hpp"
#include "fokker/formulas/form_fields.hpp"
#include "fokker/formulas/integrator.hpp"
#include "fokker/formulas/sde.hpp"
#include "fokker/formulas/standardisation.hpp"
#include "fokker/formulas/train.hpp"

namespace fokker {
namespace {

template <class T>
__device__ T sum_of(const ActivationValues<T>& v) {
  return v.value + v.d1 + v.d2 + v.d3;
}
template <class T, class... Sigmas>
__device__ T sum_of_activations(ActivationList<Sigmas...>, double parameter, T z) {
  return (sum_of(activation_with<Sigmas>(parameter)(z)) + ...);
}

template <class T>
__device__ T runge_kutta_step(const RungeKutta& scheme, const SdeFormulas& sde, T t, T dt, T x, T score) {
  T moved = x, k = 0;
  for (int stage = 0; stage < scheme.stages; ++stage) {
    const T node = static_cast<T>(scheme.node[stage]);
    k = increment(probability_flow_step(sde, t + node * dt, dt), x + node * k, score);
    moved += static_cast<T>(scheme.weight[stage]) * k;
  }
  return moved;
}

// out [gridDim.x · blockDim.x], one number a thread.
template <class T>
__global__ void shared_formulas(SdeFormulas sde, double parameter, std::uint64_t seed, std::uint64_t step, T dt,
                                T* out) {
  const std::uint64_t index = std::uint64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  T normal[2], uniform;
  draw_normals(normal, 2, RandomUse::noise, seed, index, step);
  draw_uniforms(&uniform, 1, RandomUse::time, seed, index, step);
  const T t = static_cast<T>(sde.horizon()) * uniform, z = normal[0], x = normal[1];
  const SdeCoefficients<T> c = sde.at(t);
  const T score = sum_of_activations(Activations(), parameter, z) + c.mean + c.variance;
  const StepCoefficients<T> step_of = reverse_sde_step(sde, t, dt);
  out[index] = x + (increment(step_of, x, score) + step_of.noise * z) +
               runge_kutta_step(runge_kutta_euler(), sde, t, dt, x, score) +
               runge_kutta_step(runge_kutta_heun(), sde, t, dt, x, score) +
               runge_kutta_step(runge_kutta_classical(), sde, t, dt, x, score);
}

template <class T>
__global__ void shared_form_formulas(NetworkForm form, SdeFormulas sde, Stage stage, const T* x, T* out) {
  const std::uint64_t index = std::uint64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  float state = static_cast<float>(x[index]), stage_state = state, sum = state;
  take_stage(stage, 0.5f, state, state, state, stage_state, sum);
  const FormFields<T> f(form_rates_at(form, sde, static_cast<double>(x[index])));
  const ResidualCoefficients<T> c = rounded<T>(residual_at(form, sde, static_cast<double>(x[index])));
  out[index] = f.value(x[index], f.form.time) + f.dt(x[index], c.along, c.time, c.value) + f.score(x[index], c.square) +
               f.divergence(2, c.constant) + f.derivative(c.curvature, c.gradient) +
               static_cast<T>(increment_divergence(stage, 2, state + stage_state + sum)) +
               restored(standardised(x[index], 3.0, 2.0), 3.0, 2.0);
}

// numbers [gridDim.x · blockDim.x, 9]: one coordinate of a path a thread, through its first three evaluations.
template <class T>
__global__ void shared_adaptive_formulas(AdaptiveRule rule, int method, const T* output, double* numbers) {
  const std::uint64_t index = std::uint64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  double* const own = numbers + 9 * index;
  const PathNumbers n{own, own + 1, own + 2, 1, rule.components};
  if (method == 0) rule.tableau = bogacki_shampine();
  if (method == 1) rule.tableau = tsitouras();
  if (method == 2) rule.tableau = dormand_prince();
  AdaptivePath path = begin_path(rule);
  for (int evaluation = 0; evaluation < 3; ++evaluation) {
    begin_evaluation(rule, path, n);
    end_evaluation(rule, path, n, output + index, static_cast<T>(path.at.time));
  }
  n.x(0) += report_of(path).time;
}

template __global__ void shared_adaptive_formulas<float>(AdaptiveRule, int, const float*, double*);
template __global__ void shared_adaptive_formulas<double>(AdaptiveRule, int, const double*, double*);
template __global__ void shared_form_formulas<float>(NetworkForm, SdeFormulas, Stage, const float*, float*);
template __global__ void shared_form_formulas<double>(NetworkForm, SdeFormulas, Stage, const double*, double*);
template __global__ void shared_formulas<float>(SdeFormulas, double, std::uint64_t, std::uint64_t, float, float*);
template __global__ void shared_formulas<double>(SdeFormulas, double, std::uint64_t, std::uint64_t, double, double*);

}  // namespace

// parameter, first_moment, second_moment [gridDim.x · blockDim.x]: a parameter and its moments a thread.
__global__ void shared_train_formulas(TimeDraw draw, NetworkForm form, SdeFormulas sde, AdamStep adam,
                                      std::uint64_t seed, float* parameter, float* first_moment, float* second_moment) {
  const std::uint64_t index = std::uint64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  float weight;
  const float t = draw(uniform_from_word(philox4x32_10(seed, index, 0).word[0]), weight);
  const DenoisingPoint<float> point(form, sde, LossWeight::variance, t);
  float x = weight, z = t;
  point(x, z);
  adam(point.weight * x * z, parameter[index], first_moment[index], second_moment[index]);
}

}  // namespace fokker
