#include <cstdio>
#include <fokker/fokker.hpp>

int main() {
  const fokker::Context context;      // a GPU where there is one, else the CPU
  fokker::Architecture architecture;  // 3–80–80–80–1, a potential φ(t, x) ≈ log p_t(x)
  architecture.beta = 20;
  const auto sde = fokker::ForwardSde::ou();
  fokker::TrainOptions options;
  options.iterations = 300;
  options.residual_weight = 1;  // w_R
  fokker::Trainer trainer(context, {sde, fokker::Mlp::initialise(architecture, 1)}, fokker::DataSet::named("circles2"),
                          options);
  trainer.run(options.iterations);

  const fokker::Sampler sampler(context, trainer.model(), fokker::TimeGrid::geometric(10, 1e-3, 150));
  fokker::Buffer<float> sde_samples(context, 10000, 2), ode_samples(context, 10000, 2);
  sampler.sample(sde_samples.view(), {.scheme = fokker::Scheme::euler_maruyama, .seed = 1});
  sampler.sample(ode_samples.view(), {.scheme = fokker::Scheme::heun, .seed = 1});
  const auto gap = fokker::w2_squared(fokker::histogram(context, ode_samples.view()).weights,
                                      fokker::histogram(context, sde_samples.view()).weights);
  std::printf("W2² between the two samplers: %.4f\n", gap.w2_squared);
}
