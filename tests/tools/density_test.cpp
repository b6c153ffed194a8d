// fokker density: what it writes is what the library returns.
#include <cmath>
#include <string>
#include <vector>

#include "command_line.hpp"
#include "fokker/diagnostics/sde_density.hpp"

namespace fokker::testing {
namespace {

class DensityCommand : public CommandLine {};

TEST_F(DensityCommand, IsTheLibrarys) {
  for (const std::string& path : {mixture_3d(), network("net.safetensors", Output::potential)}) {
    const Model model = load_model(path);
    const std::int64_t d = model.dimension();
    for (const std::int64_t n : {0, 1, 19}) {
      std::vector<double> x;
      for (std::int64_t i = 0; i < n * d; ++i) x.push_back(std::sin(double(3 * i + 1)));
      save_npy(file("x.npy"), {n, d}, x.data());
      const Json json =
          fokker_json({"density", "--model", path, "--points", file("x.npy"), "--out", file("d.safetensors"), "--time",
                       "0.5", "--paths", "99", "--steps", "8", "--seed", "7", "--common-paths", "--json"});
      EXPECT_EQ(json["points"], n);
      EXPECT_EQ(json["time"], 0.5);
      const SdeDensity expected = sde_log_density(Context(), model, 0.5, {x.data(), n, d},
                                                  {.paths = 99, .steps = 8, .seed = 7, .common_paths = true});
      const SafeTensors there = SafeTensors::load(file("d.safetensors"));
      EXPECT_EQ(there.tensors.size(), 5u);
      EXPECT_EQ(there.at("log_density").to_double(), expected.log_density);
      EXPECT_EQ(there.at("standard_error").to_double(), expected.standard_error);
      EXPECT_EQ(there.at("step_error").to_double(), expected.step_error);
      EXPECT_EQ(there.at("effective_paths").to_double(), expected.effective_paths);
      EXPECT_EQ(there.at("tail_index").to_double(), expected.tail_index);
      EXPECT_EQ(json["heavy_tailed"], expected.heavy_tailed);
    }
  }
  const Arguments wrong{"density", "--model", mixture_3d(), "--points", file("x.npy"), "--out", file("e.safetensors")};
  expect_refused(wrong, "has shape [19, 2]; needed for this model: [N, 3]");
  Arguments late = with(wrong, {"--time", "10.5"});
  late[2] = planar_mixture();
  expect_refused(late, "at time 10.5 was asked for; allowed: 0 to 10");
  EXPECT_FALSE(std::filesystem::exists(file("e.safetensors")));
}

}  // namespace
}  // namespace fokker::testing
