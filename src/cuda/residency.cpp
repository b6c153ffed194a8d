#include "cuda/residency.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <utility>
#include <variant>

#include "cuda/backend.hpp"
#include "kernels/loss_layout.hpp"
#include "kernels/shared_layout.hpp"

namespace fokker::cuda {
namespace {

kernels::ResidentMlp resident_shape(const Architecture& architecture, Precision precision) {
  const auto widest = *std::max_element(architecture.hidden.begin(), architecture.hidden.end());
  const auto hidden = static_cast<int>(architecture.hidden.size());
  const bool potential = architecture.output == Output::potential;
  kernels::ResidentMlp shape{.image = nullptr,
                             .precision = precision,
                             .dimension = static_cast<int>(architecture.dimension),
                             .hidden = hidden,
                             .width = 0,
                             .outputs = potential ? 1 : static_cast<int>(architecture.dimension),
                             .potential = potential,
                             .activation = architecture.activation,
                             .beta = static_cast<float>(architecture.beta)};
  constexpr int most_hidden = 128;  // more never fit
  const bool uniform = architecture.activations.empty() && architecture.residual.empty() && !architecture.conditional();
  if (uniform && widest <= kernels::widest_resident && architecture.dimension <= kernels::most_resident_dimension &&
      hidden <= most_hidden) {
    shape.width = kernels::padded_width(static_cast<int>(widest));
  }
  return shape;
}

std::string describe(const Residency& plan) {
  if (!plan.score.resident() && !plan.sample.resident()) return "all wide";
  std::string text;
  for (const auto& [what, work] :
       {std::pair("score", plan.score), std::pair("residual and divergence", plan.curvature),
        std::pair("Hessian", plan.hessian), std::pair("samples", plan.sample),
        std::pair("log density", plan.log_density), std::pair("adaptive samples", plan.adaptive_sample),
        std::pair("adaptive log density", plan.adaptive_log_density), std::pair("training", plan.loss)}) {
    if (!work.refusal.empty()) continue;
    const char* const separator = text.empty() ? "" : ", ";
    text += work.wide() ? fmt::format("{}{} wide", separator, what)
                        : fmt::format("{}{} resident with {} warp{} a block", separator, what, work.warps,
                                      work.warps == 1 ? "" : "s");
  }
  return text;
}

}  // namespace

// Half carries relative errors of 1e-3 into every layer, and derivatives enlarge them.
std::string_view refusal_of_derivatives(Precision precision) {
  if (precision != Precision::half) return {};
  return "precision 'half' serves values and scores only; time derivatives, divergences, Hessians, residuals and "
         "losses are there in split and fp32";
}

Residency plan_residency(const Architecture& architecture, Precision precision, const kernels::DeviceLimits& limits) {
  Residency plan{.shape = resident_shape(architecture, precision)};
  const bool compiled = plan.shape.width > 0;
  // Of an embedding of the time the samplers' kernels on a grid alone know: there it is a bias that the step determines.
  const bool raw_time = architecture.time.raw();
  const std::string_view refusal = refusal_of_derivatives(precision);
  const auto plan_of = [&](kernels::Work work) -> WorkPlan {
    if (kernels::needs_curvature(work) && !refusal.empty()) return {.refusal = refusal};
    const bool fits = compiled && (raw_time || work == kernels::Work::sample || work == kernels::Work::log_density);
    return {.warps = fits ? kernels::resident_warps(plan.shape, work, limits.shared_bytes) : 0};
  };
  plan.score = plan_of(kernels::Work::score);
  plan.curvature = plan_of(kernels::Work::curvature);
  plan.hessian = plan_of(kernels::Work::hessian);
  plan.sample = plan_of(kernels::Work::sample);
  plan.log_density = plan_of(kernels::Work::log_density);
  plan.adaptive_sample = plan_of(kernels::Work::adaptive_sample);
  plan.adaptive_log_density = plan_of(kernels::Work::adaptive_log_density);
  if (!refusal.empty()) {
    plan.loss.refusal = refusal;
  } else if (compiled && architecture.plain() && kernels::has_own_code(architecture.activation)) {
    plan.loss.warps = std::min(
        kernels::resident_loss_warps(plan.shape, !architecture.form.plain(), limits.shared_bytes), limits.loss_warps);
  }
  return plan;
}

std::vector<KernelPlan> kernel_plans(const Model& model, Precision precision, const DeviceQuery& query) {
  if (!query.missing.empty()) return {};
  const auto detail = [&](int shared_bytes) -> std::string {
    if (std::holds_alternative<Composition>(model.network)) {
      return "those of each term, and sums of their fields; samples and log density a stage at a time";
    }
    const auto* mlp = std::get_if<Mlp>(&model.network);
    if (mlp == nullptr) return "kernels of exact mixtures, in double inside";
    return describe(plan_residency(mlp->architecture, precision, {.multiprocessors = 1, .shared_bytes = shared_bytes}));
  };
  if (why_not(query).empty()) {
    const DeviceInfo& device = query.devices[static_cast<std::size_t>(query.device)];
    return {{device.name, detail(device.shared_bytes)}};
  }
  // What a block may have on the data-centre chips: 163 and 227 KiB.
  return {{"compute capability 8.0", detail(163 << 10)}, {"compute capability 9.0", detail(227 << 10)}};
}

}  // namespace fokker::cuda
