#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "fokker/model.hpp"

namespace fokker {

// load_model(), with `check` for the proof in a file that has one: of a composition, in those of its terms.
Model read_model_file(const std::string& path, const ModelMetadata& overrides,
                      void (*check)(const Model&, const Proof&));
// parse_model(), likewise.
Model read_model_contents(std::span<const std::byte> contents, const ModelMetadata& overrides,
                          void (*check)(const Model&, const Proof&));

}  // namespace fokker
