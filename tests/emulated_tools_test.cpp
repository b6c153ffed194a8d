// The executables with the CUDA backend, on the emulation, beside those without: what only that backend makes them do,
// and that its numbers are those of the CPU.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "compare.hpp"
#include "fokker/fokker.hpp"
#include "mpirun.hpp"
#include "process.hpp"
#include "scratch.hpp"

namespace fokker {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;
using testing::get;
using testing::Outcome;
using testing::Process;
using testing::Scratch;

constexpr int iterations = 3;

Process reproduction(const Scratch& scratch, bool on_cuda, const char* out) {
  return Process(
      scratch.folder(),
      fmt::format("{} --backend {} --precision fp32 --preset smoke --iterations {} --samples 200 --data blob "
                  "--grid geometric:30:1e-2 --weights 0,0.1,1 --out {}",
                  on_cuda ? REPRODUCE_EMULATED : REPRODUCE_TOOL, on_cuda ? "cuda" : "cpu", iterations, scratch / out));
}

std::string folder_of(const Scratch& scratch, const char* out, double weight) {
  return scratch / fmt::format("{}/blob_softplus20_w{}_s0/", out, weight);
}

// The numbers of a log by iteration: denoising, residual and total loss, norm of the gradient, rate.
std::map<int, std::vector<double>> records_of(const std::string& log) {
  std::map<int, std::vector<double>> records;
  std::istringstream lines(get(log));
  std::string line, cell;
  for (std::getline(lines, line); std::getline(lines, line);) {
    std::istringstream cells(line);
    std::getline(cells, cell, ',');
    std::vector<double>& numbers = records[std::stoi(cell)];
    while (std::getline(cells, cell, ',')) numbers.push_back(std::stod(cell));
  }
  return records;
}

// Runs of a group, which train side by side on CUDA, of which one goes on from a state and one diverges.
TEST(EmulatedReproduction, TrainsAGroupAsTheCpuTrainsEach) {
  const Scratch scratch;
  const Outcome on_cpu = reproduction(scratch, false, "cpu").wait();
  ASSERT_EQ(on_cpu.code, 0) << on_cpu.err;

  for (const double weight : {0.0, 0.1, 1.0}) {
    const std::string folder = folder_of(scratch, "cuda", weight);
    std::filesystem::create_directories(folder);
    std::filesystem::copy(folder_of(scratch, "cpu", weight) + "recipe.json", folder);
    if (weight == 1) continue;
    Architecture architecture;
    architecture.beta = 20;
    Mlp network = Mlp::initialise(architecture, 0);
    TrainOptions options;
    options.iterations = iterations;
    options.denoising_points = 1024;
    options.collocation_points = 256;
    options.residual_weight = weight;
    // As one that diverges leaves it, and as one that was interrupted after an iteration.
    if (weight == 0) network.parameters.assign(network.parameters.size(), 1e30);
    Trainer trainer(Context({.backend = BackendKind::cpu}), {ForwardSde::defaults(SdeKind::ou), network},
                    DataSet::named("blob"), options);
    if (weight != 0) trainer.run(1);
    trainer.save_state(folder + "state.safetensors");
  }

  // Measuring would take the emulation minutes: ended before, it leaves that to the CPU.
  const std::string model = folder_of(scratch, "cuda", 1) + "model.safetensors";
  const Process process = reproduction(scratch, true, "cuda");
  ASSERT_TRUE(process.wait_for(model)) << process.wait().err;
  process.send(SIGKILL);
  process.wait();

  const std::string failed = folder_of(scratch, "cuda", 0);
  EXPECT_EQ(Json::parse(get(failed + "failed.json"))["iteration"], 0);
  EXPECT_FALSE(std::filesystem::exists(failed + "model.safetensors"));
  for (const double weight : {0.1, 1.0}) {
    SCOPED_TRACE(weight);
    const std::string folder = folder_of(scratch, "cuda", weight);
    const Json training = Json::parse(get(folder + "training.json"));
    const int first = weight == 1 ? 0 : 1;
    EXPECT_EQ(training["trained_together"], 3);
    EXPECT_EQ(training["first_iteration"], first);
    EXPECT_GT(training["seconds"], 0);
    const auto records = records_of(folder + "log.csv"),
               expected = records_of(folder_of(scratch, "cpu", weight) + "log.csv");
    EXPECT_EQ(std::ssize(records), iterations - first);
    for (const auto& [iteration, numbers] : records) {
      // In float on both sides, means over many points, written with eight digits: a few roundings of 6e-8.
      EXPECT_TRUE(testing::agrees(numbers, expected.at(iteration), {.relative = 1e-6, .norm = 1e-6})) << iteration;
    }
  }

  const auto expect_one_failed = [](const Outcome& outcome) {
    EXPECT_EQ(outcome.code, 1);
    EXPECT_THAT(outcome.err, HasSubstr("1 of 3 runs failed"));
  };
  expect_one_failed(reproduction(scratch, false, "cuda").wait());
  const Json measured = Json::parse(get(scratch / "cuda/results.json"));
  const std::string bytes = get(model);
  expect_one_failed(reproduction(scratch, true, "cuda").wait());  // all is done
  EXPECT_EQ(get(model), bytes);
  const Json results = Json::parse(get(scratch / "cuda/results.json")),
             expected = Json::parse(get(scratch / "cpu/results.json"));
  EXPECT_EQ(results["backend"], "cuda");
  EXPECT_EQ(results["finished"], true);
  EXPECT_EQ(results["runs"], measured["runs"]);
  ASSERT_EQ(results["runs"].size(), 3u);
  EXPECT_EQ(results["runs"][0]["failed"], Json::parse(get(failed + "failed.json"))["failed"]);
  for (const int run : {1, 2}) {
    SCOPED_TRACE(run);
    for (const char* name : {"/gap/residual/mean_square", "/gap/residual/centred_mean_square", "/gap/denoising_loss"}) {
      const Json::json_pointer at(name);
      EXPECT_TRUE(testing::agrees(results["runs"][run][at].get<double>(), expected["runs"][run][at], 1e-6)) << name;
    }
  }
}

// Numbers in double on both sides agree, those of samples, which are drawn in float, as these do; all else is the same.
void expect_close(const Json& actual, const Json& expected, const std::string& where) {
  if (expected.is_structured()) {
    ASSERT_EQ(actual.size(), expected.size()) << where;
    for (const auto& [key, value] : expected.items()) {
      const Json::json_pointer at("/" + key);
      ASSERT_TRUE(actual.contains(at)) << where << "/" << key;
      expect_close(actual[at], value, where + "/" + key);
    }
  } else if (expected.is_number_float()) {
    ASSERT_TRUE(actual.is_number()) << where;
    const double relative = where.find("over_samples") == std::string::npos ? 1e-10 : 1e-5;
    EXPECT_TRUE(testing::agrees(actual.get<double>(), expected, relative)) << where;
  } else {
    EXPECT_EQ(actual, expected) << where;
  }
}

class EmulatedCommandLine : public ::testing::Test {
 protected:
  EmulatedCommandLine() {
    Architecture architecture;
    architecture.hidden = {17, 9};
    architecture.beta = 5;
    save_model(scratch_ / "model.safetensors", {ForwardSde::defaults(SdeKind::ou), Mlp::initialise(architecture, 3)});
  }

  // What it prints with --json.
  Json fokker(bool on_cuda, const std::string& arguments) const {
    const Outcome outcome =
        Process(scratch_.folder(), fmt::format("{} {} --backend {} --json", on_cuda ? FOKKER_EMULATED : FOKKER_TOOL,
                                               arguments, on_cuda ? "cuda" : "cpu"))
            .wait();
    EXPECT_EQ(outcome.code, 0) << arguments << ": " << outcome.err;
    return Json::parse(outcome.out, nullptr, false);
  }

  Scratch scratch_;
};

TEST_F(EmulatedCommandLine, WorksInEveryPrecision) {
  const float points[] = {0.5f, 1, -1};
  save_npy(scratch_ / "points.npy", {1, 3}, points);
  const std::string model = "--model " + (scratch_ / "model.safetensors");
  for (const std::string precision : {"split", "fp32", "half"}) {
    std::vector<std::string> commands{
        fmt::format("sample {} --samples 19 --grid uniform:3 --out {}", model, scratch_ / "samples.npy"),
        fmt::format("field {} --points {} --out {}", model, scratch_ / "points.npy", scratch_ / "field.safetensors")};
    if (precision == "half") {
      commands.push_back(fmt::format("gap {} --data blob --samples 99 --grid uniform:3", model));  // without residuals
    } else {
      commands.push_back(fmt::format("train --data blob --hidden 7 --iterations 2 --denoising-points 19 --out {}",
                                     scratch_ / "trained.safetensors"));
    }
    for (const std::string& command : commands) {
      SCOPED_TRACE(command);
      const Json printed = fokker(true, command + " --precision " + precision);
      EXPECT_EQ(printed.value("backend", ""), "cuda");
      EXPECT_EQ(printed.value("precision", ""), precision);
    }
  }
}

TEST_F(EmulatedCommandLine, DiagnosesAsTheCpu) {
  const std::string command =
      fmt::format("diagnose --model {} --nodes 32 --grid geometric:4 --bound-samples 20 --box-points 20 --samples 99",
                  scratch_ / "model.safetensors");
  Json found = fokker(true, command), expected = fokker(false, command);
  EXPECT_EQ(found.value("backend", ""), "cuda");
  EXPECT_EQ(expected.value("backend", ""), "cpu");
  for (const char* own : {"backend", "seconds"}) found.erase(own), expected.erase(own);
  expect_close(found, expected, "");
}

// Trainings by mpirun, each rank on an emulated GPU of its own: the bytes of any number of them, and one sentence where
// there are fewer GPUs or no NCCL.
TEST(EmulatedRanks, TrainOnAGpuEach) {
  if (const std::string why = testing::why_no_ranks(); !why.empty()) GTEST_SKIP() << why;
  const Scratch scratch;
  const auto train = [&](int ranks, const std::string& environment, const std::string& name) {
    return Process(scratch.folder(),
                   fmt::format("env {} {} -n {} {} train --backend cuda --threads 1 --data circles2 --hidden 7 "
                               "--denoising-points 301 --collocation-points 99 --residual-weight 0.5 --iterations 3 "
                               "--out {}.safetensors --state {}.state",
                               environment, FOKKER_MPIRUN, ranks, FOKKER_EMULATED, scratch / name, scratch / name))
        .wait();
  };
  for (const int ranks : {2, 3}) {
    const Outcome outcome = train(ranks, "FOKKER_EMULATION_DEVICES=3", fmt::format("on{}", ranks));
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    EXPECT_THAT(outcome.err + outcome.out, HasSubstr(fmt::format("on each of {} ranks", ranks)));
  }
  for (const char* what : {".safetensors", ".state"}) {
    EXPECT_TRUE(get(scratch / ("on2" + std::string(what))) == get(scratch / ("on3" + std::string(what)))) << what;
  }
  const Outcome few = train(2, "FOKKER_EMULATION_DEVICES=1", "few");
  EXPECT_NE(few.code, 0);
  EXPECT_THAT(few.err, HasSubstr("ranks 0 and 1 of 2 were given one GPU to train on several"));
  // Other work shares it.
  testing::put(scratch / "m.json", R"({"weights": [1], "means": [[1, 0]], "covariances": [0.2]})");
  const Outcome samples =
      Process(scratch.folder(),
              fmt::format("env FOKKER_EMULATION_DEVICES=1 {} -n 2 {} sample --backend cuda --threads 1 "
                          "--model {} --samples 5 --grid uniform:2 --out {}",
                          FOKKER_MPIRUN, FOKKER_EMULATED, scratch / "m.json", scratch / "x.npy"))
          .wait();
  EXPECT_EQ(samples.code, 0) << samples.err;
  const Outcome absent = train(2, "FOKKER_EMULATION_DEVICES=2 FOKKER_EMULATION_WITHOUT_NCCL=1", "absent");
  EXPECT_NE(absent.code, 0);
  EXPECT_THAT(absent.err, HasSubstr("trainings on several GPUs need NCCL"));
}

// What a part's numbers depend on of a device, and no more: not how many there are, nor the driver.
TEST(EmulatedParts, NameTheDevice) {
  const Scratch scratch;
  testing::put(scratch / "m.json", R"({"weights": [1], "means": [[1, 0]], "covariances": [0.2]})");
  const Outcome outcome =
      Process(scratch.folder(),
              fmt::format("{} sample --backend cuda --model {} --samples 4 --grid uniform:2 --rank 0/2 "
                          "--out {}",
                          FOKKER_EMULATED, scratch / "m.json", scratch / "x.npy"))
          .wait();
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(Json::parse(get(scratch / "x.npy.part.json"))["call"]["backend_detail"],
            "emulation (compute capability 9.0)");
}

}  // namespace
}  // namespace fokker
