// The exact score of a standard Gaussian under the paper's SDE, and the samples it gives: s = −x/(e^{−2t} + σ²(t)).
#include <cmath>
#include <cstdio>
#include <fokker/diagnostics/radial_slopes.hpp>
#include <fokker/fokker.hpp>
#include <vector>

int main() {
  try {
    const fokker::Context context({.backend = fokker::BackendKind::cpu});  // where these vectors are
    const fokker::Model model{fokker::ForwardSde{}, fokker::GaussianMixture::isotropic(1, {1.0}, {0.0}, {1.0})};
    const fokker::Fields<double> fields(context, model);
    const std::vector<double> t{0.5}, x{0.75};
    std::vector<double> score{0.0};
    fokker::FieldOutputs<double> outputs;
    outputs.score = fokker::View<double>(score);
    fields.evaluate({fokker::View<const double>(t), fokker::View<const double>(x)}, outputs);

    const double variance = std::exp(-1.0) + 0.5 * (1 - std::exp(-1.0));
    std::printf("fokker %s on %s: score %.6f, expected %.6f\n", fokker::version(), context.backend_name().c_str(),
                score[0], -0.75 / variance);
    const bool integrable = fokker::radial_slopes(context, model, 0.5).integrable;  // from fokker::diagnostics
    return std::fabs(score[0] + 0.75 / variance) < 1e-12 && integrable ? 0 : 1;
  } catch (const fokker::Error& error) {
    std::printf("%s\n", error.what());
    return 1;
  }
}
