#pragma once

// What an MLP's fields and losses are, in double and in the plainest way: every derivative with respect to (t, x) by
// truncated Taylor arithmetic through the layers, every derivative with respect to parameters by a tape. Shares no code
// with the library: its own layout arithmetic, activations and SDE coefficients.
//
// A jet of a unit carries its value, its n = 1 + d first derivatives and those second derivatives that were asked for.
// Jets of doubles give the fields; jets of tape variables give losses whose gradients the tape unrolls.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "fokker/model.hpp"
#include "sde_parameters.hpp"

namespace fokker::testing {

struct ReferenceLayer {
  int width = 0;
  std::string activation;        // its name; empty: the output layer's, which has none
  double beta = 1;               // its parameter
  bool takes_embedding = false;  // beside its other inputs, before them
  bool adds_input = false;       // to its output
  bool fixed = false;            // its parameters have no gradient
  bool takes_condition = false;  // before the embedding
};

// A point's row is x and then its condition.
struct ReferenceNetwork {
  int dimension = 2;
  int condition = 0;                             // numbers of the condition
  bool time_beside_x = true;                     // t is the first of the first layer's inputs
  std::vector<ReferenceLayer> condition_layers;  // make its embedding; none: the condition itself
  std::vector<ReferenceLayer> time_layers;       // make the embedding of t; none: t itself
  std::vector<ReferenceLayer> layers;            // of the network, with the output layer
  bool potential = true;
  // The condition's layers, the time's and the others, each W [outputs, inputs] row-major, b [outputs].
  std::vector<double> parameters;

  int columns() const { return dimension + condition; }
};

inline ReferenceNetwork reference_network(const Architecture& a, std::vector<double> parameters) {
  ReferenceNetwork net;
  net.dimension = static_cast<int>(a.dimension);
  net.time_beside_x = a.time.layers.empty() && a.time.into == std::vector<std::int64_t>{0};
  const auto in = [](const std::vector<std::int64_t>& list, std::size_t l) {
    return std::find(list.begin(), list.end(), static_cast<std::int64_t>(l)) != list.end();
  };
  const auto branch = [](const std::vector<BranchLayer>& layers, std::vector<ReferenceLayer>& to) {
    for (const BranchLayer& layer : layers) {
      to.push_back({static_cast<int>(layer.width), std::string(to_string(layer.activation.activation)),
                    layer.activation.beta, false, false, layer.fixed});
    }
  };
  branch(a.time.layers, net.time_layers);
  branch(a.condition.layers, net.condition_layers);
  net.condition = static_cast<int>(a.condition.inputs);
  for (std::size_t l = 0; l < a.hidden.size(); ++l) {
    const bool own = !a.activations.empty();
    net.layers.push_back({static_cast<int>(a.hidden[l]),
                          std::string(to_string(own ? a.activations[l].activation : a.activation)),
                          own ? a.activations[l].beta : a.beta, !net.time_beside_x && in(a.time.into, l),
                          in(a.residual, l), in(a.fixed, l)});
  }
  net.potential = a.output == Output::potential;
  net.layers.push_back({net.potential ? 1 : net.dimension, "", 1,
                        !net.time_beside_x && in(a.time.into, a.hidden.size()), false, in(a.fixed, a.hidden.size())});
  for (std::size_t l = 0; l < net.layers.size(); ++l) {
    net.layers[l].takes_condition = net.condition > 0 && in(a.condition.into, l);
  }
  net.parameters = std::move(parameters);
  return net;
}

// a(t) and g²(t) of dx = a x dt + g dW.
struct ReferenceSde {
  std::function<double(double)> drift, diffusion_squared;
};

inline ReferenceSde reference_sde(const ForwardSde& sde) {
  const auto parameters = testing::parameters_of(sde);
  const double p = parameters.p, q = parameters.q;  // lambdas of clang 14 capture no structured bindings
  const double horizon = sde.horizon();
  const auto beta_linear = [=](double t) { return p + (q - p) * t / horizon; };
  switch (sde.kind()) {
    case SdeKind::ou: return {[=](double) { return -p; }, [=](double) { return q * q; }};
    case SdeKind::vp_linear: return {[=](double t) { return -0.5 * beta_linear(t); }, beta_linear};
    case SdeKind::subvp:
      return {[=](double t) { return -0.5 * beta_linear(t); },
              [=](double t) {
                const double integral = p * t + 0.5 * (q - p) * t * t / horizon;
                return beta_linear(t) * (1 - std::exp(-2 * integral));
              }};
    case SdeKind::ve:  // σ² = p² ((q/p)^{2τ} − 1)
      return {[](double) { return 0.0; },
              [=](double t) { return p * p * std::pow(q / p, 2 * t / horizon) * 2 * std::log(q / p) / horizon; }};
    case SdeKind::edm: return {[](double) { return 0.0; }, [](double t) { return 2 * t; }};
    case SdeKind::flow: return {[](double t) { return -1 / (1 - t); }, [](double t) { return 2 * t / (1 - t); }};
    case SdeKind::ddpm: {
      const auto beta = [sde](double t) { return static_cast<double>(testing::ddpm_integral(sde, t).rate); };
      return {[=](double t) { return -0.5 * beta(t); }, beta};
    }
    case SdeKind::vp_cosine: break;
  }
  const auto beta = [=](double t) -> double {  // −d log cos²(π/2 (τ + s)/(1 + s))/dt, constant beyond τ = 0.9946
    // In long double: beside its pole the tangent enlarges a rounding of its argument by more than a hundred.
    const long double c = std::acos(-1.0L) / 2 / (1 + static_cast<long double>(p));
    const long double tau = std::min<long double>(static_cast<long double>(t) / horizon, 0.9946);
    return static_cast<double>(2 * c * std::tan(c * (tau + p)) / horizon);
  };
  return {[=](double t) { return -0.5 * beta(t); }, beta};
}

// ---- reverse mode --------------------------------------------------------------------------------------------------

inline double value_of(double a) { return a; }
inline double multiply_add(double a, double b, double c) { return a * b + c; }

// Nodes in order of computation; each knows its operands and the partial derivatives by them. N: double, or numbers
// whose operations err.
template <class N>
class Tape {
 public:
  explicit Tape(std::size_t inputs) : inputs_(inputs), first_(inputs + 1, 0) {}
  // Forgets all but the inputs.
  void rewind() {
    first_.resize(inputs_ + 1);
    edges_.clear();
  }
  void edge(std::int64_t operand, const N& partial) {
    if (operand >= 0) edges_.push_back({operand, partial});
  }
  std::int64_t finish_node() {
    first_.push_back(edges_.size());
    return static_cast<std::int64_t>(first_.size()) - 2;
  }
  // gradient += scale · d(node)/d(inputs).
  void accumulate(std::int64_t node, double scale, std::vector<N>& gradient) const {
    std::vector<N> adjoint(first_.size() - 1, N(0.0));
    if (node >= 0) adjoint[node] = scale;
    for (std::size_t k = adjoint.size(); k-- > inputs_;) {
      if (value_of(adjoint[k]) == 0) continue;
      for (std::size_t e = first_[k]; e < first_[k + 1]; ++e) {
        N& to = adjoint[edges_[e].operand];
        to = multiply_add(edges_[e].partial, adjoint[k], to);
      }
    }
    for (std::size_t k = 0; k < inputs_; ++k) gradient[k] = gradient[k] + adjoint[k];
  }

 private:
  struct Edge {
    std::int64_t operand;
    N partial;
  };
  std::size_t inputs_;
  std::vector<std::size_t> first_;
  std::vector<Edge> edges_;
};

// A number on a tape; a constant where it has none.
template <class N>
struct VariableOf {
  N value = 0.0;
  std::int64_t node = -1;
  Tape<N>* tape = nullptr;

  VariableOf() = default;
  VariableOf(double v) : value(v) {}  // NOLINT: constants mix with variables
  VariableOf(const N& v, std::int64_t n, Tape<N>* on) : value(v), node(n), tape(on) {}
};

template <class N>
VariableOf<N> record(const N& value, const VariableOf<N>& a, const N& da, const VariableOf<N>& b = {},
                     const N& db = 0.0) {
  Tape<N>* tape = a.tape ? a.tape : b.tape;
  if (!tape) return {value, -1, nullptr};
  tape->edge(a.node, da);
  tape->edge(b.node, db);
  return {value, tape->finish_node(), tape};
}
template <class N>
VariableOf<N> operator+(const VariableOf<N>& a, const VariableOf<N>& b) {
  return record<N>(a.value + b.value, a, 1.0, b, 1.0);
}
template <class N>
VariableOf<N> operator-(const VariableOf<N>& a, const VariableOf<N>& b) {
  return record<N>(a.value - b.value, a, 1.0, b, -1.0);
}
template <class N>
VariableOf<N> operator*(const VariableOf<N>& a, const VariableOf<N>& b) {
  return record<N>(a.value * b.value, a, b.value, b, a.value);
}
template <class N>
VariableOf<N> operator/(const VariableOf<N>& a, const VariableOf<N>& b) {
  const N ratio = a.value / b.value;
  return record<N>(ratio, a, N(1.0) / b.value, b, N(-1.0) * ratio / b.value);
}
template <class N>
VariableOf<N> exp(const VariableOf<N>& a) {
  using std::exp;
  const N e = exp(a.value);
  return record<N>(e, a, e);
}
template <class N>
VariableOf<N> expm1(const VariableOf<N>& a) {
  using std::exp, std::expm1;
  return record<N>(expm1(a.value), a, exp(a.value));
}
template <class N>
VariableOf<N> erfc(const VariableOf<N>& a) {
  using std::erfc, std::exp;
  return record<N>(erfc(a.value), a, N(-2 / std::sqrt(std::acos(-1.0))) * exp(N(-1.0) * a.value * a.value));
}
template <class N>
VariableOf<N> log1p(const VariableOf<N>& a) {
  using std::log1p;
  return record<N>(log1p(a.value), a, N(1.0) / (N(1.0) + a.value));
}
template <class N>
VariableOf<N> sin(const VariableOf<N>& a) {
  using std::cos, std::sin;
  return record<N>(sin(a.value), a, cos(a.value));
}
template <class N>
VariableOf<N> cos(const VariableOf<N>& a) {
  using std::cos, std::sin;
  return record<N>(cos(a.value), a, N(-1.0) * sin(a.value));
}
template <class N>
double value_of(const VariableOf<N>& a) {
  return value_of(a.value);
}

// Σ_i w[i] h[i] (+ b), as one node.
inline double dot(const double* w, const std::vector<double>& h, const double* bias) {
  double sum = bias ? *bias : 0.0;
  for (std::size_t i = 0; i < h.size(); ++i) sum += w[i] * h[i];
  return sum;
}
template <class N>
VariableOf<N> dot(const VariableOf<N>* w, const std::vector<VariableOf<N>>& h, const VariableOf<N>* bias) {
  Tape<N>* tape = w[0].tape;
  N sum = bias ? bias->value : N(0.0);
  if (bias) tape->edge(bias->node, 1.0);
  for (std::size_t i = 0; i < h.size(); ++i) {
    sum = multiply_add(w[i].value, h[i].value, sum);
    tape->edge(w[i].node, h[i].value);
    tape->edge(h[i].node, w[i].value);
  }
  return {sum, tape->finish_node(), tape};
}

// ---- Taylor arithmetic through the layers --------------------------------------------------------------------------

// f(z), f′(z), f″(z), each from elementary functions so that a tape can go on from there.
template <class S>
struct ReferenceActivation {
  S value, d1, d2;
};

template <class S>
ReferenceActivation<S> reference_activation(const std::string& name, double beta, const S& z) {
  using std::cos, std::erfc, std::exp, std::expm1, std::log1p, std::sin;
  const S one = 1.0, zero = 0.0, two = 2.0;
  const double pi = std::acos(-1.0);
  const bool above = value_of(z) > 0;
  if (name == "relu") return above ? ReferenceActivation<S>{z, one, zero} : ReferenceActivation<S>{zero, zero, zero};
  if (name == "leaky-relu") {
    return above ? ReferenceActivation<S>{z, one, zero} : ReferenceActivation<S>{S(beta) * z, S(beta), zero};
  }
  if (name == "elu" || name == "selu") {
    const double scale = name == "elu" ? 1 : 1.0507009873554804934193349852946;
    const double alpha = name == "elu" ? beta : 1.6732632423543772848170429916717;
    if (above) return {S(scale) * z, S(scale), zero};
    const S factor = scale * alpha, e = factor * exp(z);
    return {factor * expm1(z), e, e};
  }
  if (name == "gelu") {
    const S share = S(0.5) * erfc(S(-std::sqrt(0.5)) * z), density = S(1 / std::sqrt(2 * pi)) * exp(S(-0.5) * z * z);
    return {z * share, share + z * density, density * (two - z * z)};
  }
  if (name == "gelu-tanh") {  // ½ (1 + tanh(v/2)) is the logistic function of v
    const double k = 2 * std::sqrt(2 / pi), cubic = 0.044715 * k;
    const S v = (S(k) + S(cubic) * z * z) * z, v1 = S(k) + S(3 * cubic) * z * z, v2 = S(6 * cubic) * z;
    const S p = one / (one + exp(zero - v)), q = one / (one + exp(v)), u = p * q;
    return {z * p, p + z * u * v1, two * u * v1 + z * u * (v2 + (q - p) * v1 * v1)};
  }
  if (name == "mish") {  // n = (1 + e^z)² − 1, tanh log(1 + e^z) = n/(n + 2)
    const S e = exp(z), n = e * (e + two), h = n / (n + two), p = one / (one + exp(zero - z)), q = one / (one + e);
    const S slope = S(4.0) * (n + one) / ((n + two) * (n + two)), h1 = slope * p;
    const S h2 = slope * p * q - two * h * h1 * p;
    return {z * h, h + z * h1, two * h1 + z * h2};
  }
  if (name == "identity") return {z, one, zero};
  if (name == "sine") return {sin(z), cos(z), S(0.0) - sin(z)};
  if (name == "softplus") {
    const S y = S(beta) * z;
    if (value_of(y) > 20) return {z, one, S(0.0)};  // as torch.nn.Softplus
    const S p = one / (one + exp(S(0.0) - y)), q = one / (one + exp(y));
    return {log1p(exp(y)) / S(beta), p, S(beta) * p * q};
  }
  if (name == "tanh") {  // 1 − 2/(e^{2z} + 1)
    const S e = exp(S(2.0) * z), q = S(4.0) * e / ((e + one) * (e + one)), h = (e - one) / (e + one);
    return {h, q, S(-2.0) * h * q};
  }
  if (name == "silu") {
    const S p = one / (one + exp(S(0.0) - z)), q = one / (one + exp(z)), u = p * q;
    return {z * p, p + z * u, S(2.0) * u + z * u * (q - p)};
  }
  throw std::invalid_argument("no activation " + name);
}

using Pairs = std::vector<std::pair<int, int>>;  // second derivatives to carry; 0 is t, i is x_i

template <class S>
struct Jet {
  S value;
  std::vector<S> first;   // [1 + d]
  std::vector<S> second;  // [pairs]
};

// How far z is from where a derivative of the activation jumps.
inline double distance_to_jump(const std::string& activation, double beta, double z) {
  if (activation == "softplus") return std::fabs(beta * z - 20);
  for (const char* kinked : {"relu", "leaky-relu", "elu", "selu"}) {
    if (activation == kinked) return std::fabs(z);
  }
  return std::numeric_limits<double>::infinity();
}

// The outputs' jets at (t, x), of the row x. `nearest`, where given, takes the least distance_to_jump() of all units.
// `directions` [K, d] are K further ones for first derivatives, behind those of the axes, which pairs may name, too.
template <class S>
std::vector<Jet<S>> reference_outputs(const ReferenceNetwork& net, const std::vector<S>& parameters, double t,
                                      const double* x, const Pairs& pairs, double* nearest = nullptr,
                                      const std::vector<double>& directions = {}) {
  const int axes = 1 + net.dimension, n = axes + static_cast<int>(directions.size()) / net.dimension;
  // streams[s][unit]: value, first derivatives, second derivatives.
  using Streams = std::vector<std::vector<S>>;
  const std::size_t n_streams = 1 + n + pairs.size();
  const auto inputs = [&](int begin, int end) {  // of t, x_1, …
    Streams streams(n_streams, std::vector<S>(end - begin, S(0.0)));
    for (int i = begin; i < end; ++i) {
      streams[0][i - begin] = S(i == 0 ? t : x[i - 1]);
      streams[1 + i][i - begin] = S(1.0);
      for (int k = axes; i > 0 && k < n; ++k) {
        streams[1 + k][i - begin] = S(directions[static_cast<std::size_t>((k - axes) * net.dimension + i - 1)]);
      }
    }
    return streams;
  };
  const S* p = parameters.data();
  const auto dense = [&](const ReferenceLayer& layer, const Streams& from) {
    const std::size_t in = from[0].size(), out = static_cast<std::size_t>(layer.width);
    const S *weight = p, *bias = p + in * out;
    p = bias + out;
    Streams next(n_streams, std::vector<S>(out));
    for (std::size_t s = 0; s < n_streams; ++s)
      for (std::size_t j = 0; j < out; ++j) {
        if (in > 0) {
          next[s][j] = dot(weight + j * in, from[s], s == 0 ? bias + j : nullptr);
        } else {
          next[s][j] = s == 0 ? bias[j] : S(0.0);
        }
      }
    for (std::size_t j = 0; j < out && !layer.activation.empty(); ++j) {
      if (nearest) {
        *nearest = std::min(*nearest, distance_to_jump(layer.activation, layer.beta, value_of(next[0][j])));
      }
      const auto f = reference_activation<S>(layer.activation, layer.beta, next[0][j]);
      for (std::size_t k = 0; k < pairs.size(); ++k) {
        const auto [a, b] = pairs[k];
        next[1 + n + k][j] = f.d1 * next[1 + n + k][j] + f.d2 * next[1 + a][j] * next[1 + b][j];
      }
      for (int i = 0; i < n; ++i) next[1 + i][j] = f.d1 * next[1 + i][j];
      next[0][j] = f.value;
    }
    return next;
  };
  Streams condition(n_streams, std::vector<S>(static_cast<std::size_t>(net.condition), S(0.0)));
  for (int i = 0; i < net.condition; ++i) condition[0][i] = S(x[net.dimension + i]);
  for (const ReferenceLayer& layer : net.condition_layers) condition = dense(layer, condition);
  Streams embedding = inputs(0, 1);
  for (const ReferenceLayer& layer : net.time_layers) embedding = dense(layer, embedding);
  Streams streams = inputs(net.time_beside_x ? 0 : 1, axes);
  for (const ReferenceLayer& layer : net.layers) {
    Streams from = streams;
    for (std::size_t s = 0; layer.takes_embedding && s < n_streams; ++s) {
      from[s].insert(from[s].begin(), embedding[s].begin(), embedding[s].end());
    }
    for (std::size_t s = 0; layer.takes_condition && s < n_streams; ++s) {
      from[s].insert(from[s].begin(), condition[s].begin(), condition[s].end());
    }
    Streams next = dense(layer, from);
    for (std::size_t s = 0; layer.adds_input && s < n_streams; ++s) {
      for (std::size_t j = 0; j < next[s].size(); ++j) next[s][j] = next[s][j] + streams[s][j];
    }
    streams = std::move(next);
  }
  std::vector<Jet<S>> outputs(streams[0].size());
  for (std::size_t j = 0; j < outputs.size(); ++j) {
    outputs[j].value = streams[0][j];
    for (int i = 0; i < n; ++i) outputs[j].first.push_back(streams[1 + i][j]);
    for (std::size_t k = 0; k < pairs.size(); ++k) outputs[j].second.push_back(streams[1 + n + k][j]);
  }
  return outputs;
}

// ---- fields --------------------------------------------------------------------------------------------------------

// At one point. value and dt are those of a potential (NaN for a vector net); hessian [d·d] is ∂_j s_i at i·d + j.
struct ReferenceFields {
  double value, dt, divergence;
  std::vector<double> score, hessian;
};

inline ReferenceFields reference_fields(const ReferenceNetwork& net, double t, const double* x) {
  const int d = net.dimension;
  ReferenceFields f{std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::quiet_NaN(), 0, {}, {}};
  Pairs pairs;
  if (net.potential)
    for (int i = 1; i <= d; ++i)
      for (int j = 1; j <= d; ++j) pairs.emplace_back(i, j);
  const auto out = reference_outputs<double>(net, net.parameters, t, x, pairs);
  if (net.potential) {
    f.value = out[0].value;
    f.dt = out[0].first[0];
    f.score.assign(out[0].first.begin() + 1, out[0].first.end());
    f.hessian = out[0].second;
  } else {
    for (int i = 0; i < d; ++i) {
      f.score.push_back(out[i].value);
      f.hessian.insert(f.hessian.end(), out[i].first.begin() + 1, out[i].first.end());
    }
  }
  for (int i = 0; i < d; ++i) f.divergence += f.hessian[i * d + i];
  return f;
}

// R = ∂_t φ + ∇·f + f·∇φ − ½ g² (Δφ + |∇φ|²) from the jet of φ with pairs (i, i).
template <class S>
S residual_of(const Jet<S>& phi, const ReferenceSde& sde, int d, double t, const double* x) {
  const double a = sde.drift(t), g2 = sde.diffusion_squared(t);
  S r = phi.first[0] + S(a * d);
  for (int i = 1; i <= d; ++i) {
    const S s = phi.first[i];
    r = r + S(a * x[i - 1]) * s - S(0.5 * g2) * (phi.second[i - 1] + s * s);
  }
  return r;
}

inline Pairs diagonal_pairs(int d) {
  Pairs pairs;
  for (int i = 1; i <= d; ++i) pairs.emplace_back(i, i);
  return pairs;
}

inline double reference_residual(const ReferenceNetwork& net, const ReferenceSde& sde, double t, const double* x) {
  const auto out = reference_outputs<double>(net, net.parameters, t, x, diagonal_pairs(net.dimension));
  return residual_of(out[0], sde, net.dimension, t, x);
}

// Least |βz − 20| over the units of a softplus network and the points t [N], x [N, d]; infinite for the others.
inline double distance_to_jump(const ReferenceNetwork& net, const std::vector<double>& t,
                               const std::vector<double>& x) {
  double nearest = std::numeric_limits<double>::infinity();
  for (std::size_t k = 0; k < t.size(); ++k)
    reference_outputs<double>(net, net.parameters, t[k], &x[k * net.columns()], {}, &nearest);
  return nearest;
}

// ---- losses --------------------------------------------------------------------------------------------------------

template <class N>
struct ReferenceLossOf {
  N value = 0.0;
  std::vector<N> gradient;  // [P]
};
using ReferenceLoss = ReferenceLossOf<double>;

// Mean over the points of point_loss(point, parameters on a tape).
template <class N, class PointLoss>
ReferenceLossOf<N> reference_mean(const ReferenceNetwork& net, std::size_t points, PointLoss point_loss) {
  ReferenceLossOf<N> loss{0.0, std::vector<N>(net.parameters.size(), N(0.0))};
  Tape<N> tape(net.parameters.size());
  std::vector<VariableOf<N>> parameters;
  for (std::size_t k = 0; k < net.parameters.size(); ++k)
    parameters.emplace_back(N(net.parameters[k]), static_cast<std::int64_t>(k), &tape);
  for (std::size_t i = 0; i < points; ++i) {
    tape.rewind();
    const VariableOf<N> l = point_loss(i, parameters);
    loss.value = loss.value + l.value / N(double(points));
    tape.accumulate(l.node, 1.0 / double(points), loss.gradient);
  }
  std::size_t at = 0;
  const auto pass = [&](const ReferenceLayer& layer, int inputs) {
    const std::size_t end = at + static_cast<std::size_t>(layer.width) * (inputs + 1);
    for (; at < end; ++at) {
      if (layer.fixed) loss.gradient[at] = 0.0;
    }
    return layer.width;
  };
  int condition = net.condition, embedding = 1, inputs = net.dimension + (net.time_beside_x ? 1 : 0);
  for (const ReferenceLayer& layer : net.condition_layers) condition = pass(layer, condition);
  for (const ReferenceLayer& layer : net.time_layers) embedding = pass(layer, embedding);
  for (const ReferenceLayer& layer : net.layers) {
    inputs = pass(layer, inputs + (layer.takes_embedding ? embedding : 0) + (layer.takes_condition ? condition : 0));
  }
  return loss;
}

// A denoising point's share of its loss, the mean over coordinates of weight (s − target)², in numbers S.
template <class S>
S denoising_point(const ReferenceNetwork& net, const std::vector<S>& parameters, double t, const double* x,
                  const double* target, double weight) {
  const int d = net.dimension;
  const auto out = reference_outputs<S>(net, parameters, t, x, {});
  S sum = 0.0;
  for (int i = 0; i < d; ++i) {
    const S e = (net.potential ? out[0].first[1 + i] : out[i].value) - S(target[i]);
    sum = sum + e * e;
  }
  return S(weight / d) * sum;
}

// R̂ of a point by the mean of the jet's second derivatives from `first` on, `count` of them, in place of the Laplacian.
template <class S>
S estimate_of(const Jet<S>& phi, const ReferenceSde& sde, int d, double t, const double* x, std::size_t first,
              std::size_t count) {
  const double a = sde.drift(t), g2 = sde.diffusion_squared(t);
  S r = phi.first[0] + S(a * d), laplacian = 0.0;
  for (int i = 1; i <= d; ++i) r = r + S(a * x[i - 1]) * phi.first[i] - S(0.5 * g2) * phi.first[i] * phi.first[i];
  for (std::size_t k = first; k < first + count; ++k) laplacian = laplacian + phi.second[k];
  return r - S(0.5 * g2) * (laplacian / S(static_cast<double>(count)));
}

// R² of a point, in numbers S; with probes [2 k, d] R̂₁ R̂₂ by k of them each.
template <class S>
S residual_point(const ReferenceNetwork& net, const std::vector<S>& parameters, const ReferenceSde& sde, double t,
                 const double* x, const std::vector<double>& probes = {}) {
  const int d = net.dimension;
  if (probes.empty()) {
    const auto out = reference_outputs<S>(net, parameters, t, x, diagonal_pairs(d));
    const S r = residual_of(out[0], sde, d, t, x);
    return r * r;
  }
  const std::size_t each = probes.size() / static_cast<std::size_t>(2 * d);
  Pairs pairs;
  for (int k = 0; k < 2 * static_cast<int>(each); ++k) pairs.emplace_back(1 + d + k, 1 + d + k);
  const auto out = reference_outputs<S>(net, parameters, t, x, pairs, nullptr, probes);
  return estimate_of(out[0], sde, d, t, x, 0, each) * estimate_of(out[0], sde, d, t, x, each, each);
}

// Point i's of the probes [M, 2 k, d] of M points.
inline std::vector<double> probes_of_point(const std::vector<double>& probes, std::size_t points, std::size_t i) {
  const auto size = static_cast<std::ptrdiff_t>(points == 0 ? 0 : probes.size() / points);
  const auto begin = probes.begin() + static_cast<std::ptrdiff_t>(i) * size;
  return {begin, begin + size};
}

// Mean over points and coordinates of weight (s − target)²; t [N], x [N, columns], target [N, d], weight [N] or empty.
template <class N = double>
ReferenceLossOf<N> reference_denoising_loss(const ReferenceNetwork& net, const std::vector<double>& t,
                                            const std::vector<double>& x, const std::vector<double>& target,
                                            const std::vector<double>& weight = {}) {
  const int d = net.dimension;
  return reference_mean<N>(net, t.size(), [&](std::size_t k, const std::vector<VariableOf<N>>& parameters) {
    return denoising_point(net, parameters, t[k], &x[k * net.columns()], &target[k * d],
                           weight.empty() ? 1.0 : weight[k]);
  });
}

// Mean over points of R², or with probes [M, 2 k, d] of R̂₁ R̂₂.
template <class N = double>
ReferenceLossOf<N> reference_residual_loss(const ReferenceNetwork& net, const ReferenceSde& sde,
                                           const std::vector<double>& t, const std::vector<double>& x,
                                           const std::vector<double>& probes = {}) {
  return reference_mean<N>(net, t.size(), [&](std::size_t k, const std::vector<VariableOf<N>>& parameters) {
    return residual_point(net, parameters, sde, t[k], &x[k * net.columns()], probes_of_point(probes, t.size(), k));
  });
}

}  // namespace fokker::testing
