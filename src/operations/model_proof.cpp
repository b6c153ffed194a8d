// A model proves itself when it is loaded: its scores at a few points are those that its author computed there.
#include <fmt/format.h>

#include <cmath>
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
  const std::int64_t n = std::ssize(proof.t), d = model.dimension();
  if (std::ssize(proof.x) != n * d || std::ssize(proof.score) != n * d) {
    throw Error(
        fmt::format("a proof has {} times, {} numbers of points and {} of scores; allowed for {} times in {} "
                    "dimensions: {} of each",
                    n, proof.x.size(), proof.score.size(), n, d, n * d));
  }
  if (n == 0) return;
  const double horizon = model.sde.horizon();
  for (const double t : proof.t) {
    if (!(t > 0 && t <= horizon)) {
      throw Error(fmt::format("a proof has a point at t = {}; allowed: above 0, up to {}", t, horizon));
    }
  }
  std::vector<double> score(proof.score.size());
  const Fields<double> fields(Context({.backend = BackendKind::cpu, .threads = 1}), model);
  fields.evaluate({View<const double>(proof.t), View<const double>(proof.x, d)}, {.score = View<double>(score, d)});
  const double scale = length(proof.score.data(), n * d) / std::sqrt(static_cast<double>(n));
  double worst = -1;
  std::int64_t at = 0, wrong = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    std::vector<double> difference(static_cast<std::size_t>(d));
    for (std::int64_t j = 0; j < d; ++j) {
      difference[static_cast<std::size_t>(j)] =
          score[static_cast<std::size_t>(i * d + j)] - proof.score[static_cast<std::size_t>(i * d + j)];
    }
    const double error = length(difference.data(), d);
    if (error <= 1e-3 * length(&proof.score[static_cast<std::size_t>(i * d)], d) + 1e-4 * scale) continue;
    ++wrong;
    if (!(error <= worst)) worst = error, at = i;
  }
  if (wrong == 0) return;
  throw Error(fmt::format(
      "its scores are not those of its proof at {} of {} points: at t = {:.6g}, x = {} it gives {} for {}; it was "
      "taken "
      "as {} under the SDE {}",
      wrong, n, proof.t[static_cast<std::size_t>(at)], text_of(&proof.x[static_cast<std::size_t>(at * d)], d),
      text_of(&score[static_cast<std::size_t>(at * d)], d), text_of(&proof.score[static_cast<std::size_t>(at * d)], d),
      std::holds_alternative<Mlp>(model.network) ? std::get<Mlp>(model.network).architecture.describe() : "a mixture",
      model.sde.name()));
}

Model load_model(const std::string& path, const ModelMetadata& overrides) {
  Proof proof;
  Model model = read_model_file(path, overrides, proof);
  try {
    check_proof(model, proof);
  } catch (const Error& error) {
    throw Error(fmt::format("{} is not a model that can be used: {}", in_quotes(path), error.what()));
  }
  return model;
}

}  // namespace fokker
