#include "fokker/trainer.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <numbers>
#include <optional>
#include <utility>

#include "fokker/error.hpp"
#include "fokker/safetensors.hpp"
#include "io/json_text.hpp"
#include "core/operations.hpp"
#include "core/quote.hpp"
#include "operations/train_schedule.hpp"

namespace fokker {

// Rates and times.

RateStep rate_step(const TrainOptions& options, std::int64_t iteration) {
  const double peak = options.peak_rate, k = static_cast<double>(iteration),
               n = static_cast<double>(options.iterations);
  const auto cosine = [](double from, double to, double fraction) {
    return to + (from - to) / 2 * (1 + std::cos(std::numbers::pi * fraction));
  };
  switch (options.schedule) {
    case RateSchedule::constant: return {peak, iteration};
    case RateSchedule::cosine: return {cosine(peak, 0, k / n), iteration};
    case RateSchedule::one_cycle: {
      // The peak stands at 0.1 n − 1 and the end at n − 1, as in torch.optim.lr_scheduler.OneCycleLR with pct_start
      // 0.1.
      const double top = std::max(0.1 * n - 1, 0.0), last = n - 1;
      if (k < top) return {cosine(peak / 25, peak, k / top), iteration};
      return {cosine(peak, peak / 25000, last > top ? (k - top) / (last - top) : 0.0), iteration};
    }
    case RateSchedule::paper: break;
  }
  const std::int64_t second = options.iterations / 4,
                     third = options.iterations / 10 * 9 + options.iterations % 10 * 9 / 10;
  if (iteration < second) return {1e-3, iteration};
  if (iteration < third) return {1e-4, iteration - second};
  return {1e-5, iteration - third};
}

std::int64_t average_begin(const TrainOptions& options) {
  if (options.average == WeightAverage::none) return options.iterations;
  return options.iterations - std::llround(options.average_fraction * static_cast<double>(options.iterations));
}

std::vector<float> importance_edges(const ForwardSde& sde, std::int32_t cells) {
  // Running integrals of p/σ² and of 1/t, both smooth in log t, on a grid finer than the cells; mixed, then inverted
  // linearly. The log-uniform part bounds every cell's ratio of times: without it one cell of a steep σ² spans most of
  // [t_min, T], and the weight in it is far from σ².
  constexpr double log_uniform = 1.0 / 16;
  const std::int64_t fine = 16 * std::int64_t{cells};
  const double ratio = std::log(sde.horizon() / sde.t_min()) / static_cast<double>(fine);
  std::vector<double> t(fine + 1), mass(fine + 1, 0.0);
  for (std::int64_t i = 0; i <= fine; ++i) t[i] = sde.t_min() * std::exp(ratio * static_cast<double>(i));
  t[fine] = sde.horizon();
  for (std::int64_t i = 0; i < fine; ++i) {
    const double middle = (t[i] + t[i + 1]) / 2;
    mass[i + 1] = mass[i] + (sde.horizon() - middle) / sde.at(middle).variance * (t[i + 1] - t[i]);
  }
  const double total = mass[fine];
  for (std::int64_t i = 0; i <= fine; ++i) {
    mass[i] = (1 - log_uniform) * mass[i] / total + log_uniform * static_cast<double>(i) / static_cast<double>(fine);
  }
  std::vector<float> edges(cells + 1);
  std::int64_t i = 0;
  for (std::int32_t cell = 0; cell <= cells; ++cell) {
    const double wanted = mass[fine] * cell / cells;
    while (i + 1 < fine && mass[i + 1] < wanted) ++i;
    const double inside = (wanted - mass[i]) / (mass[i + 1] - mass[i]);
    edges[cell] = static_cast<float>(t[i] + inside * (t[i + 1] - t[i]));
  }
  edges.front() = static_cast<float>(sde.t_min());
  edges.back() = static_cast<float>(sde.horizon());
  return edges;
}

void TrainOptions::validate() const {
  const auto count = [](const char* what, std::int64_t value, std::int64_t least, std::int64_t most) {
    if (value < least || value > most) {
      throw Error(fmt::format("{} is {}; allowed: {} to {}", what, value, least, most));
    }
  };
  // `least` itself is allowed where `closed`.
  const auto number = [](const char* what, double value, double least, bool closed, double most) {
    if (!(value > least || (closed && value == least)) || !(value <= most)) {
      throw Error(
          fmt::format("{} is {}; allowed: {} {} up to {}", what, value, closed ? "from" : "more than", least, most));
    }
  };
  const double huge = 1e30;
  count("the number of iterations", iterations, 1, 1'000'000'000'000);  // a step of the random numbers has 40 bits
  count("the number of denoising points", denoising_points, 1, 1'000'000'000);
  count("the number of collocation points", collocation_points, 0, 1'000'000'000);
  number("the residual weight", residual_weight, 0, true, huge);
  if (residual_weight > 0 && collocation_points == 0) {
    throw Error(
        fmt::format("the residual weight is {} without collocation points; allowed: 1 point or more, or weight 0",
                    residual_weight));
  }
  number("the half width of the collocation box", box, 0, false, huge);
  number("the peak rate", peak_rate, 0, false, huge);
  number("the decay of the average", average_decay, 0, true, 1);
  number("the fraction of iterations averaged over", average_fraction, 0, true, 1);
  number("the norm to clip gradients at", clip_norm, 0, true, huge);
}

// The trainer.

TrainingStopped::TrainingStopped(const TrainRecord& failed)
    : Error([&] {
        const auto text = [](double value) {
          return std::isfinite(value) ? fmt::format("{:.4g}", value) : std::string("not finite");
        };
        return fmt::format(
            "training stopped at iteration {}, whose loss or gradient is not finite or above 1e18 (denoising {}, mean "
            "squared residual {}, gradient norm {}); a smaller rate or clipping may help",
            failed.iteration, text(failed.denoising), text(failed.residual), text(failed.gradient_norm));
      }()) {}

struct Trainer::State {
  Context context;
  Model model;  // its parameters are those the trainer was made with
  DataSet data;
  TrainOptions options;
  std::unique_ptr<TrainOperator> operation;
  bool runs = false;

  // Throws Error while a run is under way, whose sink this is called from.
  void check_use() const {
    if (runs) throw Error("a trainer is used in the sink of its own run; allowed: after the run");
  }
  const Architecture& architecture() const { return std::get<Mlp>(model.network).architecture; }
};

namespace {

// Everything that can be wrong, before anything is set up.
void validate(const Model& model, const DataSet& data, const TrainOptions& options) {
  options.validate();
  model.validate();
  const auto* mlp = std::get_if<Mlp>(&model.network);
  if (mlp == nullptr) throw Error("a Gaussian mixture was given to train; allowed: an MLP");
  if (data.dimension() != model.dimension()) {
    throw Error(
        fmt::format("a model of dimension {} was given data set '{}' of dimension {}; allowed: the same dimension",
                    model.dimension(), data.name(), data.dimension()));
  }
  if (options.residual_weight > 0 && model.output() == Output::score) {
    throw Error(
        fmt::format("residual weight {} was given for a vector net, for which the residual is not there yet; "
                    "allowed: 0, or a net whose output is a potential",
                    options.residual_weight));
  }
  for (const double value : mlp->parameters) {
    if (!(std::fabs(value) <= std::numeric_limits<float>::max())) {
      throw Error(fmt::format("a parameter of the model is {}; allowed: what float32 can hold", value));
    }
  }
}

constexpr const char* state_format = "fokker training state";
constexpr const char* state_version = "1";

nlohmann::json to_json(const Architecture& a) {
  return {
      {"dimension", a.dimension},      {"hidden", a.hidden}, {"activation", to_string(a.activation)}, {"beta", a.beta},
      {"output", to_string(a.output)}, {"layers", a.names()}};
}

Architecture architecture_from(const nlohmann::json& j) {
  Architecture a;
  j.at("dimension").get_to(a.dimension);
  j.at("hidden").get_to(a.hidden);
  a.activation = parse_activation(j.at("activation").get<std::string>());
  j.at("beta").get_to(a.beta);
  a.output = parse_output(j.at("output").get<std::string>());
  j.at("layers").get_to(a.layer_names);
  return a;
}

nlohmann::json to_json(const TrainOptions& o) {
  return {{"iterations", o.iterations},
          {"denoising_points", o.denoising_points},
          {"collocation_points", o.collocation_points},
          {"residual_weight", o.residual_weight},
          {"box", o.box},
          {"time_law", to_string(o.time_law)},
          {"schedule", to_string(o.schedule)},
          {"peak_rate", o.peak_rate},
          {"average", to_string(o.average)},
          {"average_decay", o.average_decay},
          {"average_fraction", o.average_fraction},
          {"clip_norm", o.clip_norm},
          {"seed", o.seed}};
}

TrainOptions options_from(const nlohmann::json& j) {
  TrainOptions o;
  j.at("iterations").get_to(o.iterations);
  j.at("denoising_points").get_to(o.denoising_points);
  j.at("collocation_points").get_to(o.collocation_points);
  j.at("residual_weight").get_to(o.residual_weight);
  j.at("box").get_to(o.box);
  o.time_law = parse_time_law(j.at("time_law").get<std::string>());
  o.schedule = parse_rate_schedule(j.at("schedule").get<std::string>());
  j.at("peak_rate").get_to(o.peak_rate);
  o.average = parse_weight_average(j.at("average").get<std::string>());
  j.at("average_decay").get_to(o.average_decay);
  j.at("average_fraction").get_to(o.average_fraction);
  j.at("clip_norm").get_to(o.clip_norm);
  j.at("seed").get_to(o.seed);
  return o;
}

// The numbers of a tensor of exactly this type and length.
template <class T>
std::vector<T> read(const SafeTensors& file, const std::string& name, const char* dtype, std::int64_t size) {
  static_assert(std::endian::native == std::endian::little);
  const Tensor& tensor = file.at(name);
  if (tensor.dtype != dtype || tensor.shape != std::vector<std::int64_t>{size}) {
    throw Error(fmt::format("tensor '{}' is {} with {} numbers; expected {} with {}", name, in_quotes(tensor.dtype),
                            tensor.size(), dtype, size));
  }
  std::vector<T> numbers(size);
  std::memcpy(numbers.data(), tensor.bytes.data(), numbers.size() * sizeof(T));
  for (const T value : numbers) {
    if (!std::isfinite(static_cast<double>(value))) {
      throw Error(fmt::format("tensor '{}' holds {}; allowed: finite numbers", name, value));
    }
  }
  return numbers;
}

TrainState state_from(const SafeTensors& file, std::int64_t parameters, const TrainOptions& options) {
  TrainState state;
  state.iteration = read<std::int64_t>(file, "iteration", "I64", 1)[0];
  state.average_count = read<std::int64_t>(file, "average_count", "I64", 1)[0];
  if (state.iteration < 0 || state.iteration > options.iterations) {
    throw Error(fmt::format("its iteration is {}; allowed: 0 to {}", state.iteration, options.iterations));
  }
  const std::int64_t averaged = std::max<std::int64_t>(0, state.iteration - average_begin(options));
  if (state.average_count != averaged) {
    throw Error(fmt::format("{} iterations in the average where {} are expected", state.average_count, averaged));
  }
  state.parameters = read<float>(file, "parameters", "F32", parameters);
  state.first_moment = read<float>(file, "first_moment", "F32", parameters);
  state.second_moment = read<float>(file, "second_moment", "F32", parameters);
  if (averaged > 0) state.average = read<double>(file, "average", "F64", parameters);
  for (const float value : state.second_moment) {
    if (value < 0) throw Error(fmt::format("tensor 'second_moment' holds {}; allowed: 0 or more", value));
  }
  return state;
}

}  // namespace

Trainer::Trainer(const Context& context, const Model& initial, const DataSet& data, const TrainOptions& options) {
  validate(initial, data, options);
  data.check_context(context);
  state_ = std::make_unique<State>(State{context, initial, data, options, nullptr});
  state_->operation = context.backend().trainer(initial, data, options);
}

Trainer::Trainer(std::unique_ptr<State> state) : state_(std::move(state)) {}
Trainer::~Trainer() = default;
Trainer::Trainer(Trainer&&) noexcept = default;
Trainer& Trainer::operator=(Trainer&&) noexcept = default;

Trainer Trainer::resume(const Context& context, const std::string& path, const DataSet& data) {
  const SafeTensors file = SafeTensors::load(path);
  const auto entry = [&](const char* key) {
    const auto found = file.metadata.find(key);
    return found == file.metadata.end() ? std::string() : found->second;
  };
  if (entry("format") != state_format) {
    throw Error(fmt::format("'{}' is not a training state; allowed: a file that Trainer::save_state() wrote", path));
  }
  if (entry("version") != state_version) {
    throw Error(fmt::format("'{}' is a training state of version {}; allowed: {}", path, in_quotes(entry("version")),
                            state_version));
  }
  Model model;
  TrainOptions options;
  TrainState state;
  std::string data_name, data_fingerprint;
  try {
    const nlohmann::json configuration = parse_json(entry("configuration"), "its configuration", 8, 10'000);
    Mlp mlp{architecture_from(configuration.at("architecture")), {}};
    mlp.architecture.validate();
    const auto& sde = configuration.at("sde");
    model.sde = ForwardSde::parse(sde.at("name").get<std::string>(), sde.at("parameters").dump());
    options = options_from(configuration.at("options"));
    options.validate();
    configuration.at("data").at("name").get_to(data_name);
    configuration.at("data").at("fingerprint").get_to(data_fingerprint);
    state = state_from(file, mlp.architecture.parameter_count(), options);
    mlp.parameters.assign(state.parameters.begin(), state.parameters.end());
    model.network = std::move(mlp);
  } catch (const nlohmann::json::exception& error) {
    throw Error(fmt::format("the configuration of the training state '{}' is not readable: {}", path, error.what()));
  } catch (const Error& error) {
    throw Error(fmt::format("the training state '{}' is not consistent: {}", path, error.what()));
  }
  if (data.fingerprint() != data_fingerprint) {
    throw Error(
        fmt::format("the training state '{}' is of data set {}; another one, '{}', or changed contents were given",
                    path, in_quotes(data_name), data.name()));
  }
  Trainer trainer(context, model, data, options);
  trainer.state_->operation->restore(std::move(state));
  return trainer;
}

std::vector<TrainRecord> Trainer::run(std::int64_t count) {
  Trainer* const self = this;
  return std::move(run_together({&self, 1}, count).front());
}

void Trainer::run(std::int64_t count, const TrainingSink& sink) {
  Trainer* const self = this;
  run_together({&self, 1}, count, sink);
}

void run_together(std::span<Trainer* const> trainers, std::int64_t count, const TrainingSink& sink) {
  if (count < 0) throw Error(fmt::format("{} iterations asked for; allowed: 0 or more", count));
  if (!sink) throw Error("a run was given an empty sink; allowed: one that can be called");
  for (std::size_t k = 0; k < trainers.size(); ++k) {
    if (trainers[k] == nullptr) {
      throw Error(fmt::format("trainer {} of {} is a null pointer; allowed: trainers", k, trainers.size()));
    }
    if (std::find(trainers.begin(), trainers.begin() + static_cast<std::ptrdiff_t>(k), trainers[k]) !=
        trainers.begin() + static_cast<std::ptrdiff_t>(k)) {
      throw Error(fmt::format("trainer {} of {} is there twice; allowed: each once", k, trainers.size()));
    }
    trainers[k]->state_->check_use();
  }
  struct UnderWay {
    std::span<Trainer* const> trainers;
    explicit UnderWay(std::span<Trainer* const> all) : trainers(all) { set(true); }
    ~UnderWay() { set(false); }
    void set(bool now) const {
      for (const Trainer* trainer : trainers) trainer->state_->runs = now;
    }
  };
  const UnderWay under_way(trainers);

  // Those of one context at a time, in the order in which their contexts come.
  std::vector<bool> done(trainers.size(), false);
  std::size_t first_stopped = trainers.size();
  std::optional<TrainingStopped> stopped;
  bool goes_on = true;
  for (std::size_t first = 0; goes_on && first < trainers.size(); ++first) {
    if (done[first]) continue;
    Backend& backend = trainers[first]->state_->context.backend();
    std::vector<std::size_t> places;
    std::vector<TrainOperator*> operations;
    std::vector<std::int64_t> counts;
    for (std::size_t k = first; k < trainers.size(); ++k) {
      const Trainer& trainer = *trainers[k];
      if (&trainer.state_->context.backend() != &backend) continue;
      places.push_back(k);
      operations.push_back(trainer.state_->operation.get());
      counts.push_back(std::min(count, trainer.options().iterations - trainer.iteration()));
      done[k] = true;
    }
    backend.run_together(operations, counts, [&](TrainingNews news) {
      news.trainer = places[news.trainer];
      if (news.stopped != nullptr && news.trainer < first_stopped) {
        first_stopped = news.trainer;
        stopped.emplace(*news.stopped);
      }
      goes_on = sink(news) && goes_on;
      return goes_on;
    });
  }
  if (stopped) throw TrainingStopped(*std::move(stopped));
}

std::vector<std::vector<TrainRecord>> run_together(std::span<Trainer* const> trainers, std::int64_t count) {
  std::vector<std::vector<TrainRecord>> records(trainers.size());
  std::size_t first_stopped = trainers.size();
  try {
    run_together(trainers, count, [&](const TrainingNews& news) {
      records[news.trainer].insert(records[news.trainer].end(), news.records.begin(), news.records.end());
      if (news.stopped != nullptr) first_stopped = std::min(first_stopped, news.trainer);
      return true;
    });
  } catch (TrainingStopped& stopped) {
    stopped.records = std::move(records[first_stopped]);
    throw;
  }
  return records;
}

std::int64_t Trainer::iteration() const { return state_->operation->iteration(); }

const TrainOptions& Trainer::options() const { return state_->options; }

Model Trainer::model() const {
  state_->check_use();
  const TrainState now = state_->operation->state();
  Model model = state_->model;
  std::vector<double>& parameters = std::get<Mlp>(model.network).parameters;
  if (now.average_count > 0) {
    parameters = now.average;
  } else {
    parameters.assign(now.parameters.begin(), now.parameters.end());
  }
  return model;
}

void Trainer::save_state(const std::string& path) const {
  state_->check_use();
  const TrainState now = state_->operation->state();
  const std::vector<std::int64_t> shape = {static_cast<std::int64_t>(now.parameters.size())};
  SafeTensors file;
  file.tensors["parameters"] = Tensor::from_float(shape, now.parameters.data());
  file.tensors["first_moment"] = Tensor::from_float(shape, now.first_moment.data());
  file.tensors["second_moment"] = Tensor::from_float(shape, now.second_moment.data());
  if (now.average_count > 0) file.tensors["average"] = Tensor::from_double(shape, now.average.data());
  file.tensors["iteration"] = Tensor::from_int64({1}, &now.iteration);
  file.tensors["average_count"] = Tensor::from_int64({1}, &now.average_count);
  const nlohmann::json configuration = {
      {"architecture", to_json(state_->architecture())},
      {"sde",
       {{"name", state_->model.sde.name()},
        {"parameters", nlohmann::json::parse(state_->model.sde.parameters_json())}}},
      {"data", {{"name", state_->data.name()}, {"fingerprint", state_->data.fingerprint()}}},
      {"options", to_json(state_->options)}};
  // A file name need not be UTF-8.
  const std::string text = configuration.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  file.metadata = {{"format", state_format}, {"version", state_version}, {"configuration", text}};
  file.save(path);
}

}  // namespace fokker
