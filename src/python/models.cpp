// Models and their fields.
#include "c/models.hpp"

#include <nanobind/stl/map.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <map>
#include <span>

#include "bindings.hpp"
#include "time_derivative.hpp"

namespace fokker::python {

std::unique_ptr<ModelObject::Evaluator> ModelObject::State::take(const Place& place, std::size_t bytes) {
  const std::lock_guard lock(mutex);
  for (auto at = idle.begin(); at != idle.end(); ++at) {
    if ((*at)->place != place || (*at)->bytes != bytes) continue;
    std::unique_ptr<Evaluator> taken = std::move(*at);
    idle.erase(at);
    return taken;
  }
  return nullptr;
}

void ModelObject::State::give_back(std::unique_ptr<Evaluator> evaluator) {
  constexpr std::size_t most = 16;
  std::unique_ptr<Evaluator> oldest;
  {
    const std::lock_guard lock(mutex);
    idle.push_back(std::move(evaluator));
    if (idle.size() <= most) return;
    oldest = std::move(idle.front());
    idle.erase(idle.begin());
  }
  oldest->context.synchronize();
}

nb::object to_python(Model model) {
  return nb::module_::import_("fokker").attr("Model")(nb::cast(ModelObject(std::move(model))));
}

namespace {

std::span<const std::byte> span_of(const nb::bytes& bytes) {
  return {static_cast<const std::byte*>(bytes.data()), bytes.size()};
}

nb::bytes contents_of(const ModelObject& model) {
  const std::vector<std::byte> contents = model_contents(model.model());
  return nb::bytes(contents.data(), contents.size());
}

template <class T>
void evaluate(const ModelObject& model, const Given& t, const Given& x, const Given& condition,
              const std::map<std::string, Wanted>& wanted, const Divergence& divergence, const Place& place) {
  const Points<T> points{view<const T>(t, "t", place), view<const T>(x, "x", place),
                         view<const T>(condition, "condition", place)};
  FieldOutputs<T> outputs;
  const std::map<std::string, View<T>*> all{{"value", &outputs.value},     {"dt", &outputs.dt},
                                            {"score", &outputs.score},     {"divergence", &outputs.divergence},
                                            {"hessian", &outputs.hessian}, {"residual", &outputs.residual}};
  for (const auto& [name, array] : wanted) *all.at(name) = view<T>(array, name.c_str(), place);
  const nb::gil_scoped_release released;
  model.with_fields<T>(place, [&](const Fields<T>& fields) { fields.evaluate(points, outputs, divergence); });
}

template <class T>
void hessian_vector(const ModelObject& model, const Given& t, const Given& x, const Given& condition,
                    const Given& direction, const Wanted& product, const Place& place) {
  const Points<T> points{view<const T>(t, "t", place), view<const T>(x, "x", place),
                         view<const T>(condition, "condition", place)};
  const View<const T> along = view<const T>(direction, "direction", place);
  const View<T> out = view<T>(product, "product", place);
  const nb::gil_scoped_release released;
  model.with_fields<T>(place, [&](const Fields<T>& fields) { fields.hessian_vector(points, along, out); });
}

// TimeDerivative in both numbers, each made when it is needed first.
class TimeDerivatives {
 public:
  explicit TimeDerivatives(const ModelObject& model) : model_(model) {}
  void evaluate(const Given& t, const Given& x, const Wanted& rate) {
    if (x.device_type() == kDLCUDA) {
      throw Error(
          "the derivative of the score in t is asked for on cuda; allowed: on the CPU, or a t without a gradient");
    }
    is_double(x, "x") ? evaluate_in(of_double_, t, x, rate) : evaluate_in(of_float_, t, x, rate);
  }

 private:
  template <class T>
  void evaluate_in(std::unique_ptr<TimeDerivative<T>>& made, const Given& t, const Given& x, const Wanted& rate) {
    const Place host;
    const View<const T> at = view<const T>(t, "t", host), points = view<const T>(x, "x", host);
    const View<T> out = view<T>(rate, "rate", host);
    const nb::gil_scoped_release released;
    {
      const std::lock_guard lock(mutex_);
      if (!made) made = std::make_unique<TimeDerivative<T>>(model_.model());
    }
    made->evaluate(at, points, out);
  }

  ModelObject model_;
  std::mutex mutex_;
  std::unique_ptr<TimeDerivative<float>> of_float_;
  std::unique_ptr<TimeDerivative<double>> of_double_;
};

// Numbers as a NumPy array of its own.
nb::object numpy_of(const std::vector<double>& numbers) {
  auto* const kept = new std::vector<double>(numbers);
  const nb::capsule owner(kept, [](void* p) noexcept { delete static_cast<std::vector<double>*>(p); });
  return nb::cast(nb::ndarray<nb::numpy, double>(kept->data(), {kept->size()}, owner));
}

const Mlp& network_of(const Model& model, const char* what) {
  if (const auto* mlp = std::get_if<Mlp>(&model.network)) return *mlp;
  throw Error(fmt::format("{} are asked for of a {}; allowed: a network", what,
                          std::holds_alternative<Composition>(model.network) ? "composition" : "Gaussian mixture"));
}

nb::object with_parameters(const ModelObject& model, const std::vector<double>& parameters) {
  Model changed = model.model();
  const Mlp& old = network_of(changed, "parameters");
  if (parameters.size() != old.parameters.size()) {
    throw Error(fmt::format("{} parameters are given to a network of {}", parameters.size(), old.parameters.size()));
  }
  std::get<Mlp>(changed.network).parameters = parameters;
  return to_python(without_gil([&] {
    changed.validate();
    return std::move(changed);
  }));
}

// The layers in the order of the parameters, each with its name, outputs and inputs.
std::vector<std::tuple<std::string, std::int64_t, std::int64_t>> layers_of(const ModelObject& model) {
  const Architecture& a = network_of(model.model(), "layers").architecture;
  std::vector<std::tuple<std::string, std::int64_t, std::int64_t>> layers;
  const auto add_branch = [&](const Branch& branch, const std::vector<std::string>& names) {
    for (std::size_t k = 0; k < names.size(); ++k) {
      layers.emplace_back(names[k], branch.layers[k].width, branch.inputs_of(static_cast<std::int64_t>(k)));
    }
  };
  add_branch(a.condition, a.condition_names());
  add_branch(a.time, a.time_names());
  const std::vector<std::string> names = a.names();
  for (std::int64_t l = 0; l < a.layers(); ++l) {
    layers.emplace_back(names[static_cast<std::size_t>(l)], a.outputs(l), a.inputs(l));
  }
  return layers;
}

// Of each of those layers how many of its inputs, the first ones, are the condition and the time, or what branches make of them.
std::vector<std::tuple<std::int64_t, std::int64_t>> leading_of(const ModelObject& model) {
  const Architecture& a = network_of(model.model(), "layers").architecture;
  std::vector<std::tuple<std::int64_t, std::int64_t>> leading(a.condition.layers.size() + a.time.layers.size());
  for (std::int64_t l = 0; l < a.layers(); ++l) leading.emplace_back(a.conditioned(l), a.embedded(l));
  return leading;
}

// What makes a model again: the name of a function of this module, and its arguments.
nb::object reduced(const ModelObject& object) {
  const Model& model = object.model();
  if (std::holds_alternative<Mlp>(model.network)) {
    return nb::make_tuple("parse_model", nb::make_tuple(contents_of(object)));
  }
  if (const auto* mixture = std::get_if<GaussianMixture>(&model.network)) {
    return nb::make_tuple("mixture", nb::make_tuple(mixture->weights(), mixture->means(), mixture->covariances(),
                                                    mixture->dimension(), model.sde.name(), model.sde.parameters_json(),
                                                    model.standardisation.mean, model.standardisation.deviation));
  }
  nb::list terms;
  for (const Term& term : std::get<Composition>(model.network).terms) {
    Model own = term.model;
    own.standardisation = model.standardisation;
    terms.append(nb::make_tuple(term.weight, to_python(std::move(own))));
  }
  return nb::make_tuple("compose", nb::make_tuple(terms));
}

}  // namespace

void bind_models(nb::module_& module) {
  nb::class_<ModelObject>(module, "Model")
      .def(nb::init<const ModelObject&>())
      .def_prop_ro("dimension", [](const ModelObject& m) { return m.model().dimension(); })
      .def_prop_ro("condition_width", [](const ModelObject& m) { return m.model().condition(); })
      .def_prop_ro("is_potential", [](const ModelObject& m) { return m.model().output() == Output::potential; })
      .def_prop_ro("is_network", [](const ModelObject& m) { return std::holds_alternative<Mlp>(m.model().network); })
      .def_prop_ro("sde_name", [](const ModelObject& m) { return m.model().sde.name(); })
      .def_prop_ro("sde_parameters", [](const ModelObject& m) { return m.model().sde.parameters_json(); })
      .def_prop_ro("horizon", [](const ModelObject& m) { return m.model().sde.horizon(); })
      .def_prop_ro("t_min", [](const ModelObject& m) { return m.model().sde.t_min(); })
      .def_prop_ro("usual_grid", [](const ModelObject& m) { return usual_grid(m.model()); })
      .def_prop_ro("parameter_vector",
                   [](const ModelObject& m) { return numpy_of(network_of(m.model(), "parameters").parameters); })
      .def_prop_ro("layers", layers_of)
      .def_prop_ro("leading", leading_of)
      .def("line", [](const ModelObject& m) { return line_of(m.model()); })
      .def("_coefficients",
           [](const ModelObject& m, double t) {
             const SdeCoefficients<double> c = m.model().sde.at(t);
             return nb::make_tuple(c.drift, c.diffusion_squared, c.mean, c.variance);
           })
      .def("standardisation",
           [](const ModelObject& m) {
             const Standardisation& s = m.model().standardisation;
             return nb::make_tuple(s.mean, s.deviation);
           })
      .def("_replaced", with_parameters)
      .def("_given",
           [](const ModelObject& m, const std::vector<double>& y) {
             return to_python(without_gil([&] { return with_condition(m.model(), y); }));
           })
      .def("without_condition",
           [](const ModelObject& m) { return to_python(without_gil([&] { return without_condition(m.model()); })); })
      .def("_save",
           [](const ModelObject& m, const std::string& path, const ModelMetadata& extra) {
             const nb::gil_scoped_release released;
             save_model(path, m.model(), extra);
           })
      .def("contents", contents_of)
      .def("reduced", reduced)
      .def(
          "_evaluate",
          [](const ModelObject& m, const Given& t, const Given& x, const Given& condition,
             const std::map<std::string, Wanted>& wanted, int probes, const std::string& law, std::uint64_t seed,
             std::uint64_t first_index, std::uintptr_t stream) {
            const Divergence divergence = divergence_of(probes, law, seed, first_index);
            const Place place = place_of(x, stream);
            is_double(x, "x") ? evaluate<double>(m, t, x, condition, wanted, divergence, place)
                              : evaluate<float>(m, t, x, condition, wanted, divergence, place);
          },
          nb::arg("t"), nb::arg("x"), nb::arg("condition").none(), nb::arg("wanted"), nb::arg("probes"), nb::arg("law"),
          nb::arg("seed"), nb::arg("first_index"), nb::arg("stream"))
      .def(
          "_hessian_vector",
          [](const ModelObject& m, const Given& t, const Given& x, const Given& condition, const Given& direction,
             const Wanted& product, std::uintptr_t stream) {
            const Place place = place_of(x, stream);
            is_double(x, "x") ? hessian_vector<double>(m, t, x, condition, direction, product, place)
                              : hessian_vector<float>(m, t, x, condition, direction, product, place);
          },
          nb::arg("t"), nb::arg("x"), nb::arg("condition").none(), nb::arg("direction"), nb::arg("product"),
          nb::arg("stream"));

  nb::class_<TimeDerivatives>(module, "TimeDerivatives")
      .def(nb::init<const ModelObject&>())
      .def("evaluate", &TimeDerivatives::evaluate);

  module.def("load_model", [](const std::string& path, const ModelMetadata& options) {
    return to_python(without_gil([&] { return load_model(path, options); }));
  });
  module.def(
      "parse_model",
      [](const nb::bytes& contents, const ModelMetadata& options) {
        const std::span<const std::byte> bytes = span_of(contents);  // which the caller's object keeps
        return to_python(without_gil([&] { return parse_model(bytes, options); }));
      },
      nb::arg("contents"), nb::arg("options") = ModelMetadata{},
      "The model in the contents of a .safetensors file (fokker.load); `options` say what its metadata do not.");
  module.def("initialise", [](const ModelMetadata& options, std::uint64_t seed) {
    return to_python(without_gil([&] { return initialised(options, seed); }));
  });
  module.def("mixture", [](std::vector<double> weights, std::vector<double> means, std::vector<double> covariances,
                           std::int64_t dimension, const std::string& sde, const std::string& parameters,
                           std::vector<double> column_means, std::vector<double> column_deviations) {
    return to_python(without_gil([&] {
      Model model{ForwardSde::parse(sde, parameters),
                  GaussianMixture(dimension, std::move(weights), std::move(means), std::move(covariances)),
                  {std::move(column_means), std::move(column_deviations)}};
      model.validate();
      return model;
    }));
  });
  module.def("compose", [](const std::vector<std::tuple<double, ModelObject>>& weighted) {
    std::vector<Term> terms;
    for (const auto& [weight, model] : weighted) terms.push_back({weight, model.model()});
    return to_python(without_gil([&] { return compose(terms); }));
  });
  module.def("guided", [](const ModelObject& with, const ModelObject& without, double scale) {
    return to_python(without_gil([&] { return guided(with.model(), without.model(), scale); }));
  });
}

}  // namespace fokker::python
