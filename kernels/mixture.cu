// Exact fields of a Gaussian mixture along a forward SDE. With C_k = Q_kᵀ diag(λ_k) Q_k, x_t has the density
//   p_t = Σ_k w_k N(m μ_k, Q_kᵀ diag(S_k) Q_k),   S_kj = m² λ_kj + σ²,
// and with y = Q_k (x − m μ_k), p = y / S and r_k the posterior weight of component k given x_t = x
//   φ    = log Σ_k exp ℓ_k,   ℓ_k = log w_k − ½ Σ_j (log 2π S_kj + y_j p_j)
//   ∇φ   = Σ_k r_k g_k,       g_k = −Q_kᵀ p
//   ∂_tφ = Σ_k r_k ∂_tℓ_k,    ∂_tℓ_k = Σ_j ½ S′_kj (p_j² − 1/S_kj) + a m (Q_k μ_k)_j p_j,   S′ = 2 a S + g²
//   ∇²φ  = Σ_k r_k (−Q_kᵀ diag(1/S_k) Q_k + (g_k − ∇φ)(g_k − ∇φ)ᵀ)
// as on the CPU, all in double whatever T. A singular covariance has no density at t = 0: its flat directions get the
// variance kFlat, and what they drive beyond kHuge is reported as the infinity that it stands for.
//
// Data path: one thread a point. What a point keeps between its passes over the components (ℓ and r, p, g of rotated
// components, ∇φ) is a column of the workspace, so neighbouring threads read neighbouring numbers; parameters are the
// same address for all threads of a warp. Variances are recomputed where they are needed: a product and a division cost
// less than another array. Cost a point: K exponentials, K d divisions a pass, O(K d) multiplications, O(K d²) for
// components whose covariance is not diagonal; K logarithms (K d where not isotropic) where every point has its own
// time, else once a launch.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numbers>

#include "device.hpp"
#include "mixture_launch.hpp"
#include "random.hpp"

namespace fokker::kernels {
namespace {

constexpr double kFlat = 1e-150, kHuge = 1e100;
constexpr double kInfinity = std::numeric_limits<double>::infinity(), kNan = std::numeric_limits<double>::quiet_NaN();
constexpr int most_threads = 128;

// One number a component, then the others a coordinate.
FOKKER_HOST_DEVICE inline std::int64_t scratch_of(const MixtureParameters& m) {
  return m.components + (m.rotated ? 2 : 1) * m.components * m.dimension + 2 * m.dimension;
}

// A vector of a point's scratch.
struct Column {
  double* first;
  std::int64_t slots;
  __device__ double& operator[](std::int64_t i) const { return first[i * slots]; }
};

// A component's variances at a time.
struct Component {
  const double *mean, *eigenvalue, *rotation;  // rotation: nullptr where diagonal
  double mean_squared, added;
  bool isotropic;
  __device__ double variance(std::int64_t j) const {
    const double s = mean_squared * eigenvalue[j] + added;
    return s < kFlat ? kFlat : s;
  }
  __device__ double inverse(std::int64_t j) const { return 1 / variance(j); }
  __device__ bool flat(std::int64_t j) const { return mean_squared * eigenvalue[j] + added < kFlat; }
};

__device__ Component component(const MixtureParameters& m, const SdeCoefficients<double>& sde, std::int64_t k) {
  const std::int32_t rotation = m.rotation[k];
  return {m.means + k * m.dimension,
          m.eigenvalues + k * m.dimension,
          rotation < 0 ? nullptr : m.rotations + rotation * m.dimension * m.dimension,
          sde.mean * sde.mean,
          sde.variance,
          m.isotropic[k] != 0};
}

// log w_k − ½ Σ_j log 2π S_kj.
__device__ double log_norm(const MixtureParameters& m, const Component& c, std::int64_t k) {
  double log_determinant = 0;
  const std::int64_t distinct = c.isotropic ? 1 : m.dimension;
  for (std::int64_t j = 0; j < distinct; ++j) log_determinant += std::log(2 * std::numbers::pi * c.variance(j));
  return m.log_weights[k] - 0.5 * log_determinant * (c.isotropic ? static_cast<double>(m.dimension) : 1.0);
}

// The fields of one point.
template <class T>
class Point {
 public:
  __device__ Point(const MixtureParameters& m, const MixtureWorkspace& workspace, std::int64_t slot, double t,
                   const T* x)
      : m_(m), d_(m.dimension), x_(x), sde_(m.sde.at<double>(t)) {
    Column next{workspace.scratch + slot, workspace.slots};
    const auto take = [&next](std::int64_t count) {
      const Column taken = next;
      next.first += count * next.slots;
      return taken;
    };
    posterior_ = take(m.components);
    scaled_ = take(m.components * d_);
    gradient_ = m.rotated ? take(m.components * d_) : scaled_;
    score_ = take(d_);
    vector_ = take(d_);
  }

  // p, r and φ of the point. log_norms [K]: known for this time, or nullptr.
  __device__ void locate(const double* log_norms) {
    double largest = 0;
    for (std::int64_t k = 0; k < m_.components; ++k) {
      const Component c = component(m_, sde_, k);
      double square = 0;
      for (std::int64_t j = 0; j < d_; ++j) {
        double y = 0;
        if (c.rotation == nullptr) {
          y = shift(c, j);
        } else {
          for (std::int64_t i = 0; i < d_; ++i) y += c.rotation[j * d_ + i] * shift(c, i);
        }
        const double p = y * c.inverse(j);
        flat_ = flat_ || c.flat(j);
        scaled_[k * d_ + j] = p;
        square += y * p;
      }
      const double l = (log_norms == nullptr ? log_norm(m_, c, k) : log_norms[k]) - 0.5 * square;
      posterior_[k] = l;
      if (k == 0 || l > largest) largest = l, dominant_ = k;
    }
    double sum = 0;
    for (std::int64_t k = 0; k < m_.components; ++k) {
      // e^−200 = 1e−87: below this a component's part is less than rounding in every field.
      const double below = posterior_[k] - largest;
      const double r = below < -200 ? 0.0 : std::exp(below);
      posterior_[k] = r;
      sum += r;
    }
    for (std::int64_t k = 0; k < m_.components; ++k) posterior_[k] /= sum;
    value_ = largest + std::log(sum);
  }

  // g and ∇φ.
  __device__ void set_score() {
    for (std::int64_t i = 0; i < d_; ++i) score_[i] = 0;
    for (std::int64_t k = 0; k < m_.components; ++k) {
      const double r = posterior_[k];
      if (r == 0) continue;
      const Component c = component(m_, sde_, k);
      for (std::int64_t i = 0; i < d_; ++i) {
        double g;
        if (c.rotation == nullptr) {
          g = -scaled_[k * d_ + i];
        } else {
          g = 0;
          for (std::int64_t j = 0; j < d_; ++j) g -= c.rotation[j * d_ + i] * scaled_[k * d_ + j];
          gradient_[k * d_ + i] = g;
        }
        score_[i] += r * g;
      }
    }
  }

  // φ where the dominant component may be flat: +∞ on its support, −∞ off it.
  __device__ double value() const {
    if (!flat_) return value_;
    const Component c = component(m_, sde_, dominant_);
    bool flat = false;
    for (std::int64_t j = 0; j < d_; ++j) {
      if (c.variance(j) > kFlat) continue;
      flat = true;
      if (scaled_[dominant_ * d_ + j] != 0) return -kInfinity;
    }
    return flat ? kInfinity : value_;
  }

  __device__ double time_derivative() const {
    const double mean_rate = sde_.drift * sde_.mean;
    double total = 0;
    for (std::int64_t k = 0; k < m_.components; ++k) {
      const double r = posterior_[k];
      if (r == 0) continue;
      const Component c = component(m_, sde_, k);
      double rate = 0;
      for (std::int64_t j = 0; j < d_; ++j) {
        const double p = scaled_[k * d_ + j], s = c.variance(j);
        const double variance_rate = 2 * sde_.drift * s + sde_.diffusion_squared;
        rate += 0.5 * variance_rate * (p * p - 1 / s) + mean_rate * m_.rotated_means[k * d_ + j] * p;
      }
      total += r * rate;
    }
    return total;
  }

  __device__ double laplacian() const {
    double total = 0;
    for (std::int64_t k = 0; k < m_.components; ++k) {
      const double r = posterior_[k];
      if (r == 0) continue;
      const Component c = component(m_, sde_, k);
      double trace = 0;
      for (std::int64_t j = 0; j < d_; ++j) {
        const double centred = gradient(c, k, j) - score_[j];
        trace += centred * centred - c.inverse(j);
      }
      total += r * trace;
    }
    return total;
  }

  // Mean over the probes of vᵀ ∇²φ v.
  __device__ double hutchinson(const Divergence& estimate, std::uint64_t index) const {
    double total = 0;
    for (int probe = 0; probe < estimate.probes; ++probe) {
      for (std::int64_t j = 0; j < d_; j += 4) {
        float v[4];
        probe4(estimate, index, static_cast<std::uint32_t>(j / 4), probe, v);
#pragma unroll
        for (int w = 0; w < 4; ++w) {
          if (j + w < d_) vector_[j + w] = v[w];
        }
      }
      for (std::int64_t k = 0; k < m_.components; ++k) {
        const double r = posterior_[k];
        if (r == 0) continue;
        const Component c = component(m_, sde_, k);
        double along = 0, quadratic = 0;
        for (std::int64_t j = 0; j < d_; ++j) {
          along += (gradient(c, k, j) - score_[j]) * vector_[j];
          const double rotated = rotate(c, j, [this](std::int64_t i) { return vector_[i]; });
          quadratic += c.inverse(j) * rotated * rotated;
        }
        total += r * (along * along - quadratic);
      }
    }
    return total / estimate.probes;
  }

  __device__ double residual(double dt, double trace) const {
    double along = 0, square = 0;
    for (std::int64_t j = 0; j < d_; ++j) {
      along += static_cast<double>(x_[j]) * score_[j];
      square += score_[j] * score_[j];
    }
    const double r =
        dt + sde_.drift * (static_cast<double>(d_) + along) - 0.5 * sde_.diffusion_squared * (trace + square);
    // Where there is no density, there is no residual.
    const bool infinite = flat_ && (std::fabs(dt) > kHuge || std::fabs(trace) > kHuge);
    return infinite ? kNan : r;
  }

  __device__ double hessian(std::int64_t row, std::int64_t column) const {
    double total = 0;
    for (std::int64_t k = 0; k < m_.components; ++k) {
      const double r = posterior_[k];
      if (r == 0) continue;
      const Component c = component(m_, sde_, k);
      double entry = (gradient(c, k, row) - score_[row]) * (gradient(c, k, column) - score_[column]);
      if (c.rotation != nullptr) {
        for (std::int64_t e = 0; e < d_; ++e) {
          entry -= c.inverse(e) * c.rotation[e * d_ + row] * c.rotation[e * d_ + column];
        }
      } else if (row == column) {
        entry -= c.inverse(row);
      }
      total += r * entry;
    }
    return total;
  }

  __device__ void hessian_vector(const T* direction, T* product) const {
    for (std::int64_t i = 0; i < d_; ++i) vector_[i] = 0;
    for (std::int64_t k = 0; k < m_.components; ++k) {
      const double r = posterior_[k];
      if (r == 0) continue;
      const Component c = component(m_, sde_, k);
      double along = 0;
      for (std::int64_t j = 0; j < d_; ++j)
        along += (gradient(c, k, j) - score_[j]) * static_cast<double>(direction[j]);
      for (std::int64_t j = 0; j < d_; ++j) {
        vector_[j] += r * along * (gradient(c, k, j) - score_[j]);
        const double rotated =
            -r * c.inverse(j) * rotate(c, j, [direction](std::int64_t i) { return static_cast<double>(direction[i]); });
        if (c.rotation == nullptr) {
          vector_[j] += rotated;
        } else {
          for (std::int64_t i = 0; i < d_; ++i) vector_[i] += c.rotation[j * d_ + i] * rotated;
        }
      }
    }
    for (std::int64_t i = 0; i < d_; ++i) product[i] = number(vector_[i]);
  }

  __device__ double score(std::int64_t i) const { return score_[i]; }

  // As it is stored: infinite where it stands for that.
  __device__ T number(double v) const {
    return static_cast<T>(flat_ && std::fabs(v) > kHuge ? std::copysign(kInfinity, v) : v);
  }

 private:
  __device__ double shift(const Component& c, std::int64_t i) const {
    return static_cast<double>(x_[i]) - sde_.mean * c.mean[i];
  }
  // g_k.
  __device__ double gradient(const Component& c, std::int64_t k, std::int64_t j) const {
    return c.rotation == nullptr ? -scaled_[k * d_ + j] : gradient_[k * d_ + j];
  }
  // (Q_k v)_j.
  template <class Vector>
  __device__ double rotate(const Component& c, std::int64_t j, const Vector& v) const {
    if (c.rotation == nullptr) return v(j);
    double sum = 0;
    for (std::int64_t i = 0; i < d_; ++i) sum += c.rotation[j * d_ + i] * v(i);
    return sum;
  }

  const MixtureParameters& m_;
  const std::int64_t d_;
  const T* x_;
  const SdeCoefficients<double> sde_;
  Column posterior_;  // [K] ℓ_k, then r_k
  Column scaled_;     // [K·d] p
  Column gradient_;   // [K·d] g, of rotated components only
  Column score_;      // [d] ∇φ
  Column vector_;     // [d] a probe, or the product
  double value_ = 0;
  std::int64_t dominant_ = 0;
  bool flat_ = false;  // some S was below kFlat
};

template <class T>
struct MixtureLaunch {
  MixtureParameters mixture;
  MixtureWorkspace workspace;
  MixtureArguments<T> arguments;
};

// log_norm at the one time of all points.
template <class T>
__global__ void mixture_norms(MixtureLaunch<T> launch) {
  const MixtureParameters& m = launch.mixture;
  const SdeCoefficients<double> sde = m.sde.at<double>(static_cast<double>(launch.arguments.t[0]));
  for (std::int64_t k = thread_index(); k < m.components; k += block_threads()) {
    launch.workspace.log_norm[k] = log_norm(m, component(m, sde, k), k);
  }
}

// Two blocks a multiprocessor let the compiler keep all it has in registers; left to itself it takes 96 and spills.
template <class T>
__global__ void __launch_bounds__(most_threads, 2) mixture_fields(MixtureLaunch<T> launch) {
  const MixtureArguments<T>& a = launch.arguments;
  const std::int64_t d = launch.mixture.dimension, slots = launch.workspace.slots;
  const std::int64_t slot = static_cast<std::int64_t>(block_index()) * block_threads() + thread_index();
  if (slot >= slots) return;
  for (std::int64_t i = slot; i < a.n; i += slots) {
    Point<T> point(launch.mixture, launch.workspace, slot, static_cast<double>(a.t[i * a.t_stride]), a.x + i * d);
    point.locate(a.t_stride == 0 ? launch.workspace.log_norm : nullptr);
    if (a.value) a.value[i] = static_cast<T>(point.value());
    if (!a.dt && !a.score && !a.divergence && !a.hessian && !a.residual && !a.product) continue;
    point.set_score();
    if (a.score) {
      for (std::int64_t j = 0; j < d; ++j) a.score[i * d + j] = point.number(point.score(j));
    }
    const double dt = a.dt || a.residual ? point.time_derivative() : 0;
    if (a.dt) a.dt[i] = point.number(dt);
    if (a.divergence || a.residual) {
      const std::uint64_t index = a.estimate.first_index + static_cast<std::uint64_t>(i);
      const double trace = a.estimate.probes == 0 ? point.laplacian() : point.hutchinson(a.estimate, index);
      if (a.divergence) a.divergence[i] = point.number(trace);
      if (a.residual) a.residual[i] = static_cast<T>(point.residual(dt, trace));
    }
    if (a.hessian) {
      for (std::int64_t row = 0; row < d; ++row) {
        for (std::int64_t column = 0; column < d; ++column) {
          a.hessian[(i * d + row) * d + column] = point.number(point.hessian(row, column));
        }
      }
    }
    if (a.product) point.hessian_vector(a.direction + i * d, a.product + i * d);
  }
}

}  // namespace

std::int64_t mixture_scratch(const MixtureParameters& mixture) { return scratch_of(mixture); }

template <class T>
Status launch_mixture(const MixtureParameters& mixture, const MixtureWorkspace& workspace,
                      const MixtureArguments<T>& arguments, Stream stream) {
  if (arguments.n == 0) return 0;
  const MixtureLaunch<T> argument{mixture, workspace, arguments};
  if (arguments.t_stride == 0) {
    if (const Status status = launch(mixture_norms<T>, {1, most_threads, 0}, stream, argument)) return status;
  }
  const std::int64_t wanted = std::min(arguments.n, workspace.slots);
  const int blocks = static_cast<int>((wanted + most_threads - 1) / most_threads);
  return launch(mixture_fields<T>, {blocks, most_threads, 0}, stream, argument);
}

template Status launch_mixture<float>(const MixtureParameters&, const MixtureWorkspace&, const MixtureArguments<float>&,
                                      Stream);
template Status launch_mixture<double>(const MixtureParameters&, const MixtureWorkspace&,
                                       const MixtureArguments<double>&, Stream);

}  // namespace fokker::kernels
