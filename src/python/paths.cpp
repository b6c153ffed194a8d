// What goes along paths and what compares its ends: samples, log-densities, the gap, distances, laws of data.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/variant.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <optional>
#include <string_view>

#include "bindings.hpp"

namespace fokker::python {
namespace {

// A grid of times as text, or its times.
using GridWords = std::variant<std::string, std::vector<double>>;
TimeGrid grid_of(const GridWords& words, const ForwardSde& sde) {
  if (const auto* text = std::get_if<std::string>(&words)) return TimeGrid::parse(*text, sde);
  return TimeGrid(std::get<std::vector<double>>(words));
}

Grid box_of(std::int64_t nodes, const std::array<double, 4>& box) {
  return {.n = nodes, .x = {box[0], box[1]}, .y = {box[2], box[3]}};
}
std::array<double, 4> limits_of(const std::vector<double>& box) {
  if (box.size() != 4)
    throw Error(fmt::format("a box of {} numbers given; allowed: 4, those of x and those of y", box.size()));
  return {box[0], box[1], box[2], box[3]};
}

struct FixedSteps {
  GridWords grid;
  std::string scheme;
  std::uint64_t seed, first_index;
  std::optional<double> eta;
  double temperature, langevin;
  bool noise_in_last_step;
  std::vector<double> churn;  // amount, from, to, noise
};

void sample(const ModelObject& model, const Wanted& samples, const Given& condition, const Wanted& log_density,
            const FixedSteps& steps, const Divergence& divergence, std::uintptr_t stream) {
  const Place place = place_of(samples, stream);
  SampleOptions options;
  options.scheme = parse_scheme(steps.scheme);
  options.seed = steps.seed, options.first_index = steps.first_index;
  options.eta = steps.eta, options.temperature = steps.temperature, options.langevin = steps.langevin;
  options.noise_in_last_step = steps.noise_in_last_step;
  if (steps.churn.size() != 4) {
    throw Error(
        fmt::format("a churn of {} numbers given; allowed: 4, its amount, from, to and noise", steps.churn.size()));
  }
  options.churn = {steps.churn[0], steps.churn[1], steps.churn[2], steps.churn[3]};
  options.condition = view<const float>(condition, "condition", place);
  options.log_density = view<float>(log_density, "log_density", place);
  options.divergence = divergence;
  const View<float> x = view<float>(samples, "samples", place);
  const TimeGrid grid = grid_of(steps.grid, model.model().sde);
  const nb::gil_scoped_release released;
  const Context context = place.context();
  Sampler(context, model.model(), grid).sample(x, options);
  context.synchronize();  // the sampler is gone then
}

void log_density(const ModelObject& model, const Given& x, const Given& condition, const Wanted& out,
                 const GridWords& times, const std::string& scheme, const Divergence& divergence,
                 std::uintptr_t stream) {
  const Place place = place_of(x, stream);
  const View<const float> at = view<const float>(x, "x", place),
                          given = view<const float>(condition, "condition", place);
  const View<float> density = view<float>(out, "log_density", place);
  const TimeGrid grid = grid_of(times, model.model().sde);
  const Scheme parsed = parse_scheme(scheme);
  const nb::gil_scoped_release released;
  const Context context = place.context();
  Sampler(context, model.model(), grid).log_density(at, density, parsed, divergence, {}, given);
  context.synchronize();
}

void check_paths(const AdaptiveReport& report) {
  if (report.failed > 0) throw Error(report.failure());
}

AdaptiveOptions adaptive_options(const std::string& method, double tolerance) {
  return {.method = parse_adaptive_method(method), .relative_tolerance = tolerance, .absolute_tolerance = tolerance};
}

template <class T>
void sample_adaptively(const ModelObject& model, const Wanted& samples, const Given& condition, double end,
                       const AdaptiveOptions& options, std::uint64_t seed, std::uint64_t first_index,
                       std::uintptr_t stream) {
  const Place place = place_of(samples, stream);
  const View<T> x = view<T>(samples, "samples", place);
  AdaptiveCall<T> call;
  call.seed = seed, call.first_index = first_index, call.condition = view<const T>(condition, "condition", place);
  const nb::gil_scoped_release released;
  check_paths(
      AdaptiveSampler<T>(place.context(), model.model(), model.model().sde.horizon(), end, options).sample(x, call));
}

template <class T>
void log_density_adaptively(const ModelObject& model, const Given& x, const Given& condition, const Wanted& out,
                            double t, const AdaptiveOptions& options, const Divergence& divergence,
                            std::uintptr_t stream) {
  const Place place = place_of(x, stream);
  const View<const T> at = view<const T>(x, "x", place);
  const View<T> density = view<T>(out, "log_density", place);
  AdaptiveCall<T> call;
  call.condition = view<const T>(condition, "condition", place);
  const nb::gil_scoped_release released;
  check_paths(AdaptiveSampler<T>(place.context(), model.model(), model.model().sde.horizon(), t, options)
                  .log_density(at, density, divergence, call));
}

nb::tuple distance_of(const TransportResult& result) {
  return nb::make_tuple(result.w2_squared, result.certificate_gap());
}

nb::object weights_of(const EmpiricalLaw& law) {
  return law.histogram ? nb::cast(law.histogram->weights) : nb::object(nb::none());
}

nb::dict gap(const ModelObject& model, const DataSet& data, const GridWords& times, std::int64_t samples,
             std::uint64_t seed, const std::string& ode_scheme, bool in_detail, bool sliced, std::int64_t nodes,
             const std::vector<double>& box, bool cuda) {
  GapOptions options;
  options.samples = samples, options.seed = seed, options.ode_scheme = parse_scheme(ode_scheme);
  options.in_detail = in_detail, options.sliced = sliced, options.box = box_of(nodes, limits_of(box));
  const TimeGrid grid = grid_of(times, model.model().sde);
  std::optional<GroundTruth> truth;
  const SamplerGap found = [&] {
    const nb::gil_scoped_release released;
    const Context context(cuda ? BackendKind::cuda : BackendKind::cpu);
    truth = ground_truth(context, data, options);
    return measure_gap(context, model.model(), *truth, grid, options);
  }();
  nb::dict all;
  all["ode_sde"] = distance_of(found.ode_sde), all["ode_truth"] = distance_of(found.ode_truth);
  all["sde_truth"] = distance_of(found.sde_truth);
  all["noise_floor"] = found.noise_floor;
  all["escaped"] = nb::make_tuple(found.ode.escaped, found.sde.escaped, found.truth_escaped);
  all["histograms"] = nb::make_tuple(weights_of(truth->law), weights_of(found.sde), weights_of(found.ode));
  all["sliced"] = nb::none();
  if (found.sliced) {
    all["sliced"] = nb::make_tuple(found.sliced->samples, found.sliced->ode_sde, found.sliced->ode_truth,
                                   found.sliced->sde_truth, found.sliced->noise_floor);
  }
  all["grid_share"] = found.grid_share();
  all["seconds"] = nb::make_tuple(found.ode_seconds, found.sde_seconds, found.distance_seconds);
  return all;
}

// Both on the device of the first.
struct TwoSets {
  Place place;  // first, for the others are looked at by it
  View<const float> a, b;

  TwoSets(const Given& first, const Given& second, std::uintptr_t stream)
      : place(place_of(first, stream)),
        a(view<const float>(first, "a", place)),
        b(view<const float>(second, "b", place)) {}
};

}  // namespace

void bind_paths(nb::module_& module) {
  nb::class_<DataSet>(module, "DataSet")
      .def_static("named", &DataSet::named, nb::call_guard<nb::gil_scoped_release>())
      .def_static("of",
                  [](const Given& samples, std::uintptr_t stream) {
                    const Place place = place_of(samples, stream);
                    const View<const float> x = view<const float>(samples, "samples", place);
                    const nb::gil_scoped_release released;
                    return DataSet::samples(place.context(), x);
                  })
      .def_prop_ro("name", &DataSet::name)
      .def_prop_ro("dimension", &DataSet::dimension)
      .def("draw", [](const DataSet& data, const Wanted& out, std::uint64_t seed, std::uint64_t first_index,
                      std::uint64_t step, std::uintptr_t stream) {
        const Place place = place_of(out, stream);
        const View<float> x = view<float>(out, "out", place);
        const nb::gil_scoped_release released;
        const Context context = place.context();
        data.draw(context, x, seed, first_index, step);
        context.synchronize();
      });

  module.def(
      "sample",
      [](const ModelObject& model, const Wanted& samples, const Given& condition, const Wanted& density,
         const GridWords& grid, const std::string& scheme, std::uint64_t seed, std::uint64_t first_index,
         std::optional<double> eta, double temperature, double langevin, bool noise_in_last_step,
         const std::vector<double>& churn, int probes, const std::string& law, std::uint64_t probe_seed,
         std::uintptr_t stream) {
        sample(model, samples, condition, density,
               {grid, scheme, seed, first_index, eta, temperature, langevin, noise_in_last_step, churn},
               divergence_of(probes, law, probe_seed), stream);
      },
      nb::arg("model"), nb::arg("samples"), nb::arg("condition").none(), nb::arg("log_density").none(), nb::arg("grid"),
      nb::arg("scheme"), nb::arg("seed"), nb::arg("first_index"), nb::arg("eta").none(), nb::arg("temperature"),
      nb::arg("langevin"), nb::arg("noise_in_last_step"), nb::arg("churn"), nb::arg("probes"), nb::arg("law"),
      nb::arg("probe_seed"), nb::arg("stream"));
  module.def(
      "sample_adaptively",
      [](const ModelObject& model, const Wanted& samples, const Given& condition, double end, const std::string& method,
         double tolerance, std::uint64_t seed, std::uint64_t first_index, std::uintptr_t stream) {
        const AdaptiveOptions options = adaptive_options(method, tolerance);
        is_double(samples, "samples")
            ? sample_adaptively<double>(model, samples, condition, end, options, seed, first_index, stream)
            : sample_adaptively<float>(model, samples, condition, end, options, seed, first_index, stream);
      },
      nb::arg("model"), nb::arg("samples"), nb::arg("condition").none(), nb::arg("end"), nb::arg("method"),
      nb::arg("tolerance"), nb::arg("seed"), nb::arg("first_index"), nb::arg("stream"));
  module.def(
      "log_density",
      [](const ModelObject& model, const Given& x, const Given& condition, const Wanted& out, const GridWords& grid,
         const std::string& scheme, int probes, const std::string& law, std::uint64_t seed, std::uintptr_t stream) {
        log_density(model, x, condition, out, grid, scheme, divergence_of(probes, law, seed), stream);
      },
      nb::arg("model"), nb::arg("x"), nb::arg("condition").none(), nb::arg("out"), nb::arg("grid"), nb::arg("scheme"),
      nb::arg("probes"), nb::arg("law"), nb::arg("seed"), nb::arg("stream"));
  module.def(
      "log_density_adaptively",
      [](const ModelObject& model, const Given& x, const Given& condition, const Wanted& out, double t,
         const std::string& method, double tolerance, int probes, const std::string& law, std::uint64_t seed,
         std::uintptr_t stream) {
        const AdaptiveOptions options = adaptive_options(method, tolerance);
        const Divergence divergence = divergence_of(probes, law, seed);
        is_double(x, "x") ? log_density_adaptively<double>(model, x, condition, out, t, options, divergence, stream)
                          : log_density_adaptively<float>(model, x, condition, out, t, options, divergence, stream);
      },
      nb::arg("model"), nb::arg("x"), nb::arg("condition").none(), nb::arg("out"), nb::arg("t"), nb::arg("method"),
      nb::arg("tolerance"), nb::arg("probes"), nb::arg("law"), nb::arg("seed"), nb::arg("stream"));

  // The last time of a grid.
  module.def("end_of", [](const ModelObject& model, const GridWords& grid) {
    return grid_of(grid, model.model().sde).times().back();
  });
  module.def("gap", gap);
  module.def("w2_on_grid", [](const Given& a, const Given& b, std::int64_t nodes, const std::vector<double>& box,
                              std::uintptr_t stream) {
    const TwoSets sets(a, b, stream);
    const Grid grid = box_of(nodes, limits_of(box));
    const nb::gil_scoped_release released;
    const Context context = sets.place.context();
    return w2_squared(histogram(context, sets.a, grid).weights, histogram(context, sets.b, grid).weights, grid)
        .w2_squared;
  });
  module.def("w2_of_points", [](const Given& a, const Given& b, std::uintptr_t stream) {
    const TwoSets sets(a, b, stream);
    const nb::gil_scoped_release released;
    return w2_squared_of_points(sets.place.context(), sets.a, sets.b).w2_squared;
  });
  module.def("sliced_w2",
             [](const Given& a, const Given& b, int projections, std::uint64_t seed, std::uintptr_t stream) {
               const TwoSets sets(a, b, stream);
               const nb::gil_scoped_release released;
               return sliced_w2_squared(sets.place.context(), sets.a, sets.b, projections, seed);
             });
}

}  // namespace fokker::python
