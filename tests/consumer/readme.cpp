#include <cstdio>
#include <fokker/fokker.hpp>

int main() {
  const fokker::Context context;  // a GPU where there is one, else the CPU
  const auto data = fokker::DataSet::named("circles2");
  const fokker::Architecture architecture{.hidden = {80, 80, 80}, .beta = 20};  // a potential φ(t, x) ≈ log p_t(x)
  fokker::Trainer trainer(context, {fokker::ForwardSde::ou(), fokker::Mlp::initialise(architecture, 1)}, data,
                          {.iterations = 300, .residual_weight = 1});
  trainer.run(300);

  const auto grid = fokker::TimeGrid::geometric(10, 1e-3, 150);
  const fokker::Sampler sampler(context, trainer.model(), grid);
  fokker::Buffer<float> samples(context, 10000, 2);  // on the context's device
  sampler.sample(samples, {.scheme = fokker::Scheme::heun, .seed = 1});

  const auto gap =
      fokker::measure_gap(context, trainer.model(), data, grid, {.samples = 10000, .ode_scheme = fokker::Scheme::heun});
  std::printf("W2² between the two samplers: %.4f, noise floor %.4f\n", gap.ode_sde.w2_squared, gap.noise_floor);
}
