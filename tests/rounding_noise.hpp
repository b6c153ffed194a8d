#pragma once

// How far rounding may move a result, found from the reference itself (Monte Carlo arithmetic: Parker 1997, "Monte
// Carlo Arithmetic"): it is evaluated with numbers of which every operation errs by a random relative amount up to δ.
// To first order the result's deviation, over δ, times the unit roundoff of a precision is that of the same operations
// in the precision, with all cancellation, correlation of errors and conditioning by the network in it. Real roundings
// are uniform in at most ±u, so the model errs on the large side.
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

namespace fokker::testing {

// Small enough for first order, large enough to drown the rounding of double.
inline constexpr double noise_size = 0x1p-30;

// Uniform in ±noise_size, a function of a result's size and of the seed: as roundings are, errors of equal operations are
// equal, and those of opposite ones opposite, which do not average out however often they are repeated.
class Noise {
 public:
  static void seed(std::uint64_t seed) { state() = (2 * seed + 1) * 0x9e3779b97f4a7c15u; }
  static double of(double result) {  // finaliser of splitmix64: Steele, Lea and Flood 2014
    std::uint64_t s = state() + std::bit_cast<std::uint64_t>(std::fabs(result));
    s = (s ^ (s >> 30)) * 0xbf58476d1ce4e5b9u;
    s = (s ^ (s >> 27)) * 0x94d049bb133111ebu;
    s ^= s >> 31;
    return static_cast<double>(static_cast<std::int64_t>(s)) * (0x1p-63 * noise_size);
  }

 private:
  static std::uint64_t& state() {
    static thread_local std::uint64_t s = 1;
    return s;
  }
};

// A number whose operations err.
struct Noisy {
  double value = 0;

  Noisy() = default;
  Noisy(double v) : value(v) {}  // NOLINT: constants mix with numbers
};
inline Noisy rounded(double v) { return v * (1 + Noise::of(v)); }
inline Noisy operator+(const Noisy& a, const Noisy& b) { return rounded(a.value + b.value); }
inline Noisy operator-(const Noisy& a, const Noisy& b) { return rounded(a.value - b.value); }
inline Noisy operator*(const Noisy& a, const Noisy& b) { return rounded(a.value * b.value); }
inline Noisy operator/(const Noisy& a, const Noisy& b) { return rounded(a.value / b.value); }
inline Noisy exp(const Noisy& a) { return rounded(std::exp(a.value)); }
inline Noisy expm1(const Noisy& a) { return rounded(std::expm1(a.value)); }
inline Noisy erfc(const Noisy& a) { return rounded(std::erfc(a.value)); }
inline Noisy log1p(const Noisy& a) { return rounded(std::log1p(a.value)); }
inline Noisy sin(const Noisy& a) { return rounded(std::sin(a.value)); }
inline Noisy cos(const Noisy& a) { return rounded(std::cos(a.value)); }
inline double value_of(const Noisy& a) { return a.value; }
inline Noisy multiply_add(const Noisy& a, const Noisy& b, const Noisy& c) {
  return rounded(a.value * b.value + c.value);
}

// One rounding a term, as by fused multiply-adds: of the partial sums s_k, which together move the sum by Σ s_k ξ_k;
// the draw has their variance.
inline Noisy dot(const Noisy* w, const std::vector<Noisy>& h, const Noisy* bias) {
  double sum = bias ? bias->value : 0.0, squares = 0;
  for (std::size_t i = 0; i < h.size(); ++i) {
    sum += w[i].value * h[i].value;
    squares += sum * sum;
  }
  return sum + std::copysign(std::sqrt(squares), sum) * Noise::of(sum);
}

template <class T>
inline constexpr double unit = std::numeric_limits<T>::epsilon() / 2;

// Deviations are taken from this many runs. An error over its deviation then follows Student's t with as many degrees
// of freedom, which is beyond 12 with probability 2e-9.
inline constexpr int noise_runs = 16;
inline constexpr double most_deviations = 12;

}  // namespace fokker::testing
