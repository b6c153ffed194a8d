// Training and losses.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <atomic>
#include <limits>
#include <memory>
#include <mutex>
#include <tuple>
#include <type_traits>

#include "bindings.hpp"

namespace fokker::python {
namespace {

using RecordWords = std::tuple<std::int64_t, double, double, double, double, double>;
RecordWords words_of(const TrainRecord& r) {
  return {r.iteration, r.denoising, r.residual, r.total, r.gradient_norm, r.rate};
}

// What a value of a dict of options may be.
template <class T>
std::string allowed() {
  if constexpr (std::is_same_v<T, std::string>) return "a text";
  if constexpr (std::is_floating_point_v<T>) return "a number";
  using Limits = std::numeric_limits<T>;
  if constexpr (std::is_integral_v<T>) return fmt::format("a whole number from {} to {}", Limits::min(), Limits::max());
}

// A value of a dict of options; leaves what is there where it is not given. What is no text and no number of Python's own
// may be one of NumPy's.
template <class T>
void take(const nb::dict& options, const char* key, T& value) {
  if (!options.contains(key)) return;
  nb::object given = options[key];
  if constexpr (std::is_integral_v<T>) {
    if (PyIndex_Check(given.ptr())) given = nb::steal(PyNumber_Index(given.ptr()));
  } else if constexpr (std::is_floating_point_v<T>) {
    if (PyObject* const number = PyUnicode_Check(given.ptr()) ? nullptr : PyNumber_Float(given.ptr())) {
      given = nb::steal(number);
    }
  }
  if (PyErr_Occurred()) PyErr_Clear();
  if (!given.is_valid() || !nb::try_cast(given, value)) {
    const nb::object shown = nb::module_::import_("fokker._arrays").attr("shown")(options[key]);
    throw Error(fmt::format("{} is {}; allowed: {}", key, nb::cast<std::string>(shown), allowed<T>()));
  }
}
template <class Parse, class T>
void take_name(const nb::dict& options, const char* key, const Parse& parse, T& value) {
  std::string name;
  take(options, key, name);
  if (!name.empty()) value = parse(name);
}

TrainOptions options_of(const nb::dict& given) {
  TrainOptions options;
  take(given, "iterations", options.iterations);
  take(given, "denoising_points", options.denoising_points);
  take(given, "collocation_points", options.collocation_points);
  take(given, "residual_weight", options.residual_weight);
  take(given, "residual_probes", options.residual_probes);
  take_name(given, "probe_law", parse_probe_law, options.probe_law);
  take(given, "box", options.box);
  take_name(given, "time_law", parse_time_law, options.time_law);
  take(given, "log_sigma_mean", options.log_sigma_mean);
  take(given, "log_sigma_deviation", options.log_sigma_deviation);
  take_name(given, "loss_weight", parse_loss_weight, options.loss_weight);
  take_name(given, "schedule", parse_rate_schedule, options.schedule);
  take(given, "peak_rate", options.peak_rate);
  take_name(given, "average", parse_weight_average, options.average);
  take(given, "average_decay", options.average_decay);
  take(given, "average_fraction", options.average_fraction);
  take(given, "condition_drop", options.condition_drop);
  take(given, "clip_norm", options.clip_norm);
  take(given, "seed", options.seed);
  return options;
}

// A trainer, one call at a time.
class TrainerObject {
 public:
  TrainerObject(const ModelObject& model, const DataSet& data, const nb::dict& options, bool cuda)
      : trainer_(made(model, data, options_of(options), cuda)), iteration_(trainer_.iteration()) {}
  TrainerObject(const std::string& path, const DataSet& data, bool cuda)
      : trainer_(without_gil([&] { return Trainer::resume(context(cuda), path, data); })),
        iteration_(trainer_.iteration()) {}

  // news(records) after every iteration, or on CUDA after some: goes on where that is true. A signal that Python has a handler
  // for, as Ctrl-C, ends it as an exception of news() does: after the iterations that have begun.
  void run(std::int64_t count, const nb::object& news) {
    const auto lock = only_one();
    const nb::gil_scoped_release released;
    const IterationAfter after{*this};  // also where it throws
    trainer_.run(count, [&](const TrainingNews& of) {
      iteration_ = trainer_.iteration();
      const nb::gil_scoped_acquire acquired;
      std::vector<RecordWords> records;
      for (const TrainRecord& record : of.records) records.push_back(words_of(record));
      const bool on = nb::cast<bool>(news(records));
      if (PyErr_CheckSignals() != 0) throw nb::python_error();
      return on;
    });
  }
  std::int64_t iteration() const { return iteration_; }  // from any thread, while another runs it
  std::int64_t iterations() const { return trainer_.options().iterations; }
  nb::object model() {
    const auto lock = only_one();
    return to_python(without_gil([&] { return trainer_.model(); }));
  }
  void save_state(const std::string& path) {
    const auto lock = only_one();
    const nb::gil_scoped_release released;
    trainer_.save_state(path);
  }

 private:
  static Context context(bool cuda) { return Context(cuda ? BackendKind::cuda : BackendKind::cpu); }
  static Trainer made(const ModelObject& model, const DataSet& data, const TrainOptions& options, bool cuda) {
    return without_gil([&] { return Trainer(context(cuda), model.model(), data, options); });
  }
  struct IterationAfter {
    TrainerObject& of;
    ~IterationAfter() { of.iteration_ = of.trainer_.iteration(); }
  };
  struct Release {
    void operator()(std::atomic<bool>* busy) const { *busy = false; }
  };
  std::unique_ptr<std::atomic<bool>, Release> only_one() {
    if (busy_.exchange(true)) throw Error("a trainer that is running is called; allowed: its calls one after another");
    return std::unique_ptr<std::atomic<bool>, Release>(&busy_);
  }

  Trainer trainer_;
  std::atomic<std::int64_t> iteration_;
  std::atomic<bool> busy_ = false;  // also where its own callback calls it
};

// The losses of a network's architecture and their gradients, in both numbers.
class LossObject {
 public:
  explicit LossObject(const ModelObject& model) : model_(model) {
    if (!std::holds_alternative<Mlp>(model.model().network)) {
      throw Error(fmt::format("the losses of a model that is no network are asked for; allowed: a network"));
    }
  }

  // What Loss::evaluate() takes; values are float64 [3].
  struct Batches {
    const Given &t, &x, &target, &weight, &condition, &free_t, &free_x, &free_condition;
    double residual_weight;
  };
  void evaluate(const Given& parameters, const Batches& batches, const Wanted& values, const Wanted& gradient,
                std::uintptr_t stream) {
    const Place place = place_of(parameters, stream);
    is_double(parameters, "parameters") ? evaluate_in<double>(parameters, batches, values, gradient, place)
                                        : evaluate_in<float>(parameters, batches, values, gradient, place);
  }

 private:
  template <class T>
  void evaluate_in(const Given& parameters, const Batches& of, const Wanted& values, const Wanted& gradient,
                   const Place& place) {
    const View<const T> theta = view<const T>(parameters, "parameters", place);
    const DenoisingBatch<T> noisy{view<const T>(of.t, "t", place), view<const T>(of.x, "x", place),
                                  view<const T>(of.target, "target", place), view<const T>(of.weight, "weight", place),
                                  view<const T>(of.condition, "condition", place)};
    const CollocationBatch<T> free{view<const T>(of.free_t, "t", place), view<const T>(of.free_x, "x", place),
                                   view<const T>(of.free_condition, "condition", place)};
    const View<double> sums = view<double>(values, "values", place);
    const View<T> slope = view<T>(gradient, "gradient", place);
    const nb::gil_scoped_release released;
    const std::lock_guard lock(mutex_);
    std::unique_ptr<Kept<T>>& kept = std::get<std::unique_ptr<Kept<T>>>(kept_);
    if (!kept || kept->place != place) {
      const Context context = place.context();
      const auto& mlp = std::get<Mlp>(model_.model().network);
      kept = std::make_unique<Kept<T>>(Kept<T>{place, Loss<T>(context, mlp.architecture, model_.model().sde)});
    }
    kept->loss.evaluate(theta, noisy, free, of.residual_weight, sums, slope);
  }

  template <class T>
  struct Kept {
    Place place;
    Loss<T> loss;
  };
  ModelObject model_;
  std::mutex mutex_;
  std::tuple<std::unique_ptr<Kept<float>>, std::unique_ptr<Kept<double>>> kept_;
};

}  // namespace

void bind_training(nb::module_& module) {
  nb::class_<TrainerObject>(module, "Trainer")
      .def(nb::init<const ModelObject&, const DataSet&, const nb::dict&, bool>())
      .def(nb::init<const std::string&, const DataSet&, bool>())
      .def("run_with", &TrainerObject::run)
      .def_prop_ro("iteration", &TrainerObject::iteration)
      .def_prop_ro("iterations", &TrainerObject::iterations)
      .def("make_model", &TrainerObject::model)
      .def("save_state_to", &TrainerObject::save_state);
  nb::class_<LossObject>(module, "Loss")
      .def(nb::init<const ModelObject&>())
      .def(
          "evaluate",
          [](LossObject& loss, const Given& parameters, const Given& t, const Given& x, const Given& target,
             const Given& weight, const Given& condition, const Given& free_t, const Given& free_x,
             const Given& free_condition, double residual_weight, const Wanted& values, const Wanted& gradient,
             std::uintptr_t stream) {
            loss.evaluate(parameters,
                          {t, x, target, weight, condition, free_t, free_x, free_condition, residual_weight}, values,
                          gradient, stream);
          },
          nb::arg("parameters"), nb::arg("t").none(), nb::arg("x").none(), nb::arg("target").none(),
          nb::arg("weight").none(), nb::arg("condition").none(), nb::arg("free_t").none(), nb::arg("free_x").none(),
          nb::arg("free_condition").none(), nb::arg("residual_weight"), nb::arg("values"), nb::arg("gradient").none(),
          nb::arg("stream"));
}

}  // namespace fokker::python
