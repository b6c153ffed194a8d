// A model proves itself when it is loaded: its scores at a few points are those that its author computed there.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <variant>
#include <vector>

#include "core/quote.hpp"
#include "fokker/context.hpp"
#include "fokker/error.hpp"
#include "fokker/fields.hpp"
#include "io/model_file.hpp"

namespace fokker {
namespace {

double length(const double* v, std::int64_t d) {
  double square = 0;
  for (std::int64_t j = 0; j < d; ++j) square += v[j] * v[j];
  return std::sqrt(square);
}

std::string text_of(const double* v, std::int64_t d) {
  std::string text;
  for (std::int64_t j = 0; j < std::min<std::int64_t>(d, 3); ++j)
    text += fmt::format("{}{:.6g}", j > 0 ? ", " : "", v[j]);
  return fmt::format("({}{})", text, d > 3 ? ", …" : "");
}

}  // namespace

void check_proof(const Model& model, const Proof& proof) {
  const std::int64_t n = std::ssize(proof.t), d = model.dimension(), c = model.condition();
  if (std::ssize(proof.x) != n * d || std::ssize(proof.score) != n * d) {
    throw Error(
        fmt::format("a proof has {} times, {} numbers of points and {} of scores; allowed for {} times in {} "
                    "dimensions: {} of each",
                    n, proof.x.size(), proof.score.size(), n, d, n * d));
  }
  if (std::ssize(proof.condition) != n * c) {
    throw Error(
        fmt::format("a proof has {} numbers of conditions; allowed for {} times and {}: {}", proof.condition.size(), n,
                    c == 0 ? "a model that takes no condition" : fmt::format("a condition of {} numbers", c), n * c));
  }
  if (n == 0) return;
  const double horizon = model.sde.horizon(),
               slack = 1e-6 * horizon;         // a float32 may lie beyond the horizon that it was
  std::vector<double> times = proof.t, scale;  // σ: of the noise, and so of 1/score
  for (double& t : times) {
    if (!(t > 0 && t <= horizon + slack)) {
      throw Error(fmt::format("a proof has a point at t = {}; allowed: above 0, up to {}", t, horizon));
    }
    t = std::min(t, horizon);
    scale.push_back(std::sqrt(model.sde.at(t).variance));
  }
  for (const std::vector<double>* numbers : {&proof.x, &proof.score, &proof.condition}) {
    for (const double number : *numbers) {
      if (std::fabs(number) <= static_cast<double>(std::numeric_limits<float>::max())) continue;
      throw Error(fmt::format("a proof has the number {}; allowed: finite in float32", number));
    }
  }
  std::vector<double> score(proof.score.size());
  const Fields<double> fields(Context({.backend = BackendKind::cpu, .threads = 1}), model);
  Points<double> points{View<const double>(times), View<const double>(proof.x, d), {}};
  if (c > 0) points.condition = View<const double>(proof.condition, c);
  fields.evaluate(points, {.score = View<double>(score, d)});
  // In units of their columns: a large column has small scores in x.
  std::vector<double> of_author = proof.score;
  for (std::int64_t k = 0; k < n * d && !model.standardisation.empty(); ++k) {
    const double deviation = model.standardisation.deviation[static_cast<std::size_t>(k % d)];
    of_author[static_cast<std::size_t>(k)] *= deviation, score[static_cast<std::size_t>(k)] *= deviation;
  }
  double squares = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    const auto k = static_cast<std::size_t>(i);
    const double own = scale[k] * length(&of_author[k * static_cast<std::size_t>(d)], d);
    squares += own * own / static_cast<double>(n);
  }
  double worst = -1;
  std::int64_t at = 0, wrong = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    std::vector<double> difference(static_cast<std::size_t>(d));
    const double* const own = &of_author[static_cast<std::size_t>(i * d)];
    for (std::int64_t j = 0; j < d; ++j) {
      difference[static_cast<std::size_t>(j)] = score[static_cast<std::size_t>(i * d + j)] - own[j];
    }
    const double sigma = scale[static_cast<std::size_t>(i)], error = sigma * length(difference.data(), d);
    if (error <= 1e-3 * sigma * length(own, d) + 1e-4 * std::sqrt(squares)) continue;
    ++wrong;
    if (!(error <= worst)) worst = error, at = i;
  }
  if (wrong == 0) return;
  std::string meant = std::holds_alternative<Composition>(model.network) ? "a composition" : "a mixture";
  if (const auto* mlp = std::get_if<Mlp>(&model.network)) {
    const Architecture& a = mlp->architecture;
    meant = fmt::format("{} of {}", to_string(NetworkOutput{a.output, a.form.form}), inputs_of(a));
  }
  const auto point = static_cast<std::size_t>(at * d);
  throw Error(fmt::format(
      "its scores are not those of its proof at {} of {} points: {} for {} at t = {:.6g}; it was taken as {}, SDE {}",
      wrong, n, text_of(&score[point], d), text_of(&of_author[point], d), times[static_cast<std::size_t>(at)], meant,
      model.sde.name()));
}

Model load_model(const std::string& path, const ModelMetadata& overrides) {
  return read_model_file(path, overrides, check_proof);
}

Model parse_model(std::span<const std::byte> contents, const ModelMetadata& overrides) {
  return read_model_contents(contents, overrides, check_proof);
}

}  // namespace fokker
