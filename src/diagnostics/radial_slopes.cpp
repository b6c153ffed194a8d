// Is e^φ integrable? φ has to fall faster than −d log r along every ray. Far out a softplus or SiLU network is linear
// along a ray, so its slope there decides; a network whose activation is bounded is bounded itself.
#include "fokker/diagnostics/radial_slopes.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/check.hpp"
#include "diagnostics/host_fields.hpp"
#include "fokker/error.hpp"
#include "fokker/formulas/draws.hpp"

namespace fokker {
namespace {

constexpr int kMostPieces = 32;  // between the times of a grid that are looked at

std::vector<double> directions_of(std::int64_t d, const RadialSlopeOptions& options) {
  if (d == 1) return {1, -1};
  std::vector<double> e(options.directions * d);
  for (std::int64_t i = 0; i < options.directions; ++i) {
    double* direction = e.data() + i * d;
    if (d == 2) {
      const double angle = 2 * std::numbers::pi * double(i) / double(options.directions);
      direction[0] = std::cos(angle), direction[1] = std::sin(angle);
      continue;
    }
    draw_normals(direction, d, RandomUse::diagnostic, options.seed, static_cast<std::uint64_t>(i),
                 ReservedStep::direction);
    double square = 0;
    for (std::int64_t k = 0; k < d; ++k) square += direction[k] * direction[k];
    for (std::int64_t k = 0; k < d; ++k) direction[k] /= std::sqrt(square);
  }
  return e;
}

// The activations of a network that is bounded, or of the first of those that all terms are; empty where φ is not. A form
// with A of its own adds ½ A |x|².
std::string why_bounded(const Model& model, double t) {
  if (const auto* composition = std::get_if<Composition>(&model.network)) {
    std::string first;
    for (const Term& term : composition->terms) {
      const std::string why = why_bounded(term.model, t);
      if (why.empty()) return "";
      if (first.empty()) first = why;
    }
    return first;
  }
  const Mlp* mlp = std::get_if<Mlp>(&model.network);
  if (mlp == nullptr) return "";
  // Φ grows as far as the last hidden layer does.
  const Architecture& a = mlp->architecture;
  const bool bounded = traits_of(a.activation_of(a.layers() - 2).activation).bounded &&
                       !a.is_residual(a.layers() - 2) && form_at(model.form(), model.sde.formulas(), t).skip == 0;
  return bounded ? activations_text(a) : "";
}

}  // namespace

RadialSlopes radial_slopes(const Context& context, const Model& model, double t, const RadialSlopeOptions& options) {
  check_potential("the slope of a potential", model);
  check_count("the number of directions of radial slopes", options.directions, 1, 1'000'000);
  if (!(options.radius > 0) || !std::isfinite(options.radius)) {
    throw Error(fmt::format("radial slopes need a positive, finite radius, and {} was given", options.radius));
  }
  if (!(t >= 0 && t <= model.sde.horizon())) {
    throw Error(fmt::format("radial slopes at time {} were asked for; allowed: 0 to {}", t, model.sde.horizon()));
  }
  const std::int64_t d = model.dimension();
  RadialSlopes result;
  result.time = t;
  result.directions = directions_of(d, options);
  const std::int64_t n = static_cast<std::int64_t>(result.directions.size()) / d;
  std::vector<double> x(2 * n * d), value(2 * n);
  for (std::int64_t i = 0; i < n * d; ++i) {
    x[i] = options.radius * result.directions[i];
    x[n * d + i] = 2 * x[i];
  }
  HostFields(context, model.of_z()).evaluate(t, x.data(), 2 * n, {.value = value.data()});
  std::int64_t growing = 0, slow = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    const double rise = value[n + i] - value[i];
    result.slopes.push_back(rise / options.radius);
    growing += !(rise < 0);
    slow += !(rise < -double(d) * std::numbers::ln2);
  }
  result.largest = *std::max_element(result.slopes.begin(), result.slopes.end());
  result.share_growing = double(growing) / double(n);
  if (const std::string activations = why_bounded(model, t); !activations.empty()) {
    result.reason = fmt::format("φ of a network with the activation {} is bounded, so e^φ is integrable for no weights",
                                activations);
  } else if (slow > 0) {
    result.reason = fmt::format(
        "at t = {:.4g}, φ grows or falls too slowly at the radius {:g} in {:.3g} % of the directions; its largest "
        "slope there is {:.3g}",
        t, options.radius, 100 * double(slow) / double(n), result.largest);
  }
  result.integrable = result.reason.empty();
  return result;
}

RadialSlopes worst_radial_slopes(const Context& context, const Model& model, const TimeGrid& grid,
                                 const RadialSlopeOptions& options) {
  const int pieces = std::min(kMostPieces, grid.steps());
  RadialSlopes worst;
  for (int k = 0; k <= pieces; ++k) {
    const double t = grid.times()[std::int64_t{k} * grid.steps() / pieces];
    RadialSlopes slopes = radial_slopes(context, model, std::min(t, model.sde.horizon()), options);
    if (k == 0 || !slopes.integrable || slopes.largest > worst.largest) worst = std::move(slopes);
    if (!worst.integrable) break;
  }
  return worst;
}

}  // namespace fokker
