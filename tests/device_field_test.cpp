// The two paths of the CUDA backend's networks: resident (weights in shared memory, a warp a tile of 16 points) and
// wide (products by cuBLAS, everything between them in kernels of a warp a row). Compared with the reference in double
// through bounds made for each case (fields_reference.hpp), in every precision:
//
//   double, fp32   every operation errs by a unit roundoff; double is always wide
//   split          an operand's halves leave out up to 2^{−23} of it, and low · low is up to 2^{−22} of a product:
//                  as if every operation erred by 2^{−22}
//   half           by 2^{−11}, the roundoff of fp16; values and scores
//
// On the emulation the wide path's products are sums in order, in fp32; a GPU sums in an order of its own. Measured
// there on the networks below: the rms error over the rms of the bound's deviations, the largest |e_i|/σ_i (≤ 12), and
// the median and largest over networks of the rms error over the rms of the quantity, much of it the networks'
// conditioning. Tensor cores round towards zero there, as hardware is found to. The resident split is measured with the
// sums of the small products apart, which errs as the one sum does that they come into first; where they take turns with
// the large ones (beyond width 80) its errors are up to four times as large:
//
//   resident         fp32                           split                          half
//   value            1.16  4.0  1.2e-7 1.6e-6       0.29  1.0  1.1e-7 1.6e-6       0.32  0.7  1.0e-4 8.3e-4
//   score            1.16  4.2  1.3e-7 4.0e-6       0.35  1.2  1.4e-7 2.6e-6       0.43  1.0  1.8e-4 6.3e-3
//   dt               1.39  4.7  2.9e-7 1.6e-6       0.35  1.2  3.4e-7 1.3e-6
//   divergence       2.10  8.6  2.6e-7 3.0e-6       1.06  2.1  3.3e-7 8.7e-6
//   Hessian          1.52  4.2  2.2e-7 3.1e-6       1.09  1.5  2.5e-7 9.0e-6
//   Hessian, vector  1.28  3.6  2.2e-7 3.9e-6       0.75  1.3  2.6e-7 6.7e-6
//   residual         1.61  3.1  5.8e-8 6.9e-7       0.40  0.8  5.8e-8 7.3e-7
//
//   wide
//   value            1.31  3.9  1.2e-7 8.8e-7       0.40  1.0  1.9e-7 9.1e-7       0.22  0.6  1.6e-4 1.5e-3
//   score            1.44  3.8  2.0e-7 5.1e-6       0.72  3.0  3.3e-7 9.7e-6       0.68  1.5  2.5e-4 1.1e-2
//   dt               1.48  4.6  3.5e-7 7.8e-6       0.76  2.4  5.9e-7 1.4e-5
//   divergence       1.58  7.7  3.3e-7 5.6e-6       0.67  2.1  5.2e-7 6.0e-6
//   Hessian          1.19  7.8  2.7e-7 3.8e-6       0.60  2.0  4.3e-7 6.0e-6
//   Hessian, vector  1.45  8.7  3.1e-7 4.0e-6       0.61  2.7  4.9e-7 6.2e-6
//   residual         1.29  4.2  5.7e-8 1.7e-5       0.44  1.4  5.7e-8 1.7e-5
//
// and in double 1.95, 4.9 and at most 8.8e-14; without the one network whose derivatives are below the range of float.
#include "cuda/device_field.hpp"

#include <cuda_runtime_api.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <ostream>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "backend_under_test.hpp"
#include "compare.hpp"
#include "cpu/probes.hpp"
#include "cuda/gemm.hpp"
#include "cuda/runtime.hpp"
#include "device_test.hpp"
#include "fields_reference.hpp"
#include "fokker/error.hpp"
#include "fokker/fields.hpp"
#include "kernels/shared_layout.hpp"

namespace fokker {
namespace {

using namespace testing;
using cuda::DeviceField;
using cuda::DeviceMemory;
using cuda::Queue;
using ::testing::AllOf;
using ::testing::HasSubstr;

template <class T>
View<const T> on_device(const DeviceMemory& memory, std::int64_t columns) {
  return {memory.as<T>(), static_cast<std::int64_t>(memory.bytes() / sizeof(T)) / columns, columns, Device::cuda};
}

// Of so many points; none where there are no numbers.
template <class T>
View<const T> conditions_on_device(const DeviceMemory& memory, std::int64_t n) {
  if (memory.bytes() == 0) return {};
  return on_device<T>(memory, static_cast<std::int64_t>(memory.bytes() / sizeof(T)) / n);
}

template <class T>
Result<T> evaluate(DeviceField<T>& field, const std::vector<T>& t, const std::vector<T>& x, unsigned wanted,
                   const Divergence& how = {}, const std::vector<T>& condition = {}) {
  const std::int64_t d = field.dimension(), n = static_cast<std::int64_t>(x.size()) / d;
  const DeviceMemory times = cuda::upload(t), points = cuda::upload(x), conditions = cuda::upload(condition);
  FieldOutputs<T> out;
  std::vector<DeviceMemory> memory(6);
  const auto want = [&](Quantity q, DeviceMemory& store, View<T>& view, std::int64_t columns) {
    if (!(wanted & q)) return;
    store = cuda::upload(std::vector<T>(static_cast<std::size_t>(n * columns), T(7)));  // overwritten, not added to
    view = View<T>(store.template as<T>(), n, columns, Device::cuda);
  };
  want(value, memory[0], out.value, 1);
  want(dt, memory[1], out.dt, 1);
  want(score, memory[2], out.score, d);
  want(divergence, memory[3], out.divergence, 1);
  want(hessian, memory[4], out.hessian, d * d);
  want(residual, memory[5], out.residual, 1);
  field.evaluate({on_device<T>(times, 1), on_device<T>(points, d), conditions_on_device<T>(conditions, n)}, out, how);
  cuda::check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  Result<T> r;
  for_each_quantity<T>(
      r, [&, at = 0](Quantity, const char*, std::vector<T>& v) mutable { v = download<T>(memory[at++]); });
  return r;
}

template <class T>
Result<T> evaluate(DeviceField<T>& field, const Problem& p, unsigned wanted, const Divergence& how = {}) {
  return evaluate(field, as<T>(p.t), as<T>(columns_of(p.x, p.d + p.c, 0, p.d)), wanted, how,
                  as<T>(columns_of(p.x, p.d + p.c, p.d, p.c)));
}

template <class T>
std::vector<T> hessian_vector(DeviceField<T>& field, const Problem& p) {
  const DeviceMemory t = cuda::upload(as<T>(p.t)), x = cuda::upload(as<T>(columns_of(p.x, p.d + p.c, 0, p.d))),
                     condition = cuda::upload(as<T>(columns_of(p.x, p.d + p.c, p.d, p.c))),
                     direction = cuda::upload(as<T>(p.direction)),
                     product = cuda::upload(std::vector<T>(p.direction.size(), T(7)));
  field.hessian_vector({on_device<T>(t, 1), on_device<T>(x, p.d), conditions_on_device<T>(condition, p.n())},
                       on_device<T>(direction, p.d), View<T>(product.as<T>(), p.n(), p.d, Device::cuda));
  cuda::check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  return download<T>(product);
}

enum class Path { resident, wide };

template <class T>
std::unique_ptr<DeviceField<T>> wide(const Model& model, Precision precision, std::int64_t rows = 0) {
  return cuda::make_wide_field<T>(queue(precision), std::get<Mlp>(model.network), model.sde, rows);
}

// `works`: how many of score, curvature and Hessian, of which each needs more than the one before, are resident; of
// half there is the first alone. Throws where it is another number, so that none takes the wide way unnoticed.
std::unique_ptr<DeviceField<float>> resident(const Model& model, const Queue& on, int works = 3) {
  const auto& mlp = std::get<Mlp>(model.network);
  const cuda::Residency plan = cuda::plan_residency(mlp.architecture, on.precision, on.limits);
  const bool half = on.precision == Precision::half;
  const int are = plan.score.resident() + plan.curvature.resident() + plan.hessian.resident();
  if (are != (half ? 1 : works)) {
    throw std::logic_error(fmt::format("{} works are resident where {} should be", are, half ? 1 : works));
  }
  auto field = cuda::make_resident_field(on, mlp, model.sde);
  EXPECT_EQ(field->workspace_bytes() == 0, half || works == 3);
  return field;
}

template <class T>
std::unique_ptr<DeviceField<T>> field_on(Path path, const Model& model, Precision precision) {
  if constexpr (std::is_same_v<T, float>) {
    if (path == Path::resident) return resident(model, queue(precision));
  }
  return wide<T>(model, precision);
}

constexpr Precision kPrecisions[] = {Precision::fp32, Precision::split, Precision::half};

template <class T>
double roundoff_of(Precision precision) {
  if (sizeof(T) == 8) return unit<double>;
  return precision == Precision::fp32 ? unit<float> : precision == Precision::split ? 0x1p-22 : 0x1p-11;
}

template <class T>
Bound bound_of(Precision precision, const std::vector<double>& deviations, std::int64_t points,
               const std::vector<double>& expected, Sides sides) {
  const std::size_t columns = points == 0 ? 1 : deviations.size() / static_cast<std::size_t>(points);
  Bound bound = rounding_bound(deviations, columns, expected, std::sqrt(double(sides)) * roundoff_of<T>(precision));
  bound.absolute = 100 * double(std::numeric_limits<T>::min());
  return bound;
}

class DeviceFieldTest : public GpuTest {};

// ---- against the reference, on random architectures ----------------------------------------------------------------

struct Case {
  std::string name;
  Path path;
  Architecture architecture;
  SdeKind sde;
  std::int64_t n;
  bool one_time;
  int resident_works;  // of score, curvature and Hessian
  int most_shared;
};
void PrintTo(const Case& c, std::ostream* out) {
  *out << c.architecture.describe() << ", " << ForwardSde::defaults(c.sde).name() << ", " << c.n
       << (c.one_time ? " points at one time" : " points");
}

struct Shape {
  std::int64_t d;
  std::vector<std::int64_t> hidden;
  std::int64_t n;
  int activations = activations_a_shape;  // fewer where a network is large: others show the rest
  int resident_works = 3;                 // of a potential
  int most_shared = std::numeric_limits<int>::max();
};

std::vector<Case> cases(Path path, const std::vector<Shape>& shapes) {
  std::vector<Case> all;
  for (std::size_t s = 0; s < shapes.size(); ++s) {
    const Shape& shape = shapes[s];
    for (int k = 0; k < shape.activations; ++k) {
      for (const Output output : {Output::potential, Output::score}) {
        const double beta = s % 2 == 0 ? 100 : 3;
        // A vector net's second and third works take the same.
        const int works = output == Output::score && shape.resident_works == 2 ? 3 : shape.resident_works;
        const Architecture a = architecture_of(shape.d, shape.hidden, activation_of(s, k), beta, output);
        if (!has_all_fields(a)) continue;
        all.push_back({case_name(a, fmt::format("n{}", shape.n)), path, a, sde_kinds[(s + 2 * k) % 5], shape.n,
                       (s + k) % 3 == 0, works, shape.most_shared});
      }
    }
  }
  return all;
}

std::vector<Case> wide_cases() {
  std::vector<Case> all = cases(Path::wide, {{1, {1}, 99},
                                             {2, {7}, 1},
                                             {2, {130, 127}, 19},
                                             {2, {80, 80, 80}, 19},
                                             {5, {7, 1, 13, 80}, 19},
                                             {5, {127, 130}, 7, 2},
                                             {16, {33, 7}, 19},
                                             {1, {130, 1, 7, 127}, 99},
                                             {2, {80}, 0},
                                             {16, {7, 80, 1}, 7},
                                             {2, {80, 7}, 99},
                                             {40, {20, 12}, 2, 2},
                                             {2, {4096}, 3, 2},
                                             {3, {500, 300}, 3, 2}});
  for (const Output output : {Output::potential, Output::score}) {
    for (const auto& [name, architecture] : all_networks(output)) {
      for (const bool one_time : {false, true}) {
        all.push_back({name + (one_time ? "_at_one_time" : ""), Path::wide, architecture, sde_kinds[all.size() % 5], 19,
                       one_time, 0, 0});
      }
    }
  }
  return all;
}

// Every padded width and both sides of it, one to eight hidden layers, tiles that are full and not, several of them a
// warp. Beyond width 80 second derivatives go the wide way inside, and so does what leaves no room for a warp.
std::vector<Case> resident_cases() {
  return cases(Path::resident, {{1, {1}, 99},
                                {2, {7}, 1},
                                {3, {32}, 15},
                                {2, {33, 7}, 17},
                                {1, {64, 63}, 16},
                                {5, {7, 1, 13, 80}, 19},
                                {2, {80, 80, 80}, 19},
                                {16, {33, 7}, 19},
                                {2, {100}, 19, 4, 1},
                                {3, {127, 128}, 7, 2, 1},
                                {16, {128, 3, 81}, 3, 2, 1},
                                {2, {5}, 989, 2},
                                {40, {20, 12}, 2, 2},
                                {64, {12, 8}, 1, 2},
                                {63, {9}, 1, 2},
                                {2, {64, 40, 64, 64, 64}, 7, 2},
                                {1, {5, 9, 32, 1, 7, 20}, 17},
                                {2, {9, 8, 7, 6, 5, 4, 3}, 16, 2},
                                {1, {32, 32, 31, 32, 32, 30, 32, 32}, 19},
                                {2, {80}, 0},
                                {2, {80, 80, 80, 80, 80}, 7, 2, 2, 163 << 10}});
}

class AgainstReference : public DeviceFieldTest, public ::testing::WithParamInterface<Case> {
 protected:
  template <class T>
  static std::unique_ptr<DeviceField<T>> field_of(const Model& model, Precision precision) {
    const Case& c = GetParam();
    if constexpr (std::is_same_v<T, float>) {
      if (c.path == Path::resident) return resident(model, queue(precision, c.most_shared), c.resident_works);
    }
    return wide<T>(model, precision);
  }

  template <class T>
  void all_fields_agree(const Model& model, const Problem& p, Precision precision, const Expected& expected,
                        const Expected& deviations) {
    SCOPED_TRACE(sizeof(T) == 8 ? "double" : to_string(precision));
    const Architecture& a = GetParam().architecture;
    const auto field = field_of<T>(model, precision);
    const bool half = sizeof(T) == 4 && precision == Precision::half;
    const Result<T> actual = evaluate(*field, p, all_of(a.output) & (half ? value | score : ~0u));
    const auto check = [&](const char* name, const std::vector<T>& v, const std::vector<double>& e,
                           const std::vector<double>& d) {
      EXPECT_TRUE(agrees(v, e, bound_of<T>(precision, d, p.n(), e, sizeof(T) == 8 ? both_sides : one_side))) << name;
    };
    for_each_quantity<T>(actual, [&, at = 0](Quantity q, const char* name, const std::vector<T>& v) mutable {
      const bool in_double = q == residual && sizeof(T) == 8;
      const std::size_t k = at++;
      if (half && !(q & (value | score))) return;
      check(name, v, *quantities(expected)[k], in_double ? deviations.residual_in_double : *quantities(deviations)[k]);
    });
    if (half) return;
    check("hessian_vector", hessian_vector(*field, p), expected.product, deviations.product);
    if (a.output == Output::score) return;
    for (std::int64_t i = 0; i < p.n(); ++i) {
      for (std::int64_t r = 0; r < p.d; ++r) {
        for (std::int64_t c = 0; c < r; ++c) {
          ASSERT_EQ(actual.hessian[(i * p.d + r) * p.d + c], actual.hessian[(i * p.d + c) * p.d + r]) << i;
        }
      }
    }
  }
};

TEST_P(AgainstReference, EveryFieldInEveryPrecision) {
  const Case& c = GetParam();
  const Model model = model_of(c.architecture, c.sde, 17);
  const Problem p =
      make_problem(c.architecture.dimension, model.sde, c.n, c.one_time, 29, c.architecture.condition.inputs);
  const auto net = reference_network(c.architecture, std::get<Mlp>(model.network).parameters);
  std::vector<double> t;
  for (std::int64_t i = 0; i < p.n(); ++i) t.push_back(p.time(i));
  ASSERT_GT(distance_to_jump(net, t, p.x), 1e-9);
  const Expected expected = reference(model, p);
  const Expected deviations = rounding_deviations(model, p);
  if (c.path == Path::wide) all_fields_agree<double>(model, p, Precision::split, expected, deviations);
  for (const Precision precision : kPrecisions) all_fields_agree<float>(model, p, precision, expected, deviations);
}

constexpr auto name_of = [](const auto& test) { return test.param.name; };
INSTANTIATE_TEST_SUITE_P(Resident, AgainstReference, ::testing::ValuesIn(resident_cases()), name_of);
INSTANTIATE_TEST_SUITE_P(Wide, AgainstReference, ::testing::ValuesIn(wide_cases()), name_of);

// ---- requests, chunks, points --------------------------------------------------------------------------------------

template <class Number, Path kPath>
struct On {
  using T = Number;
  static constexpr Path path = kPath;
};
using ResidentFloat = On<float, Path::resident>;
using WideFloat = On<float, Path::wide>;
using WideDouble = On<double, Path::wide>;
using Paths = ::testing::Types<ResidentFloat, WideFloat, WideDouble>;
using Numbers = ::testing::Types<float, double>;
struct NameOf {
  template <class P>
  static std::string GetName(int) {
    return std::is_same_v<P, ResidentFloat> ? "Resident" : std::is_same_v<P, WideFloat> ? "Wide" : "WideInDouble";
  }
};

template <class P>
struct EveryPath : DeviceFieldTest {};
TYPED_TEST_SUITE(EveryPath, Paths, NameOf);
template <class T>
struct WideOf : DeviceFieldTest {};
TYPED_TEST_SUITE(WideOf, Numbers);

constexpr auto architecture_for = [](Output output) {
  return architecture_of(3, {20, 13, 9}, Activation::silu, 1, output);
};
// And, of the wide path, one with branches of the time and of a condition and a residual connection, of three dimensions
// too.
std::vector<Architecture> architectures_for(Path path, Output output) {
  std::vector<Architecture> all{architecture_for(output)};
  if (path != Path::wide) return all;
  all.push_back(branched_networks(output).back().architecture);
  all.back().condition = {{{6, {Activation::silu, 1}}}, {0, 4}, {}, 2};
  return all;
}

TYPED_TEST(EveryPath, AnyCombinationOfOutputsGivesTheSameNumbers) {
  using T = typename TypeParam::T;
  for (const Output output : {Output::potential, Output::score}) {
    for (const Architecture& architecture : architectures_for(TypeParam::path, output)) {
      const Model model = model_of(architecture, SdeKind::vp_cosine, 7);
      const Problem p = make_problem(3, model.sde, 19, false, 8, architecture.condition.inputs);
      const auto field = field_on<T>(TypeParam::path, model, Precision::split);
      for (const int probes : {0, 3}) {
        const Divergence how{.probes = probes, .seed = 5};
        const Result<T> together = evaluate(*field, p, all_of(output), how);
        for (unsigned wanted = 1; wanted <= all_of(output); ++wanted) {
          if (wanted & ~all_of(output)) continue;
          SCOPED_TRACE(fmt::format("{}, outputs {:06b}, {} probes", to_string(output), wanted, probes));
          const Result<T> alone = evaluate(*field, p, wanted, how);
          std::vector<std::vector<T>> all;
          for_each_quantity<T>(together, [&](Quantity, const char*, const std::vector<T>& v) { all.push_back(v); });
          for_each_quantity<T>(alone, [&, at = 0](Quantity q, const char* name, const std::vector<T>& v) mutable {
            EXPECT_EQ(v, wanted & q ? all[at] : std::vector<T>()) << name;
            ++at;
          });
        }
      }
    }
  }
}

// A product of fewer rows may take another of cuBLAS's kernels; on the emulation a row's numbers are its own.
TYPED_TEST(WideOf, ChunksChangeNothing) {
  using T = TypeParam;
  for (const Output output : {Output::potential, Output::score}) {
    for (const Architecture& architecture : architectures_for(Path::wide, output)) {
      for (const Precision precision : {Precision::fp32, Precision::split}) {
        const Model model = model_of(architecture, SdeKind::subvp, 3);
        for (const bool one_time : {false, true}) {
          const Problem p = make_problem(3, model.sde, 99, one_time, 5, architecture.condition.inputs);
          const Expected exact = rounding_deviations(model, p);
          for (const int probes : {0, 2}) {
            const Divergence how{.probes = probes, .seed = 9, .first_index = 1000};
            const Expected deviations = probes == 0 ? exact : deviations_with_probes(model, p, exact);
            const auto whole = wide<T>(model, precision);
            const Result<T> expected = evaluate(*whole, p, all_of(output), how);
            for (const std::int64_t rows : {3, 7, 64}) {
              SCOPED_TRACE(
                  fmt::format("{}, {}, {} rows, {} probes", to_string(output), to_string(precision), rows, probes));
              const auto field = wide<T>(model, precision, rows);
              EXPECT_LT(field->workspace_bytes(), whole->workspace_bytes());
              const Result<T> actual = evaluate(*field, p, all_of(output), how);
              std::vector<std::vector<T>> all;
              for_each_quantity<T>(expected, [&](Quantity, const char*, const std::vector<T>& v) { all.push_back(v); });
              for_each_quantity<T>(actual, [&, at = 0](Quantity, const char* name, const std::vector<T>& v) mutable {
                const std::vector<T>& e = all[at];
                const std::vector<double> wide_expected(e.begin(), e.end());
                EXPECT_TRUE(
                    agrees(v, e, bound_of<T>(precision, *quantities(deviations)[at], p.n(), wide_expected, both_sides)))
                    << name;
#ifdef FOKKER_EMULATION
                EXPECT_EQ(v, e) << name;
#endif
                ++at;
              });
              const std::vector<T> product = hessian_vector(*field, p), whole_product = hessian_vector(*whole, p);
              EXPECT_TRUE(agrees(product, whole_product,
                                 bound_of<T>(precision, exact.product, p.n(),
                                             {whole_product.begin(), whole_product.end()}, both_sides)));
#ifdef FOKKER_EMULATION
              EXPECT_EQ(product, whole_product);
#endif
            }
          }
        }
      }
    }
  }
}

// Which lane, warp and block take a point, and how many of them there are, is of no consequence.
TEST_F(DeviceFieldTest, ResidentPointsHaveTheirNumbersWhereverTheyAre) {
  for (const Output output : {Output::potential, Output::score}) {
    const Model model = model_of(architecture_for(output), SdeKind::subvp, 3);
    const Problem p = make_problem(3, model.sde, 989, false, 5);
    for (const Precision precision : kPrecisions) {
      const unsigned wanted = all_of(output) & (precision == Precision::half ? value | score : ~0u);
      const bool product = precision != Precision::half;
      for (const int probes : {0, 2}) {
        Divergence how{.probes = probes, .seed = 9, .first_index = 1000};
        const auto field = resident(model, queue(precision));
        const Result<float> whole = evaluate(*field, p, wanted, how);
        const std::vector<float> whole_product = product ? hessian_vector(*field, p) : std::vector<float>();
        const auto part_agrees = [&](DeviceField<float>& of, std::int64_t first, std::int64_t n) {
          SCOPED_TRACE(fmt::format("{}, {}, {} probes, {} points from {}", to_string(output), to_string(precision),
                                   probes, n, first));
          const auto rows = [&](const auto& v, std::int64_t columns) {
            return std::decay_t<decltype(v)>(v.begin() + first * columns, v.begin() + (first + n) * columns);
          };
          const Problem part{3, rows(p.t, 1), rows(p.x, 3), rows(p.direction, 3)};
          how.first_index = 1000 + static_cast<std::uint64_t>(first);
          std::vector<std::vector<float>> all;
          for_each_quantity<float>(whole, [&](Quantity, const char*, const std::vector<float>& v) {
            all.push_back(rows(v, static_cast<std::int64_t>(v.size()) / 989));
          });
          const Result<float> actual = evaluate(of, part, wanted, how);
          for_each_quantity<float>(actual,
                                   [&, at = 0](Quantity, const char* name, const std::vector<float>& v) mutable {
                                     EXPECT_EQ(v, all[at++]) << name;
                                   });
          if (product) {
            EXPECT_EQ(hessian_vector(of, part), rows(whole_product, 3));
          }
        };
        for (const std::int64_t n : {0, 1, 15, 16, 17, 19, 99}) part_agrees(*field, 7, n);
        // One multiprocessor, and room for two warps of the Hessian beside the network.
        Queue small = queue(precision);
        small.limits.multiprocessors = 1;
        const Architecture& architecture = std::get<Mlp>(model.network).architecture;
        const kernels::ResidentMlp shape = cuda::plan_residency(architecture, precision, small.limits).shape;
        small.limits.shared_bytes =
            kernels::image_layout(shape).bytes + 2 * kernels::warp_layout(shape, kernels::Work::hessian).bytes;
        if (product) {
          ASSERT_EQ(cuda::plan_residency(architecture, precision, small.limits).hessian.warps, 2);
        }
        part_agrees(*resident(model, small), 0, 989);
      }
    }
  }
}

// Nor does a workspace remember: numbers that are not finite stay with their point, in the call and in the next.
TYPED_TEST(EveryPath, APointThatIsNotFiniteLeavesTheOthersAlone) {
  using T = typename TypeParam::T;
  constexpr T not_a_number = std::numeric_limits<T>::quiet_NaN(), infinity = std::numeric_limits<T>::infinity();
  for (const Output output : {Output::potential, Output::score}) {
    const Model model = model_of(architecture_for(output), SdeKind::ou, 3);
    const Problem p = make_problem(3, model.sde, 19, false, 5);
    for (const Precision precision : kPrecisions) {
      const auto field = field_on<T>(TypeParam::path, model, precision);
      const bool half = sizeof(T) == 4 && precision == Precision::half;
      const unsigned wanted = all_of(output) & (half ? value | score : ~0u);
      const Result<T> clean = evaluate(*field, p, wanted);
      struct Spoilt {
        std::size_t point, entry;
        T number;
      };
      for (const Spoilt& by : {Spoilt{4, 1, not_a_number}, Spoilt{17, 0, not_a_number}, Spoilt{11, 2, infinity}}) {
        std::vector<T> x = as<T>(p.x);
        x[3 * by.point + by.entry] = by.number;
        const Result<T> spoilt = evaluate(*field, as<T>(p.t), x, wanted);
        std::vector<std::vector<T>> all;
        for_each_quantity<T>(clean, [&](Quantity, const char*, const std::vector<T>& v) { all.push_back(v); });
        for_each_quantity<T>(spoilt, [&, at = 0](Quantity, const char* name, const std::vector<T>& v) mutable {
          const std::vector<T>& e = all[at++];
          const std::size_t columns = e.size() / 19;
          ASSERT_EQ(v.size(), e.size());
          for (std::size_t i = 0; i < v.size(); ++i) {
            if (i / columns != by.point) {
              EXPECT_EQ(v[i], e[i]) << name << " " << i;
            } else if (std::isnan(by.number)) {
              EXPECT_TRUE(std::isnan(v[i])) << name;
            }
          }
        });
        EXPECT_TRUE(evaluate(*field, p, wanted) == clean);
      }
    }
  }
}

TYPED_TEST(EveryPath, NoPointsWriteNothing) {
  using T = typename TypeParam::T;
  const Model model = model_of(architecture_for(Output::potential), SdeKind::ou, 3);
  const auto field = field_on<T>(TypeParam::path, model, Precision::split);
  const DeviceMemory memory = cuda::upload(std::vector<T>(9, T(7)));
  FieldOutputs<T> out;
  out.score = View<T>(memory.as<T>(), 0, 3, Device::cuda);
  out.hessian = View<T>(memory.as<T>(), 0, 9, Device::cuda);
  const View<const T> t(memory.as<T>(), 1, 1, Device::cuda), x(memory.as<T>(), 0, 3, Device::cuda);
  field->evaluate({t, x}, out, {});
  field->hessian_vector({t, x}, x, out.score);
  cuda::check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  EXPECT_EQ(download<T>(memory), std::vector<T>(9, T(7)));
}

// ---- Hutchinson ----------------------------------------------------------------------------------------------------

// The probes are the CPU backend's, point by point, so the estimates are its numbers to rounding. An entry of
// Σ v_i v_j ∂_i s_j carries the rounding of ∂_i s_j and of the probes' normals, which the two backends compute to 4 units each.
TYPED_TEST(EveryPath, HutchinsonGivesTheNumbersOfTheCpu) {
  using T = typename TypeParam::T;
  for (const std::int64_t d : {1, 2, 5, 16, 33}) {
    for (const Output output : {Output::potential, Output::score}) {
      const Model model = model_of(architecture_of(d, {24, 17}, Activation::softplus, 10, output), SdeKind::ou, 11);
      const Problem p = make_problem(d, model.sde, 19, false, 12);
      const Expected exact = reference(model, p), exact_deviations = rounding_deviations(model, p);
      const auto sde = reference_sde(model.sde);
      const Fields<T> cpu_fields(Context({BackendKind::cpu, 1}), model);
      for (const ProbeLaw law : {ProbeLaw::rademacher, ProbeLaw::gaussian}) {
        for (const int probes : {1, 4}) {
          const Divergence how{.probes = probes, .law = law, .seed = 77, .first_index = std::uint64_t{1} << 40};
          std::vector<double> deviations(19), residual_deviations;
          for (int k = 0; k < probes; ++k) {
            std::vector<float> v(19 * d);
            cpu::draw_probes(v.data(), 19, static_cast<int>(d), how, how.first_index, k);
            for (std::int64_t i = 0; i < 19; ++i) {
              for (std::int64_t e = 0; e < d * d; ++e) {
                const double weight = std::fabs(double(v[i * d + e / d]) * v[i * d + e % d]) / probes;
                const double normals =
                    law == ProbeLaw::gaussian ? 16 * unit<float> / roundoff_of<T>(Precision::split) : 0;
                deviations[i] += weight * (exact_deviations.hessian[i * d * d + e] +
                                           normals * std::fabs(exact.hessian[i * d * d + e]));
              }
            }
          }
          std::vector<T> expected_divergence(19), expected_residual(output == Output::potential ? 19 : 0);
          FieldOutputs<T> out;
          out.divergence = View<T>(expected_divergence);
          if (output == Output::potential) out.residual = View<T>(expected_residual);
          const std::vector<T> t = as<T>(p.t), x = as<T>(p.x);
          cpu_fields.evaluate({View<const T>(t), View<const T>(x, d)}, out, how);
          if (output == Output::potential) {
            for (std::int64_t i = 0; i < 19; ++i) {
              residual_deviations.push_back(
                  (sizeof(T) == 8 ? exact_deviations.residual_in_double : exact_deviations.residual)[i] +
                  sde.diffusion_squared(p.time(i)) / 2 * deviations[i]);
            }
          }
          for (const std::int64_t rows : {0, 7}) {
            if (rows != 0 && TypeParam::path == Path::resident) continue;
            SCOPED_TRACE(fmt::format("d = {}, {}, {} {} probes, {} rows", d, to_string(output), probes,
                                     law == ProbeLaw::gaussian ? "Gaussian" : "Rademacher", rows));
            const auto field = rows == 0 ? field_on<T>(TypeParam::path, model, Precision::split)
                                         : wide<T>(model, Precision::split, rows);
            const Result<T> actual =
                evaluate(*field, p, output == Output::potential ? divergence | residual : divergence, how);
            const auto check = [&](const std::vector<T>& v, const std::vector<T>& e, const std::vector<double>& of) {
              EXPECT_TRUE(agrees(v, e, bound_of<T>(Precision::split, of, 19, {e.begin(), e.end()}, both_sides)));
            };
            check(actual.divergence, expected_divergence, deviations);
            check(actual.residual, expected_residual, residual_deviations);
          }
        }
      }
    }
  }
}

// ---- the range of fp16 ---------------------------------------------------------------------------------------------

// fp16 holds 6e-8 to 65504. Rows and matrices far outside of that, points whose rows differ by many powers of two, and
// a matrix of entries that do.
TEST_F(DeviceFieldTest, SplitHasNoRangeOfItsOwn) {
  struct Scales {
    double first, between, last;
    bool mixed = false;
  };
  for (const Activation activation : {Activation::silu, Activation::sine, Activation::softplus}) {
    for (const Output output : {Output::potential, Output::score}) {
      for (const Scales& by : {Scales{1e-8, 1e6, 1}, Scales{1e6, 1e-6, 1}, Scales{1e-12, 1e-12, 1},
                               Scales{1e4, 1, 1e-6}, Scales{1, 1, 1, true}}) {
        if (activation == Activation::sine && (by.first > 1 || by.mixed)) continue;  // its argument would be noise
        for (const Path path : {Path::resident, Path::wide}) {
          SCOPED_TRACE(fmt::format("{}, {}, {}, weights times {}, {}, {}{}",
                                   path == Path::resident ? "resident" : "wide", to_string(activation),
                                   to_string(output), by.first, by.between, by.last, by.mixed ? ", mixed" : ""));
          const auto a = architecture_of(2, {20, 24, 10}, activation, 1, output);
          Model model = model_of(a, SdeKind::ve, 5);
          auto& parameters = std::get<Mlp>(model.network).parameters;
          const auto scale = [&](std::int64_t layer, double factor) {
            const std::int64_t begin = a.weight_offset(layer), count = a.inputs(layer) * a.outputs(layer);
            for (std::int64_t k = 0; k < count; ++k) {
              const double entry = by.mixed && (layer == 1 || layer == 2) ? std::pow(10.0, k % 9 - 4) : 1;
              parameters[begin + k] = static_cast<float>(factor * entry * parameters[begin + k]);
            }
          };
          scale(0, by.first), scale(1, by.between), scale(2, by.between), scale(3, by.last);
          // No biases, so that nothing hides the rows. Where σ(0) is not zero, one that keeps units far below it: the
          // padding must not decide the scale. Not on the resident path, whose softplus errs by a roundoff of σ(0).
          for (std::int64_t layer = 0; layer < 3; ++layer) {
            const bool low = layer == 0 && activation == Activation::softplus && path == Path::wide;
            for (std::int64_t k = 0; k < a.outputs(layer); ++k) parameters[a.bias_offset(layer) + k] = low ? -20 : 0;
          }
          Problem p = make_problem(2, model.sde, 19, false, 6);
          for (std::int64_t i = 0; i < 19; ++i) {
            for (std::int64_t j = 0; j < 2; ++j)
              p.x[2 * i + j] = std::ldexp(p.x[2 * i + j], static_cast<int>(2 * (i % 5)));
          }
          const Expected expected = reference(model, p), deviations = rounding_deviations(model, p);
          const auto field = field_on<float>(path, model, Precision::split);
          const Result<float> actual = evaluate(*field, p, all_of(output));
          const auto check = [&](const char* name, const std::vector<float>& v, const std::vector<double>& e,
                                 const std::vector<double>& d) {
            Bound bound = bound_of<float>(Precision::split, d, p.n(), e, one_side);
            // Beyond βz = 20 the device's σ″ is not 0 but up to e^−20 β, where its largest value is β/4.
            if (activation == Activation::softplus) bound.of_rms += 4 * std::exp(-20.0);
            EXPECT_TRUE(agrees(v, e, bound)) << name;
          };
          for_each_quantity<float>(actual,
                                   [&, at = 0](Quantity, const char* name, const std::vector<float>& v) mutable {
                                     check(name, v, *quantities(expected)[at], *quantities(deviations)[at]);
                                     ++at;
                                   });
          check("hessian_vector", hessian_vector(*field, p), expected.product, deviations.product);
        }
      }
    }
  }
}

// With every weight zero a row's largest magnitude is zero, and so are the results but for the last bias.
TEST_F(DeviceFieldTest, RowsOfZeros) {
  const auto a = architecture_of(2, {9, 17, 5}, Activation::tanh, 1, Output::potential);
  Model model = model_of(a, SdeKind::ou, 5);
  auto& parameters = std::get<Mlp>(model.network).parameters;
  std::fill(parameters.begin(), parameters.end(), 0.0);
  parameters.back() = 0.75;
  const Problem p = make_problem(2, model.sde, 19, false, 6);
  for (const Path path : {Path::resident, Path::wide}) {
    for (const Precision precision : {Precision::fp32, Precision::split}) {
      const Result<float> r =
          evaluate(*field_on<float>(path, model, precision), p, value | score | dt | divergence | hessian);
      EXPECT_EQ(r.value, std::vector<float>(19, 0.75f));
      EXPECT_EQ(r.score, std::vector<float>(38, 0.0f));
      EXPECT_EQ(r.dt, std::vector<float>(19, 0.0f));
      EXPECT_EQ(r.divergence, std::vector<float>(19, 0.0f));
      EXPECT_EQ(r.hessian, std::vector<float>(76, 0.0f));
    }
  }
}

// ---- memory and refusals -------------------------------------------------------------------------------------------

TEST_F(DeviceFieldTest, WideWorkspaceIsBoundedWhateverTheWidth) {
  constexpr std::size_t most = std::size_t{48} << 20;
  const auto workspace = [](std::vector<std::int64_t> hidden, auto zero) {
    Architecture a = architecture_of(2, std::move(hidden), Activation::silu, 1, Output::potential);
    Mlp mlp{a, std::vector<double>(static_cast<std::size_t>(a.parameter_count()))};
    return cuda::make_wide_field<decltype(zero)>(queue(Precision::split), mlp, ForwardSde::defaults(SdeKind::ou))
        ->workspace_bytes();
  };
  for (const std::int64_t width : {1, 80, 130, 512, 1024}) {
    for (const std::vector<std::int64_t>& hidden : {std::vector{width}, std::vector{width, width, width}}) {
      EXPECT_LE(workspace(hidden, 0.0f), most) << width;
      EXPECT_GT(workspace(hidden, 0.0f), most / 16) << width;
      EXPECT_LE(workspace(hidden, 0.0), most) << width;
    }
  }
  // 256 rows of the widest network that is deep take what they take.
  EXPECT_LE(workspace({4096, 4096}, 0.0), std::size_t{80} << 20);
}

TEST_F(DeviceFieldTest, LayersBeyondTheWidthOfTheWidePathAreRefused) {
  const Model model = model_of(architecture_of(2, {3, 4097}, Activation::silu, 1, Output::score), SdeKind::ou, 1);
  EXPECT_THAT([&] { wide<float>(model, Precision::split); },
              ::testing::ThrowsMessage<Error>(AllOf(HasSubstr("hidden layer 2 has 4097 units"), HasSubstr("4096"))));
  Architecture a = architecture_of(2, {3}, Activation::silu, 1, Output::score);
  a.condition = {{{4097, {Activation::silu, 1}}}, {0}, {}, 2};
  EXPECT_THAT([&] { wide<float>(model_of(a, SdeKind::ou, 1), Precision::split); },
              ::testing::ThrowsMessage<Error>(
                  std::string("a layer of the condition's branch has 4097 units; the CUDA backend takes up to 4096")));
}

TEST_F(DeviceFieldTest, HalfIsRefusedForDerivatives) {
  for (const Path path : {Path::resident, Path::wide}) {
    for (const Output output : {Output::potential, Output::score}) {
      const Model model = model_of(architecture_for(output), SdeKind::ou, 1);
      const Problem p = make_problem(3, model.sde, 1, true, 2);
      const auto field = field_on<float>(path, model, Precision::half);
      const auto refusal = ::testing::ThrowsMessage<Error>(
          AllOf(HasSubstr("precision 'half' serves values and scores only"), HasSubstr("split and fp32")));
      for (const unsigned wanted : {dt, divergence, hessian, residual}) {
        if (!(wanted & all_of(output))) continue;
        EXPECT_THAT([&] { evaluate(*field, p, wanted | score); }, refusal) << wanted;
      }
      EXPECT_THAT([&] { hessian_vector(*field, p); }, refusal);
      EXPECT_NO_THROW(evaluate(*field, p, score));
    }
  }
  const Model model = model_of(architecture_for(Output::potential), SdeKind::ou, 1);
  EXPECT_NO_THROW(
      evaluate(*wide<double>(model, Precision::half), make_problem(3, model.sde, 1, true, 2), kOfPotential));
}

// ---- the products themselves ---------------------------------------------------------------------------------------

// Small integers, so that every order of sums is exact; rows longer than the matrices, whose rest is not touched.
template <class Operand, class Number>
void products_are_right(const std::vector<std::pair<double, Operand>>& numbers) {
  const cuda::Gemm gemm(nullptr, std::size_t{8} << 20);
  for (const auto& [rows, columns, depth] : {std::tuple(1, 1, 1), std::tuple(5, 7, 24), std::tuple(33, 130, 72)}) {
    for (const int form : {0, 1, 2, 3, 4, 5, 6, 7}) {
      const bool transposed = form & 1, a_transposed = form & 2, add = form & 4;
      const int a_rows = a_transposed ? depth : rows, a_columns = a_transposed ? rows : depth,
                a_stride = a_columns + 16 - a_columns % 8, b_rows = transposed ? columns : depth,
                b_columns = transposed ? depth : columns, b_stride = b_columns + 8 - b_columns % 8,
                c_stride = columns + 3;
      std::vector<double> a, b;
      const auto fill = [&](std::vector<double>& v, int count, unsigned from) {
        std::vector<Operand> operand;
        for (int k = 0; k < count; ++k) {
          const auto& [number, stored] = numbers[(from + 7u * k + k / 5u) % numbers.size()];
          v.push_back(number), operand.push_back(stored);
        }
        return cuda::upload(operand);
      };
      const DeviceMemory on_a = fill(a, a_rows * a_stride, 1), on_b = fill(b, b_rows * b_stride, 2),
                         on_c = cuda::upload(std::vector<Number>(rows * c_stride, Number(9)));
      gemm.multiply(cuda::Product<Operand, Number>{rows, columns, depth, on_a.as<Operand>(), a_stride,
                                                   on_b.as<Operand>(), b_stride, transposed, on_c.as<Number>(),
                                                   c_stride, a_transposed, add});
      cuda::check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
      std::vector<Number> expected(rows * c_stride, Number(9));
      for (int i = 0; i < rows; ++i) {
        for (int j = 0; j < columns; ++j) {
          double sum = add ? 9 : 0;
          for (int k = 0; k < depth; ++k) {
            sum += a[a_transposed ? k * a_stride + i : i * a_stride + k] *
                   b[transposed ? j * b_stride + k : k * b_stride + j];
          }
          expected[i * c_stride + j] = static_cast<Number>(sum);
        }
      }
      EXPECT_EQ(download<Number>(on_c), expected) << rows << " " << form;
    }
  }
}

TEST_F(DeviceFieldTest, Products) {
  products_are_right<float, float>({{0, 0}, {1, 1}, {-3, -3}, {2, 2}, {0.5, 0.5f}});
  products_are_right<double, double>({{0, 0}, {1, 1}, {-3, -3}, {2, 2}, {0.5, 0.5}});
  products_are_right<std::uint16_t, float>({{0, 0x0000}, {1, 0x3C00}, {-3, 0xC200}, {2, 0x4000}, {0.5, 0x3800}});
}

}  // namespace
}  // namespace fokker
