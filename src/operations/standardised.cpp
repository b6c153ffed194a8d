// Points are mapped to z by batches of bounded size, so that working memory does not grow with N; fields are mapped where
// they were written. With x = mean + D z, D the diagonal matrix of the deviations, and p(x) = p(z)/det D:
//   φ(x) = φ(z) − ln det D,  ∇_x φ = D⁻¹ ∇_z φ,  ∂²φ/∂x² = D⁻¹ H D⁻¹,  ∇_x·s = tr(D⁻² H).
// ∂_t φ is the same number: x and z change places at every time alike. So is the residual, which is
// (∂_t p + ∇·(f p) − ½ g² ∇·∇p)/p in z, the Fokker–Planck equation of dz = a z dt + g dW. That process in x is
// dx = a (x − mean) dt + g D dW; each term of its own equation is the one in z over det D, and so is p.
#include "operations/standardised.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "fokker/error.hpp"

namespace fokker {
namespace {

constexpr std::int64_t batch_numbers = std::int64_t{1} << 20, most_reports = 200;

std::int64_t rows_of(std::int64_t columns) { return std::max<std::int64_t>(1, batch_numbers / columns); }

Buffer<double> uploaded(const Context& context, const std::vector<double>& numbers) {
  Buffer<double> there(context, std::ssize(numbers));
  copy(context, View<const double>(numbers), there);
  context.synchronize();
  return there;
}

// Scales alone: x/deviation.
ColumnTable scale(const Context& context, const std::vector<double>& deviation) {
  return {context, std::vector<double>(deviation.size(), 0.0), deviation};
}

// One column: x − log_volume.
ColumnTable volume(const Context& context, const Standardisation& standardisation) {
  return {context, {standardisation.log_volume()}, {1}};
}

std::vector<double> products(const std::vector<double>& deviation) {
  std::vector<double> all;
  for (const double a : deviation) {
    for (const double b : deviation) all.push_back(a * b);
  }
  return all;
}

// Of a Hessian that nobody takes there is no table.
std::vector<double> hessian_scales(const std::vector<double>& deviation) {
  return std::ssize(deviation) <= largest_hessian ? products(deviation) : std::vector<double>{1};
}

std::vector<double> inverse_squares(const std::vector<double>& deviation) {
  std::vector<double> all;
  for (const double v : deviation) all.push_back(1 / (v * v));
  return all;
}

// n rows of a view, or none of none.
template <class T>
View<T> part(const View<T>& of, std::int64_t first, std::int64_t n) {
  return of ? of.slice(first, n) : View<T>();
}

template <class T>
class StandardisedFields final : public FieldOperator<T> {
 public:
  StandardisedFields(const Context& context, std::unique_ptr<FieldOperator<T>> of_z,
                     const Standardisation& standardisation)
      : context_(context),
        of_z_(std::move(of_z)),
        d_(std::ssize(standardisation.mean)),
        uniform_(standardisation.uniform()),
        table_(context, standardisation.mean, standardisation.deviation),
        volume_(volume(context, standardisation)),
        score_(scale(context, standardisation.deviation)),
        hessian_(scale(context, hessian_scales(standardisation.deviation))),
        divergence_(scale(context, {standardisation.deviation.front() * standardisation.deviation.front()})),
        weights_(uploaded(context, inverse_squares(standardisation.deviation))),
        rows_(rows_of(d_)),
        hessian_rows_(rows_of(d_ * d_)),
        z_(context, rows_, d_),
        direction_(context, rows_, d_) {
    if (!uniform_ && d_ <= largest_hessian) own_hessian_ = Buffer<T>(context, hessian_rows_, d_ * d_);
  }

  void evaluate(const Points<T>& points, const FieldOutputs<T>& outputs, const Divergence& estimate) override {
    const bool by_hessian = outputs.divergence && !uniform_;
    if (by_hessian) check_divergence(estimate);
    const std::int64_t rows = by_hessian && !outputs.hessian ? hessian_rows_ : rows_;
    for_batches(points, rows, [&](std::int64_t first, const Points<T>& batch) {
      const std::int64_t n = batch.x.rows;
      const auto own = [&](const View<T>& of) { return part(of, first, n); };
      FieldOutputs<T> out{own(outputs.value),      own(outputs.dt),      own(outputs.score),
                          own(outputs.divergence), own(outputs.hessian), own(outputs.residual)};
      if (by_hessian) out.divergence = {};
      if (by_hessian && !out.hessian) out.hessian = own_hessian_.view().slice(0, n);
      Divergence of_batch = estimate;
      of_batch.first_index += static_cast<std::uint64_t>(first);
      of_z_->evaluate(batch, out, of_batch);
      if (by_hessian) backend().weighted_traces(weights_.view(), out.hessian, own(outputs.divergence));
    });
    const auto map = [&](const ColumnTable& table, const View<T>& field) {
      if (field) backend().standardise(table.columns(), field, field);
    };
    map(volume_, outputs.value);
    map(score_, outputs.score);
    map(hessian_, outputs.hessian);
    if (uniform_) map(divergence_, outputs.divergence);
  }

  void hessian_vector(const Points<T>& points, View<const T> direction, View<T> product) override {
    for_batches(points, rows_, [&](std::int64_t first, const Points<T>& batch) {
      const View<T> along = direction_.view().slice(0, batch.x.rows);
      backend().standardise(score_.columns(), direction.slice(first, batch.x.rows), along);
      of_z_->hessian_vector(batch, along, product.slice(first, batch.x.rows));
    });
    backend().standardise(score_.columns(), product, product);
  }

  std::size_t workspace_bytes() const override {
    if (context_.device() == Device::cpu) return 0;
    const auto of = [](const auto& buffer) { return static_cast<std::size_t>(buffer.size()) * sizeof(*buffer.data()); };
    return of_z_->workspace_bytes() + table_.bytes() + volume_.bytes() + score_.bytes() + hessian_.bytes() +
           divergence_.bytes() + of(weights_) + of(z_) + of(direction_) + of(own_hessian_);
  }

 private:
  Backend& backend() const { return context_.backend(); }

  // tr(D⁻² H) takes the diagonal of H, which probes do not tell apart.
  void check_divergence(const Divergence& estimate) const {
    if (estimate.probes > 0) {
      throw Error(
          fmt::format("the divergence by {} probes is asked for of a model whose columns have unequal deviations; "
                      "allowed: the exact one, without probes",
                      estimate.probes));
    }
    if (d_ > largest_hessian) {
      throw Error(
          fmt::format("the divergence in {} dimensions is asked for of a model whose columns have unequal deviations; "
                      "allowed: up to {} dimensions, or equal deviations",
                      d_, largest_hessian));
    }
  }

  // visit(first point, points in z)
  template <class Visit>
  void for_batches(const Points<T>& points, std::int64_t rows, const Visit& visit) {
    for (std::int64_t first = 0; first < points.x.rows; first += rows) {
      const std::int64_t n = std::min(rows, points.x.rows - first);
      const View<T> z = z_.view().slice(0, n);
      backend().standardise(table_.columns(), points.x.slice(first, n), z);
      visit(first,
            Points<T>{points.t.rows == 1 ? points.t : points.t.slice(first, n), z, part(points.condition, first, n)});
    }
  }

  Context context_;
  std::unique_ptr<FieldOperator<T>> of_z_;
  std::int64_t d_;
  bool uniform_;
  ColumnTable table_, volume_, score_, hessian_, divergence_;
  Buffer<double> weights_;  // 1/deviation²
  std::int64_t rows_, hessian_rows_;
  Buffer<T> z_, direction_;  // [rows, d]
  Buffer<T> own_hessian_;    // [hessian rows, d·d], for unequal deviations
};

class StandardisedSampler final : public SampleOperator {
 public:
  StandardisedSampler(const Context& context, std::unique_ptr<SampleOperator> of_z,
                      const Standardisation& standardisation)
      : context_(context),
        of_z_(std::move(of_z)),
        table_(context, standardisation.mean, standardisation.deviation),
        volume_(volume(context, standardisation)),
        rows_(rows_of(std::ssize(standardisation.mean))),
        z_(context, rows_, std::ssize(standardisation.mean)) {}

  void sample(View<float> samples, const SampleOptions& options, bool draw_prior) override {
    if (!draw_prior && samples.rows > 0) backend().standardise(table_.columns(), samples, samples);
    try {
      of_z_->sample(samples, options, draw_prior);
    } catch (...) {  // the caller's states, where they were refused
      if (!draw_prior && samples.rows > 0) backend().restore(table_.columns(), samples, samples);
      throw;
    }
    if (samples.rows == 0) return;
    backend().restore(table_.columns(), samples, samples);
    if (!options.snapshot_steps.empty()) backend().restore(table_.columns(), options.snapshots, options.snapshots);
    if (options.log_density) backend().standardise(volume_.columns(), options.log_density, options.log_density);
  }

  void log_density(View<const float> x, View<float> log_density, Scheme scheme, const Divergence& divergence,
                   const PointsFinished& progress, View<const float> condition) override {
    if (x.rows == 0) return of_z_->log_density(x, log_density, scheme, divergence, progress, condition);
    // A batch reports as often as a call: of many, those reports that stand for a share of all.
    std::int64_t reported = 0;
    for (std::int64_t first = 0; first < x.rows; first += rows_) {
      const std::int64_t n = std::min(rows_, x.rows - first);
      const View<float> z = z_.view().slice(0, n);
      backend().standardise(table_.columns(), x.slice(first, n), z);
      Divergence of_batch = divergence;
      of_batch.first_index += static_cast<std::uint64_t>(first);
      PointsFinished of_all;
      if (progress) {
        of_all = [&, first](std::int64_t done, std::int64_t) {
          const std::int64_t finished = first + done;
          if (finished < x.rows && finished - reported < x.rows / most_reports) return;
          progress(reported = finished, x.rows);
        };
      }
      of_z_->log_density(z, log_density.slice(first, n), scheme, of_batch, of_all, part(condition, first, n));
    }
    backend().standardise(volume_.columns(), log_density, log_density);
  }

  std::size_t workspace_bytes() const override {
    if (context_.device() == Device::cpu) return 0;
    return of_z_->workspace_bytes() + table_.bytes() + volume_.bytes() +
           static_cast<std::size_t>(z_.size()) * sizeof(float);
  }

 private:
  Backend& backend() const { return context_.backend(); }

  Context context_;
  std::unique_ptr<SampleOperator> of_z_;
  ColumnTable table_, volume_;
  std::int64_t rows_;
  Buffer<float> z_;  // [rows, d]
};

}  // namespace

ColumnTable::ColumnTable(const Context& context, const std::vector<double>& mean, const std::vector<double>& deviation)
    : mean_(uploaded(context, mean)), deviation_(uploaded(context, deviation)) {}

std::size_t ColumnTable::bytes() const {
  return static_cast<std::size_t>(mean_.size() + deviation_.size()) * sizeof(double);
}

template <class T>
std::unique_ptr<FieldOperator<T>> standardised_fields(const Context& context, std::unique_ptr<FieldOperator<T>> of_z,
                                                      const Standardisation& standardisation) {
  if (standardisation.empty()) return of_z;
  return std::make_unique<StandardisedFields<T>>(context, std::move(of_z), standardisation);
}

std::unique_ptr<SampleOperator> standardised_sampler(const Context& context, std::unique_ptr<SampleOperator> of_z,
                                                     const Standardisation& standardisation) {
  if (standardisation.empty()) return of_z;
  return std::make_unique<StandardisedSampler>(context, std::move(of_z), standardisation);
}

template std::unique_ptr<FieldOperator<float>> standardised_fields(const Context&,
                                                                   std::unique_ptr<FieldOperator<float>>,
                                                                   const Standardisation&);
template std::unique_ptr<FieldOperator<double>> standardised_fields(const Context&,
                                                                    std::unique_ptr<FieldOperator<double>>,
                                                                    const Standardisation&);

}  // namespace fokker
