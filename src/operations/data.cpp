#include "fokker/data.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <string_view>
#include <utility>

#include "core/check.hpp"
#include "core/operations.hpp"
#include "core/quote.hpp"
#include "fokker/array.hpp"
#include "fokker/error.hpp"
#include "fokker/file.hpp"
#include "fokker/formulas/philox.hpp"
#include "fokker/formulas/standardisation.hpp"
#include "fokker/model.hpp"
#include "operations/data_tables.hpp"
#include "operations/standardised.hpp"

namespace fokker {
namespace {

// Blob: nine Gaussians of covariance 0.2 I, the samples scaled by 0.65.
GaussianMixture blob_mixture() {
  constexpr double scale = 0.65;
  std::vector<double> means;
  for (const double m : {2., 2., 2., -2., -2., 2., -2., -2., 0., 0., 4., 0., -4., 0., 0., 4., 0., -4.}) {
    means.push_back(scale * m);
  }
  return GaussianMixture::isotropic(2, std::vector<double>(9, 1.0), means, std::vector<double>(9, 0.2 * scale * scale));
}

bool ends_with(std::string_view text, std::string_view end) {
  return text.size() > end.size() && text.substr(text.size() - end.size()) == end;
}

// Of all sets. Normals start at block 1 of 2^16 blocks of four.
constexpr std::int64_t most_dimension = 4 * 65535;

void check_sample_count(std::int64_t size, std::int64_t dimension) {
  if (dimension < 1 || dimension > most_dimension) {
    throw Error(fmt::format("samples of dimension {} given; allowed: 1 to {}", dimension, most_dimension));
  }
  if (size == 0) throw Error("no samples given; allowed: 1 or more");
  if (size % dimension != 0) {
    throw Error(fmt::format("{} numbers given as samples of dimension {}; allowed: a multiple of it", size, dimension));
  }
  if (size / dimension > 0xFFFFFFFFll) {
    throw Error(fmt::format("{} samples given; allowed: fewer than 2^32", size / dimension));
  }
}

// Samples from number `first` on.
void check_finite(const std::vector<float>& samples, std::int64_t first, std::int64_t dimension) {
  const auto bad = std::find_if(samples.begin(), samples.end(), [](float v) { return !std::isfinite(v); });
  if (bad == samples.end()) return;
  const std::int64_t index = bad - samples.begin();
  throw Error(fmt::format("sample {}, coordinate {} is {}; allowed: numbers that are finite in float32",
                          first + index / dimension, index % dimension, *bad));
}

}  // namespace

MixtureTables::MixtureTables(const GaussianMixture& mixture)
    : dimension(mixture.dimension()),
      thresholds(mixture.cumulative_weights().begin(), mixture.cumulative_weights().end() - 1),
      means(mixture.means().begin(), mixture.means().end()) {
  const std::int64_t d = dimension, components = mixture.components();
  const std::vector<double>& c = mixture.covariances();
  bool isotropic = true;
  for (std::int64_t k = 0; k < components; ++k) {
    for (std::int64_t i = 0; i < d * d; ++i) {
      isotropic = isotropic && c[k * d * d + i] == (i % (d + 1) == 0 ? c[k * d * d] : 0.0);
    }
  }
  if (isotropic) {
    for (std::int64_t k = 0; k < components; ++k) deviations.push_back(static_cast<float>(std::sqrt(c[k * d * d])));
    return;
  }
  factors.resize(c.size());
  for (std::int64_t row = 0; row < components * d; ++row) {
    const double deviation = std::sqrt(std::max(mixture.eigenvalues()[row], 0.0));
    for (std::int64_t i = 0; i < d; ++i) {
      factors[row * d + i] = static_cast<float>(deviation * mixture.eigenvectors()[row * d + i]);
    }
  }
}

void check_fits_float32(const GaussianMixture& mixture) {
  const std::int64_t d = mixture.dimension(), components = mixture.components();
  const std::vector<double>&weights = mixture.weights(), &means = mixture.means(), &c = mixture.covariances();
  for (std::int64_t i = 0; i < d; ++i) {
    double mean = 0, variance = 0, largest = 0;
    for (std::int64_t k = 0; k < components; ++k) {
      mean += weights[k] * means[k * d + i];
      largest = std::max(largest, std::abs(means[k * d + i]));
    }
    for (std::int64_t k = 0; k < components; ++k) {
      const double from_mean = means[k * d + i] - mean;
      variance += weights[k] * (c[(k * d + i) * d + i] + from_mean * from_mean);
    }
    // The rounding of numbers about the largest mean, as a deviation. Also false where a number is not finite.
    const float rounded = static_cast<float>(largest);
    const double spacing = double{std::nextafter(rounded, std::numeric_limits<float>::infinity())} - rounded,
                 error = spacing / std::sqrt(12.0), deviation = std::sqrt(variance);
    if (!(error > 1e-3 * deviation && deviation > 1e-13 * largest)) continue;
    throw Error(fmt::format(
        "coordinate {} of the mixture does not fit in float32, which fokker computes in: of numbers up to {:.3g} with "
        "a standard deviation of {:.3g} it rounds off {:.2g}; subtract an offset from the means first, or scale them",
        i, largest, deviation, error));
  }
}

DataSet DataSet::mixture(GaussianMixture mixture) {
  if (mixture.components() == 0)
    throw Error("a data set was asked for of a mixture without components; allowed: 1 or more");
  if (mixture.dimension() > most_dimension) {
    throw Error(
        fmt::format("a data set of dimension {} asked for; allowed: 1 to {}", mixture.dimension(), most_dimension));
  }
  check_fits_float32(mixture);
  DataSet data;
  data.kind_ = Kind::mixture;
  data.name_ = "mixture";
  data.dimension_ = mixture.dimension();
  data.tables_ = std::make_shared<const MixtureTables>(mixture);
  data.mixture_ = std::make_shared<const GaussianMixture>(std::move(mixture));
  return data;
}

DataSet DataSet::samples(std::vector<float> samples, std::int64_t dimension) {
  check_sample_count(static_cast<std::int64_t>(samples.size()), dimension);
  check_finite(samples, 0, dimension);
  DataSet data;
  data.kind_ = Kind::samples;
  data.name_ = "samples";
  data.dimension_ = dimension;
  data.samples_ = std::make_shared<const std::vector<float>>(std::move(samples));
  return data;
}

DataSet DataSet::samples(const Context& context, View<const float> samples) {
  const std::int64_t d = samples.columns;
  check_view("samples", samples, any_rows, d, context.device());
  if (context.device() == Device::cpu) {
    return DataSet::samples(std::vector<float>(samples.data, samples.data + samples.size()), d);
  }
  check_sample_count(samples.size(), d);
  DeviceSamples device{Buffer<float>(context, samples.rows, d), hash_bytes({})};
  copy(context, samples, device.samples);
  const std::int64_t rows = std::max<std::int64_t>(1, (std::int64_t{1} << 24) / d);  // at a time: 64 MB
  for (std::int64_t first = 0; first < samples.rows; first += rows) {
    const std::int64_t n = std::min(rows, samples.rows - first);
    std::vector<float> part(static_cast<std::size_t>(n * d));
    copy(context, device.samples.view().slice(first, n), View(part, d));
    context.synchronize();
    check_finite(part, first, d);
    device.hash = hash_bytes(std::as_bytes(std::span(part)), device.hash);
  }
  DataSet data;
  data.kind_ = Kind::samples;
  data.name_ = "samples";
  data.dimension_ = d;
  data.device_samples_ = std::make_shared<const DeviceSamples>(std::move(device));
  return data;
}

DataSet DataSet::named(const std::string& name) {
  if (name == "blob") {
    DataSet data = mixture(blob_mixture());
    data.kind_ = Kind::blob;
    data.name_ = name;
    return data;
  }
  if (name == "circles2" || name == "checker") {
    DataSet data;
    data.kind_ = name == "checker" ? Kind::checker : Kind::circles2;
    data.name_ = name;
    return data;
  }
  if (ends_with(name, ".json")) {
    Model model = load_model(name);
    auto* law = std::get_if<GaussianMixture>(&model.network);
    if (law == nullptr) throw Error(fmt::format("'{}' as a data set holds no Gaussian mixture", name));
    DataSet data = mixture(std::move(*law));
    data.name_ = name;
    return data;
  }
  if (ArrayName(name).has_extension()) {
    const Array array = load_array(name);
    std::vector<float> numbers = to_float32(array, name);
    try {
      DataSet data = samples(std::move(numbers), array.columns());
      data.name_ = name;
      return data;
    } catch (const Error& error) {
      throw Error(fmt::format("'{}' as a data set: {}", name, error.what()));
    }
  }
  constexpr const char* allowed =
      "blob, circles2, checker, FILE.json (a Gaussian mixture), FILE.npy, .npz or .csv (samples)";
  throw Error(fmt::format("unknown data set {}; allowed: {}", in_quotes(name), allowed));
}

DataSet DataSet::standardised(const Context& context, const Standardisation& standardisation) const {
  standardisation.validate(dimension_);
  if (standardisation.empty()) return *this;
  const std::vector<double>&mean = standardisation.mean, &deviation = standardisation.deviation;
  const auto d = static_cast<std::size_t>(dimension_);
  const auto named_so = [&](DataSet data) {
    data.name_ = name_;
    return data;
  };
  if (samples_) {
    std::vector<float> z(samples_->size());
    for (std::size_t i = 0; i < z.size(); ++i) {
      z[i] = fokker::standardised((*samples_)[i], mean[i % d], deviation[i % d]);
    }
    return named_so(samples(std::move(z), dimension_));
  }
  if (device_samples_) {
    check_context(context);
    const View<const float> x = device_samples_->samples.view();
    DeviceSamples z{Buffer<float>(context, x.rows, x.columns), device_samples_->hash};
    const ColumnTable table(context, mean, deviation);
    context.backend().standardise(table.columns(), x, z.samples.view());
    context.synchronize();  // a trainer's stream is another
    for (const auto* numbers : {&mean, &deviation}) z.hash = hash_bytes(std::as_bytes(std::span(*numbers)), z.hash);
    DataSet data(*this);
    data.device_samples_ = std::make_shared<const DeviceSamples>(std::move(z));
    return data;
  }
  if (!mixture_) {
    throw Error(fmt::format(
        "the data set {} is drawn by a formula of one scale and is not standardised; allowed: samples, and mixtures",
        in_quotes(name_)));
  }
  std::vector<double> means = mixture_->means(), covariances = mixture_->covariances();
  for (std::size_t i = 0; i < means.size(); ++i) means[i] = (means[i] - mean[i % d]) / deviation[i % d];
  for (std::size_t i = 0; i < covariances.size(); ++i) covariances[i] /= deviation[i % d] * deviation[i / d % d];
  return named_so(mixture({dimension_, mixture_->weights(), std::move(means), std::move(covariances)}));
}

std::string DataSet::fingerprint() const {
  std::uint64_t hash = device_samples_ ? device_samples_->hash : hash_bytes({});
  const auto add = [&](const auto& numbers) { hash = hash_bytes(std::as_bytes(std::span(numbers)), hash); };
  if (mixture_) add(mixture_->weights()), add(mixture_->means()), add(mixture_->covariances());
  if (samples_) add(*samples_);
  return fmt::format("{}:{}:{:016x}", static_cast<int>(kind_), dimension_, hash);
}

void DataSet::check_context(const Context& context) const {
  if (device_samples_ && context.device() != Device::cuda) {
    throw Error(
        fmt::format("data set '{}' is on a GPU, and the context is not; allowed: a context of that GPU", name_));
  }
}

void DataSet::draw(const Context& context, View<float> out, std::uint64_t seed, std::uint64_t first_index,
                   std::uint64_t step) const {
  check_view(fmt::format("the view for draws of data set {}", in_quotes(name_)), out, any_rows, dimension_,
             context.device());
  check_context(context);
  if (out.rows > 0) context.backend().draw(*this, out, seed, first_index, step);
}

double DataScale::far() const { return largest > 0 ? 10 * largest : std::numeric_limits<double>::infinity(); }

DataScale data_scale(const Context& context, const DataSet& data, std::int64_t conditions) {
  const std::int64_t d = data.dimension();
  check_count("the number of condition columns", conditions, 0, d - 1);
  const auto wanted = static_cast<std::size_t>(d - conditions);
  std::vector<float> drawn;
  if (data.stored() == nullptr) {
    const std::int64_t n = std::clamp<std::int64_t>((std::int64_t{1} << 24) / d, 64, 16384);
    Buffer<float> draws(context, n, d);
    data.draw(context, draws.view(), 0, 0, ReservedStep::truth);
    drawn.resize(static_cast<std::size_t>(n * d));
    copy(context, draws.view(), View<float>(drawn, d));
    context.synchronize();
  }
  const std::vector<float>& x = data.stored() == nullptr ? drawn : *data.stored();
  const auto columns = static_cast<std::size_t>(d);
  const double rows = double(x.size() / columns);
  DataScale scale{.deviation = std::vector<double>(columns)};
  std::vector<double> mean(columns);  // less the first row, so that equal numbers have no deviation
  for (std::size_t i = 0; i < x.size(); ++i) {
    mean[i % columns] += (double(x[i]) - x[i % columns]) / rows;
    if (i % columns < wanted) scale.largest = std::max(scale.largest, std::fabs(double(x[i])));
  }
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double from_mean = double(x[i]) - x[i % columns] - mean[i % columns];
    scale.deviation[i % columns] += from_mean * from_mean / rows;
  }
  for (double& v : scale.deviation) v = std::sqrt(v);
  for (std::size_t j = 0; j < columns; ++j) mean[j] += x[j];
  scale.mean = std::move(mean);
  scale.mean.resize(wanted), scale.deviation.resize(wanted);
  return scale;
}

Standardisation standardisation_of(const Context& context, const DataSet& data, std::int64_t conditions) {
  check_count("the number of condition columns", conditions, 0, data.dimension() - 1);
  Standardisation standardisation;
  if (const GaussianMixture* const law = data.exact()) {
    const std::int64_t d = law->dimension();
    for (std::int64_t i = 0; i < d; ++i) {
      double mean = 0, variance = 0;
      for (std::int64_t k = 0; k < law->components(); ++k) mean += law->weights()[k] * law->means()[k * d + i];
      for (std::int64_t k = 0; k < law->components(); ++k) {
        const double from_mean = law->means()[k * d + i] - mean;
        variance += law->weights()[k] * (law->covariances()[(k * d + i) * d + i] + from_mean * from_mean);
      }
      standardisation.mean.push_back(mean);
      standardisation.deviation.push_back(std::sqrt(variance));
    }
  } else {
    DataScale scale = data_scale(context, data);
    standardisation = {std::move(scale.mean), std::move(scale.deviation)};
  }
  for (std::size_t i = standardisation.mean.size() - static_cast<std::size_t>(conditions);
       i < standardisation.mean.size(); ++i) {
    if (standardisation.deviation[i] == 0) standardisation.mean[i] = 0, standardisation.deviation[i] = 1;
  }
  const auto constant = std::find(standardisation.deviation.begin(), standardisation.deviation.end(), 0.0);
  if (constant != standardisation.deviation.end()) {
    const std::int64_t column = constant - standardisation.deviation.begin();
    throw Error(
        fmt::format("column {} of the data set {} is {:.9g} throughout, so that it has no deviation to be divided "
                    "by; allowed in a standardisation: columns that vary",
                    column, in_quotes(data.name(), 60), standardisation.mean[column]));
  }
  standardisation.validate(data.dimension());
  return standardisation;
}

}  // namespace fokker
