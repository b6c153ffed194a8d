// The C API (fokker.h) over the public C++ API: a handle holds an object, a DLTensor becomes a view once it was looked at, and
// an exception becomes a status and the thread's message.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <exception>
#include <new>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "c/models.hpp"
#include "c/tensors.hpp"
#include "fokker/fokker.h"
#include "fokker/fokker.hpp"

struct fokker_context {
  fokker::Context value;
};
struct fokker_model {
  fokker::Model value;
};
struct fokker_fields {
  std::variant<fokker::Fields<float>, fokker::Fields<double>> value;
  int gpu;  // of the context
};
struct fokker_sampler {
  fokker::Sampler value;
  int gpu;
};
struct fokker_data {
  fokker::DataSet value;
};
struct fokker_trainer {
  fokker::Trainer value;
};

namespace fokker {
namespace {

// In place of a string, whose memory may be what there is none of.
thread_local char last_message[4 * Error::longest + 1] = "";

fokker_status failed(fokker_status status, const char* message) noexcept {
  std::strncpy(last_message, message, sizeof(last_message) - 1);
  return status;
}

template <class Work>
fokker_status guarded(const Work& work) noexcept {
  try {
    work();
    return FOKKER_OK;
  } catch (const Error& error) {
    return failed(FOKKER_REFUSED, error.what());
  } catch (const std::bad_alloc&) {
    return failed(FOKKER_OUT_OF_MEMORY, "there is not enough memory for this call");
  } catch (const std::exception& error) {
    return failed(FOKKER_INTERNAL, error.what());
  } catch (...) {
    return failed(FOKKER_INTERNAL, "an exception of an unknown kind");
  }
}

// Makes a handle where there is a place for it.
template <class Handle, class Make>
fokker_status make(Handle** to, const char* what, const Make& of) noexcept {
  return guarded([&] {
    Handle*& place = given(to, what);
    place = new Handle{of()};
  });
}

std::string text_or(const char* text, const char* otherwise) { return text ? text : otherwise; }

Divergence divergence_of(const fokker_divergence* how) {
  if (how == nullptr) return {};
  return {.probes = how->probes,
          .law = parse_probe_law(text_or(how->law, "rademacher")),
          .seed = how->seed,
          .first_index = how->first_index};
}

SampleOptions options_of(const fokker_sample_options* from, int gpu) {
  fokker_sample_options defaults;
  fokker_sample_options_init(&defaults);
  const fokker_sample_options& o = from ? *from : defaults;
  SampleOptions options;
  options.scheme = parse_scheme(text_or(o.scheme, "euler-maruyama"));
  options.seed = o.seed, options.first_index = o.first_index;
  if (!std::isnan(o.eta)) options.eta = o.eta;
  options.temperature = o.temperature;
  options.churn = {.amount = o.churn, .from = o.churn_from, .to = o.churn_to, .noise = o.churn_noise};
  options.langevin = o.langevin;
  options.noise_in_last_step = o.noise_in_last_step != 0;
  options.log_density = view_of<float>(o.log_density, "log_density", gpu);
  options.divergence = divergence_of(&o.divergence);
  return options;
}

TrainOptions options_of(const fokker_train_options* from) {
  TrainOptions options;
  if (from == nullptr) return options;
  options.iterations = from->iterations;
  options.denoising_points = from->denoising_points;
  options.collocation_points = from->collocation_points;
  options.residual_weight = from->residual_weight;
  options.box = from->box;
  options.peak_rate = from->peak_rate;
  options.clip_norm = from->clip_norm;
  options.average_decay = from->average_decay;
  options.average_fraction = from->average_fraction;
  options.condition_drop = from->condition_drop;
  options.log_sigma_mean = from->log_sigma_mean;
  options.log_sigma_deviation = from->log_sigma_deviation;
  options.seed = from->seed;
  options.residual_probes = from->residual_probes;
  if (from->probe_law) options.probe_law = parse_probe_law(from->probe_law);
  if (from->time_law) options.time_law = parse_time_law(from->time_law);
  if (from->loss_weight) options.loss_weight = parse_loss_weight(from->loss_weight);
  if (from->schedule) options.schedule = parse_rate_schedule(from->schedule);
  if (from->average) options.average = parse_weight_average(from->average);
  return options;
}

ModelMetadata metadata_of(const fokker_option* options, std::size_t count) {
  ModelMetadata metadata;
  for (std::size_t k = 0; k < count; ++k) {
    const fokker_option& own = (&given(options, "options"))[k];
    const auto [place, is_new] =
        metadata.emplace(&given(own.key, "an option's key"), &given(own.value, "an option's value"));
    if (!is_new) throw Error(fmt::format("the option {} is given twice", place->first));
  }
  return metadata;
}

template <class T>
void evaluate(const Fields<T>& fields, int gpu, const DLTensor* t, const DLTensor* x, const DLTensor* condition,
              const fokker_outputs& wanted, const Divergence& divergence) {
  FieldOutputs<T> outputs;
  outputs.value = view_of<T>(wanted.value, "value", gpu);
  outputs.dt = view_of<T>(wanted.dt, "dt", gpu);
  outputs.score = view_of<T>(wanted.score, "score", gpu);
  outputs.divergence = view_of<T>(wanted.divergence, "divergence", gpu);
  outputs.hessian = view_of<T>(wanted.hessian, "hessian", gpu);
  outputs.residual = view_of<T>(wanted.residual, "residual", gpu);
  fields.evaluate(
      {required<const T>(t, "t", gpu), required<const T>(x, "x", gpu), view_of<const T>(condition, "condition", gpu)},
      outputs, divergence);
}

fokker_status path(const fokker_sampler* sampler, const fokker_sample_options* options, const DLTensor* condition,
                   DLTensor* samples, bool from_prior) noexcept {
  return guarded([&] {
    const auto& [of, gpu] = given(sampler, "sampler");
    SampleOptions with = options_of(options, gpu);
    with.condition = view_of<const float>(condition, "condition", gpu);
    const View<float> x = required<float>(samples, "samples", gpu);
    from_prior ? of.sample(x, with) : of.integrate(x, with);
  });
}

}  // namespace
}  // namespace fokker

using namespace fokker;

extern "C" {

const char* fokker_version(void) { return version(); }
const char* fokker_last_message(void) { return last_message; }

fokker_status fokker_context_create(const char* backend, int threads, int gpu, void* stream, const char* precision,
                                    fokker_context** context) {
  return make(context, "context", [&] {
    return Context({.backend = parse_backend(text_or(backend, "auto")),
                    .threads = threads,
                    .stream = stream,
                    .gpu = gpu,
                    .precision = parse_precision(text_or(precision, "split"))});
  });
}
fokker_status fokker_context_device(const fokker_context* context, DLDevice* device) {
  return guarded([&] {
    const Context& of = given(context, "context").value;
    given(device, "device") = of.device() == Device::cpu ? DLDevice{kDLCPU, 0} : DLDevice{kDLCUDA, of.gpu()};
  });
}
fokker_status fokker_context_synchronize(const fokker_context* context) {
  return guarded([&] { given(context, "context").value.synchronize(); });
}
void fokker_context_destroy(fokker_context* context) { delete context; }

fokker_status fokker_model_load(const char* path, const fokker_option* options, size_t count, fokker_model** model) {
  return make(model, "model", [&] { return load_model(&given(path, "path"), metadata_of(options, count)); });
}
fokker_status fokker_model_initialise(const fokker_option* options, size_t count, uint64_t seed, fokker_model** model) {
  return make(model, "model", [&] { return initialised(metadata_of(options, count), seed); });
}
fokker_status fokker_model_save(const fokker_model* model, const char* path) {
  return guarded([&] { save_model(&given(path, "path"), given(model, "model").value); });
}
fokker_status fokker_model_shape(const fokker_model* model, int64_t* dimension, int64_t* condition, int* potential) {
  return guarded([&] {
    const Model& of = given(model, "model").value;
    if (dimension) *dimension = of.dimension();
    if (condition) *condition = of.condition();
    if (potential) *potential = of.output() == Output::potential;
  });
}
fokker_status fokker_model_describe(const fokker_model* model, char* text, size_t size, size_t* needed) {
  return guarded([&] {
    const Model& of = given(model, "model").value;
    const std::string line = line_of(of);
    if (needed) *needed = line.size() + 1;
    if (text == nullptr || size == 0) return;
    const size_t length = std::min(line.size(), size - 1);
    std::memcpy(text, line.data(), length);
    text[length] = '\0';
  });
}
void fokker_model_destroy(fokker_model* model) { delete model; }

fokker_status fokker_fields_create(const fokker_context* context, const fokker_model* model, int bits,
                                   fokker_fields** fields) {
  return guarded([&] {
    fokker_fields*& place = given(fields, "fields");
    const Context& where = given(context, "context").value;
    const Model& of = given(model, "model").value;
    if (bits == 32) {
      place = new fokker_fields{Fields<float>(where, of), where.gpu()};
    } else if (bits == 64) {
      place = new fokker_fields{Fields<double>(where, of), where.gpu()};
    } else {
      throw Error(fmt::format("fields of {} bits asked for; allowed: 32, 64", bits));
    }
  });
}
fokker_status fokker_fields_evaluate(const fokker_fields* fields, const DLTensor* t, const DLTensor* x,
                                     const DLTensor* condition, const fokker_outputs* outputs,
                                     const fokker_divergence* divergence) {
  return guarded([&] {
    const fokker_outputs& wanted = given(outputs, "outputs");
    const Divergence how = divergence_of(divergence);
    const int gpu = given(fields, "fields").gpu;
    std::visit([&](const auto& of) { evaluate(of, gpu, t, x, condition, wanted, how); }, fields->value);
  });
}
fokker_status fokker_fields_hessian_vector(const fokker_fields* fields, const DLTensor* t, const DLTensor* x,
                                           const DLTensor* condition, const DLTensor* direction, DLTensor* product) {
  return guarded([&] {
    const int gpu = given(fields, "fields").gpu;
    std::visit(
        [&]<class T>(const Fields<T>& of) {
          of.hessian_vector({required<const T>(t, "t", gpu), required<const T>(x, "x", gpu),
                             view_of<const T>(condition, "condition", gpu)},
                            required<const T>(direction, "direction", gpu), required<T>(product, "product", gpu));
        },
        fields->value);
  });
}
void fokker_fields_destroy(fokker_fields* fields) { delete fields; }

void fokker_sample_options_init(fokker_sample_options* options) {
  if (options == nullptr) return;
  const Churn churn;
  *options = {};
  options->eta = std::nan("");
  options->temperature = 1;
  options->churn_from = churn.from, options->churn_to = churn.to, options->churn_noise = churn.noise;
}
fokker_status fokker_sampler_create(const fokker_context* context, const fokker_model* model, const char* grid,
                                    fokker_sampler** sampler) {
  return guarded([&] {
    fokker_sampler*& place = given(sampler, "sampler");
    const Context& where = given(context, "context").value;
    const Model& of = given(model, "model").value;
    place = new fokker_sampler{Sampler(where, of, TimeGrid::parse(&given(grid, "grid"), of.sde)), where.gpu()};
  });
}
fokker_status fokker_sampler_sample(const fokker_sampler* sampler, const fokker_sample_options* options,
                                    const DLTensor* condition, DLTensor* samples) {
  return path(sampler, options, condition, samples, true);
}
fokker_status fokker_sampler_integrate(const fokker_sampler* sampler, const fokker_sample_options* options,
                                       const DLTensor* condition, DLTensor* samples) {
  return path(sampler, options, condition, samples, false);
}
fokker_status fokker_sampler_log_density(const fokker_sampler* sampler, const DLTensor* x, const DLTensor* condition,
                                         const char* scheme, const fokker_divergence* divergence,
                                         DLTensor* log_density) {
  return guarded([&] {
    const auto& [of, gpu] = given(sampler, "sampler");
    of.log_density(required<const float>(x, "x", gpu), required<float>(log_density, "log_density", gpu),
                   parse_scheme(text_or(scheme, "heun")), divergence_of(divergence), {},
                   view_of<const float>(condition, "condition", gpu));
  });
}
void fokker_sampler_destroy(fokker_sampler* sampler) { delete sampler; }

fokker_status fokker_data_named(const char* name, fokker_data** data) {
  return make(data, "data", [&] { return DataSet::named(&given(name, "name")); });
}
fokker_status fokker_data_samples(const fokker_context* context, const DLTensor* samples, fokker_data** data) {
  return make(data, "data", [&] {
    const Context& where = given(context, "context").value;
    return DataSet::samples(where, required<const float>(samples, "samples", where.gpu()));
  });
}
fokker_status fokker_data_draw(const fokker_context* context, const fokker_data* data, uint64_t seed,
                               uint64_t first_index, uint64_t step, DLTensor* out) {
  return guarded([&] {
    const Context& where = given(context, "context").value;
    given(data, "data").value.draw(where, required<float>(out, "out", where.gpu()), seed, first_index, step);
  });
}
void fokker_data_destroy(fokker_data* data) { delete data; }

void fokker_train_options_init(fokker_train_options* options) {
  if (options == nullptr) return;
  const TrainOptions defaults;
  *options = {.iterations = defaults.iterations,
              .denoising_points = defaults.denoising_points,
              .collocation_points = defaults.collocation_points,
              .residual_weight = defaults.residual_weight,
              .box = defaults.box,
              .peak_rate = defaults.peak_rate,
              .clip_norm = defaults.clip_norm,
              .average_decay = defaults.average_decay,
              .average_fraction = defaults.average_fraction,
              .condition_drop = defaults.condition_drop,
              .log_sigma_mean = defaults.log_sigma_mean,
              .log_sigma_deviation = defaults.log_sigma_deviation,
              .seed = defaults.seed,
              .residual_probes = defaults.residual_probes,
              .probe_law = nullptr,
              .time_law = nullptr,
              .loss_weight = nullptr,
              .schedule = nullptr,
              .average = nullptr};
}
fokker_status fokker_trainer_create(const fokker_context* context, const fokker_model* model, const fokker_data* data,
                                    const fokker_train_options* options, fokker_trainer** trainer) {
  return make(trainer, "trainer", [&] {
    return Trainer(given(context, "context").value, given(model, "model").value, given(data, "data").value,
                   options_of(options));
  });
}
fokker_status fokker_trainer_resume(const fokker_context* context, const char* path, const fokker_data* data,
                                    fokker_trainer** trainer) {
  return make(trainer, "trainer", [&] {
    return Trainer::resume(given(context, "context").value, &given(path, "path"), given(data, "data").value);
  });
}
fokker_status fokker_trainer_run(fokker_trainer* trainer, int64_t count, fokker_train_news news, void* user) {
  return guarded([&] {
    given(trainer, "trainer").value.run(count, [&](const TrainingNews& of) {
      if (news == nullptr) return true;
      std::vector<fokker_train_record> records;
      for (const TrainRecord& r : of.records) {
        records.push_back({r.iteration, r.denoising, r.residual, r.total, r.gradient_norm, r.rate});
      }
      return news(records.data(), records.size(), user) != 0;
    });
  });
}
fokker_status fokker_trainer_iteration(const fokker_trainer* trainer, int64_t* iteration) {
  return guarded([&] { given(iteration, "iteration") = given(trainer, "trainer").value.iteration(); });
}
fokker_status fokker_trainer_model(const fokker_trainer* trainer, fokker_model** model) {
  return make(model, "model", [&] { return given(trainer, "trainer").value.model(); });
}
fokker_status fokker_trainer_save_state(const fokker_trainer* trainer, const char* path) {
  return guarded([&] { given(trainer, "trainer").value.save_state(&given(path, "path")); });
}
void fokker_trainer_destroy(fokker_trainer* trainer) { delete trainer; }

fokker_status fokker_w2_squared(const fokker_context* context, const DLTensor* a, const DLTensor* b, int64_t nodes,
                                const double* box, double* w2, double* dual) {
  return guarded([&] {
    double& to = given(w2, "w2_squared");
    const Context& where = given(context, "context").value;
    Grid grid{.n = nodes};
    if (box) grid.x = {box[0], box[1]}, grid.y = {box[2], box[3]};
    const TransportResult found =
        w2_squared(histogram(where, required<const float>(a, "a", where.gpu()), grid).weights,
                   histogram(where, required<const float>(b, "b", where.gpu()), grid).weights, grid);
    to = found.w2_squared;
    if (dual) *dual = found.dual_value;
  });
}
fokker_status fokker_sliced_w2_squared(const fokker_context* context, const DLTensor* a, const DLTensor* b,
                                       int projections, uint64_t seed, double* w2) {
  return guarded([&] {
    const Context& where = given(context, "context").value;
    given(w2, "w2_squared") = sliced_w2_squared(where, required<const float>(a, "a", where.gpu()),
                                                required<const float>(b, "b", where.gpu()), projections, seed);
  });
}

}  // extern "C"
