// fokker info: the machine, the backends and what a model file holds.
#include <fmt/format.h>

#include <string>
#include <vector>

#include "commands/command.hpp"
#include "fokker/fokker.hpp"
#include "ranks.hpp"

namespace fokker::tools {
namespace {

class Info : public Command {
 public:
  explicit Info(CLI::App& parent) : Command(parent, "info", "Describe a model file, this machine and the backends") {
    explain(R"(
With --model it also says which kernels the CUDA backend takes for the model: resident ones, which hold the weights in
shared memory, or wide ones, which go through cuBLAS.
)",
            files_help({"--model"}), R"(
  fokker info
  fokker train --data circles2 --out circles2.safetensors
  fokker info --model circles2.safetensors --json
)");
    model_.add_to(*app_, false);
    add_precision(*app_, precision_);
    add_json(*app_, json_);
  }

  void run() override {
    Json json = describe_machine();
    const std::string mpi = mpi_library();
    json["mpi"] = mpi.empty() ? Json() : Json(mpi);
    std::vector<KernelPlan> plans;
    if (app_->count("--model") > 0) {
      const Model described = model_.load();
      plans = kernel_plans(described, parse_precision(precision_));
      json["model"] = describe_model(described);
      json["model"]["kernels"] = Json::array();
      for (const KernelPlan& plan : plans) {
        json["model"]["kernels"].push_back(
            {{"device", plan.device}, {"precision", precision_}, {"detail", plan.detail}});
      }
      json["model"]["path"] = model_.path;
      json["model"]["metadata"] = nullptr;
      if (model_.path.ends_with(".safetensors")) json["model"]["metadata"] = SafeTensors::load(model_.path).metadata;
    }
    if (json_) return print_json(json);

    fmt::print("fokker {}\n", version());
    fmt::print("machine   {}, {}\n", json["machine"]["cpu"].get<std::string>(),
               counted(json["machine"]["hardware_threads"].get<unsigned>(), "thread"));
    for (const BackendStatus& backend : backend_status()) {
      fmt::print("backend   {}: {}{}\n", backend.name, backend.available ? "" : "not available: ", backend.detail);
    }
    fmt::print("MPI       {}\n", mpi.empty() ? "none, so the programs run as one rank each" : mpi);
    if (!json.contains("model")) return;
    const Json& model = json["model"];
    constexpr std::size_t longest = 1000;  // of what someone else wrote, in characters
    fmt::print("model     {}\n", printable(model_.path));
    fmt::print("  network     {}\n", model["summary"].get<std::string>());
    if (model.contains("layers")) {
      fmt::print(
          "  layers      {}\n  parameters  {}\n",
          printable(fmt::format("{}", fmt::join(model["layers"].get<std::vector<std::string>>(), ", ")), longest),
          model["parameters"].get<std::int64_t>());
    }
    if (model.contains("terms")) {
      for (const Json& term : model["terms"]) {
        fmt::print("  term        {} times {}\n", term["weight"].dump(), term["summary"].get<std::string>());
      }
    }
    if (model.contains("condition")) {
      const auto text_at = [&](const char* key, const std::string& otherwise) {
        return model.contains(key) ? model[key].get<std::string>() : otherwise;
      };
      fmt::print("  condition   {}, {}, into {}\n", counted(model["condition"].get<std::int64_t>(), "number"),
                 text_at("condition_branch", "as they are"), text_at("condition_into", model["layers"][0]));
    }
    for (const char* of : {"condition", "time"}) {
      const std::string key = fmt::format("{}_layers", of);
      if (!model.contains(key)) continue;
      fmt::print("  {:<11} {}\n", fmt::format("{} layers", of),
                 printable(fmt::format("{}", fmt::join(model[key].get<std::vector<std::string>>(), ", ")), longest));
    }
    fmt::print("  SDE         {} {}\n", model["sde"]["name"].get<std::string>(),
               printable(model["sde"]["parameters"].dump(), longest));
    if (model.contains("standardisation")) {
      fmt::print("  columns     z = (x - mean)/deviation, means {}, deviations {}\n",
                 printable(model["standardisation"]["means"].dump(), longest),
                 printable(model["standardisation"]["deviations"].dump(), longest));
    }
    for (const KernelPlan& plan : plans) {
      fmt::print("  kernels     on {}, {}: {}\n", plan.device, precision_, plan.detail);
    }
    if (!model["metadata"].is_object()) return;
    for (const auto& [key, value] : model["metadata"].items()) {
      fmt::print("  metadata    {} = {}\n", printable(key, longest), printable(value.get<std::string>(), longest));
    }
  }

 private:
  ModelOptions model_;
  std::string precision_ = "split";
  bool json_ = false;
};

}  // namespace

std::unique_ptr<Command> info_command(CLI::App& parent) { return std::make_unique<Info>(parent); }

}  // namespace fokker::tools
