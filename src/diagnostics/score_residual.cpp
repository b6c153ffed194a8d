// The residual of a vector net by the fields of potentials: v·F is one, of the same network with the combination Σ v_i W_i of
// the output layer's rows. What stands between the network's F and s (formulas/form.hpp) is put around it here, point by
// point: with h = C x,
//   v·∂_t s = A′ v·x + B′ Ψ + B (τ′ ∂_τ Ψ + C′ x·∇_h Ψ),  ∇(v·s) = A v + B C ∇_h Ψ,  ∇²(v·s) v = B C² ∇_h²Ψ v.
#include "fokker/diagnostics/score_residual.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/check.hpp"
#include "fokker/error.hpp"
#include "fokker/formulas/draws.hpp"
#include "fokker/formulas/form.hpp"

namespace fokker {
namespace {

constexpr std::int64_t most_numbers = std::int64_t{1} << 20;  // of x in a batch

// v·F of a network in any form.
Model component(const Model& of_z, const std::vector<double>& v) {
  Model model = of_z;
  Mlp& mlp = std::get<Mlp>(model.network);
  const Architecture from = mlp.architecture;
  const std::int64_t output = from.layers() - 1, inputs = from.inputs(output), d = from.dimension,
                     weights = from.weight_offset(output), biases = from.bias_offset(output);
  std::vector<double> row(static_cast<std::size_t>(inputs) + 1, 0.0);
  for (std::int64_t i = 0; i < d; ++i) {
    const double share = v[static_cast<std::size_t>(i)];
    for (std::int64_t j = 0; j < inputs; ++j) {
      row[static_cast<std::size_t>(j)] += share * mlp.parameters[static_cast<std::size_t>(weights + i * inputs + j)];
    }
    row.back() += share * mlp.parameters[static_cast<std::size_t>(biases + i)];
  }
  mlp.parameters.resize(static_cast<std::size_t>(weights));
  mlp.parameters.insert(mlp.parameters.end(), row.begin(), row.end());
  mlp.architecture.output = Output::potential;
  mlp.architecture.form = {};
  return model;
}

void check_model(const Model& model) {
  model.validate();
  const auto* mlp = std::get_if<Mlp>(&model.network);
  if (mlp == nullptr || model.output() != Output::score) {
    throw Error(mlp == nullptr
                    ? "the residual of a score is asked for of a mixture or a composition; allowed: a network"
                    : "the residual of a score is asked for of a potential; allowed: a vector score net, and of "
                      "potentials the residual of the density");
  }
  if (const auto kinked = mlp->architecture.kinked()) {
    throw Error(
        fmt::format("the residual of a score is asked for of a net with the activation {}, which has a kink and no "
                    "second derivatives; allowed: one without",
                    to_string(*kinked)));
  }
  const Form form = mlp->architecture.form.form;
  if ((form == Form::velocity || form == Form::velocity_to_data) && model.sde.kind() != SdeKind::flow) {
    throw Error(
        fmt::format("the residual of a score is asked for of a net whose output is a velocity under the SDE {}; "
                    "allowed: other outputs, and velocities under flow",
                    model.sde.name()));
  }
}

}  // namespace

template <class T>
struct ScoreResidual<T>::Work {
  Work(const Context& on, const Model& model)
      : context(on), of_x(model), of_z(model.of_z()), d(model.dimension()), score(on, of_z) {}

  // n points in z, on the host and where fields are evaluated.
  struct Batch {
    std::int64_t n;
    std::vector<double> t, z;
    std::vector<FormRates<double>> forms;
    Buffer<T> tau, h, condition, product, vectors, values, rates;
    std::vector<double> residual;
  };

  std::vector<double> on_host(View<const T> there) const {
    std::vector<T> here(static_cast<std::size_t>(there.size()));
    copy(context, there, View<T>(here.data(), there.rows, there.columns));
    context.synchronize();
    return {here.begin(), here.end()};
  }
  void to_device(const std::vector<T>& here, Buffer<T>& there) const {
    copy(context, View<const T>(here.data(), there.view().rows, there.view().columns), there);
    context.synchronize();
  }

  Batch batch_of(const T* t, const T* x, const T* condition, std::int64_t n) const {
    const std::int64_t c = of_x.condition();
    Batch b{n,
            {t, t + n},
            {x, x + n * d},
            {},
            {context, n},
            {context, n, d},
            {context, c > 0 ? n : 0, c},
            {context, n, d},
            {context, n, d},
            {context, n},
            {context, n},
            {}};
    const Standardisation& columns = of_x.standardisation;
    std::vector<T> at(static_cast<std::size_t>(n * d)), tau(static_cast<std::size_t>(n));
    for (std::int64_t r = 0; r < n; ++r) {
      const double time = b.t[static_cast<std::size_t>(r)];
      const FormRates<double> form =
          form_rates_at(std::get<Mlp>(of_z.network).architecture.form, of_z.sde.formulas(), time);
      tau[static_cast<std::size_t>(r)] = static_cast<T>(form.value.time);
      for (std::int64_t i = 0; i < d; ++i) {
        double& z = b.z[static_cast<std::size_t>(r * d + i)];
        const auto column = static_cast<std::size_t>(i);
        if (!columns.empty()) z = (z - columns.mean[column]) / columns.deviation[column];
        at[static_cast<std::size_t>(r * d + i)] = static_cast<T>(form.value.in * z);
      }
      b.forms.push_back(form);
    }
    to_device(tau, b.tau);
    to_device(at, b.h);
    if (c > 0) to_device(std::vector<T>(condition, condition + n * c), b.condition);
    return b;
  }

  // s at the batch's own points: by the network's output, from where a and A are in z.
  std::vector<double> scores(Batch& b) const {
    const std::vector<T> t(b.t.begin(), b.t.end()), z(b.z.begin(), b.z.end());
    Buffer<T> t_there(context, b.n), z_there(context, b.n, d);
    to_device(t, t_there);
    to_device(z, z_there);
    FieldOutputs<T> outputs;
    outputs.score = b.vectors.view();
    score.evaluate({t_there.view(), z_there.view(), b.condition.view()}, outputs);
    return on_host(b.vectors.view());
  }

  // Adds share · what the direction v gives.
  void add(Batch& b, const std::vector<double>& s, const std::vector<double>& v, double share) const {
    const Fields<T> of_component(context, component(of_z, v));
    const Points<T> points{b.tau.view(), b.h.view(), b.condition.view()};
    std::vector<T> repeated;
    for (std::int64_t r = 0; r < b.n; ++r) repeated.insert(repeated.end(), v.begin(), v.end());
    to_device(repeated, b.vectors);
    of_component.hessian_vector(points, b.vectors.view(), b.product.view());
    const std::vector<double> curved = on_host(b.product.view());
    FieldOutputs<T> outputs;
    outputs.value = b.values.view();
    outputs.dt = b.rates.view();
    outputs.score = b.vectors.view();
    of_component.evaluate(points, outputs);
    const std::vector<double> values = on_host(b.values.view()), rates = on_host(b.rates.view()),
                              slopes = on_host(b.vectors.view());
    for (std::int64_t r = 0; r < b.n; ++r) {
      const auto row = static_cast<std::size_t>(r), first = static_cast<std::size_t>(r * d);
      const auto& [form, rate] = b.forms[row];
      const SdeCoefficients<double> sde = of_z.sde.at(b.t[row]);
      double along = 0, of_z_along = 0, weight = 0;  // z·∇_h Ψ, v·z, v·w
      for (std::size_t i = 0; i < static_cast<std::size_t>(d); ++i) {
        along += b.z[first + i] * slopes[first + i];
        of_z_along += v[i] * b.z[first + i];
        weight += v[i] * (sde.drift * b.z[first + i] - sde.diffusion_squared * s[first + i]);
      }
      const double by_time =
          rate.skip * of_z_along + rate.out * values[row] + form.out * (rate.time * rates[row] + rate.in * along);
      for (std::size_t i = 0; i < static_cast<std::size_t>(d); ++i) {
        const double slope = form.skip * v[i] + form.out * form.in * slopes[first + i];
        b.residual[first + i] += share * (v[i] * by_time + weight * slope -
                                          sde.diffusion_squared / 2 * form.out * form.in * form.in * curved[first + i]);
      }
    }
  }

  std::vector<double> residual(Batch b, const Divergence& divergence) const {
    const std::vector<double> s = scores(b);
    b.residual.resize(s.size());
    for (std::size_t i = 0; i < s.size(); ++i)
      b.residual[i] = of_z.sde.at(b.t[i / static_cast<std::size_t>(d)]).drift * s[i];
    std::vector<double> v(static_cast<std::size_t>(d), 0.0);
    for (std::size_t i = 0; i < v.size() && divergence.probes == 0; ++i) {
      v[i] = 1;
      add(b, s, v, 1);
      v[i] = 0;
    }
    for (int k = 0; k < divergence.probes; ++k) {
      const auto step = static_cast<std::uint64_t>(k);
      if (divergence.law == ProbeLaw::gaussian) {
        draw_normals(v.data(), d, RandomUse::probe, divergence.seed, divergence.first_index, step);
      } else {
        draw_uniforms(v.data(), d, RandomUse::probe, divergence.seed, divergence.first_index, step);
        for (double& number : v) number = number < 0.5 ? -1 : 1;
      }
      add(b, s, v, 1.0 / divergence.probes);
    }
    const Standardisation& columns = of_x.standardisation;
    for (std::size_t i = 0; i < b.residual.size() && !columns.empty(); ++i) {
      b.residual[i] /= columns.deviation[i % static_cast<std::size_t>(d)];
    }
    return std::move(b.residual);
  }

  Context context;
  Model of_x, of_z;
  std::int64_t d;
  Fields<T> score;
};

template <class T>
ScoreResidual<T>::ScoreResidual(const Context& context, const Model& model) {
  check_model(model);
  work_ = std::make_unique<Work>(context, model);
}
template <class T>
ScoreResidual<T>::~ScoreResidual() = default;
template <class T>
ScoreResidual<T>::ScoreResidual(ScoreResidual&&) noexcept = default;
template <class T>
ScoreResidual<T>& ScoreResidual<T>::operator=(ScoreResidual&&) noexcept = default;

template <class T>
std::vector<double> ScoreResidual<T>::evaluate(const std::vector<T>& t, const std::vector<T>& x,
                                               const std::vector<T>& condition, const Divergence& divergence) const {
  const std::int64_t n = std::ssize(t), d = work_->d, c = work_->of_x.condition();
  if (std::ssize(x) != n * d || std::ssize(condition) != n * c) {
    throw Error(fmt::format("{} times, {} numbers of x and {} of conditions given; needed for {} points: {} and {}", n,
                            x.size(), condition.size(), n, n * d, n * c));
  }
  check_count("the number of probes, 0 for the exact residual,", divergence.probes, 0, 65536);
  std::vector<double> residual;
  const std::int64_t rows = std::max<std::int64_t>(1, most_numbers / d);
  for (std::int64_t first = 0; first < n; first += rows) {
    const std::int64_t count = std::min(rows, n - first);
    const std::vector<double> part = work_->residual(
        work_->batch_of(t.data() + first, x.data() + first * d, condition.data() + first * c, count), divergence);
    residual.insert(residual.end(), part.begin(), part.end());
  }
  return residual;
}

template class ScoreResidual<float>;
template class ScoreResidual<double>;

}  // namespace fokker
