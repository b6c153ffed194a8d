// Draws of the data sets against the laws they are of. Statistics bounds: all seeds are fixed, so a bound at five to
// six standard errors either holds for good or shows a defect. Kolmogorov–Smirnov: √n sup |F_n − F| exceeds 2.5 with
// probability 2 e^{−12.5} = 7e-6.
#include "fokker/data.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <numbers>
#include <random>

#include "compare.hpp"
#include "fokker/array.hpp"
#include "fokker/sampler.hpp"
#include "paper_data.hpp"
#include "scratch.hpp"

namespace fokker {
namespace {

using testing::agrees;
using ::testing::HasSubstr;
using testing::message_of;

const Context& cpu() {
  static const Context context({.backend = BackendKind::cpu});
  return context;
}

std::vector<float> draw(const DataSet& data, std::int64_t n, std::uint64_t seed, std::uint64_t first = 0,
                        std::uint64_t step = 0) {
  std::vector<float> x(n * data.dimension());
  data.draw(cpu(), View<float>(x, data.dimension()), seed, first, step);
  return x;
}

double normal_cdf(double z) { return std::erfc(-z / std::numbers::sqrt2) / 2; }

// √n sup |F_n − F|.
double kolmogorov_smirnov(std::vector<double> x, const std::function<double(double)>& cdf) {
  std::sort(x.begin(), x.end());
  const double n = static_cast<double>(x.size());
  double worst = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double f = cdf(x[i]);
    worst = std::max({worst, std::abs(f - static_cast<double>(i) / n), std::abs(f - static_cast<double>(i + 1) / n)});
  }
  return worst * std::sqrt(n);
}

double uniform_cdf(double u) { return std::clamp(u, 0.0, 1.0); }

// The law of the projection of Σ w_k N(μ_k, C_k) on a direction.
std::function<double(double)> projected_cdf(const std::vector<double>& weights, const std::vector<double>& means,
                                            const std::vector<double>& covariances, const std::vector<double>& v) {
  const std::size_t d = v.size();
  std::vector<double> mean(weights.size()), deviation(weights.size());
  double sum = 0;
  for (std::size_t k = 0; k < weights.size(); ++k) {
    double variance = 0;
    for (std::size_t i = 0; i < d; ++i) {
      mean[k] += v[i] * means[k * d + i];
      for (std::size_t j = 0; j < d; ++j) variance += v[i] * covariances[(k * d + i) * d + j] * v[j];
    }
    deviation[k] = std::sqrt(variance);
    sum += weights[k];
  }
  return [=](double x) {
    double f = 0;
    for (std::size_t k = 0; k < weights.size(); ++k) f += weights[k] / sum * normal_cdf((x - mean[k]) / deviation[k]);
    return f;
  };
}

std::vector<double> project(const std::vector<float>& x, const std::vector<double>& v) {
  std::vector<double> out(x.size() / v.size());
  for (std::size_t i = 0; i < out.size(); ++i) {
    for (std::size_t j = 0; j < v.size(); ++j) out[i] += v[j] * x[i * v.size() + j];
  }
  return out;
}

// Mean and covariance of draws against those of the mixture, to six standard errors, which the draws themselves tell.
void expect_moments(const std::vector<float>& x, const std::vector<double>& weights, const std::vector<double>& means,
                    const std::vector<double>& covariances, std::size_t d) {
  const double n = static_cast<double>(x.size() / d);
  double sum = 0;
  for (const double w : weights) sum += w;
  std::vector<double> mean(d, 0.0);
  for (std::size_t k = 0; k < weights.size(); ++k) {
    for (std::size_t i = 0; i < d; ++i) mean[i] += weights[k] / sum * means[k * d + i];
  }
  for (std::size_t i = 0; i < d; ++i) {
    for (std::size_t j = 0; j <= i; ++j) {
      double expected = 0, total = 0, square = 0, first = 0, first_square = 0;
      for (std::size_t k = 0; k < weights.size(); ++k) {
        expected += weights[k] / sum *
                    (covariances[(k * d + i) * d + j] + (means[k * d + i] - mean[i]) * (means[k * d + j] - mean[j]));
      }
      for (std::size_t p = 0; p < x.size() / d; ++p) {
        const double a = x[p * d + i] - mean[i], product = a * (x[p * d + j] - mean[j]);
        total += product, square += product * product, first += a, first_square += a * a;
      }
      EXPECT_NEAR(total / n, expected, 6 * std::sqrt(square) / n) << "covariance " << i << ", " << j;
      if (i == j) {
        EXPECT_NEAR(first / n, 0, 6 * std::sqrt(first_square) / n) << "mean " << i;
      }
    }
  }
}

// An uneven mixture with full covariances A Aᵀ + 0.05 I.
struct FullMixture {
  std::vector<double> weights, means, covariances;

  FullMixture(std::size_t components, std::size_t d, unsigned seed)
      : means(components * d), covariances(components * d * d) {
    std::mt19937_64 engine(seed);
    std::normal_distribution<double> normal;
    for (std::size_t k = 0; k < components; ++k) weights.push_back(1.0 + static_cast<double>(k));
    for (double& m : means) m = 2 * normal(engine);
    for (std::size_t k = 0; k < components; ++k) {
      std::vector<double> a(d * d);
      for (double& v : a) v = normal(engine) / std::sqrt(static_cast<double>(d));
      for (std::size_t i = 0; i < d; ++i) {
        for (std::size_t j = 0; j < d; ++j) {
          double& c = covariances[(k * d + i) * d + j];
          c = i == j ? 0.05 : 0.0;
          for (std::size_t l = 0; l < d; ++l) c += a[i * d + l] * a[j * d + l];
        }
      }
    }
  }
  DataSet data(std::int64_t d) const { return DataSet::mixture(GaussianMixture(d, weights, means, covariances)); }
};

class TemporaryFolder {
 public:
  TemporaryFolder() : path_(std::filesystem::temp_directory_path() / fmt::format("fokker_data_test_{}", ::getpid())) {
    std::filesystem::create_directories(path_);
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  std::string operator/(const std::string& name) const { return (path_ / name).string(); }

 private:
  std::filesystem::path path_;
};

TEST(Blob, IsTheNineComponentMixture) {
  const DataSet blob = DataSet::named("blob");
  EXPECT_EQ(blob.kind(), DataSet::Kind::blob);
  EXPECT_EQ(blob.name(), "blob");
  ASSERT_EQ(blob.dimension(), 2);
  ASSERT_NE(blob.exact(), nullptr);
  ASSERT_EQ(blob.exact()->components(), 9);

  std::vector<double> means;
  for (int a : {-1, 1}) {
    for (int b : {-1, 1}) means.insert(means.end(), {1.3 * a, 1.3 * b});
    means.insert(means.end(), {2.6 * a, 0.0, 0.0, 2.6 * a});
  }
  means.insert(means.end(), {0.0, 0.0});
  std::vector<double> covariances;
  for (int k = 0; k < 9; ++k) covariances.insert(covariances.end(), {0.0845, 0.0, 0.0, 0.0845});
  const std::vector<double> weights(9, 1.0);

  const auto x = draw(blob, 200'000, 3);
  expect_moments(x, weights, means, covariances, 2);
  for (const double angle : {0.0, 0.3, 1.1, 2.0}) {
    const std::vector<double> v = {std::cos(angle), std::sin(angle)};
    EXPECT_LT(kolmogorov_smirnov(project(x, v), projected_cdf(weights, means, covariances, v)), 2.5) << angle;
  }
}

TEST(Circles2, HasTwoRingsOfNormalRadiusAndUniformAngle) {
  const DataSet circles = DataSet::named("circles2");
  EXPECT_EQ(circles.exact(), nullptr);
  const auto x = draw(circles, 200'000, 5);
  std::vector<double> radius, angle;
  std::vector<int> table(8 * 8);  // angle by radius: independent
  const auto radius_cdf = [](double r) {
    return (normal_cdf((r / 2 - 0.65) / 0.1) + normal_cdf((r / 2 - 1.4) / 0.1)) / 2;
  };
  for (std::size_t i = 0; i < x.size(); i += 2) {
    radius.push_back(std::hypot(double(x[i]), double(x[i + 1])));
    angle.push_back(std::atan2(double(x[i + 1]), double(x[i])) / (2 * std::numbers::pi) + 0.5);
    ++table[8 * std::min(7, int(8 * angle.back())) + std::min(7, int(8 * radius_cdf(radius.back())))];
  }
  EXPECT_LT(kolmogorov_smirnov(radius, radius_cdf), 2.5);
  EXPECT_LT(kolmogorov_smirnov(angle, uniform_cdf), 2.5);
  double chi_square = 0;
  const double expected = 200'000 / 64.0;
  for (const int count : table) chi_square += (count - expected) * (count - expected) / expected;
  EXPECT_LT(chi_square, 63 + 6 * std::sqrt(2 * 63.0));
  EXPECT_GT(chi_square, 63 - 6 * std::sqrt(2 * 63.0));
}

TEST(Checker, IsUniformInEightSquaresAndNowhereElse) {
  const DataSet checker = DataSet::named("checker");
  EXPECT_EQ(checker.exact(), nullptr);
  const int n = 200'000;
  const auto x = draw(checker, n, 7);
  // Corners in units of the side from (−3, −3).
  const std::vector<std::pair<int, int>> squares = {{0, 0}, {2, 0}, {1, 1}, {3, 1}, {0, 2}, {2, 2}, {1, 3}, {3, 3}};
  std::map<std::pair<int, int>, int> counts;
  std::vector<double> u, v;
  for (std::size_t i = 0; i < x.size(); i += 2) {
    const double a = (double(x[i]) + 3) / 1.5, b = (double(x[i + 1]) + 3) / 1.5;
    const std::pair<int, int> at = {int(std::floor(a)), int(std::floor(b))};
    ASSERT_TRUE(std::find(squares.begin(), squares.end(), at) != squares.end()) << x[i] << ", " << x[i + 1];
    ++counts[at];
    u.push_back(a - at.first);
    v.push_back(b - at.second);
  }
  double chi_square = 0;
  for (const auto& at : squares) chi_square += std::pow(counts[at] - n / 8.0, 2) / (n / 8.0);
  EXPECT_LT(chi_square, 7 + 6 * std::sqrt(14.0));
  EXPECT_LT(kolmogorov_smirnov(u, uniform_cdf), 2.5);
  EXPECT_LT(kolmogorov_smirnov(v, uniform_cdf), 2.5);
  double correlation = 0;
  for (int i = 0; i < n; ++i) correlation += 12 * (u[i] - 0.5) * (v[i] - 0.5) / n;
  EXPECT_NEAR(correlation, 0, 6 / std::sqrt(n));
}

// The published histograms of three million draws. Given the totals, cell counts a_i of A and b_i of B from one law
// have Σ (√(B/A) a_i − √(A/B) b_i)²/(a_i + b_i) ~ χ² with one degree of freedom a cell, less one. The outer two rows
// are left out: what fell outside was moved to the edge of one file and dropped from the other.
class PublishedTruth : public ::testing::TestWithParam<const char*> {};

TEST_P(PublishedTruth, IsTheLawDrawn) {
  const std::string folder = testing::paper_data();
  if (folder.empty()) return;
  const Array published = load_array(fmt::format("{}/histograms/{}_truth.npy", folder, GetParam()));
  ASSERT_EQ(published.data.size(), 4096u);

  const std::int64_t n = 2'000'000, piece = 100'000;
  const DataSet data = DataSet::named(GetParam());
  std::vector<double> ours(4096, 0.0);
  for (std::int64_t first = 0; first < n; first += piece) {
    const auto x = draw(data, piece, 11, first);
    for (std::size_t i = 0; i < x.size(); i += 2) {
      if (std::abs(x[i]) >= 3.5f || std::abs(x[i + 1]) >= 3.5f) continue;
      const auto ix = std::lround((double(x[i]) + 3.5) * 9), iy = std::lround((double(x[i + 1]) + 3.5) * 9);
      ours[64 * iy + ix] += 1;
    }
  }
  double a_total = 0, b_total = 0, chi_square = 0;
  int cells = 0;
  const auto over_cells = [&](auto&& visit) {
    for (int iy = 2; iy < 62; ++iy) {
      for (int ix = 2; ix < 62; ++ix) visit(ours[64 * iy + ix], 3e6 * published.data[64 * iy + ix]);
    }
  };
  over_cells([&](double a, double b) { a_total += a, b_total += b; });
  over_cells([&](double a, double b) {
    if (a + b < 20) return;
    const double scale = std::sqrt(b_total / a_total);
    chi_square += (scale * a - b / scale) * (scale * a - b / scale) / (a + b);
    ++cells;
  });
  ASSERT_GT(cells, 1000);
  RecordProperty("chi_square_per_cell", fmt::format("{}", chi_square / cells));
  EXPECT_NEAR(chi_square, cells - 1, 6 * std::sqrt(2.0 * cells)) << cells << " cells";
}

INSTANTIATE_TEST_SUITE_P(Data, PublishedTruth, ::testing::Values("blob", "checker"),
                         [](const auto& instance) { return std::string(instance.param); });

class FullCovariance : public ::testing::TestWithParam<std::tuple<int, int>> {};

TEST_P(FullCovariance, HasTheMomentsAndProjectionsOfTheMixture) {
  const auto [d, components] = GetParam();
  const FullMixture law(components, d, 13);
  const DataSet data = law.data(d);
  EXPECT_EQ(data.kind(), DataSet::Kind::mixture);
  EXPECT_EQ(data.dimension(), d);
  const auto x = draw(data, 50'000, 17);
  expect_moments(x, law.weights, law.means, law.covariances, d);
  std::mt19937_64 engine(19);
  std::normal_distribution<double> normal;
  for (int direction = 0; direction < 5; ++direction) {
    std::vector<double> v(d);
    for (double& c : v) c = normal(engine);
    EXPECT_LT(kolmogorov_smirnov(project(x, v), projected_cdf(law.weights, law.means, law.covariances, v)), 2.5);
  }
}

INSTANTIATE_TEST_SUITE_P(Data, FullCovariance,
                         ::testing::Combine(::testing::Values(1, 3, 16), ::testing::Values(1, 2, 5)),
                         [](const auto& instance) {
                           return fmt::format("d{}_components{}", std::get<0>(instance.param),
                                              std::get<1>(instance.param));
                         });

TEST(Mixture, OfManyComponentsDrawsEachByItsWeight) {
  const int components = 300;
  std::vector<double> weights, means, variances(components, 1e-4);
  for (int k = 0; k < components; ++k) weights.push_back(1 + k % 7), means.push_back(k);
  const auto x = draw(DataSet::mixture(GaussianMixture::isotropic(1, weights, means, variances)), 200'000, 23);
  std::vector<double> values(x.begin(), x.end());
  EXPECT_LT(kolmogorov_smirnov(values, projected_cdf(weights, means, variances, {1.0})), 2.5);
}

TEST(Mixture, OfASingularCovarianceStaysInItsPlane) {
  // Rank one: x_2 = 2 x_1 + 1, to float's rounding of |x| ≤ 20.
  const DataSet data = DataSet::mixture(GaussianMixture(2, {1.0}, {0.0, 1.0}, {1.0, 2.0, 2.0, 4.0}));
  const auto x = draw(data, 989, 29);
  double square = 0;
  for (std::size_t i = 0; i < x.size(); i += 2) {
    EXPECT_NEAR(double(x[i + 1]), 2 * double(x[i]) + 1, 4e-6);
    square += double(x[i]) * double(x[i]) / 989;
  }
  EXPECT_NEAR(square, 1, 6 * std::sqrt(2.0 / 989));
}

std::vector<DataSet> every_kind() {
  std::vector<float> stored;
  for (int i = 0; i < 3 * 97; ++i) stored.push_back(static_cast<float>(i));
  return {DataSet::named("blob"),
          DataSet::named("circles2"),
          DataSet::named("checker"),
          FullMixture(3, 3, 1).data(3),
          FullMixture(2, 16, 1).data(16),
          DataSet::samples(stored, 3),
          DataSet::mixture(GaussianMixture::isotropic(5, {1.0, 3.0}, std::vector<double>(10, 0.5), {1.0, 0.1}))};
}

TEST(Draw, DoesNotDependOnTheSplit) {
  for (const DataSet& data : every_kind()) {
    const std::int64_t d = data.dimension(), n = 989;
    const auto whole = draw(data, n, 31, 1'000, 2);
    for (const std::int64_t piece : {1, 19, 99, 255, 256, 257}) {
      std::vector<float> parts(n * d);
      for (std::int64_t begin = 0; begin < n; begin += piece) {
        const std::int64_t rows = std::min(piece, n - begin);
        data.draw(cpu(), {parts.data() + begin * d, rows, d}, 31, 1'000 + begin, 2);
      }
      EXPECT_EQ(parts, whole) << data.name() << ", pieces of " << piece;
    }
    EXPECT_NE(draw(data, n, 32, 1'000, 2), whole) << data.name();
    EXPECT_NE(draw(data, n, 31, 1'001, 2), whole) << data.name();
    EXPECT_NE(draw(data, n, 31, 1'000, 3), whole) << data.name();
    EXPECT_TRUE(draw(data, 0, 31).empty());
  }
}

// Draws of one index at successive steps and of successive indices at one step are independent: no lag-one correlation.
TEST(Draw, IsFreshAtEveryStepAndIndex) {
  const DataSet blob = DataSet::named("blob");
  const int n = 40'000;
  const double variance = 0.0845 + 6.76 * 2 / 9 + 1.69 * 4 / 9;
  const auto x = draw(blob, n + 1, 37, 0, 0), next = draw(blob, n, 37, 0, 1);
  double by_step = 0, by_index = 0;
  for (int i = 0; i < n; ++i) {
    by_step += double(x[2 * i]) * double(next[2 * i]) / (n * variance);
    by_index += double(x[2 * i]) * double(x[2 * i + 2]) / (n * variance);
  }
  EXPECT_NEAR(by_step, 0, 5 / std::sqrt(n));
  EXPECT_NEAR(by_index, 0, 5 / std::sqrt(n));
}

TEST(Samples, AreRowsDrawnEvenly) {
  for (const int count : {1, 3, 19, 1000}) {
    std::vector<float> stored;
    for (int i = 0; i < count; ++i) stored.insert(stored.end(), {float(i), float(-i), float(i) + 0.5f});
    const DataSet data = DataSet::samples(stored, 3);
    EXPECT_EQ(data.kind(), DataSet::Kind::samples);
    EXPECT_EQ(*data.stored(), stored);
    EXPECT_EQ(data.exact(), nullptr);
    const int n = 100'000;
    const auto x = draw(data, n, 41);
    std::vector<int> counts(count);
    for (int i = 0; i < n; ++i) {
      const float row = x[3 * i];
      ASSERT_TRUE(row >= 0 && row < float(count) && x[3 * i + 1] == -row && x[3 * i + 2] == row + 0.5f) << row;
      ++counts[int(row)];
    }
    double chi_square = 0;
    const double expected = double(n) / count;
    for (const int c : counts) chi_square += (c - expected) * (c - expected) / expected;
    EXPECT_LE(chi_square, count - 1 + 6 * std::sqrt(2.0 * (count - 1)));
  }
}

TEST(Samples, AreReadFromNpyFiles) {
  const TemporaryFolder folder;
  std::vector<double> wide;
  for (int i = 0; i < 2 * 99; ++i) wide.push_back(0.25 * i - 3);
  const std::vector<float> narrow(wide.begin(), wide.end());
  save_npy(folder / "wide.npy", {99, 2}, wide.data());
  save_npy(folder / "narrow.npy", {99, 2}, narrow.data());
  for (const char* name : {"wide.npy", "narrow.npy"}) {
    const DataSet data = DataSet::named(folder / name);
    EXPECT_EQ(data.kind(), DataSet::Kind::samples);
    EXPECT_EQ(data.name(), folder / name);
    EXPECT_EQ(data.dimension(), 2);
    EXPECT_EQ(*data.stored(), narrow);
  }
}

TEST(DataScale, IsThatOfTheNumbers) {
  const Context context(BackendKind::cpu);
  const DataSet stored = DataSet::samples({1, 5, -7, 5, 3, 5}, 2);
  const DataScale scale = data_scale(context, stored);
  EXPECT_EQ(scale.largest, 7);
  EXPECT_EQ(scale.far(), 70);
  ASSERT_EQ(scale.deviation.size(), 2u);
  EXPECT_NEAR(scale.deviation[0], std::sqrt(56.0 / 3), 1e-14);  // of 1, −7, 3 around −1
  EXPECT_EQ(scale.deviation[1], 0);
  // Of the first column alone, where the second is a condition.
  const DataSet with_condition = DataSet::samples({1, 500, -7, 300, 3, 200}, 2);
  const DataScale first = data_scale(context, with_condition, 1);
  EXPECT_EQ(first.largest, 7);
  EXPECT_EQ(first.deviation, std::vector<double>{scale.deviation[0]});
  EXPECT_EQ(first.mean, std::vector<double>{scale.mean[0]});
  EXPECT_EQ(message_of([&] { data_scale(context, with_condition, 2); }),
            "the number of condition columns is 2; allowed: 0 to 1");
  EXPECT_TRUE(std::isinf(data_scale(context, DataSet::samples({0, 0}, 1)).far()));
  EXPECT_EQ(data_scale(context, DataSet::samples(std::vector<float>(99, 0.1f), 1)).deviation[0], 0);

  // Of a mixture by 16384 draws, of which the deviation errs by 1/√(2 · 16384) of itself: five times that is 2.8 %.
  const DataSet mixture = DataSet::mixture(GaussianMixture::isotropic(3, {1}, {0, 100, -1000}, {4}));
  const DataScale drawn = data_scale(context, mixture);
  for (const double deviation : drawn.deviation) EXPECT_NEAR(deviation, 2, 2 * 0.028);
  EXPECT_GT(drawn.largest, 1000);
  EXPECT_LT(drawn.largest, 1000 + 2 * 7);  // missed with probability 2e-8
  EXPECT_EQ(data_scale(context, mixture).largest, drawn.largest);
}

TEST(Samples, OfDoublesThatFloatMergesAreRefused) {
  const testing::Scratch scratch;
  const std::string path = scratch / "times.npy";
  std::vector<double> numbers;
  for (int i = 0; i < 100; ++i) numbers.insert(numbers.end(), {0.01 * i, 1.7e9 + i});
  save_npy(path, {100, 2}, numbers.data());
  EXPECT_THAT(testing::message_of([&] { DataSet::named(path); }),
              ::testing::AllOf(HasSubstr("column 1 of"), HasSubstr("does not fit in float32"),
                               HasSubstr("subtract an offset")));
  // Less the offset it is what it was.
  for (std::size_t i = 1; i < numbers.size(); i += 2) numbers[i] -= 1.7e9;
  save_npy(path, {100, 2}, numbers.data());
  EXPECT_EQ(DataSet::named(path).stored()->back(), 99);
}

TEST(Mixture, ThatFloatMergesIsRefused) {
  const auto law = [](double mean, double variance) {
    return GaussianMixture::isotropic(2, {1}, {0, mean}, {variance});
  };
  const auto names_the_coordinate = ::testing::AllOf(HasSubstr("coordinate 1 of the mixture does not fit in float32"),
                                                     HasSubstr("subtract an offset"));
  EXPECT_THAT(testing::message_of([&] { DataSet::mixture(law(1e8, 1)); }), names_the_coordinate);
  EXPECT_THAT(testing::message_of([&] {
                const ForwardSde sde;
                Sampler(Context(), {sde, law(1e8, 1)}, TimeGrid::parse("uniform:10", sde));
              }),
              names_the_coordinate);
  EXPECT_NO_THROW(DataSet::mixture(law(1e8, 1e12)));
  EXPECT_NO_THROW(DataSet::mixture(law(1000, 1)));
  EXPECT_NO_THROW(DataSet::mixture(law(1e8, 0)));  // points, which have no deviation to lose
}

TEST(Mixture, IsReadFromAJsonFile) {
  const TemporaryFolder folder;
  std::ofstream(folder / "law.json")
      << R"({"weights": [1, 3], "means": [[0, 1, 2], [3, 4, 5]], "covariances": [0.5, 2]})";
  const DataSet data = DataSet::named(folder / "law.json");
  EXPECT_EQ(data.kind(), DataSet::Kind::mixture);
  EXPECT_EQ(data.name(), folder / "law.json");
  ASSERT_EQ(data.dimension(), 3);
  std::vector<double> covariances(18, 0.0);
  for (int i = 0; i < 3; ++i) covariances[4 * i] = 0.5, covariances[9 + 4 * i] = 2;
  expect_moments(draw(data, 50'000, 43), {1, 3}, {0, 1, 2, 3, 4, 5}, covariances, 3);
}

TEST(BadInput, GivesOneClearSentence) {
  const TemporaryFolder folder;
  const std::string unknown = message_of([] { DataSet::named("circles"); });
  for (const char* name : {"circles", "blob", "circles2", "checker", "FILE.json", "FILE.npy"}) {
    EXPECT_THAT(unknown, HasSubstr(name));
  }
  EXPECT_THAT(message_of([] { DataSet::named(""); }), HasSubstr("circles2"));
  EXPECT_THAT(message_of([&] { DataSet::named(folder / "absent.npy"); }), HasSubstr("absent.npy"));
  EXPECT_THAT(message_of([&] { DataSet::named(folder / "absent.json"); }), HasSubstr("absent.json"));
  std::filesystem::create_directories(folder / "folder.npy");
  EXPECT_THAT(message_of([&] { DataSet::named(folder / "folder.npy"); }), HasSubstr("folder.npy"));

  const std::vector<double> numbers = {0, 1, std::nan(""), 3, 1e300, 5};
  save_npy(folder / "nan.npy", {2, 2}, numbers.data());
  EXPECT_THAT(message_of([&] { DataSet::named(folder / "nan.npy"); }),
              ::testing::AllOf(HasSubstr("nan.npy"), HasSubstr("sample 1, coordinate 0 is nan")));
  save_npy(folder / "large.npy", {1, 3}, numbers.data() + 3);
  EXPECT_THAT(message_of([&] { DataSet::named(folder / "large.npy"); }), HasSubstr("coordinate 1 is inf"));
  save_npy(folder / "empty.npy", {0, 2}, numbers.data());
  EXPECT_THAT(message_of([&] { DataSet::named(folder / "empty.npy"); }), HasSubstr("empty.npy"));

  EXPECT_THAT(message_of([] { DataSet::samples({1, 2, 3}, 2); }), HasSubstr("3 numbers"));
  EXPECT_THAT(message_of([] { DataSet::samples({1, 2, 3}, 0); }), HasSubstr("dimension 0"));
  EXPECT_THAT(message_of([] { DataSet::samples({}, 2); }), HasSubstr("no samples"));
  EXPECT_THAT(message_of([] { DataSet::mixture(GaussianMixture()); }), HasSubstr("without components"));

  const DataSet blob = DataSet::named("blob");
  std::vector<float> x(6);
  EXPECT_THAT(message_of([&] { blob.draw(cpu(), View<float>(x, 3), 0); }),
              ::testing::AllOf(HasSubstr("draws of data set 'blob'"), HasSubstr("[2, 3]"), HasSubstr("[2, 2]")));
  EXPECT_THAT(message_of([&] { blob.draw(cpu(), View<float>(x.data(), 3, 2, Device::cuda), 0); }),
              HasSubstr("is on device cuda; allowed here: cpu"));
  EXPECT_THAT(message_of([&] { blob.draw(cpu(), View<float>(nullptr, 3, 2), 0); }), HasSubstr("no data"));
  EXPECT_THAT(message_of([&] { blob.draw(cpu(), View<float>(x.data(), -3, 2), 0); }), HasSubstr("[-3, 2]"));
  blob.draw(cpu(), {}, 0);  // nothing
  EXPECT_EQ(x, std::vector<float>(6, 0.0f));
}

}  // namespace
}  // namespace fokker
