// The fields of a model whose network stands for something else than the score, and of sums of networks, whose residual
// is made here: the network's own fields at (τ, C x), put together by fokker/formulas/form_fields.hpp. Coefficients are formed in double, once a point, or once a block where it
// has one time; their derivatives by t only where something needs them.
#include <algorithm>
#include <utility>
#include <vector>

#include "cpu/block_field.hpp"
#include "cpu/mlp_primitives.hpp"
#include "fokker/formulas/form_fields.hpp"

namespace fokker::cpu {
namespace {

template <class T>
struct FormScratch final : Scratch {
  std::unique_ptr<Scratch> network;
  std::vector<FormFields<T>> forms;  // of each point, or the one of all
  AlignedMemory<T> time, x, value, dt, output, trace, derivative;
};

template <class T>
class FormedField final : public BlockField<T> {
 public:
  FormedField(std::unique_ptr<BlockField<T>> network, const NetworkForm& form, const ForwardSde& sde)
      : network_(std::move(network)), form_(form), sde_(sde), d_(network_->dimension()) {}

  std::int64_t dimension() const override { return d_; }
  std::int64_t block_size() const override { return network_->block_size(); }
  std::unique_ptr<Scratch> make_scratch() const override {
    auto scratch = std::make_unique<FormScratch<T>>();
    scratch->network = network_->make_scratch();
    return scratch;
  }

  void evaluate(const BlockPoints<T>& points, const BlockOutputs<T>& out, const Divergence& divergence,
                Scratch& scratch) const override {
    auto& s = static_cast<FormScratch<T>&>(scratch);
    const std::int64_t n = points.n;
    const bool residual = out.residual != nullptr, dt = out.dt || residual;
    BlockOutputs<T> own;  // of the network
    if (out.value || dt) own.value = s.value.reserve(n);
    if (dt) own.dt = s.dt.reserve(n);
    if (out.score || dt) own.score = s.output.reserve(n * d_);
    if (out.divergence || residual) own.divergence = s.trace.reserve(n);
    own.hessian = out.hessian;
    network_->evaluate(inputs(points, dt, s), own, divergence, *s.network);

    for_points(points, s, [&](std::int64_t r, const FormFields<T>& f) {
      const T* x = points.x + r * d_;
      T squares = 0, along = 0, net_squares = 0;
      for (std::int64_t i = 0; i < d_ && own.value; ++i) squares += x[i] * x[i];
      for (std::int64_t i = 0; i < d_ && dt; ++i) {
        const T slope = own.score[r * d_ + i];
        along += x[i] * slope;
        net_squares += slope * slope;
      }
      if (out.value) out.value[r] = f.value(squares, own.value[r]);
      if (out.dt) out.dt[r] = f.dt(squares, along, own.value[r], own.dt[r]);
      for (std::int64_t i = 0; i < d_ && out.score; ++i) {
        out.score[r * d_ + i] = f.score(x[i], own.score[r * d_ + i]);
      }
      if (out.divergence) out.divergence[r] = f.divergence(static_cast<int>(d_), own.divergence[r]);
      for (std::int64_t i = 0; i < d_ * d_ && out.hessian; ++i) {
        T& entry = out.hessian[r * d_ * d_ + i];
        entry = f.derivative(i % (d_ + 1) == 0 ? T(1) : T(0), entry);
      }
      if (!residual) return;
      const double t = static_cast<double>(points.t[r * points.t_stride]);
      const ResidualCoefficients<T> c = rounded<T>(residual_at(form_, sde_.formulas(), t));
      out.residual[r] = static_cast<T>(d_) * c.constant + c.square * (f.form.in * f.form.in * squares) +
                        c.value * own.value[r] + c.time * own.dt[r] + c.along * (f.form.in * along) -
                        c.curvature * own.divergence[r] - c.gradient * net_squares;
    });
  }

  void hessian_vector(const BlockPoints<T>& points, const T* direction, T* product, Scratch& scratch) const override {
    auto& s = static_cast<FormScratch<T>&>(scratch);
    T* own = s.derivative.reserve(points.n * d_);
    network_->hessian_vector(inputs(points, false, s), direction, own, *s.network);
    for_points(points, s, [&](std::int64_t r, const FormFields<T>& f) {
      for (std::int64_t i = r * d_; i < (r + 1) * d_; ++i) product[i] = f.derivative(direction[i], own[i]);
    });
  }

 private:
  // visit(point, its form)
  template <class Visit>
  void for_points(const BlockPoints<T>& points, const FormScratch<T>& s, Visit&& visit) const {
    for (std::int64_t r = 0; r < points.n; ++r) {
      visit(r, s.forms[static_cast<std::size_t>(points.t_stride == 0 ? 0 : r)]);
    }
  }

  // The network's own points; leaves their forms in s.forms.
  BlockPoints<T> inputs(const BlockPoints<T>& points, bool with_rates, FormScratch<T>& s) const {
    T *const time = s.time.reserve(points.n), *const x = s.x.reserve(points.n * d_);
    const SdeFormulas formulas = sde_.formulas();
    s.forms.clear();
    for (std::int64_t r = 0; r < (points.t_stride == 0 ? std::min<std::int64_t>(points.n, 1) : points.n); ++r) {
      const double t = static_cast<double>(points.t[r * points.t_stride]);
      s.forms.emplace_back(with_rates ? form_rates_at(form_, formulas, t)
                                      : FormRates<double>{form_at(form_, formulas, t), {}});
    }
    for_points(points, s, [&](std::int64_t r, const FormFields<T>& f) {
      time[r] = f.form.time;
      for (std::int64_t i = r * d_; i < (r + 1) * d_; ++i) x[i] = f.form.in * points.x[i];
    });
    return {time,          points.t_stride, x, points.n, points.first_index, points.condition, points.same_conditions,
            points.indices};
  }

  std::unique_ptr<BlockField<T>> network_;
  NetworkForm form_;
  ForwardSde sde_;
  std::int64_t d_;
};

}  // namespace

template <class T>
std::unique_ptr<BlockField<T>> make_network_field(const Model& model) {
  if (const auto* mlp = std::get_if<Mlp>(&model.network)) return make_mlp_field<T>(*mlp, model.sde);
  if (const auto* mixture = std::get_if<GaussianMixture>(&model.network)) {
    return make_mixture_field<T>(*mixture, model.sde);
  }
  // In a form that is all terms' the sum is one of networks, else of scores.
  std::vector<WeightedField<T>> terms;
  for (const auto& [weight, term] : std::get<Composition>(model.network).terms) {
    terms.push_back({weight, model.form().plain() ? make_block_field<T>(term) : make_network_field<T>(term)});
  }
  return make_sum_field(std::move(terms));
}

template <class T>
std::unique_ptr<BlockField<T>> make_block_field(const Model& model) {
  std::unique_ptr<BlockField<T>> network = make_network_field<T>(model);
  if (model.form().plain() && !std::holds_alternative<Composition>(model.network)) return network;
  return std::make_unique<FormedField<T>>(std::move(network), model.form(), model.sde);
}

template std::unique_ptr<BlockField<float>> make_network_field(const Model&);
template std::unique_ptr<BlockField<double>> make_network_field(const Model&);
template std::unique_ptr<BlockField<float>> make_block_field(const Model&);
template std::unique_ptr<BlockField<double>> make_block_field(const Model&);

}  // namespace fokker::cpu
