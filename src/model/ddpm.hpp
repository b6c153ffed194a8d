#pragma once

// The betas of the SDE ddpm: read, written, checked, and as the table of −ln ᾱ that its formulas take.
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "fokker/sde.hpp"
#include "io/json.hpp"

namespace fokker {

struct DdpmTable {
  DdpmBetas given;
  std::vector<double> betas;         // β_1 … β_N
  std::vector<DdpmSde::Step> steps;  // of these
};
// Throws Error where a number is outside its range.
std::shared_ptr<const DdpmTable> make_ddpm_table(const DdpmBetas& betas);

struct DdpmParameters {
  DdpmBetas betas = {};
  std::optional<double> horizon = {}, t_min = {};
};
// From the object that `what` names. Throws Error on a key or value that is not allowed there.
DdpmParameters read_ddpm(const JsonValue& object, const std::string& what);
// The betas' members of such an object, without braces: "steps":1000,"schedule":"linear",…
std::string text_of(const DdpmBetas& betas);

}  // namespace fokker
