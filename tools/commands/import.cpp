// fokker import: somebody's network and a recipe, made a model file that proves itself.
#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <vector>

#include "commands/command.hpp"
#include "files.hpp"
#include "fokker/fokker.hpp"

namespace fokker::tools {
namespace {

class Import : public Command {
 public:
  explicit Import(CLI::App& parent)
      : Command(parent, "import", "Make a model file from the tensors of a network trained elsewhere") {
    explain(R"(
The recipe is one JSON object that says what the tensors make, for example of a noise net of cat(x, 1000 t) under the
variance-preserving SDE:
  {"layers": ["net.0", "net.2", "net.4"], "activation": "silu", "output": "noise", "inputs": "x,1000*t",
   "sde": "vp-linear", "sde_parameters": {"beta_max": 20}}
and of one whose sinusoidal embedding of the time goes through a layer of its own into the first two:
  {"layers": ["in", "mid", "out"], "activation": "silu", "time": [{"sinusoidal": 32}, "emb.0"],
   "time_activation": "silu", "time_into": ["in", "mid"], "output": "noise", "inputs": "x,1000*t",
   "sde": "vp-linear"}
A network that takes a condition names it y, and has the keys of the time for it too: of cat(x, emb(t), y)
  {"layers": ["net.0", "net.2"], "activation": "mish", "time": [{"sinusoidal": 32}, "emb.0"],
   "time_activation": "mish", "time_into": "net.0", "condition_width": 3, "output": "noise", "inputs": "x,t,y",
   "sde": "vp-linear"}
tools/README.md lists its keys. Tensors that are left over, or do not fit, are refused. With --check the model has to
give the scores that were computed where the network comes from, and keeps them: whoever loads it checks them again.
)",
            R"(
Files of --weights, --recipe, --check:
  NAME.safetensors  tensors NAME.weight [out, in] or NAME.kernel [in, out], and NAME.bias; F16, BF16, F32 or F64
  RECIPE.json       the recipe
  POINTS.npz        arrays t [N], x [N, d] and score [N, d], the score under the SDE's own time, and of a network that
                    takes a condition of c numbers condition [N, c]
)",
            R"(
  fokker import --weights net.safetensors --recipe net.json --check points.npz --out model.safetensors
  fokker sample --model model.safetensors --out samples.npy
)");
    app_->add_option("--weights", weights_, "file of the network's tensors, a .safetensors file")
        ->required()
        ->type_name("FILE")
        ->check(ends_in({".safetensors"}));
    app_->add_option("--recipe", recipe_, "file that says what they make, as JSON")->required()->type_name("FILE");
    app_->add_option("--check", check_, "file of points and the scores there, a .npz file")
        ->type_name("FILE")
        ->check(ends_in({".npz"}));
    app_->add_option("--out", out_, "file for the model, a .safetensors file")
        ->required()
        ->type_name("FILE")
        ->check(ends_in({".safetensors"}));
    add_json(*app_, json_);
  }

  void run() override {
    const std::vector<Claim> claims = claim_outputs({out_}, {weights_, recipe_, check_});
    Model model = import_model(weights_, recipe_);
    // As the file holds them: what is checked here is what will be loaded.
    for (double& parameter : std::get<Mlp>(model.network).parameters) parameter = static_cast<float>(parameter);
    Proof proof;
    if (!check_.empty()) {
      proof = {load_array(check_ + ":t").data, load_array(check_ + ":x").data, load_array(check_ + ":score").data, {}};
      if (model.condition() > 0) {
        proof.condition = load_array(check_ + ":condition").data;
      } else if (const auto names = names_in_npz(check_); std::ranges::count(names, "condition") > 0) {
        throw Error(
            fmt::format("'{}' has an array condition, and the recipe makes a network that takes none; allowed: a "
                        "recipe with condition_width, or t, x and score alone",
                        check_));
      }
      if (proof.t.empty()) throw Error(fmt::format("'{}' has no points; allowed: one or more", check_));
      check_proof(model, proof);
    }
    save_model(out_, model, {{"imported_from", weights_}}, proof);
    const std::size_t points = proof.t.size();
    if (json_) {
      Json json = describe_model(model);
      json["out"] = out_;
      json["checked_points"] = points;
      print_json(json);
      return;
    }
    const std::string checked = points > 0 ? fmt::format("its scores are right at {}", counted(points, "point"))
                                           : "nothing was checked, as --check was not given";
    fmt::print("the model is in '{}': {}, SDE {}; {}\n", out_, std::get<Mlp>(model.network).architecture.describe(),
               text_of(model.sde), checked);
  }

 private:
  std::string weights_, recipe_, check_, out_;
  bool json_ = false;
};

}  // namespace

std::unique_ptr<Command> import_command(CLI::App& parent) { return std::make_unique<Import>(parent); }

}  // namespace fokker::tools
