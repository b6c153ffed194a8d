#include "work.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "fokker/formulas/philox.hpp"

namespace fokker::bench {

Model paper_model(double beta) {
  Architecture architecture;
  architecture.beta = beta;
  return network(architecture);
}

Model network(const Architecture& architecture) { return {ForwardSde{}, Mlp::initialise(architecture, 1)}; }

Model noise_model(bool time_branch) {
  Architecture architecture{.hidden = {128, 128, 128}, .activation = Activation::silu, .output = Output::score};
  architecture.form.form = Form::noise;
  if (time_branch) {
    architecture.time = {{{32, {Activation::sine, 1}, true}, {32, {Activation::silu, 1}}}, {0, 1, 2}};
  }
  Architecture plain = architecture;  // whose last layer is not zero
  plain.form = {};
  return {ForwardSde{}, Mlp{architecture, Mlp::initialise(plain, 1).parameters}};
}

Model trained_model(std::int64_t iterations) {
  TrainOptions options;
  options.iterations = iterations;
  options.denoising_points = 2'048;
  options.seed = 1;
  Trainer trainer(Context({.backend = BackendKind::cpu}), paper_model(), DataSet::named("circles2"), options);
  trainer.run(iterations);
  return trainer.model();
}

double flop_per_sweep(const Architecture& architecture) {
  double weights = 0;
  for (std::int64_t l = 0; l < architecture.layers(); ++l) {
    weights += static_cast<double>(architecture.inputs(l) * architecture.outputs(l));
  }
  for (std::int64_t l = 0; l < std::ssize(architecture.time.layers); ++l) {
    weights += static_cast<double>(architecture.time.inputs_of(l) *
                                   architecture.time.layers[static_cast<std::size_t>(l)].width);
  }
  return 2 * weights;
}

RandomPoints random_points(const ForwardSde& sde, std::int64_t dimension, std::int64_t n, std::uint64_t seed) {
  std::mt19937_64 engine(seed);
  std::uniform_real_distribution<float> time(static_cast<float>(sde.t_min()), static_cast<float>(sde.horizon()));
  std::uniform_real_distribution<float> place(-3.5f, 3.5f);
  RandomPoints points{std::vector<float>(n), std::vector<float>(n * dimension), dimension};
  for (float& t : points.t) t = time(engine);
  for (float& x : points.x) x = place(engine);
  return points;
}

RandomBatch random_batch(const ForwardSde& sde, std::int64_t n, std::uint64_t seed) {
  std::mt19937_64 engine(seed);
  std::uniform_real_distribution<double> uniform;
  std::normal_distribution<double> normal;
  std::vector<float> x0(2 * n);
  DataSet::named("circles2").draw(Context({.backend = BackendKind::cpu}), View<float>(x0, 2), seed);
  RandomBatch batch{std::vector<float>(n), std::vector<float>(2 * n), std::vector<float>(2 * n)};
  for (std::int64_t i = 0; i < n; ++i) {
    // Beta(1, 2) has the distribution function 1 − (1 − u)².
    batch.t[i] = static_cast<float>(sde.t_min() + (sde.horizon() - sde.t_min()) * (1 - std::sqrt(1 - uniform(engine))));
    const auto c = sde.at(static_cast<double>(batch.t[i]));
    for (int j = 0; j < 2; ++j) {
      const double z = normal(engine), sigma = std::sqrt(c.variance);
      batch.x[2 * i + j] = static_cast<float>(c.mean * x0[2 * i + j] + sigma * z);
      batch.target[2 * i + j] = static_cast<float>(-z / sigma);
    }
  }
  return batch;
}

TrainOptions paper_training(std::int64_t denoising_points, std::int64_t collocation_points) {
  TrainOptions options;
  options.iterations = 100'000'000;  // more than any measurement runs
  options.denoising_points = denoising_points;
  options.collocation_points = collocation_points;
  options.residual_weight = collocation_points > 0 ? 1 : 0;
  options.time_law = TimeLaw::paper;
  options.schedule = RateSchedule::constant;
  options.peak_rate = 1e-4;
  options.average = WeightAverage::none;
  return options;
}

std::string compare(const std::string& name, const float* got, const double* want, std::int64_t n, double rms_bound,
                    double element_bound) {
  double squared = 0, difference_squared = 0, largest = 0;
  std::int64_t worst = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    const double difference = std::fabs(got[i] - want[i]);
    squared += want[i] * want[i];
    difference_squared += difference * difference;
    if (!(difference <= largest)) largest = difference, worst = i;
  }
  const double rms = std::sqrt(squared / static_cast<double>(n));
  const double error = std::sqrt(difference_squared / static_cast<double>(n));
  if (error <= rms_bound * rms && largest <= element_bound * rms) return "";
  return fmt::format(
      "{} is wrong: error {:.2e} of its rms (allowed {:.2e}), worst at {} of {}: {} for {} (allowed {:.2e} of {:.3g})",
      name, error / rms, rms_bound, worst, n, got[worst], want[worst], element_bound, rms);
}

namespace {

Tensor tensor(std::vector<std::int64_t> shape, const std::vector<float>& values) {
  return Tensor::from_float(std::move(shape), values.data());
}

}  // namespace

void write_reference(const std::string& path, const Context& context, const ReferenceSizes& sizes) {
  const Model model = paper_model();
  const Mlp& mlp = std::get<Mlp>(model.network);
  const Architecture& architecture = mlp.architecture;
  const std::vector<float> parameters(mlp.parameters.begin(), mlp.parameters.end());
  const std::vector<std::string> names = architecture.names();
  SafeTensors file;
  const auto add_layer = [&](const std::string& name, const float* weights, std::int64_t out, std::int64_t in) {
    file.tensors[name + ".weight"] = Tensor::from_float({out, in}, weights);
    file.tensors[name + ".bias"] = Tensor::from_float({out}, weights + out * in);
  };
  const auto add_parameters = [&](const std::string& prefix, const std::vector<float>& of) {
    for (std::int64_t l = 0; l < architecture.layers(); ++l) {
      add_layer(prefix + names[l], of.data() + architecture.weight_offset(l), architecture.outputs(l),
                architecture.inputs(l));
    }
  };
  add_parameters("parameter.", parameters);
  const auto fetch = [&](const Buffer<float>& from) {
    std::vector<float> to(from.size());
    copy(context, from.view(), View<float>(to, from.columns()));
    context.synchronize();
    return to;
  };

  const std::int64_t n = sizes.fields;
  const RandomPoints points = random_points(model.sde, 2, n, 1);
  Buffer<float> t(context, n), x(context, n, 2), score(context, n, 2), residual(context, n);
  copy(context, points.view().t, t.view());
  copy(context, points.view().x, x.view());
  const Fields<float> fields(context, model);
  FieldOutputs<float> outputs;
  outputs.score = score.view();
  fields.evaluate({t.view(), x.view()}, outputs);
  outputs = {};
  outputs.residual = residual.view();
  fields.evaluate({t.view(), x.view()}, outputs);
  file.tensors["points.t"] = tensor({n}, points.t);
  file.tensors["points.x"] = tensor({n, 2}, points.x);
  file.tensors["points.score"] = tensor({n, 2}, fetch(score));
  file.tensors["points.residual"] = tensor({n}, fetch(residual));

  if (sizes.denoising > 0) {
    const RandomBatch batch = random_batch(model.sde, sizes.denoising, 2);
    const RandomPoints collocation = random_points(model.sde, 2, sizes.collocation, 3);
    const auto there = [&](const std::vector<float>& from, std::int64_t columns) {
      Buffer<float> to(context, std::ssize(from) / columns, columns);
      copy(context, View<const float>(from, columns), to.view());
      return to;
    };
    const Buffer<float> weights = there(parameters, 1);
    const Buffer<float> batch_t = there(batch.t, 1), batch_x = there(batch.x, 2), target = there(batch.target, 2);
    const Buffer<float> collocation_t = there(collocation.t, 1), collocation_x = there(collocation.x, 2);
    Buffer<double> loss_values(context, 3);
    Buffer<float> loss_gradient(context, std::ssize(parameters));
    Loss<float>(context, architecture, model.sde)
        .evaluate(weights.view(), {batch_t.view(), batch_x.view(), target.view(), {}},
                  {collocation_t.view(), collocation_x.view()}, 1.0, loss_values.view(), loss_gradient.view());
    std::vector<double> values(3);
    copy(context, loss_values.view(), View<double>(values));
    const std::vector<float> gradient = fetch(loss_gradient);
    file.tensors["train.t"] = tensor({sizes.denoising}, batch.t);
    file.tensors["train.x"] = tensor({sizes.denoising, 2}, batch.x);
    file.tensors["train.target"] = tensor({sizes.denoising, 2}, batch.target);
    file.tensors["train.collocation_t"] = tensor({sizes.collocation}, collocation.t);
    file.tensors["train.collocation_x"] = tensor({sizes.collocation, 2}, collocation.x);
    file.tensors["train.losses"] = Tensor::from_double({3}, values.data());
    add_parameters("gradient.", gradient);
  }

  // One step of the paper's grid from the random states, with the noise that the sampler draws.
  const std::vector<double> paper = TimeGrid::paper(model.sde.horizon()).times();
  const Sampler sampler(context, model, TimeGrid({paper[0], paper[1]}));
  SampleOptions options;
  options.seed = 7;
  options.noise_in_last_step = true;
  std::vector<float> noise(2 * n);
  for (std::int64_t i = 0; i < n; ++i) {
    const PhiloxBlock words =
        philox4x32_10(options.seed, static_cast<std::uint64_t>(i), philox_offset(RandomUse::noise, 0, 0));
    normals_from_words(words.word[0], words.word[1], noise[2 * i], noise[2 * i + 1]);
  }
  const Model with_branch = noise_model(true);
  const Mlp& noise_net = std::get<Mlp>(with_branch.network);
  const Architecture& of_noise = noise_net.architecture;
  const std::vector<float> noise_parameters(noise_net.parameters.begin(), noise_net.parameters.end());
  for (std::int64_t l = 0; l < std::ssize(of_noise.time.layers); ++l) {
    const auto at = static_cast<std::size_t>(l);
    add_layer("noise.parameter." + of_noise.time_names()[at], noise_parameters.data() + of_noise.time.weight_offset(l),
              of_noise.time.layers[at].width, of_noise.time.inputs_of(l));
  }
  for (std::int64_t l = 0; l < of_noise.layers(); ++l) {
    add_layer("noise.parameter." + of_noise.names()[static_cast<std::size_t>(l)],
              noise_parameters.data() + of_noise.weight_offset(l), of_noise.outputs(l), of_noise.inputs(l));
  }
  if (context.device() == Device::cpu) {
    outputs = {};
    outputs.score = score.view();
    Fields<float>(context, with_branch).evaluate({t.view(), x.view()}, outputs);
    file.tensors["noise.score"] = tensor({n, 2}, fetch(score));
    Buffer<float> after(context, n, 2);
    copy(context, x.view(), after.view());
    Sampler(context, with_branch, TimeGrid({paper[0], paper[1]})).integrate(after.view(), options);
    file.tensors["noise.after"] = tensor({n, 2}, fetch(after));
  }
  sampler.integrate(x.view(), options);
  file.tensors["step.noise"] = tensor({n, 2}, noise);
  file.tensors["step.after"] = tensor({n, 2}, fetch(x));
  file.tensors["step.times"] = Tensor::from_double({static_cast<std::int64_t>(paper.size())}, paper.data());
  if (sizes.samples > 0) {
    file.tensors["sample.count"] = tensor({1}, {static_cast<float>(sizes.samples)});
    const Model trained = trained_model(sampling_iterations);
    const std::vector<double>& of = std::get<Mlp>(trained.network).parameters;
    add_parameters("sample.parameter.", {of.begin(), of.end()});
  }
  file.save(path);
}

}  // namespace fokker::bench
