// Calls of the reproduction that go on where others ended: interrupted, killed, failed, or asked for other runs.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <string>

#include "fokker/fokker.hpp"
#include "reproduction.hpp"
#include "scratch.hpp"

namespace fokker {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using namespace testing;
using Json = nlohmann::json;

TEST(Reproduction, LeavesEverythingAndGoesOnWhereItStopped) {
  const Scratch scratch;
  const auto call = [&](const std::string& options) {
    return run(scratch, reproduce_tool + " --preset smoke " + options);
  };
  const std::string out = scratch / "smoke";
  Outcome outcome = call("--out " + out);
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("ODE–SDE"));
  EXPECT_THAT(outcome.out, AllOf(HasSubstr("circles2: the ODE–SDE gap"), HasSubstr("numbers to mean anything")));
  const Json results = Json::parse(get(out + "/results.json"));
  EXPECT_EQ(results["preset"], "smoke");
  EXPECT_EQ(results["finished"], true);
  ASSERT_EQ(results["runs"].size(), 2u);
  for (const Json& entry : results["runs"]) {
    const std::string folder = out + "/" + entry["folder"].get<std::string>();
    for (const char* name : {"recipe.json", "model.safetensors", "training.json", "gap.json", "log.csv", "ode.npy",
                             "sde.npy", "truth.npy"}) {
      EXPECT_TRUE(std::filesystem::is_regular_file(folder + "/" + name)) << folder << " " << name;
    }
    EXPECT_TRUE(entry["gap"]["w2_squared"]["ode_sde"].is_number());
    EXPECT_TRUE(entry["gap"]["residual"]["centred_mean_square"].is_number());
    EXPECT_GT(entry["gap"]["noise_floor"].get<double>(), 0);
  }

  // Once more: nothing is done again.
  const std::string model_file = out + "/circles2_softplus20_w1_s0/model.safetensors", model = get(model_file);
  const auto written = std::filesystem::last_write_time(model_file),
             measured = std::filesystem::last_write_time(out + "/circles2_softplus20_w1_s0/gap.json");
  EXPECT_EQ(call("--out " + out).code, 0);
  EXPECT_EQ(std::filesystem::last_write_time(model_file), written);
  EXPECT_EQ(std::filesystem::last_write_time(out + "/circles2_softplus20_w1_s0/gap.json"), measured);
  // Fewer samples: measured again from the same model.
  EXPECT_EQ(call("--samples 1000 --out " + out).code, 0);
  EXPECT_EQ(std::filesystem::last_write_time(model_file), written);
  EXPECT_EQ(Json::parse(get(out + "/results.json"))["runs"][1]["gap"]["samples"], 1000);
  // Another recipe: refused.
  expect_refusal(call("--iterations 7 --out " + out), "iterations: 300 there, 7 asked for");
  EXPECT_EQ(get(model_file), model);

  // Interrupted while it trains, then called again: the same model.
  const std::string other = scratch / "interrupted";
  const std::string again = "--weights 1 --samples 1000 --out " + other;
  const Process process(scratch.folder(), reproduce_tool + " --preset smoke " + again);
  ASSERT_TRUE(process.wait_for(other + "/circles2_softplus20_w1_s0/log.csv"));
  // A second call while it runs leaves that run alone.
  process.send(SIGSTOP);
  const Scratch streams;
  const Outcome beside = run(streams, reproduce_tool + " --preset smoke " + again);
  EXPECT_EQ(beside.code, 1);
  EXPECT_THAT(beside.err,
              AllOf(HasSubstr("circles2, w_R = 1: skipped, process"), HasSubstr("1 of 1 run not finished")));
  process.send(SIGCONT);
  process.send(SIGTERM);
  const Outcome interrupted = process.wait();
  EXPECT_EQ(interrupted.code, 1);
  EXPECT_THAT(interrupted.err, HasSubstr("reproduce: interrupted after"));
  EXPECT_TRUE(std::filesystem::exists(other + "/circles2_softplus20_w1_s0/state.safetensors"));
  EXPECT_EQ(call(again).code, 0);
  EXPECT_EQ(get(other + "/circles2_softplus20_w1_s0/model.safetensors"), model);
  EXPECT_EQ(get(other + "/circles2_softplus20_w1_s0/log.csv"), get(out + "/circles2_softplus20_w1_s0/log.csv"));
}

// A state whose next loss is not finite, as a training that diverges leaves it: that run is recorded as failed, the
// others go on, and a second call tries it no more.
TEST(Reproduction, GoesOnWhereOneRunDiverges) {
  const Scratch scratch;
  const auto call = [&] { return reproduce(scratch, "blob", "0,1", 3, "--seeds 2"); };
  ASSERT_EQ(call().code, 0);
  for (const std::uint64_t seed : {0, 1}) {
    const std::string folder = scratch / fmt::format("out/blob_softplus20_w0_s{}/", seed);
    for (const char* name : {"model.safetensors", "training.json"}) std::filesystem::remove(folder + name);
    Architecture architecture;
    architecture.beta = 20;
    Mlp network = Mlp::initialise(architecture, seed);
    for (double& parameter : network.parameters) parameter = 1e30;
    TrainOptions options;
    options.iterations = 3;
    options.denoising_points = 1024;
    options.collocation_points = 256;
    options.seed = seed;
    Trainer(Context(), {ForwardSde::defaults(SdeKind::ou), network}, DataSet::named("blob"), options)
        .save_state(folder + "state.safetensors");
  }
  std::string results_before;
  for (int k = 0; k < 2; ++k) {
    SCOPED_TRACE(k);
    const Outcome outcome = call();
    EXPECT_EQ(outcome.code, 1);
    EXPECT_THAT(outcome.err, HasSubstr("reproduce: 2 of 4 runs failed"));
    const std::string text = get(scratch / "out/results.json");
    const Json results = Json::parse(text);
    EXPECT_EQ(results["finished"], true);
    ASSERT_EQ(results["runs"].size(), 4u);
    for (const Json& entry : results["runs"]) {
      const bool failed = entry["residual_weight"] == 0;
      EXPECT_EQ(entry.contains("failed"), failed);
      EXPECT_EQ(entry.contains("gap"), !failed);
      EXPECT_GT(entry["training"]["seconds"].get<double>(), 0);  // which the sum has too
    }
    EXPECT_THAT(results["runs"][0]["failed"].get<std::string>(), HasSubstr("finite"));
    ASSERT_EQ(results["summary"].size(), 1u);
    EXPECT_EQ(results["summary"][0]["residual_weight"], 1);
    // The time is that of the parts, whichever call did them.
    EXPECT_GT(results["seconds"].get<double>(), 0);
    if (k == 1) {
      EXPECT_EQ(text, results_before);
    }
    results_before = text;
  }
  const std::string folder = scratch / "out/blob_softplus20_w0_s0/";
  EXPECT_FALSE(std::filesystem::exists(folder + "model.safetensors"));
  if (can_report()) {
    EXPECT_THAT(report(scratch), AllOf(HasSubstr("2 runs failed"), HasSubstr("finite")));
  }
  put(folder + "failed.json", "{}");
  expect_refusal(call(), "failed.json' has no text \"failed\"");
  // Without its folder it trains again, from the beginning.
  std::filesystem::remove_all(folder);
  EXPECT_THAT(call().err, HasSubstr("reproduce: 1 of 4 runs failed"));
  EXPECT_TRUE(std::filesystem::exists(folder + "model.safetensors"));
  if (!can_report()) GTEST_SKIP() << "no Python with numpy and matplotlib: the report was not tried";
}

// Interrupted, so that there is a state to go on from, then killed at work: the third call ends with the bits of a
// single one, and the time of the training is the sum of what was recorded.
TEST(Reproduction, AKilledTrainingEndsWithTheSameBits) {
  const Scratch scratch;
  const auto command = [&](const char* out) {
    return fmt::format("{} --preset smoke --iterations 300 --samples 200 --grid geometric:20:1e-2 --weights 1 --out {}",
                       reproduce_tool, scratch / out);
  };
  const std::string folder = scratch / "out/circles2_softplus20_w1_s0/", log = folder + "log.csv",
                    model = folder + "model.safetensors";
  // Ends the command by a signal once it has written records.
  const auto end_by = [&](int signal) {
    const auto written = [&] {
      std::error_code none;
      const auto time = std::filesystem::last_write_time(log, none);
      return none ? std::filesystem::file_time_type::min() : time;
    };
    const auto before = written();
    const Process process(scratch.folder(), command("out"));
    EXPECT_TRUE(process.wait_until([&] { return written() != before; }));
    process.send(signal);
    const Outcome outcome = process.wait();
    EXPECT_FALSE(std::filesystem::exists(model)) << "the training ended before it could be stopped";
    return outcome;
  };
  EXPECT_EQ(end_by(SIGTERM).code, 1);
  ASSERT_TRUE(std::filesystem::exists(folder + "state.safetensors"));
  const double before = Json::parse(get(folder + "training.json"))["seconds"];
  EXPECT_GT(before, 0);
  ASSERT_EQ(end_by(SIGKILL).signal, SIGKILL);

  const Outcome last = run(scratch, command("out")), single = run(scratch, command("single"));
  ASSERT_EQ(last.code, 0) << last.err;
  ASSERT_EQ(single.code, 0) << single.err;
  const Json training = Json::parse(get(folder + "training.json"));
  EXPECT_GT(training["first_iteration"], 0);
  EXPECT_GT(training["seconds"].get<double>(), before);
  for (const char* name : {"model.safetensors", "log.csv", "ode.npy", "sde.npy"}) {
    EXPECT_EQ(get(folder + name), get(scratch / fmt::format("single/circles2_softplus20_w1_s0/{}", name))) << name;
  }
}

// Killed once a part of the SDE's samples is saved: the next call goes on from there to the same results.
TEST(Reproduction, AKilledSamplingEndsWithTheSameResults) {
  const Scratch scratch;
  const auto command = [&](const char* out) {
    return fmt::format("{} --preset smoke --iterations 3 --samples 40000 --grid geometric:40:1e-2 --weights 1 --out {}",
                       reproduce_tool, scratch / out);
  };
  const std::string folder = scratch / "out/circles2_softplus20_w1_s0/", saved = folder + "samples.safetensors";
  const Process process(scratch.folder(), command("out"));
  ASSERT_TRUE(process.wait_for(saved));
  process.send(SIGKILL);
  process.wait();
  ASSERT_FALSE(std::filesystem::exists(folder + "gap.json")) << "the sampling ended before it could be stopped";
  // Time that was spent is not spent again; a mark on it shows that what was saved was used.
  SafeTensors state = SafeTensors::load(saved);
  const double progress[] = {state.at("sde.progress.0").to_double().front(), 1e6};
  EXPECT_GT(progress[0], 0);
  EXPECT_LT(progress[0] + state.at("ode.progress.0").to_double().front(), 2 * 40000);
  state.tensors["sde.progress.0"] = Tensor::from_double({2}, progress);
  state.save(saved);
  // What another backend, instruction set or version saved is not gone on with.
  Json work = Json::parse(state.metadata.at("work"));
  EXPECT_EQ(work["version"], version());
  EXPECT_EQ(work["backend"], Context().backend_name());
  ASSERT_TRUE(work["backend_detail"].is_string());
  work["backend_detail"] = "of another machine";
  state.metadata["work"] = work.dump();
  std::filesystem::create_directories(scratch / "single/circles2_softplus20_w1_s0");
  state.save(scratch / "single/circles2_softplus20_w1_s0/samples.safetensors");

  ASSERT_EQ(run(scratch, command("out")).code, 0);
  ASSERT_EQ(run(scratch, command("single")).code, 0);
  EXPECT_FALSE(std::filesystem::exists(saved));
  const auto results_of = [&](const char* out) {
    Json json = Json::parse(get(scratch / fmt::format("{}/results.json", out)));
    for (Json* timed : {&json, &json["runs"][0]["gap"], &json["runs"][0]["training"]}) timed->erase("seconds");
    return json;
  };
  EXPECT_GE(Json::parse(get(folder + "gap.json"))["seconds"]["sde"].get<double>(), 1e6);
  EXPECT_LT(Json::parse(get(scratch / "single/circles2_softplus20_w1_s0/gap.json"))["seconds"]["sde"].get<double>(),
            1e6);
  EXPECT_EQ(results_of("out"), results_of("single"));
  for (const char* name : {"ode.npy", "sde.npy", "truth.npy"}) {
    EXPECT_EQ(get(folder + name), get(scratch / fmt::format("single/circles2_softplus20_w1_s0/{}", name))) << name;
  }
  // What a killed call may have left behind finished results goes too.
  for (const char* name : {"samples.safetensors", "state.safetensors"}) put(folder + name, "left behind");
  ASSERT_EQ(run(scratch, command("out")).code, 0);
  for (const char* name : {"samples.safetensors", "state.safetensors"}) {
    EXPECT_FALSE(std::filesystem::exists(folder + name)) << name;
  }
}

// The members of the family that are finished are not sampled again: a mark on their time shows that they were used.
TEST(Reproduction, AKilledCurveInEtaGoesOnAfterItsLastMember) {
  const Scratch scratch;
  const auto command = [&](const char* out) {
    return fmt::format(
        "{} --preset smoke --iterations 3 --samples 40000 --grid geometric:40:1e-2 --weights 1 --eta 0.5,2,1 --out {}",
        reproduce_tool, scratch / out);
  };
  const std::string folder = scratch / "out/circles2_softplus20_w1_s0/", saved = folder + "along_eta.json";
  const Process process(scratch.folder(), command("out"));
  ASSERT_TRUE(process.wait_for(saved));
  process.send(SIGKILL);
  process.wait();
  ASSERT_FALSE(std::filesystem::exists(folder + "gap.json")) << "the sampling ended before it could be stopped";
  Json kept = Json::parse(get(saved));
  ASSERT_FALSE(kept["along_eta"].empty());
  EXPECT_EQ(kept["along_eta"][0]["eta"], 0.5);
  kept["along_eta"][0]["seconds"] = 1e6;
  put(saved, kept.dump());
  // Of other work it is not gone on with.
  kept["work"] = "other";
  std::filesystem::create_directories(scratch / "single/circles2_softplus20_w1_s0");
  put(scratch / "single/circles2_softplus20_w1_s0/along_eta.json", kept.dump());
  ASSERT_EQ(run(scratch, command("out")).code, 0);
  ASSERT_EQ(run(scratch, command("single")).code, 0);
  EXPECT_FALSE(std::filesystem::exists(saved));
  const auto curve_of = [&](const char* out) {
    return Json::parse(get(scratch / fmt::format("{}/circles2_softplus20_w1_s0/gap.json", out)))["along_eta"];
  };
  Json resumed = curve_of("out"), single = curve_of("single");
  EXPECT_EQ(resumed[0]["seconds"], 1e6);
  EXPECT_LT(single[0]["seconds"], 1e6);
  for (Json* curve : {&resumed, &single}) {
    for (Json& of : *curve) of.erase("seconds");
  }
  EXPECT_EQ(resumed, single);
}

// Whatever the activation, the weight and the seed: runs of several calls stand side by side, none is done again.
TEST(Reproduction, ALaterCallTakesOverTheRunsItAsksFor) {
  const Scratch scratch;
  const auto folders = [&](const std::string& options, int seed) {
    const Outcome outcome =
        run(scratch,
            fmt::format("{} --iterations 1 --samples 50 --grid geometric:5:1e-1 --detail no --data blob --weights 0 {} "
                        "--out {}",
                        reproduce_tool, options, scratch / "out"));
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    EXPECT_EQ(Json::parse(get(scratch / "out/results.json"))["gap_options"]["seed"], seed);
    std::set<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(scratch / "out"))
      names.insert(entry.path().filename());
    names.erase("results.json");
    return names;
  };
  using Names = std::set<std::string>;
  EXPECT_EQ(folders("--preset smoke --seed 5", 5), (Names{"blob_softplus20_w0_s5"}));
  const std::string first = scratch / "out/blob_softplus20_w0_s5/";
  const auto trained = std::filesystem::last_write_time(first + "model.safetensors"),
             measured = std::filesystem::last_write_time(first + "gap.json");
  EXPECT_EQ(folders("--preset smoke --seed 5 --seeds 2", 5), (Names{"blob_softplus20_w0_s5", "blob_softplus20_w0_s6"}));
  EXPECT_EQ(folders("--preset smoke --seed 5 --activation silu", 5),
            (Names{"blob_softplus20_w0_s5", "blob_softplus20_w0_s6", "blob_silu_w0_s5"}));
  EXPECT_EQ(Json::parse(get(scratch / "out/results.json"))["runs"].size(), 1u);  // what this call asked for
  EXPECT_EQ(std::filesystem::last_write_time(first + "model.safetensors"), trained);
  EXPECT_EQ(std::filesystem::last_write_time(first + "gap.json"), measured);
}

}  // namespace
}  // namespace fokker
