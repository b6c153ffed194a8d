// Exact fields of a Gaussian mixture along a forward SDE. With C_k = Q_kᵀ diag(λ_k) Q_k, x_t has the density
//   p_t = Σ_k w_k N(m μ_k, Q_kᵀ diag(S_k) Q_k),   S_kj = m² λ_kj + σ²,
// and with y = Q_k (x − m μ_k), p = y / S and r_k the posterior weight of component k given x_t = x
//   φ    = log Σ_k exp ℓ_k,   ℓ_k = log w_k − ½ Σ_j (log 2π S_kj + y_j p_j)
//   ∇φ   = Σ_k r_k g_k,       g_k = −Q_kᵀ p
//   ∂_tφ = Σ_k r_k ∂_tℓ_k,    ∂_tℓ_k = Σ_j ½ S′_kj (p_j² − 1/S_kj) + a m (Q_k μ_k)_j p_j,   S′ = 2 a S + g²
//   ∇²φ  = Σ_k r_k (−Q_kᵀ diag(1/S_k) Q_k + (g_k − ∇φ)(g_k − ∇φ)ᵀ),
// the last in its centred form, which does not cancel far from all components. ∂_tφ comes from m′ = a m and
// (σ²)′ = 2 a σ² + g² and not from the Fokker–Planck equation, so a residual computed from it is a check and not a
// zero. All work is in double, whatever T. Cost a point: K logarithms (only where the time is new), K exponentials and
// O(K d) multiplications; O(K d²) for components whose covariance is not diagonal.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <vector>

#include "cpu/block_field.hpp"
#include "cpu/probes.hpp"

namespace fokker::cpu {
namespace {

// A singular covariance has no density at t = 0. Its flat directions then get this variance, so that all intermediate
// numbers stay finite; what the flat directions drive beyond kHuge is reported as the infinity that it stands for.
constexpr double kFlat = 1e-150, kHuge = 1e100;

struct MixtureScratch final : Scratch {
  std::vector<double> variance, inverse;  // [K·d] S and 1/S at `time`
  std::vector<double> log_norm;           // [K] log w_k − ½ Σ_j log 2π S_kj
  double time = std::numeric_limits<double>::quiet_NaN();
  SdeCoefficients<double> sde{};
  bool flat = false;  // some S was below kFlat

  std::vector<double> shift, rotated;      // [d] x − m μ_k, and Q_k times a vector
  std::vector<double> scaled;              // [K·d] p
  std::vector<double> gradient;            // [K·d] g_k
  std::vector<double> posterior;           // [K] ℓ_k, then r_k
  std::vector<double> score, hessian;      // [d], [d·d]
  std::vector<double> direction, product;  // [d]
  std::vector<float> probe;                // [d]
};

template <class T>
class MixtureField final : public BlockField<T> {
 public:
  MixtureField(const GaussianMixture& mixture, const ForwardSde& sde)
      : sde_(sde),
        d_(mixture.dimension()),
        k_(mixture.components()),
        means_(mixture.means()),
        eigenvalues_(mixture.eigenvalues()),
        eigenvectors_(mixture.eigenvectors()),
        rotated_means_(mixture.means()) {
    for (const double w : mixture.weights()) log_weights_.push_back(std::log(w));
    for (std::int64_t k = 0; k < k_; ++k) {
      const double* values = eigenvalues_.data() + k * d_;
      isotropic_.push_back(std::all_of(values, values + d_, [&](double v) { return v == values[0]; }));
      bool diagonal = true;
      for (std::int64_t i = 0; i < d_ * d_; ++i) diagonal &= eigenvectors_[k * d_ * d_ + i] == (i % (d_ + 1) == 0);
      diagonal_.push_back(diagonal || isotropic_.back());
      if (!diagonal_.back()) rotate(k, means_.data() + k * d_, rotated_means_.data() + k * d_);
    }
  }

  std::int64_t dimension() const override { return d_; }
  std::int64_t block_size() const override { return 64; }

  std::unique_ptr<Scratch> make_scratch() const override {
    auto scratch = std::make_unique<MixtureScratch>();
    for (auto* v : {&scratch->variance, &scratch->inverse, &scratch->scaled, &scratch->gradient}) v->resize(k_ * d_);
    for (auto* v : {&scratch->log_norm, &scratch->posterior}) v->resize(k_);
    for (auto* v : {&scratch->shift, &scratch->rotated, &scratch->score, &scratch->direction, &scratch->product}) {
      v->resize(d_);
    }
    scratch->probe.resize(d_);
    return scratch;
  }

  void evaluate(const BlockPoints<T>& points, const BlockOutputs<T>& outputs, const Divergence& divergence,
                Scratch& scratch) const override {
    auto& s = static_cast<MixtureScratch&>(scratch);
    if (outputs.hessian) s.hessian.resize(d_ * d_);
    for (std::int64_t i = 0; i < points.n; ++i) {
      set_time(points.t[i * points.t_stride], s);
      const T* x = points.x + i * d_;
      const std::int64_t dominant = locate(x, s);
      const double value = log_sum(s, dominant);
      if (outputs.value) outputs.value[i] = static_cast<T>(s.flat ? flat_value(value, dominant, s) : value);
      if (!outputs.dt && !outputs.score && !outputs.divergence && !outputs.hessian && !outputs.residual) continue;
      set_score(s);
      if (outputs.score) store(s.score.data(), d_, outputs.score + i * d_, s);
      const double dt = outputs.dt || outputs.residual ? time_derivative(s) : 0;
      if (outputs.dt) store(&dt, 1, outputs.dt + i, s);
      if (outputs.divergence || outputs.residual) {
        const std::uint64_t index =
            points.indices ? points.indices[i] : points.first_index + static_cast<std::uint64_t>(i);
        const double trace = divergence.probes == 0 ? laplacian(s) : hutchinson(divergence, index, s);
        if (outputs.divergence) store(&trace, 1, outputs.divergence + i, s);
        if (outputs.residual) outputs.residual[i] = static_cast<T>(residual(x, dt, trace, s));
      }
      if (outputs.hessian) {
        set_hessian(s);
        store(s.hessian.data(), d_ * d_, outputs.hessian + i * d_ * d_, s);
      }
    }
  }

  void hessian_vector(const BlockPoints<T>& points, const T* direction, T* product, Scratch& scratch) const override {
    auto& s = static_cast<MixtureScratch&>(scratch);
    for (std::int64_t i = 0; i < points.n; ++i) {
      set_time(points.t[i * points.t_stride], s);
      log_sum(s, locate(points.x + i * d_, s));
      set_score(s);
      std::copy_n(direction + i * d_, d_, s.direction.begin());
      std::fill(s.product.begin(), s.product.end(), 0.0);
      for (std::int64_t k = 0; k < k_; ++k) {
        const double r = s.posterior[k];
        if (r == 0) continue;
        const double *inverse = s.inverse.data() + k * d_, *g = s.gradient.data() + k * d_;
        double along = 0;
        for (std::int64_t j = 0; j < d_; ++j) along += (g[j] - s.score[j]) * s.direction[j];
        for (std::int64_t j = 0; j < d_; ++j) s.product[j] += r * along * (g[j] - s.score[j]);
        if (diagonal_[k]) {
          for (std::int64_t j = 0; j < d_; ++j) s.product[j] -= r * inverse[j] * s.direction[j];
        } else {
          rotate(k, s.direction.data(), s.rotated.data());
          for (std::int64_t j = 0; j < d_; ++j) s.rotated[j] *= -r * inverse[j];
          add_rotated_back(k, s.rotated.data(), s.product.data());
        }
      }
      store(s.product.data(), d_, product + i * d_, s);
    }
  }

 private:
  // out = Q_k v.
  void rotate(std::int64_t k, const double* v, double* out) const {
    const double* q = eigenvectors_.data() + k * d_ * d_;
    for (std::int64_t j = 0; j < d_; ++j) {
      double sum = 0;
      for (std::int64_t i = 0; i < d_; ++i) sum += q[j * d_ + i] * v[i];
      out[j] = sum;
    }
  }
  // out += Q_kᵀ v.
  void add_rotated_back(std::int64_t k, const double* v, double* out) const {
    const double* q = eigenvectors_.data() + k * d_ * d_;
    for (std::int64_t j = 0; j < d_; ++j) {
      for (std::int64_t i = 0; i < d_; ++i) out[i] += q[j * d_ + i] * v[j];
    }
  }

  void set_time(T time, MixtureScratch& s) const {
    const double t = static_cast<double>(time);
    if (t == s.time) return;
    s.time = t;
    s.sde = sde_.at<double>(t);
    s.flat = false;
    const double mean_squared = s.sde.mean * s.sde.mean;
    for (std::int64_t k = 0; k < k_; ++k) {
      double log_determinant = 0;
      for (std::int64_t j = 0; j < d_; ++j) {
        const std::int64_t kj = k * d_ + j;
        if (j > 0 && isotropic_[k]) {
          s.variance[kj] = s.variance[kj - 1], s.inverse[kj] = s.inverse[kj - 1];
          continue;
        }
        double variance = mean_squared * eigenvalues_[kj] + s.sde.variance;
        if (variance < kFlat) variance = kFlat, s.flat = true;
        s.variance[kj] = variance;
        s.inverse[kj] = 1 / variance;
        log_determinant += std::log(2 * std::numbers::pi * variance);
      }
      s.log_norm[k] = log_weights_[k] - 0.5 * log_determinant * (isotropic_[k] ? static_cast<double>(d_) : 1.0);
    }
  }

  // p and ℓ of every component; returns the component of the largest ℓ.
  std::int64_t locate(const T* x, MixtureScratch& s) const {
    std::int64_t dominant = 0;
    for (std::int64_t k = 0; k < k_; ++k) {
      const double *mean = means_.data() + k * d_, *inverse = s.inverse.data() + k * d_;
      double* p = s.scaled.data() + k * d_;
      double* y = s.shift.data();
      for (std::int64_t j = 0; j < d_; ++j) y[j] = static_cast<double>(x[j]) - s.sde.mean * mean[j];
      if (!diagonal_[k]) rotate(k, y, s.rotated.data()), y = s.rotated.data();
      double square = 0;
      for (std::int64_t j = 0; j < d_; ++j) {
        p[j] = y[j] * inverse[j];
        square += y[j] * p[j];
      }
      s.posterior[k] = s.log_norm[k] - 0.5 * square;
      if (s.posterior[k] > s.posterior[dominant]) dominant = k;
    }
    return dominant;
  }

  // ℓ_k → r_k; returns φ.
  double log_sum(MixtureScratch& s, std::int64_t dominant) const {
    const double largest = s.posterior[dominant];
    double sum = 0;
    for (std::int64_t k = 0; k < k_; ++k) {
      // e^−200 = 1e−87: below this a component's part is less than rounding in every field.
      const double below = s.posterior[k] - largest;
      s.posterior[k] = below < -200 ? 0 : std::exp(below);
      sum += s.posterior[k];
    }
    for (std::int64_t k = 0; k < k_; ++k) s.posterior[k] /= sum;
    return largest + std::log(sum);
  }

  // Gradients g_k and their mean ∇φ.
  void set_score(MixtureScratch& s) const {
    std::fill(s.score.begin(), s.score.end(), 0.0);
    for (std::int64_t k = 0; k < k_; ++k) {
      if (s.posterior[k] == 0) continue;
      const double* p = s.scaled.data() + k * d_;
      double* g = s.gradient.data() + k * d_;
      if (diagonal_[k]) {
        for (std::int64_t j = 0; j < d_; ++j) g[j] = -p[j];
      } else {
        std::fill_n(g, d_, 0.0);
        add_rotated_back(k, p, g);
        for (std::int64_t j = 0; j < d_; ++j) g[j] = -g[j];
      }
      for (std::int64_t j = 0; j < d_; ++j) s.score[j] += s.posterior[k] * g[j];
    }
  }

  double time_derivative(const MixtureScratch& s) const {
    const double a = s.sde.drift, g2 = s.sde.diffusion_squared, mean_rate = a * s.sde.mean;
    double total = 0;
    for (std::int64_t k = 0; k < k_; ++k) {
      if (s.posterior[k] == 0) continue;
      double rate = 0;
      for (std::int64_t kj = k * d_; kj < (k + 1) * d_; ++kj) {
        const double p = s.scaled[kj], variance_rate = 2 * a * s.variance[kj] + g2;
        rate += 0.5 * variance_rate * (p * p - s.inverse[kj]) + mean_rate * rotated_means_[kj] * p;
      }
      total += s.posterior[k] * rate;
    }
    return total;
  }

  double laplacian(const MixtureScratch& s) const {
    double total = 0;
    for (std::int64_t k = 0; k < k_; ++k) {
      if (s.posterior[k] == 0) continue;
      double trace = 0;
      for (std::int64_t j = 0; j < d_; ++j) {
        const double centred = s.gradient[k * d_ + j] - s.score[j];
        trace += centred * centred - s.inverse[k * d_ + j];
      }
      total += s.posterior[k] * trace;
    }
    return total;
  }

  // Mean over the probes of vᵀ ∇²φ v.
  double hutchinson(const Divergence& divergence, std::uint64_t index, MixtureScratch& s) const {
    double total = 0;
    for (int probe = 0; probe < divergence.probes; ++probe) {
      draw_probes(s.probe.data(), 1, static_cast<int>(d_), divergence, index, probe);
      std::copy(s.probe.begin(), s.probe.end(), s.direction.begin());
      for (std::int64_t k = 0; k < k_; ++k) {
        if (s.posterior[k] == 0) continue;
        const double* v = s.direction.data();
        double along = 0, quadratic = 0;
        for (std::int64_t j = 0; j < d_; ++j) along += (s.gradient[k * d_ + j] - s.score[j]) * v[j];
        if (!diagonal_[k]) rotate(k, v, s.rotated.data()), v = s.rotated.data();
        for (std::int64_t j = 0; j < d_; ++j) quadratic += s.inverse[k * d_ + j] * v[j] * v[j];
        total += s.posterior[k] * (along * along - quadratic);
      }
    }
    return total / divergence.probes;
  }

  void set_hessian(MixtureScratch& s) const {
    double* h = s.hessian.data();
    std::fill(s.hessian.begin(), s.hessian.end(), 0.0);
    for (std::int64_t k = 0; k < k_; ++k) {
      const double r = s.posterior[k];
      if (r == 0) continue;
      const double *g = s.gradient.data() + k * d_, *inverse = s.inverse.data() + k * d_;
      for (std::int64_t i = 0; i < d_; ++i) {
        const double row = r * (g[i] - s.score[i]);
        for (std::int64_t j = 0; j < d_; ++j) h[i * d_ + j] += row * (g[j] - s.score[j]);
        if (diagonal_[k]) h[i * d_ + i] -= r * inverse[i];
      }
      if (diagonal_[k]) continue;
      const double* q = eigenvectors_.data() + k * d_ * d_;
      for (std::int64_t e = 0; e < d_; ++e) {
        for (std::int64_t i = 0; i < d_; ++i) {
          const double row = r * inverse[e] * q[e * d_ + i];
          for (std::int64_t j = 0; j < d_; ++j) h[i * d_ + j] -= row * q[e * d_ + j];
        }
      }
    }
  }

  double residual(const T* x, double dt, double trace, const MixtureScratch& s) const {
    double along = 0, square = 0;
    for (std::int64_t j = 0; j < d_; ++j) {
      along += static_cast<double>(x[j]) * s.score[j];
      square += s.score[j] * s.score[j];
    }
    const double r =
        dt + s.sde.drift * (static_cast<double>(d_) + along) - 0.5 * s.sde.diffusion_squared * (trace + square);
    // Where there is no density, there is no residual.
    return s.flat && std::max(std::abs(dt), std::abs(trace)) > kHuge ? std::numeric_limits<double>::quiet_NaN() : r;
  }

  // φ where the dominant component may be flat: +∞ on its support, −∞ off it.
  double flat_value(double value, std::int64_t dominant, const MixtureScratch& s) const {
    constexpr double infinity = std::numeric_limits<double>::infinity();
    bool flat = false;
    for (std::int64_t kj = dominant * d_; kj < (dominant + 1) * d_; ++kj) {
      if (s.variance[kj] > kFlat) continue;
      flat = true;
      if (s.scaled[kj] != 0) return -infinity;
    }
    return flat ? infinity : value;
  }

  static void store(const double* values, std::int64_t n, T* out, const MixtureScratch& s) {
    for (std::int64_t i = 0; i < n; ++i) {
      const bool infinite = s.flat && std::abs(values[i]) > kHuge;
      out[i] = static_cast<T>(infinite ? std::copysign(std::numeric_limits<double>::infinity(), values[i]) : values[i]);
    }
  }

  ForwardSde sde_;
  std::int64_t d_, k_;
  std::vector<double> means_, eigenvalues_, eigenvectors_, rotated_means_, log_weights_;
  std::vector<char> isotropic_, diagonal_;
};

}  // namespace

template <class T>
std::unique_ptr<BlockField<T>> make_mixture_field(const GaussianMixture& mixture, const ForwardSde& sde) {
  return std::make_unique<MixtureField<T>>(mixture, sde);
}

template std::unique_ptr<BlockField<float>> make_mixture_field<float>(const GaussianMixture&, const ForwardSde&);
template std::unique_ptr<BlockField<double>> make_mixture_field<double>(const GaussianMixture&, const ForwardSde&);

}  // namespace fokker::cpu
