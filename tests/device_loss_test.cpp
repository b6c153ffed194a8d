// Losses and gradients of the CUDA backend's networks, on each of its paths, against the reference in double
// (reference_network.hpp), the CPU backend in double, differences of loss values, and the published gradients. Bounds
// are made for each case (loss_reference.hpp), at the roundoff of the path:
//
//   double, fp32   a unit roundoff
//   split          2^{−22}: an operand's halves leave out up to 2^{−23} of it, low · low is up to 2^{−22} of a product
//
// Measured on the emulation, on the random networks below: the largest error of a loss over its deviation (≤ 12), the
// largest rms error of a gradient over that of the reference's runs (≤ 4), and the median and largest over networks of
// the gradient's rms error over the rms of the gradient, much of it the networks' conditioning.
//
//                    loss   gradient
//   resident, fp32   1.5    1.0   1.4e-7   5.1e-6
//   resident, split  0.58   0.33  1.7e-7   7.2e-6
//   wide, double     2.3    1.6   4.5e-16  1.7e-14
//   wide, fp32       1.3    1.8   1.6e-7   1.2e-5
//   wide, split      1.0    0.42  2.1e-7   1.0e-5
#include "cuda/device_loss.hpp"

#include <cuda_runtime_api.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <numeric>
#include <optional>
#include <ostream>
#include <random>
#include <string>
#include <tuple>
#include <type_traits>
#include <variant>
#include <vector>

#include "backend_under_test.hpp"
#include "cuda/backend.hpp"
#include "cuda/data.hpp"
#include "cuda/runtime.hpp"
#include "device_test.hpp"
#include "fokker/error.hpp"
#include "fokker/safetensors.hpp"
#include "kernels/training_launch.hpp"
#include "loss_reference.hpp"
#include "operations/train_schedule.hpp"
#include "paper_data.hpp"

#ifdef FOKKER_EMULATION
#include "kernels/activation.hpp"
#include "softsign.hpp"
#endif

namespace fokker {
namespace {

using namespace testing;
using cuda::DeviceLoss;
using cuda::DeviceMemory;
using cuda::Queue;
using ::testing::HasSubstr;

// ---- paths ---------------------------------------------------------------------------------------------------------

enum class Path { resident_split, resident_fp32, wide_split, wide_fp32, wide_double };
constexpr Path kResidentPaths[] = {Path::resident_fp32, Path::resident_split};
constexpr Path kWidePaths[] = {Path::wide_double, Path::wide_fp32, Path::wide_split};
constexpr Path kPaths[] = {Path::wide_double, Path::wide_fp32, Path::wide_split, Path::resident_fp32,
                           Path::resident_split};

std::string name_of_path(Path path) {
  switch (path) {
    case Path::resident_split: return "resident, split";
    case Path::resident_fp32: return "resident, fp32";
    case Path::wide_split: return "wide, split";
    case Path::wide_fp32: return "wide, fp32";
    case Path::wide_double: break;
  }
  return "wide, double";
}

bool resident(Path path) { return path == Path::resident_split || path == Path::resident_fp32; }
bool in_fp32(Path path) { return path == Path::resident_fp32 || path == Path::wide_fp32; }
bool in_double(Path path) { return path == Path::wide_double; }
double roundoff_of(Path path) {
  if (in_double(path)) return std::sqrt(2) * unit<double>;  // the reference's, too
  return in_fp32(path) ? unit<float> : 0x1p-22;
}

// A loss on a path, with numbers of the host in double whatever it works in.
struct Result {
  std::vector<double> values, gradient;

  bool operator==(const Result&) const = default;
};

class PathLoss {
 public:
  // `rows`: points at a time of a wide path, 0 for as many as the workspace takes.
  PathLoss(Path path, const Architecture& a, const ForwardSde& sde, std::int64_t rows = 0)
      : d_(a.dimension), condition_(a.condition.inputs) {
    const Queue on = queue(in_fp32(path) ? Precision::fp32 : Precision::split);
    if (resident(path)) {
      narrow_ = cuda::make_resident_loss(on, a, sde);
    } else if (in_double(path)) {
      wide_ = cuda::make_wide_loss_double(on, a, sde, rows);
    } else {
      narrow_ = cuda::make_wide_loss(on, a, sde, rows);
    }
  }

  Result operator()(const Problem& p, double residual_weight, bool with_gradient = true) const {
    return wide_ ? evaluate(*wide_, p, residual_weight, with_gradient)
                 : evaluate<float>(*narrow_, p, residual_weight, with_gradient);
  }
  std::size_t workspace_bytes() const { return wide_ ? wide_->workspace_bytes() : narrow_->workspace_bytes(); }

 private:
  template <class T>
  Result evaluate(DeviceLoss<T>& loss, const Problem& p, double residual_weight, bool with_gradient) const {
    std::vector<DeviceMemory> memory;
    const auto view = [&](const std::vector<double>& v, std::int64_t columns) {
      if (v.empty()) return View<const T>(nullptr, 0, columns, Device::cuda);
      memory.push_back(cuda::upload(as<T>(v)));
      return View<const T>(memory.back().as<T>(), static_cast<std::int64_t>(v.size()) / columns, columns, Device::cuda);
    };
    const auto own = [&](const std::vector<double>& rows) {
      return view(columns_of(rows, d_ + condition_, 0, d_), d_);
    };
    const auto condition = [&](const std::vector<double>& rows) {
      return condition_ == 0 ? View<const T>() : view(columns_of(rows, d_ + condition_, d_, condition_), condition_);
    };
    // Overwritten, not added to.
    const DeviceMemory values = cuda::upload(std::vector<double>(3, -1.0)),
                       gradient = cuda::upload(std::vector<T>(p.parameters.size(), T(7)));
    loss.evaluate(view(p.parameters, 1).data,
                  {view(p.t, 1), own(p.x), view(p.target, d_), view(p.weight, 1), condition(p.x)},
                  {view(p.residual_t, 1), own(p.residual_x), condition(p.residual_x), p.divergence}, residual_weight,
                  values.as<double>(), with_gradient ? gradient.as<T>() : nullptr);
    cuda::check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
    Result result{download<double>(values), {}};
    const std::vector<T> g = download<T>(gradient);
    if (with_gradient) {
      result.gradient.assign(g.begin(), g.end());
    } else {
      EXPECT_EQ(g, std::vector<T>(p.parameters.size(), T(7)));
    }
    return result;
  }

  std::int64_t d_, condition_;
  std::unique_ptr<DeviceLoss<float>> narrow_;
  std::unique_ptr<DeviceLoss<double>> wide_;
};

class DeviceLossTest : public GpuTest {};

// ---- an activation as one number ------------------------------------------------------------------------------------

#ifdef FOKKER_EMULATION
// What decode() finds in encode(z) against the formulas in double, over both branches of softplus and where either
// ends, in units of 2^−24 of the largest value that the function takes; of a σ without bound, of the larger of itself
// and its scale. Largest errors measured on the emulation: softplus 5.6, 1.5, 2.6 and 5.5, tanh 2.0, 2.2, 5.1 and 4.4.
TEST(EncodedActivation, HasTheDerivativesOfItsNumber) {
  struct Encoded {
    Activation activation;
    double beta, largest[4];
  };
  const auto softplus = [](double beta) {
    return Encoded{Activation::softplus, beta, {std::log(2) / beta, 1, beta / 4, beta * beta / std::sqrt(108)}};
  };
  std::vector<Encoded> cases = {softplus(100), softplus(3), softplus(0.7), {Activation::tanh, 1, {1, 1, 0.77, 2}}};
  // Of these z stands for itself.
  for (const Activation activation : {Activation::relu, Activation::leaky_relu, Activation::elu, Activation::selu,
                                      Activation::gelu, Activation::gelu_tanh, Activation::mish}) {
    cases.push_back({activation, traits_of(activation).parameter.usual, {1, 1, 1, 1}});
  }
  for (const Encoded& c : cases) {
    SCOPED_TRACE(fmt::format("{} {}", to_string(c.activation), c.beta));
    std::vector<double> all = {0.0, -0.0, 1e-30, -1e-30, 19.99999, 20.00001, 86, 89, 104, 1e4, 1e9, 1e20};
    for (double y = 1e-5; y < 500; y *= 1.0007) all.push_back(y);
    double largest[4] = {};
    kernels::with_fast_activation(c.activation, static_cast<float>(c.beta), [&](const auto& sigma) {
      for (const double y : all) {
        for (const double sign : {1, -1}) {
          const auto z = static_cast<float>(sign * y / (c.activation == Activation::softplus ? c.beta : 1));
          const ActivationValues<float> d = sigma.decode(sigma.encode(z));
          const auto e = with_activation(c.activation, c.beta, [&](auto s) { return s(static_cast<double>(z)); });
          const double actual[] = {d.value, d.d1, d.d2, d.d3}, exact[] = {e.value, e.d1, e.d2, e.d3};
          for (int k = 0; k < 4; ++k) {
            const double scale = k == 0 ? std::max(c.largest[0], std::fabs(exact[0])) : c.largest[k];
            largest[k] = std::max(largest[k], std::fabs(actual[k] - exact[k]) / scale * 0x1p24);
          }
        }
      }
      const float nan = std::numeric_limits<float>::quiet_NaN();
      EXPECT_TRUE(std::isnan(sigma.decode(sigma.encode(nan)).value));
      EXPECT_TRUE(std::isnan(sigma.decode(sigma.encode(nan)).d1));
    });
    for (int k = 0; k < 4; ++k) EXPECT_LE(largest[k], 8) << "derivative " << k;
  }
}

// Beyond βz = 20, and where e^{βz} is 0, up to βz = 2^70; σ″/β and σ‴/β² are below 2^−30 where they should be 0.
TEST(EncodedActivation, HoldsSoftplusWhereItIsLinear) {
  const kernels::FastSoftplus sigma(100);
  for (const float z : {0.21f, 1.0f, 77.0f, 1e6f, 1e19f}) {
    const ActivationValues<float> above = sigma.decode(sigma.encode(z)), below = sigma.decode(sigma.encode(-z - 1));
    EXPECT_NEAR(above.value, z, 3e-7 * z);
    EXPECT_EQ(above.d1, 1);
    EXPECT_LT(above.d2, 100 * 0x1p-30);
    EXPECT_LT(std::fabs(above.d3), 1e4 * 0x1p-30);
    EXPECT_EQ(below.value, 0);
    EXPECT_LT(below.d1, 1e-36);
  }
  for (const float z : {1e20f, std::numeric_limits<float>::infinity()}) {
    EXPECT_TRUE(std::isnan(sigma.decode(sigma.encode(z)).value));
  }
}

// An activation without a fast form computes by its functor, and z is its number.
TEST(EncodedActivation, IsItselfForAFunctorAlone) {
  kernels::with_fast_activation(ActivationsAndSoftsign(), Softsign::traits.activation, 1, [&](const auto& sigma) {
    for (const float z : {-3.25f, -0.0f, 0.5f, 40.0f}) {
      EXPECT_EQ(sigma.encode(z), z);
      const ActivationValues<float> fast = sigma.decode(z), plain = Softsign()(z);
      EXPECT_EQ(std::tie(fast.value, fast.d1, fast.d2, fast.d3), std::tie(plain.value, plain.d1, plain.d2, plain.d3));
    }
  });
}

// Fast forms and functors agree, in units of 2^−24 of the larger of the value and the scale β^{k − 1} of derivative k.
TEST(EncodedActivation, AgreesWithTheFunctor) {
  for (const ActivationTraits& traits : Activations::traits) {
    const double beta = traits.activation == Activation::softplus ? 3 : 1;
    with_activation(traits.activation, beta == 1 ? traits.parameter.usual : beta, [&]<class Sigma>(const Sigma& sigma) {
      const auto fast = kernels::fast_form(sigma);
      const kernels::EncodedAsItself<Sigma> plain{sigma};
      double largest[4] = {};
      for (double y = -60; y < 60; y += 0.0137) {
        const auto z = static_cast<float>(y / beta);
        const ActivationValues<float> a = fast(z), b = fast.decode(fast.encode(z)), e = plain.decode(plain.encode(z));
        const float forms[3][4] = {
            {a.value, a.d1, a.d2, a.d3}, {b.value, b.d1, b.d2, b.d3}, {e.value, e.d1, e.d2, e.d3}};
        for (int k = 0; k < 4; ++k) {
          const double scale = std::max(std::pow(beta, k - 1), double(std::fabs(forms[2][k])));
          for (int form = 0; form < 2; ++form) {
            largest[k] = std::max(largest[k], std::fabs(double(forms[form][k]) - double(forms[2][k])) / scale * 0x1p24);
          }
        }
      }
      for (int k = 0; k < 4; ++k) EXPECT_LE(largest[k], 16) << traits.name << ", derivative " << k;
    });
  }
}
#endif

// ---- against the reference, on random architectures ----------------------------------------------------------------

struct Case {
  std::string name;
  Architecture architecture;
  SdeKind sde;
  std::int64_t n, m;
  bool weighted;
  std::vector<Path> paths;
  int probes = 0;
};
void PrintTo(const Case& c, std::ostream* out) {
  *out << c.architecture.describe() << ", " << ForwardSde::defaults(c.sde).name() << ", " << c.n << " + " << c.m << ", "
       << c.probes << " probes";
}

struct Shape {
  std::int64_t d;
  std::vector<std::int64_t> hidden;
  std::int64_t n, m;
  int activations = activations_a_shape;  // fewer where a network is large: others show the rest
};

std::vector<Case> cases(std::span<const Path> paths, const std::vector<Shape>& shapes) {
  std::vector<Case> all;
  for (std::size_t s = 0; s < shapes.size(); ++s) {
    const Shape& shape = shapes[s];
    for (int k = 0; k < shape.activations; ++k) {
      for (const Output output : {Output::potential, Output::score}) {
        const double beta = s % 2 == 0 ? 3 : 100;
        const Architecture a = architecture_of(shape.d, shape.hidden, activation_of(s, k), beta, output);
        if (!has_all_fields(a)) continue;
        // The others train the wide way alone.
        if (resident(paths.front()) && !kernels::has_own_code(a.activation)) continue;
        const std::int64_t m = output == Output::potential ? shape.m : 0;
        all.push_back({case_name(a, fmt::format("n{}_m{}", shape.n, m)),
                       a,
                       sde_kinds[(s + 2 * k) % 5],
                       shape.n,
                       m,
                       (s + k) % 2 == 1,
                       {paths.begin(), paths.end()}});
      }
    }
  }
  return all;
}

// More rows than threads add their losses, and more columns than the threads that add their parts on the emulation.
std::vector<Case> wide_cases() {
  std::vector<Case> all = cases(kWidePaths, {{1, {1}, 1101, 1101},
                                             {2, {7}, 1, 1},
                                             {3, {7, 1, 13}, 99, 99},
                                             {2, {80, 80, 80}, 19, 19, 2},
                                             {5, {127, 80}, 19, 1, 2},
                                             {17, {33, 18}, 19, 19},
                                             {2, {130, 9, 127}, 7, 19, 2},
                                             {2, {7, 7}, 989, 989, 2},
                                             {3, {16, 8, 24}, 0, 99},
                                             {3, {16, 8, 24}, 99, 0},
                                             {2, {9, 1, 7, 8, 3, 16, 5, 2}, 99, 99},
                                             {64, {20, 12}, 3, 2, 2},
                                             {1, {12, 9, 10, 11}, 19, 99},
                                             {2, {1290}, 3, 2, 1},
                                             {2, {5}, 0, 0, 1}});
  for (const Output output : {Output::potential, Output::score}) {
    for (const auto& [name, architecture] : all_networks(output)) {
      all.push_back({name,
                     architecture,
                     sde_kinds[all.size() % 5],
                     99,
                     output == Output::potential ? 19 : 0,
                     all.size() % 2 == 1,
                     {std::begin(kWidePaths), std::end(kWidePaths)}});
    }
  }
  return all;
}

// The residual by probes, whatever the network.
std::vector<Case> probed_cases() {
  std::vector<Case> all = cases(kWidePaths, {{1, {7, 5}, 0, 35, 2},
                                             {2, {13, 80, 9}, 0, 19, 2},
                                             {8, {17, 24}, 19, 19},
                                             {64, {20, 12}, 0, 3, 2},
                                             {3, {1}, 1, 1, 1}});
  for (const auto& [name, architecture] : all_networks(Output::potential)) {
    all.push_back({name, architecture, sde_kinds[all.size() % 5], 0, 19, false, {kWidePaths[all.size() % 3]}});
  }
  std::erase_if(all, [](const Case& c) { return c.architecture.output == Output::score; });
  for (std::size_t k = 0; k < all.size(); ++k) all[k].probes = 1 + static_cast<int>(k % 3);
  return all;
}

// Every width that there are kernels for; networks whose hidden layers differ; 65 inputs in pieces of 32 and of 64
// columns; tiles of which some have no sample, and more of them than blocks.
std::vector<Case> resident_cases() {
  return cases(kResidentPaths, {{1, {1}, 989, 99},
                                {2, {7}, 1, 1},
                                {3, {7, 1, 13}, 99, 99},
                                {2, {80, 80, 80}, 19, 19, 2},
                                {5, {33, 64}, 19, 19, 2},
                                {17, {33, 18}, 19, 19, 2},
                                {2, {7, 7}, 989, 989, 2},
                                {3, {16, 8, 24}, 0, 99},
                                {3, {16, 8, 24}, 99, 0},
                                {2, {9, 1, 7, 8, 3, 16, 5, 2}, 99, 99},
                                {64, {20, 12}, 3, 2, 2},
                                {64, {40}, 17, 3, 2},
                                {64, {70, 9}, 3, 1, 1},
                                {2, {5}, 0, 0, 1}});
}

double norm(const std::vector<double>& v) { return std::sqrt(std::inner_product(v.begin(), v.end(), v.begin(), 0.0)); }

// How far rounding may move a problem's losses and gradient, in float and in double. Found once for all paths that ask:
// it takes longer than what it judges.
class Roundings {
 public:
  struct Found {
    LossDeviations deviations;
    std::vector<std::vector<double>> errors;
  };
  Roundings(const Architecture& architecture, const ForwardSde& sde, const Problem& problem, double weight,
            const std::vector<double>& gradient)
      : architecture_(architecture), sde_(sde), problem_(problem), weight_(weight), gradient_(gradient) {}

  const Found& of(Path path) {
    std::optional<Found>& found = found_[in_double(path)];
    if (!found) {
      // In double no more than the residual's times are rounded otherwise.
      const std::optional<Found>& other = found_[!in_double(path)];
      found = {loss_deviations(architecture_, sde_, problem_, in_double(path)),
               other && problem_.residual_t.empty()
                   ? other->errors
                   : gradient_errors(architecture_, sde_, problem_, weight_, gradient_, in_double(path))};
    }
    return *found;
  }

 private:
  const Architecture& architecture_;
  const ForwardSde& sde_;
  const Problem& problem_;
  double weight_;
  const std::vector<double>& gradient_;
  std::optional<Found> found_[2];
};

class AgainstReference : public DeviceLossTest, public ::testing::WithParamInterface<Case> {
 protected:
  static void agree_on_every_path() {
    const Case& c = GetParam();
    const ForwardSde sde = ForwardSde::defaults(c.sde);
    Problem p = make_problem(c.architecture, sde, c.n, c.m, c.weighted, 17);
    if (c.probes > 0) p = with_probes(std::move(p), c.architecture.dimension, c.probes);
    const auto net = reference_network(c.architecture, p.parameters);
    ASSERT_GT(distance_to_jump(net, p.t, p.x), 1e-9);
    ASSERT_GT(distance_to_jump(net, p.residual_t, p.residual_x), 1e-9);
    const auto denoising = reference_denoising_loss(net, p.t, p.x, p.target, p.weight);
    ReferenceLoss residual{0, std::vector<double>(p.parameters.size(), 0.0)};
    if (c.m > 0) residual = reference_residual_loss(net, reference_sde(sde), p.residual_t, p.residual_x, p.probes);
    // A weight that gives both gradients the same size, so that neither hides the other's errors.
    const double weight = c.n == 0 || c.m == 0 ? 1.0 : norm(denoising.gradient) / norm(residual.gradient);
    std::vector<double> expected(p.parameters.size());
    for (std::size_t k = 0; k < expected.size(); ++k) {
      expected[k] = denoising.gradient[k] + weight * residual.gradient[k];
    }
    Roundings roundings(c.architecture, sde, p, weight, expected);
    for (const Path path : c.paths) {
      SCOPED_TRACE(name_of_path(path));
      const double roundoff = roundoff_of(path);
      const auto& [deviations, errors] = roundings.of(path);
      const PathLoss loss(path, c.architecture, sde);
      const Result actual = loss(p, weight);
      EXPECT_TRUE(value_agrees(actual.values[0], denoising.value, deviations.denoising, roundoff));
      EXPECT_TRUE(value_agrees(actual.values[1], residual.value, deviations.residual, roundoff));
      EXPECT_TRUE(agrees(actual.values[2], actual.values[0] + weight * actual.values[1], 1e-15));
      EXPECT_TRUE(agrees(actual.gradient, expected, gradient_rounding(errors, expected, roundoff)));
      EXPECT_EQ(loss(p, weight), actual);  // the same bits again
      EXPECT_EQ(loss(p, weight, false).values, actual.values);
      if (!in_double(path)) continue;
      // The CPU's activations err by up to 4 units in the last place (activation_test.cpp), eight roundoffs.
      const Result cpu = on_cpu(c.architecture, sde, p, weight);
      EXPECT_TRUE(value_agrees(actual.values[0], cpu.values[0], deviations.denoising, 8 * unit<double>));
      EXPECT_TRUE(value_agrees(actual.values[1], cpu.values[1], deviations.residual, 8 * unit<double>));
      EXPECT_TRUE(agrees(actual.gradient, cpu.gradient, gradient_rounding(errors, expected, 8 * unit<double>)));
    }
  }

  static Result on_cpu(const Architecture& a, const ForwardSde& sde, const Problem& p, double weight) {
    const Loss<double> loss(Context({BackendKind::cpu, 1}), a, sde);
    const std::int64_t d = a.dimension, c = a.condition.inputs;
    const std::vector<double> x = columns_of(p.x, d + c, 0, d), y = columns_of(p.x, d + c, d, c),
                              residual_x = columns_of(p.residual_x, d + c, 0, d),
                              residual_y = columns_of(p.residual_x, d + c, d, c);
    const auto rows = [&](const std::vector<double>& numbers) {
      return numbers.empty() ? View<const double>() : View<const double>(numbers, c);
    };
    Result r{std::vector<double>(3), std::vector<double>(p.parameters.size())};
    loss.evaluate(View<const double>(p.parameters),
                  {View<const double>(p.t), View<const double>(x, d), View<const double>(p.target, d),
                   p.weight.empty() ? View<const double>() : View<const double>(p.weight), rows(y)},
                  {View<const double>(p.residual_t), View<const double>(residual_x, d), rows(residual_y), p.divergence},
                  weight, View<double>(r.values), View<double>(r.gradient));
    return r;
  }
};

TEST_P(AgainstReference, LossesAndGradientOnEveryPath) { agree_on_every_path(); }

constexpr auto name_of = [](const auto& test) { return test.param.name; };
INSTANTIATE_TEST_SUITE_P(Resident, AgainstReference, ::testing::ValuesIn(resident_cases()), name_of);
INSTANTIATE_TEST_SUITE_P(Wide, AgainstReference, ::testing::ValuesIn(wide_cases()), name_of);
INSTANTIATE_TEST_SUITE_P(Probes, AgainstReference, ::testing::ValuesIn(probed_cases()), name_of);

// ---- against differences of loss values ----------------------------------------------------------------------------

// From loss values alone: along a direction v within each block of parameters, and within all of them, the central
// difference D(h) = (L(θ + h v) − L(θ − h v))/2h has an error of h² L‴/6 + …; (4 D(h) − D(2h))/3 lacks the first term,
// so that its change over 3 bounds what is left where h is small. Rounding moves each value by its deviation, and the
// quotient by less than one of them over h. In float, θ ± h v are other than that by a rounding of each parameter: the
// gradient is held against the difference of those that were taken.
TEST_F(DeviceLossTest, GradientsAreThoseOfTheirValues) {
  const ForwardSde sde = ForwardSde::defaults(SdeKind::subvp);
  const auto check = [&](Path path, Activation activation, Output output) {
    const Architecture a = architecture_of(3, {9, 6, 7}, activation, 2, output);
    const std::int64_t m = output == Output::potential ? 7 : 0;
    const Problem p = make_problem(a, sde, 9, m, true, 41);
    const PathLoss loss(path, a, sde);
    const double weight = 0.3;
    const LossDeviations deviations = loss_deviations(a, sde, p, in_double(path));
    const double roundoff = in_double(path) ? unit<double> : roundoff_of(path), h = std::cbrt(roundoff),
                 deviation = std::hypot(deviations.denoising, weight * deviations.residual) * roundoff,
                 noise = most_deviations * deviation / h;
    const std::vector<double> gradient = loss(p, weight).gradient;
    // Or it would hide what is looked for; it is up to 0.8 % in split, 0.3 % in fp32, 7e-9 in double.
    EXPECT_LT(noise, norm(gradient) / (in_double(path) ? 1e6 : 100));
    std::mt19937_64 random(3);
    for (std::int64_t block = 0; block <= 2 * a.layers(); ++block) {
      SCOPED_TRACE(
          fmt::format("{}, {}, {}, block {}", name_of_path(path), to_string(activation), to_string(output), block));
      const std::int64_t l = block / 2, all = a.parameter_count();
      const std::int64_t first = block == 2 * a.layers() ? 0 : block % 2 == 0 ? a.weight_offset(l) : a.bias_offset(l);
      const std::int64_t end = block == 2 * a.layers() ? all
                               : block % 2 == 0        ? a.bias_offset(l)
                               : l + 1 < a.layers()    ? a.weight_offset(l + 1)
                                                       : all;
      std::vector<double> v(static_cast<std::size_t>(all), 0.0);
      for (std::int64_t k = first; k < end; ++k) v[k] = std::normal_distribution<double>()(random);
      const double size = norm(v);
      for (double& e : v) e /= size;
      // D(h) less what the gradient makes of it.
      const auto difference = [&](double step) {
        Problem up = p, down = p;
        double slope = 0;
        for (std::size_t k = 0; k < v.size(); ++k) {
          up.parameters[k] += step * v[k], down.parameters[k] -= step * v[k];
          if (!in_double(path)) {
            up.parameters[k] = static_cast<float>(up.parameters[k]);
            down.parameters[k] = static_cast<float>(down.parameters[k]);
          }
          slope += gradient[k] * (up.parameters[k] - down.parameters[k]);
        }
        return (loss(up, weight, false).values[2] - loss(down, weight, false).values[2] - slope) / (2 * step);
      };
      const double near = difference(h), far = difference(2 * h);
      EXPECT_TRUE(agrees((4 * near - far) / 3, 0, 0, std::fabs(near - far) / 3 + noise));
    }
  };
  for (const Activation activation :
       {Activation::softplus, Activation::tanh, Activation::silu, Activation::sine, Activation::mish}) {
    for (const Output output : {Output::potential, Output::score}) {
      for (const Path path : {Path::wide_double, Path::resident_fp32, Path::resident_split}) {
        if (resident(path) && !kernels::has_own_code(activation)) continue;
        check(path, activation, output);
      }
    }
  }
}

// ---- against float64 autograd on the published networks ------------------------------------------------------------

class PublishedNetworks : public DeviceLossTest, public ::testing::WithParamInterface<const char*> {};

TEST_P(PublishedNetworks, LossesAndGradients) {
  const std::string folder = testing::paper_data();
  if (folder.empty()) return;
  const std::string stem = folder + "/checkpoints/" + GetParam();
  const Model model = load_model(stem + ".safetensors");
  const Architecture& a = std::get<Mlp>(model.network).architecture;
  const SafeTensors reference = SafeTensors::load(stem + ".reference.safetensors");
  const auto gradient_of = [&](const std::string& prefix) {
    std::vector<double> g;
    for (const std::string& layer : a.names()) {
      for (const char* part : {".weight", ".bias"}) {
        const auto v = reference.at(prefix + layer + part).to_double();
        g.insert(g.end(), v.begin(), v.end());
      }
    }
    return g;
  };
  Problem denoising, collocation;
  denoising.parameters = collocation.parameters = std::get<Mlp>(model.network).parameters;
  denoising.t = collocation.residual_t = reference.at("t").to_double();
  denoising.x = collocation.residual_x = reference.at("x").to_double();
  denoising.target = reference.at("dsm_target_score").to_double();
  const std::vector<double> expected[] = {gradient_of("dsm_grad."), gradient_of("fp_grad.")};
  const double losses[] = {reference.at("dsm_loss").to_double()[0], reference.at("fp_loss").to_double()[0]};
  // Both sides are on the same branch of softplus everywhere (loss_test.cpp).
  const auto net = reference_network(a, denoising.parameters);
  ASSERT_GT(distance_to_jump(net, denoising.t, denoising.x), 1e-10);

  Roundings roundings[] = {{a, model.sde, denoising, 1, expected[0]}, {a, model.sde, collocation, 1, expected[1]}};
  for (const Path path : kPaths) {
    SCOPED_TRACE(name_of_path(path));
    const PathLoss loss(path, a, model.sde);
    for (const int which : {0, 1}) {
      const Problem& p = which == 0 ? denoising : collocation;
      SCOPED_TRACE(which == 0 ? "denoising" : "residual");
      const auto& [deviations, errors] = roundings[which].of(path);
      const Result actual = loss(p, 1);
      EXPECT_TRUE(value_agrees(actual.values[which], losses[which],
                               which == 0 ? deviations.denoising : deviations.residual, roundoff_of(path)));
      EXPECT_TRUE(
          agrees(actual.gradient, expected[which], gradient_rounding(errors, expected[which], roundoff_of(path))));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Checkpoints, PublishedNetworks, ::testing::ValuesIn(testing::paper_checkpoints),
                         [](const auto& test) { return testing::name_in_test(test.param); });

// ---- chunks, what is not finite ------------------------------------------------------------------------------------

TEST_F(DeviceLossTest, ChunksAddUpToTheWhole) {
  const ForwardSde sde = ForwardSde::defaults(SdeKind::vp_linear);
  for (const Output output : {Output::potential, Output::score}) {
    Architecture a = architecture_of(3, {20, 13, 9}, Activation::silu, 1, output);
    a.condition = {{{6, {Activation::silu, 1}}}, {0, 3}, {}, 2};
    const Problem exact = make_problem(a, sde, 99, output == Output::potential ? 83 : 0, true, 23);
    for (const Path path : kWidePaths) {
      // One of the paths by probes, whose points have those of their index.
      const Problem p =
          output == Output::potential && path == Path::wide_fp32 ? with_probes(exact, a.dimension, 2) : exact;
      const PathLoss loss(path, a, sde);
      const Result whole = loss(p, 0.1);
      const auto errors = gradient_errors(a, sde, p, 0.1, whole.gradient);
      for (const std::int64_t rows : {3, 7, 64}) {
        SCOPED_TRACE(fmt::format("{}, {}, {} rows", name_of_path(path), to_string(output), rows));
        const PathLoss chunked(path, a, sde, rows);
        EXPECT_LT(chunked.workspace_bytes(), loss.workspace_bytes());
        const Result parts = chunked(p, 0.1);
        // Sums of the same numbers in two orders.
        EXPECT_TRUE(agrees(parts.values, whole.values, Bound{.relative = 1e-14, .norm = 1e-14}));
        EXPECT_TRUE(agrees(parts.gradient, whole.gradient,
                           gradient_rounding(errors, whole.gradient, std::sqrt(2) * roundoff_of(path))));
      }
    }
  }
}

// Numbers that are not finite reach the values and the gradient, and leave nothing behind in the workspace.
TEST_F(DeviceLossTest, WhatIsNotFiniteIsSeenAndForgotten) {
  const ForwardSde sde = ForwardSde::defaults(SdeKind::ou);
  for (const Output output : {Output::potential, Output::score}) {
    const Architecture a = architecture_of(2, {20, 13, 9}, Activation::tanh, 1, output);
    const bool potential = output == Output::potential;
    const Problem p = make_problem(a, sde, 19, potential ? 17 : 0, true, 5);
    for (const Path path : kPaths) {
      SCOPED_TRACE(fmt::format("{}, {}", name_of_path(path), to_string(output)));
      const PathLoss loss(path, a, sde);
      const Result clean = loss(p, 0.1);
      for (const double number : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
        Problem spoilt = p;
        spoilt.parameters[static_cast<std::size_t>(a.weight_offset(1)) + 3] = number;
        const Result result = loss(spoilt, 0.1);
        EXPECT_FALSE(std::isfinite(result.values[0]) && std::isnan(number));
        EXPECT_FALSE(
            std::all_of(result.gradient.begin(), result.gradient.end(), [](double g) { return std::isfinite(g); }));
        EXPECT_EQ(loss(p, 0.1), clean);
        if (!potential) continue;
        spoilt = p;
        spoilt.residual_x[5] = number;
        const Result residual = loss(spoilt, 0.1);
        EXPECT_EQ(residual.values[0], clean.values[0]);
        EXPECT_FALSE(std::isfinite(residual.values[1]));
        EXPECT_EQ(loss(p, 0.1), clean);
      }
    }
  }
}

// A residual whose weight is 0 is still measured, and adds nothing to the gradient.
TEST_F(DeviceLossTest, AWeightOfZeroLeavesTheGradientToTheOther) {
  const ForwardSde sde = ForwardSde::defaults(SdeKind::ou);
  const Architecture a = architecture_of(2, {20, 13}, Activation::softplus, 3, Output::potential);
  const Problem p = make_problem(a, sde, 19, 17, false, 5);
  Problem alone = p;
  alone.residual_t.clear(), alone.residual_x.clear();
  for (const Path path : kPaths) {
    SCOPED_TRACE(name_of_path(path));
    const PathLoss loss(path, a, sde);
    const Result both = loss(p, 0), one = loss(alone, 1);
    EXPECT_EQ(both.gradient, one.gradient);
    EXPECT_EQ(both.values[1], loss(p, 1).values[1]);
    EXPECT_EQ(both.values[2], both.values[0]);
    EXPECT_EQ(one.values[1], 0);
  }
}

// ---- training ------------------------------------------------------------------------------------------------------

// A training iteration is evaluate() at the points that it draws, bit by bit, chunk by chunk, for each of two models.
TEST_F(DeviceLossTest, ATrainingIterationIsItsLossAtThePointsItDraws) {
  constexpr std::int64_t n = 50, m = 41, rows = 16;
  const ForwardSde sde = ForwardSde::defaults(SdeKind::vp_linear);
  const cuda::DeviceData data(DataSet::named("circles2"));
  const std::vector<float> edges = time_law_edges(sde, {}, 64);
  const DeviceMemory on_edges = cuda::upload(edges), iteration = cuda::upload(std::vector<std::int64_t>{7});
  for (const Output output : {Output::potential, Output::score}) {
    const Architecture a = architecture_of(2, {20, 13}, Activation::softplus, 3, output);
    const std::int64_t count = a.parameter_count();
    kernels::TrainingDraw draw{.data = data.source(),
                               .sde = sde.formulas(),
                               .time = {TimeLaw::importance, static_cast<float>(sde.t_min()),
                                        static_cast<float>(sde.horizon()), 64, on_edges.as<float>()},
                               .seed = 5,
                               .iteration = iteration.as<std::int64_t>(),
                               .denoising_points = n,
                               .collocation_points = output == Output::potential ? m : 0,
                               .box = 3};
    for (const Precision precision : {Precision::fp32, Precision::split}) {
      SCOPED_TRACE(fmt::format("{}, {}", to_string(output), to_string(precision)));
      std::vector<std::unique_ptr<cuda::TrainingLoss>> losses;
      std::vector<cuda::TrainingLoss*> together;
      std::vector<DeviceMemory> parameters, values, gradients;
      std::vector<kernels::LossTask> tasks;
      for (const int k : {0, 1}) {
        losses.push_back(cuda::make_wide_loss(queue(precision), a, sde, rows));
        together.push_back(losses.back().get());
        parameters.push_back(cuda::upload(as<float>(Mlp::initialise(a, 3 + k).parameters)));
        values.push_back(cuda::upload(std::vector<double>(3, -1.0)));
        gradients.push_back(cuda::upload(std::vector<float>(count, 7.0f)));
        draw.seed = 5 + k;
        tasks.push_back({.parameters = parameters[k].as<float>(),
                         .points = draw,
                         .residual_weight = 0.1 + k,
                         .values = values[k].as<double>(),
                         .gradient = gradients[k].as<float>()});
      }
      losses[0]->evaluate(together, tasks);
      for (const int k : {0, 1}) {
        DeviceMemory t(n * 4), x(n * 8), target(n * 8), weight(n * 4), residual_t(m * 4), residual_x(m * 8);
        cuda::check(kernels::launch_denoising_points(tasks[k].points, {}, 0, n, t.as<float>(), x.as<float>(),
                                                     target.as<float>(), weight.as<float>(), nullptr),
                    "launch_denoising_points");
        cuda::check(kernels::launch_collocation_points(tasks[k].points, 0, m, residual_t.as<float>(),
                                                       residual_x.as<float>(), nullptr),
                    "launch_collocation_points");
        const auto view = [](const DeviceMemory& of, std::int64_t points, std::int64_t columns) {
          return View<const float>(of.as<float>(), points, columns, Device::cuda);
        };
        const std::int64_t collocation = tasks[k].points.collocation_points;
        const DeviceMemory expected_values(3 * sizeof(double)), expected_gradient(count * sizeof(float));
        losses[k]->evaluate(tasks[k].parameters, {view(t, n, 1), view(x, n, 2), view(target, n, 2), view(weight, n, 1)},
                            {view(residual_t, collocation, 1), view(residual_x, collocation, 2)},
                            tasks[k].residual_weight, expected_values.as<double>(), expected_gradient.as<float>());
        cuda::check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
        EXPECT_EQ(download<double>(values[k]), download<double>(expected_values));
        EXPECT_EQ(download<float>(gradients[k]), download<float>(expected_gradient));
        EXPECT_TRUE(std::isfinite(download<double>(values[k])[2]));
      }
      EXPECT_FALSE(losses[0]->shares_launches_with(*losses[1]));
      EXPECT_NE(download<float>(gradients[0]), download<float>(gradients[1]));
    }
  }
}

// Resident tasks of different sizes, more of them than a launch takes, give the bits that each of them gives alone, and
// those of the same points drawn beforehand.
TEST_F(DeviceLossTest, ResidentTasksDoNotDependOnEachOther) {
  const ForwardSde sde = ForwardSde::defaults(SdeKind::ou);
  const cuda::DeviceData data(DataSet::named("circles2"));
  const DeviceMemory edges = cuda::upload(time_law_edges(sde, {}, 64)),
                     iteration = cuda::upload(std::vector<std::int64_t>{41});
  const Queue on = queue(Precision::split);
  for (const Output output : {Output::potential, Output::score}) {
    SCOPED_TRACE(to_string(output));
    const auto shape = [&](std::int64_t width) {
      return architecture_of(2, {width, 41 - width}, Activation::tanh, 1, output);
    };
    std::vector<std::unique_ptr<cuda::TrainingLoss>> losses;
    std::vector<cuda::TrainingLoss*> together;
    std::vector<DeviceMemory> parameters, values, gradients;
    std::vector<kernels::LossTask> tasks;
    for (std::int64_t k = 0; k < kernels::most_models + 2; ++k) {
      const auto start = as<float>(Mlp::initialise(shape(9 + k), static_cast<std::uint64_t>(k)).parameters);
      losses.push_back(cuda::make_resident_loss(on, shape(9 + k), sde));
      together.push_back(losses.back().get());
      EXPECT_TRUE(losses.front()->shares_launches_with(*losses.back()));
      parameters.push_back(cuda::upload(start));
      values.push_back(cuda::upload(std::vector<double>(3, -1.0)));
      gradients.push_back(cuda::upload(std::vector<float>(start.size(), 7.0f)));
      const kernels::TrainingDraw draw{.data = data.source(),
                                       .sde = sde.formulas(),
                                       .time = {TimeLaw::importance, static_cast<float>(sde.t_min()),
                                                static_cast<float>(sde.horizon()), 64, edges.as<float>()},
                                       .seed = static_cast<std::uint64_t>(7 + k),
                                       .iteration = iteration.as<std::int64_t>(),
                                       .denoising_points = k == 5 ? 300 : 19 - k,
                                       .collocation_points = output != Output::potential || k == 2 ? 0 : 10 + k,
                                       .box = 3};
      tasks.push_back({.parameters = parameters.back().as<float>(),
                       .points = draw,
                       .residual_weight = 0.3,
                       .values = values.back().as<double>(),
                       .gradient = gradients.back().as<float>()});
    }
    using Numbers = std::pair<std::vector<double>, std::vector<float>>;
    const auto numbers = [&](std::size_t k) {
      cuda::check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
      return Numbers(download<double>(values[k]), download<float>(gradients[k]));
    };
    losses.front()->evaluate(together, tasks);
    std::vector<Numbers> expected;
    for (std::size_t k = 0; k < tasks.size(); ++k) expected.push_back(numbers(k));
    for (std::size_t k = 0; k < tasks.size(); ++k) {
      SCOPED_TRACE(k);
      EXPECT_GT(expected[k].first[0], 0);
      EXPECT_EQ(expected[k].first[1] > 0, tasks[k].points.collocation_points > 0);
      losses[k]->evaluate({&together[k], 1}, {&tasks[k], 1});
      EXPECT_EQ(numbers(k), expected[k]);
      const std::int64_t n = tasks[k].points.denoising_points, m = tasks[k].points.collocation_points;
      const DeviceMemory t(n * 4), x(n * 8), target(n * 8), weight(n * 4), residual_t(m * 4), residual_x(m * 8);
      cuda::check(kernels::launch_denoising_points(tasks[k].points, {}, 0, n, t.as<float>(), x.as<float>(),
                                                   target.as<float>(), weight.as<float>(), nullptr),
                  "launch_denoising_points");
      if (m > 0) {
        cuda::check(kernels::launch_collocation_points(tasks[k].points, 0, m, residual_t.as<float>(),
                                                       residual_x.as<float>(), nullptr),
                    "launch_collocation_points");
      }
      const auto view = [](const DeviceMemory& of, std::int64_t points, std::int64_t columns) {
        return View<const float>(of.as<float>(), points, columns, Device::cuda);
      };
      losses[k]->evaluate(tasks[k].parameters, {view(t, n, 1), view(x, n, 2), view(target, n, 2), view(weight, n, 1)},
                          {view(residual_t, m, 1), view(residual_x, m, 2)}, tasks[k].residual_weight, tasks[k].values,
                          tasks[k].gradient);
      EXPECT_EQ(numbers(k), expected[k]);
    }
    const auto softplus = [&](double beta) {
      return cuda::make_resident_loss(on, architecture_of(2, {9, 32}, Activation::softplus, beta, output), sde);
    };
    const Architecture wider = architecture_of(2, {33, 9}, Activation::tanh, 1, output);
    EXPECT_FALSE(losses.front()->shares_launches_with(*cuda::make_resident_loss(on, wider, sde)));
    EXPECT_FALSE(losses.front()->shares_launches_with(*softplus(1)));
    EXPECT_FALSE(softplus(1)->shares_launches_with(*softplus(2)));
    EXPECT_FALSE(losses.front()->shares_launches_with(*cuda::make_wide_loss(on, shape(9), sde)));
  }
}

TEST_F(DeviceLossTest, WhatFitsABlockIsResident) {
  const ForwardSde sde = ForwardSde::defaults(SdeKind::ou);
  const auto is_wide = [&](std::vector<std::int64_t> hidden) {
    const Queue on = queue(Precision::split, 163 << 10);
    const Architecture a = architecture_of(2, std::move(hidden), Activation::softplus, 100, Output::potential);
    return cuda::make_device_loss(on, a, sde)->workspace_bytes() == cuda::make_wide_loss(on, a, sde)->workspace_bytes();
  };
  EXPECT_FALSE(is_wide({7}));
  EXPECT_FALSE(is_wide({80, 80, 80}));
  EXPECT_TRUE(is_wide({80, 80, 80, 80, 80, 80}));
  EXPECT_TRUE(is_wide({81}));
}

// A training by probes is wide, whatever the network; a Loss of a resident one takes both ways, and makes the wide one
// when probes are first asked for.
TEST_F(DeviceLossTest, ProbesAreWide) {
  const ForwardSde sde = ForwardSde::defaults(SdeKind::ou);
  const Architecture a = architecture_of(3, {20, 13}, Activation::softplus, 3, Output::potential);
  const Queue on = queue(Precision::split);
  const std::size_t resident = cuda::make_resident_loss(on, a, sde)->workspace_bytes(),
                    wide = cuda::make_wide_loss(on, a, sde)->workspace_bytes();
  ASSERT_NE(resident, wide);
  EXPECT_EQ(cuda::make_device_loss(on, a, sde)->workspace_bytes(), resident);
  EXPECT_EQ(cuda::make_device_loss(on, a, sde, {.probes = 1})->workspace_bytes(), wide);

  const Problem exact = make_problem(a, sde, 19, 17, false, 5), probed = with_probes(exact, 3, 2);
  const auto loss = cuda::make_loss<float>(on, a, sde);
  const auto evaluate = [&](const Problem& p) {
    std::vector<DeviceMemory> memory;
    const auto view = [&](const std::vector<double>& v, std::int64_t columns) {
      memory.push_back(cuda::upload(as<float>(v)));
      return View<const float>(memory.back().as<float>(), static_cast<std::int64_t>(v.size()) / columns, columns,
                               Device::cuda);
    };
    const std::int64_t count = a.parameter_count();
    const DeviceMemory values(3 * sizeof(double)), gradient(static_cast<std::size_t>(count) * sizeof(float));
    loss->evaluate(view(p.parameters, 1), {view(p.t, 1), view(p.x, 3), view(p.target, 3)},
                   {view(p.residual_t, 1), view(p.residual_x, 3), {}, p.divergence}, 0.1,
                   View<double>(values.as<double>(), 3, 1, Device::cuda),
                   View<float>(gradient.as<float>(), count, 1, Device::cuda));
    cuda::check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
    const std::vector<float> g = download<float>(gradient);
    return Result{download<double>(values), {g.begin(), g.end()}};
  };
  const Result before = evaluate(exact);
  EXPECT_EQ(before, PathLoss(Path::resident_split, a, sde)(exact, 0.1));
  EXPECT_EQ(loss->workspace_bytes(), resident);
  EXPECT_EQ(evaluate(probed), PathLoss(Path::wide_split, a, sde)(probed, 0.1));
  EXPECT_EQ(loss->workspace_bytes(), resident + wide);
  EXPECT_EQ(evaluate(exact), before);
}

// A captured call is the call itself, with the parameters that are there at each launch.
TEST_F(DeviceLossTest, AGraphReadsTheParametersOfItsLaunch) {
  const ForwardSde sde = ForwardSde::defaults(SdeKind::ou);
  const Architecture a = architecture_of(2, {20, 13, 9}, Activation::silu, 1, Output::potential);
  const Problem first = make_problem(a, sde, 19, 17, true, 5);
  Problem second = first;
  for (double& e : second.parameters) e = static_cast<float>(-0.75 * e);
  const DeviceMemory parameters = cuda::upload(as<float>(first.parameters)), t = cuda::upload(as<float>(first.t)),
                     x = cuda::upload(as<float>(first.x)), target = cuda::upload(as<float>(first.target)),
                     weight = cuda::upload(as<float>(first.weight)),
                     residual_t = cuda::upload(as<float>(first.residual_t)),
                     residual_x = cuda::upload(as<float>(first.residual_x)), values(3 * sizeof(double)),
                     gradient(parameters.bytes());
  const auto view = [](const DeviceMemory& of, std::int64_t columns) {
    return View<const float>(of.as<float>(), static_cast<std::int64_t>(of.bytes() / sizeof(float)) / columns, columns,
                             Device::cuda);
  };
  for (const Path path : {Path::wide_split, Path::wide_fp32, Path::resident_split, Path::resident_fp32}) {
    SCOPED_TRACE(name_of_path(path));
    Queue on = queue(in_fp32(path) ? Precision::fp32 : Precision::split);
    cuda::check(cudaStreamCreateWithFlags(&on.stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
    const auto loss = resident(path) ? cuda::make_resident_loss(on, a, sde) : cuda::make_wide_loss(on, a, sde, 8);
    const auto evaluate = [&] {
      loss->evaluate(parameters.as<float>(), {view(t, 1), view(x, 2), view(target, 2), view(weight, 1)},
                     {view(residual_t, 1), view(residual_x, 2)}, 0.1, values.as<double>(), gradient.as<float>());
    };
    evaluate();  // loads the kernels
    cuda::check(cudaStreamSynchronize(on.stream), "cudaStreamSynchronize");
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t executable = nullptr;
    cuda::check(cudaStreamBeginCapture(on.stream, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
    evaluate();
    cuda::check(cudaStreamEndCapture(on.stream, &graph), "cudaStreamEndCapture");
    cuda::check(cudaGraphInstantiate(&executable, graph, 0), "cudaGraphInstantiate");
    for (const Problem& p : {second, first}) {
      const std::vector<float> now = as<float>(p.parameters);
      cuda::check(cudaMemcpyAsync(parameters.data(), now.data(), parameters.bytes(), cudaMemcpyHostToDevice, on.stream),
                  "cudaMemcpyAsync");
      cuda::check(cudaGraphLaunch(executable, on.stream), "cudaGraphLaunch");
      cuda::check(cudaStreamSynchronize(on.stream), "cudaStreamSynchronize");
      const std::vector<float> g = download<float>(gradient);
      EXPECT_EQ((Result{download<double>(values), {g.begin(), g.end()}}), PathLoss(path, a, sde, 8)(p, 0.1));
    }
    cuda::check(cudaGraphExecDestroy(executable), "cudaGraphExecDestroy");
    cuda::check(cudaGraphDestroy(graph), "cudaGraphDestroy");
    cuda::check(cudaStreamDestroy(on.stream), "cudaStreamDestroy");
  }
}

// ---- refusals ------------------------------------------------------------------------------------------------------

TEST_F(DeviceLossTest, RefusesWhatItCannotDo) {
  const ForwardSde sde = ForwardSde::defaults(SdeKind::ou);
  const Architecture a = architecture_of(2, {8}, Activation::tanh, 1, Output::potential);
  EXPECT_THAT([&] { cuda::make_loss<float>(queue(Precision::half), a, sde); },
              ::testing::ThrowsMessage<Error>(HasSubstr("precision 'half' serves values and scores only")));
  EXPECT_NO_THROW(cuda::make_loss<double>(queue(Precision::half), a, sde));
  const Architecture large = architecture_of(2, {8, 4097}, Activation::tanh, 1, Output::potential);
  EXPECT_THAT([&] { cuda::make_loss<double>(queue(Precision::split), large, sde); },
              ::testing::ThrowsMessage<Error>(HasSubstr("hidden layer 2 has 4097 units")));
}

}  // namespace
}  // namespace fokker
