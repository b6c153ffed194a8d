// fokker import: from tensors and a recipe to a model that proves itself.
#include <string>

#include "command_line.hpp"

namespace fokker::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

const std::string layouts = FOKKER_SOURCE_FOLDER "/tests/layouts/";

class ImportCommand : public CommandLine {
 protected:
  Arguments import(const std::string& name, const std::string& points) {
    return {"import",
            "--weights",
            layouts + name + ".safetensors",
            "--recipe",
            layouts + name + ".json",
            "--check",
            layouts + points + ".npz",
            "--out",
            file("model.safetensors")};
  }
};

TEST_F(ImportCommand, MakesAModelThatOtherCommandsTake) {
  const std::string out = file("model.safetensors");
  const Outcome done = fokker(import("residual_blocks", "residual_blocks"));
  EXPECT_EQ(done.code, 0) << done.err;
  EXPECT_THAT(done.out, AllOf(HasSubstr("its scores are right at 24 points"), HasSubstr("residual blocks.0,blocks.1")));
  const Json info = fokker_json({"info", "--model", out, "--json"});
  EXPECT_EQ(info["model"]["time_branch"], "fixed:sine:12");
  EXPECT_EQ(info["model"]["fixed"], "features");
  EXPECT_EQ(info["model"]["metadata"]["imported_from"], layouts + "residual_blocks.safetensors");
  EXPECT_EQ(fokker({"sample", "--model", out, "--samples", "19", "--out", file("samples.npy")}).code, 0);
  const Json json = fokker_json(with(import("edm", "edm"), {"--json"}));
  EXPECT_EQ(json["checked_points"], 24);
  EXPECT_EQ(json["output"], "edm");
}

TEST_F(ImportCommand, ChecksEachPointGivenItsCondition) {
  const std::string out = file("model.safetensors");
  for (const std::string name : {"state_mish", "encoded_state"}) {
    const Json json = fokker_json(with(import(name, name), {"--json"}));
    EXPECT_EQ(json["checked_points"], 24);
    EXPECT_EQ(json["condition"], name == "state_mish" ? 5 : 4);
    EXPECT_EQ(load_model(out).condition(), json["condition"].get<int>());
  }
  EXPECT_EQ(
      fokker({"sample", "--model", out, "--condition", "1,0,-1,2", "--samples", "9", "--out", file("x.npy")}).code, 0);
  expect_failure(fokker(import("state_mish", "cat_raw")), "fokker", "condition");
  expect_failure(fokker(import("cat_raw", "state_mish")), "fokker", "a network that takes none");
}

TEST_F(ImportCommand, RefusesScoresThatAreNotTheAuthors) {
  expect_failure(fokker(import("cat_raw", "encoders")), "fokker", "its scores are not those of its proof");
  EXPECT_FALSE(std::filesystem::exists(file("model.safetensors")));
  expect_failure(fokker(import("cat_raw", "nothing")), "fokker", "nothing.npz");
  Arguments unchecked = import("cat_raw", "cat_raw");
  unchecked.erase(unchecked.begin() + 5, unchecked.begin() + 7);
  EXPECT_THAT(fokker(unchecked).out, HasSubstr("nothing was checked"));
}

}  // namespace
}  // namespace fokker::testing
