// fokker info: the machine, the backends, and what a model file holds.
#include <string>

#include "command_line.hpp"

namespace fokker::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

class InfoCommand : public CommandLine {};

TEST_F(InfoCommand, SaysWhichKernelsAModelTakes) {
  const std::string net = network("net.safetensors", Output::potential);
  const Json info = fokker_json({"info", "--model", net, "--precision", "fp32", "--json"});
  const bool built =
      info["backends"][1]["detail"].get<std::string>().find("this build has no CUDA") == std::string::npos;
  const Json kernels = info["model"]["kernels"];
  EXPECT_EQ(kernels.size(), built ? 2u : 0u);  // no GPU is visible here: the two architectures that it was tuned for
  const std::string text = fokker({"info", "--model", net}).out;
  for (const Json& plan : kernels) {
    EXPECT_EQ(plan["precision"], "fp32");
    EXPECT_THAT(plan["detail"].get<std::string>(), StartsWith("score resident with "));
    EXPECT_THAT(text, HasSubstr(fmt::format("kernels     on {}, split: score resident with ",
                                            plan["device"].get<std::string>())));
  }
}

TEST_F(InfoCommand, DescribesMachineBackendsAndModel) {
  const Json json = fokker_json({"info", "--model", network("net.safetensors", Output::potential), "--json"});
  EXPECT_EQ(json["version"], version());
  ASSERT_EQ(json["backends"].size(), 2u);
  EXPECT_EQ(json["backends"][0]["name"], "cpu");
  EXPECT_EQ(json["backends"][0]["available"], true);
  EXPECT_EQ(json["backends"][1]["name"], "cuda");
  EXPECT_TRUE(json["backends"][1]["detail"].is_string());
  EXPECT_TRUE(json["mpi"].is_string() || (json["mpi"].is_null() && std::string(FOKKER_MPIRUN).empty())) << json["mpi"];
  EXPECT_EQ(json["model"]["hidden"], Json({17, 9}));
  EXPECT_EQ(json["model"]["parameters"], 3 * 17 + 17 + 17 * 9 + 9 + 9 + 1);
  EXPECT_EQ(json["model"]["activation"], "softplus");
  EXPECT_EQ(json["model"]["beta"], 5);
  EXPECT_EQ(json["model"]["sde"]["name"], "ou");
  EXPECT_EQ(json["model"]["metadata"]["output"], "potential");
  EXPECT_EQ(fokker_json({"info", "--model", planar_mixture(), "--json"})["model"]["components"], 2);
  const Json other =
      fokker_json({"info", "--model", file("net.safetensors"), "--activation", "tanh", "--sde", "ve", "--json"});
  EXPECT_EQ(other["model"]["activation"], "tanh");
  EXPECT_EQ(other["model"]["sde"]["name"], "ve");
}

}  // namespace
}  // namespace fokker::testing
