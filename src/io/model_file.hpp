#pragma once

#include <string>

#include "fokker/model.hpp"

namespace fokker {

// What load_model() reads: the model, and the proof in its file, empty where there is none, which is still to be checked.
Model read_model_file(const std::string& path, const ModelMetadata& overrides, Proof& proof);

}  // namespace fokker
