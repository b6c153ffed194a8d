// The executables as their users see them: exit codes, what they print, the files they leave. Each is run as a process.
#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "compare.hpp"
#include "fokker/fokker.hpp"

namespace fokker {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;
using Json = nlohmann::json;
using Arguments = std::vector<std::string>;

const std::string fokker_tool = FOKKER_TOOL, reproduce_tool = REPRODUCE_TOOL, tools_folder = FOKKER_TOOLS_FOLDER;

// As the tests were started, before they hide the GPUs.
const std::string visible_devices = [] {
  const char* value = std::getenv("CUDA_VISIBLE_DEVICES");
  return std::string(value == nullptr ? "all" : value);
}();

std::string read(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void write(const fs::path& path, const std::string& bytes) { std::ofstream(path, std::ios::binary) << bytes; }

struct Outcome {
  int code = -1;  // exit status; −1 where a signal ended the process
  int signal = 0;
  std::string out, err;
};

// A running process with its output in files.
class Process {
 public:
  Process(const fs::path& folder, const Arguments& command, rlim_t file_limit = RLIM_INFINITY)
      : out_(folder / "stdout.txt"), err_(folder / "stderr.txt") {
    std::vector<char*> argv;
    for (const std::string& argument : command) argv.push_back(const_cast<char*>(argument.c_str()));
    argv.push_back(nullptr);
    const int out = ::open(out_.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
    const int err = ::open(err_.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
    pid_ = ::fork();
    if (pid_ == 0) {
      ::dup2(out, STDOUT_FILENO);
      ::dup2(err, STDERR_FILENO);
      const rlimit limit{file_limit, file_limit};
      if (file_limit != RLIM_INFINITY) ::setrlimit(RLIMIT_FSIZE, &limit);
      ::execv(argv[0], argv.data());
      ::_exit(127);
    }
    ::close(out);
    ::close(err);
  }
  void send(int signal) const { ::kill(pid_, signal); }
  Outcome wait() const {
    int status = 0;
    ::waitpid(pid_, &status, 0);
    Outcome outcome;
    if (WIFEXITED(status)) outcome.code = WEXITSTATUS(status);
    if (WIFSIGNALED(status)) outcome.signal = WTERMSIG(status);
    outcome.out = read(out_);
    outcome.err = read(err_);
    return outcome;
  }
  bool runs() const {
    siginfo_t ended{};
    ::waitid(P_PID, static_cast<id_t>(pid_), &ended, WEXITED | WNOHANG | WNOWAIT);
    return ended.si_pid != pid_;
  }
  // Both wait until what they name is there; false where the process ends first or a minute passes.
  bool wait_for(const fs::path& file) const {
    return wait_until([&] { return fs::exists(file); });
  }
  bool wait_for_text(const std::string& on_stderr) const {
    return wait_until([&] { return read(err_).find(on_stderr) != std::string::npos; });
  }

 private:
  bool wait_until(const std::function<bool()>& there) const {
    for (int i = 0; i < 60000; ++i) {
      if (there()) return true;
      if (!runs()) return there();
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return false;
  }

  fs::path out_, err_;
  pid_t pid_;
};

class Tools : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto* info = ::testing::UnitTest::GetInstance()->current_test_info();
    folder_ = fs::path(::testing::TempDir()) / fmt::format("fokker_tools_{}_{}", info->name(), ::getpid());
    fs::create_directories(folder_ / "streams");
    // What is not about CUDA is held to the CPU backend's numbers: here and in the processes there is no GPU.
    ::setenv("CUDA_VISIBLE_DEVICES", "-1", 1);
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::string file(const std::string& name) const { return (folder_ / name).string(); }

  Process start(const std::string& tool, Arguments arguments, rlim_t file_limit = RLIM_INFINITY) const {
    arguments.insert(arguments.begin(), tool);
    return Process(folder_ / "streams", arguments, file_limit);
  }
  Outcome run(const std::string& tool, const Arguments& arguments) const { return start(tool, arguments).wait(); }

  Json run_json(const Arguments& arguments) const {
    const Outcome outcome = run(fokker_tool, arguments);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    const Json json = Json::parse(outcome.out, nullptr, false);
    EXPECT_TRUE(json.is_object()) << outcome.out;
    return json;
  }

  // That exit code, nothing on stdout, one line on stderr that says what is wrong.
  void expect_failure(const Outcome& outcome, const std::string& tool, const std::string& what, int code = 1) const {
    const std::string line =
        outcome.err.substr(outcome.err.rfind(tool + ": ") == std::string::npos ? 0 : outcome.err.rfind(tool + ": "));
    EXPECT_EQ(outcome.code, code) << "signal " << outcome.signal << ": " << outcome.err;
    EXPECT_THAT(outcome.out, IsEmpty());
    EXPECT_THAT(line, StartsWith(tool + ": "));
    EXPECT_EQ(std::count(line.begin(), line.end(), '\n'), 1) << line;
    EXPECT_THAT(line, HasSubstr(what));
  }

  std::string planar_mixture() const {
    const std::string path = file("mixture.json");
    write(path, R"({"weights": [1, 1], "means": [[1.5, -0.5], [0.5, -1]], "covariances": [0.05, 0.1]})");
    return path;
  }
  std::string mixture_3d() const {
    const std::string path = file("mixture3.json");
    write(path, R"({"weights": [1], "means": [[1, 0, -1]], "covariances": [0.2]})");
    return path;
  }
  std::string network(const std::string& name, Output output, std::int64_t dimension = 2,
                      Activation activation = Activation::softplus) const {
    Architecture architecture;
    architecture.dimension = dimension;
    architecture.hidden = {17, 9};
    architecture.activation = activation;
    architecture.beta = 5;
    architecture.output = output;
    save_model(file(name), {ForwardSde::defaults(SdeKind::ou), Mlp::initialise(architecture, 3)});
    return file(name);
  }

  fs::path folder_;
};

TEST_F(Tools, HelpTeachesAndExitCodesTellUsageFromFailure) {
  for (const Arguments& arguments : std::vector<Arguments>{{"--help"}, {"--version"}, {"info"}}) {
    EXPECT_EQ(run(fokker_tool, arguments).code, 0) << arguments[0];
  }
  const std::string help = run(fokker_tool, {"--help"}).out;
  for (const char* word : {"train", "sample", "field", "density", "gap", "diagnose", "info", "Exit codes",
                           "fokker train --data", "vp-linear", "vp-cosine", "subvp", "sigma_max"}) {
    EXPECT_THAT(help, HasSubstr(word));
  }
  for (const char* command : {"train", "sample", "field", "density", "gap", "diagnose", "info"}) {
    const Outcome outcome = run(fokker_tool, {command, "--help"});
    EXPECT_EQ(outcome.code, 0);
    EXPECT_THAT(outcome.out, AllOf(HasSubstr(fmt::format("fokker {} --", command)), HasSubstr("Exit codes: 0 done")));
  }
  EXPECT_THAT(run(fokker_tool, {"--version"}).out, HasSubstr(version()));
  EXPECT_THAT(run(reproduce_tool, {"--help"}).out,
              AllOf(HasSubstr("--preset"), HasSubstr("--samples INTEGER "), HasSubstr("--iterations INTEGER ")));

  const std::string model = planar_mixture();
  for (const Arguments& arguments : std::vector<Arguments>{
           {"train"},
           {"train", "--data", "blob", "--out", file("m.safetensors"), "--nonsense", "1"},
           {"train", "--data", "blob", "--out", file("m.safetensors"), "--iterations", "many"},
           {"train", "--data", "blob", "--out", file("m.safetensors"), "--resume", file("s"), "--iterations", "5"},
           {"sample", "--model", model, "--out", file("s.npy"), "--backend", "abacus"},
           {"gap"},
           {"gap", "--model", model},
           {"gap", "--a", file("a.npy")},
           {"gap", "--model", model, "--a", file("a.npy"), "--b", file("b.npy")},
           {"field", "--model", model}}) {
    const Outcome outcome = run(fokker_tool, arguments);
    EXPECT_EQ(outcome.code, 2) << fmt::format("{}", fmt::join(arguments, " "));
    EXPECT_THAT(outcome.out, IsEmpty());
    EXPECT_NE(outcome.err, "");
  }
  expect_failure(run(fokker_tool, {"nonsense"}), "fokker",
                 "command 'nonsense' given; allowed: train, sample, field, density, gap, diagnose, info", 2);
  expect_failure(run(fokker_tool, {}), "fokker",
                 "no command given; allowed: train, sample, field, density, gap, diagnose, info", 2);
  expect_failure(run(fokker_tool, {"--bogus"}), "fokker", "option '--bogus' given before a command; allowed: --help",
                 2);
  expect_failure(run(fokker_tool, {"info", "--json", "--precision", "half", "--precision", "fp32"}), "fokker",
                 "--precision given 2 times; allowed: once", 2);
  expect_failure(run(reproduce_tool, {"--out", file("r"), "--seed", "1", "--seed", "2"}), "reproduce",
                 "--seed given 2 times; allowed: once", 2);
  expect_failure(run(fokker_tool, {"info", "--model", ""}), "fokker", "'' is not the name of a model file");
  expect_failure(run(fokker_tool, {"gap", "--model", "", "--data", "blob"}), "fokker",
                 "'' is not the name of a model file");
  for (const char* arguments : {"--help", "--version", "train --help", "info --json"}) {
    expect_failure(run("/bin/sh", {"-c", fmt::format("{} {} > /dev/full", fokker_tool, arguments)}), "fokker",
                   "standard output");
  }
  EXPECT_EQ(run(reproduce_tool, {}).code, 2);
  EXPECT_EQ(run(reproduce_tool, {"--preset", "huge", "--out", file("r")}).code, 2);
}

TEST_F(Tools, AutoFallsBackSayingWhyOnStandardError) {
  const std::string model = planar_mixture(), out = file("s.npy");
  const std::string reason = run_json({"info", "--json"})["backends"][1]["detail"];
  const Arguments sample{"sample", "--model", model, "--samples", "19", "--grid", "uniform:3", "--out", out, "--json"};
  const Outcome fallen = run(fokker_tool, sample);
  EXPECT_EQ(fallen.code, 0);
  EXPECT_THAT(fallen.err, HasSubstr("backend cpu: " + reason + "\n"));
  const Json json = Json::parse(fallen.out, nullptr, false);
  EXPECT_EQ(json.value("backend", ""), "cpu") << fallen.out;
  EXPECT_EQ(json.value("precision", ""), "fp32");  // as the CPU works, whatever CUDA would have done
  Arguments by_name = sample;
  by_name.insert(by_name.end(), {"--backend", "cpu", "--precision", "half"});
  const Outcome chosen = run(fokker_tool, by_name);
  EXPECT_EQ(chosen.code, 0);
  EXPECT_THAT(chosen.err, Not(HasSubstr("backend cpu")));
}

// On whatever this machine has: --backend cuda works, or fails with the reason that `fokker info` gives.
TEST_F(Tools, CudaByNameWorksOrSaysWhyNot) {
  if (visible_devices == "all") {
    ::unsetenv("CUDA_VISIBLE_DEVICES");
  } else {
    ::setenv("CUDA_VISIBLE_DEVICES", visible_devices.c_str(), 1);
  }
  const Json backend = run_json({"info", "--json"})["backends"][1];
  const std::string net = network("net.safetensors", Output::potential), out = file("out");
  const std::vector<float> points{0.5, 1, -1};
  save_npy(file("points.npy"), {1, 3}, points.data());
  for (const Arguments& arguments : std::vector<Arguments>{
           {"sample", "--model", net, "--samples", "19", "--grid", "uniform:3", "--out", out + ".npy"},
           {"field", "--model", net, "--points", file("points.npy"), "--out", out + ".safetensors"},
           {"gap", "--model", net, "--data", "blob", "--samples", "99", "--grid", "uniform:3"},
           {"train", "--data", "blob", "--out", out + ".safetensors", "--hidden", "7", "--iterations", "2",
            "--denoising-points", "19"}}) {
    for (const std::string precision : {"split", "fp32", "half"}) {
      if (arguments[0] == "train" && precision == "half") continue;
      SCOPED_TRACE(arguments[0] + " " + precision);
      Arguments given = arguments;
      given.insert(given.end(), {"--backend", "cuda", "--precision", precision, "--json"});
      if (backend["available"] == true) {
        const Json json = run_json(given);
        EXPECT_EQ(json["backend"], "cuda");
        EXPECT_EQ(json["precision"], precision);
        if (arguments[0] == "gap") {
          EXPECT_EQ(json["residual"].is_null(), precision == "half");
        }
        if (arguments[0] == "field") {
          EXPECT_EQ(json["tensors"].contains("residual"), precision != "half");
        }
      } else {
        const Outcome outcome = run(fokker_tool, given);
        expect_failure(outcome, "fokker", "backend 'cuda' is not available: " + backend["detail"].get<std::string>());
        EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
        EXPECT_FALSE(fs::exists(out + ".npy") || fs::exists(out + ".safetensors"));
      }
    }
  }
}

TEST_F(Tools, TrainingTakesTheBackendItIsGiven) {
  const std::string out = file("m.safetensors");
  const Arguments train{"train",    "--data", "blob",         "--out", out,
                        "--hidden", "7",      "--iterations", "2",     "--denoising-points",
                        "19",       "--json"};
  for (const std::string backend : {"auto", "cpu"}) {  // here there is no GPU
    Arguments given = train;
    given.insert(given.end(), {"--backend", backend});
    const Outcome done = run(fokker_tool, given);
    EXPECT_EQ(done.code, 0) << done.err;
    EXPECT_EQ(done.err.find("backend cpu: ") != std::string::npos, backend == "auto") << done.err;
    EXPECT_EQ(Json::parse(done.out, nullptr, false).value("backend", ""), "cpu") << done.out;
  }
}

TEST_F(Tools, PrecisionIsAnOptionWhereAModelRuns) {
  for (const char* command : {"sample", "field", "gap", "diagnose", "info", "train"}) {
    EXPECT_THAT(run(fokker_tool, {command, "--help"}).out, HasSubstr("--precision")) << command;
  }
  EXPECT_THAT(run(reproduce_tool, {"--help"}).out, HasSubstr("--precision"));
  expect_failure(
      run(fokker_tool, {"sample", "--model", planar_mixture(), "--out", file("s.npy"), "--precision", "bf16"}),
      "fokker", "unknown precision 'bf16': allowed are split, fp32, half", 2);
}

TEST_F(Tools, InfoSaysWhichKernelsAModelTakes) {
  const std::string net = network("net.safetensors", Output::potential);
  const Json info = run_json({"info", "--model", net, "--precision", "fp32", "--json"});
  const bool built =
      info["backends"][1]["detail"].get<std::string>().find("this build has no CUDA") == std::string::npos;
  const Json kernels = info["model"]["kernels"];
  EXPECT_EQ(kernels.size(), built ? 2u : 0u);  // no GPU is visible here: the two architectures that it was tuned for
  const std::string text = run(fokker_tool, {"info", "--model", net}).out;
  for (const Json& plan : kernels) {
    EXPECT_EQ(plan["precision"], "fp32");
    EXPECT_THAT(plan["detail"].get<std::string>(), StartsWith("score resident with "));
    EXPECT_THAT(text, HasSubstr(fmt::format("kernels     on {}, split: score resident with ",
                                            plan["device"].get<std::string>())));
  }
}

TEST_F(Tools, InfoDescribesMachineBackendsAndModel) {
  const Json json = run_json({"info", "--model", network("net.safetensors", Output::potential), "--json"});
  EXPECT_EQ(json["version"], version());
  ASSERT_EQ(json["backends"].size(), 2u);
  EXPECT_EQ(json["backends"][0]["name"], "cpu");
  EXPECT_EQ(json["backends"][0]["available"], true);
  EXPECT_EQ(json["backends"][1]["name"], "cuda");
  EXPECT_TRUE(json["backends"][1]["detail"].is_string());
  EXPECT_EQ(json["model"]["hidden"], Json({17, 9}));
  EXPECT_EQ(json["model"]["parameters"], 3 * 17 + 17 + 17 * 9 + 9 + 9 + 1);
  EXPECT_EQ(json["model"]["activation"], "softplus");
  EXPECT_EQ(json["model"]["beta"], 5);
  EXPECT_EQ(json["model"]["sde"]["name"], "ou");
  EXPECT_EQ(json["model"]["metadata"]["output"], "potential");
  EXPECT_EQ(run_json({"info", "--model", planar_mixture(), "--json"})["model"]["components"], 2);
  const Json other =
      run_json({"info", "--model", file("net.safetensors"), "--activation", "tanh", "--sde", "ve", "--json"});
  EXPECT_EQ(other["model"]["activation"], "tanh");
  EXPECT_EQ(other["model"]["sde"]["name"], "ve");
}

std::vector<std::string> keys(const Json& json) {
  std::vector<std::string> names;
  for (const auto& item : json.items()) names.push_back(item.key());
  return names;
}

// A comparison of floats with what the same numbers give in double: what is left is float32's own rounding. Sums over
// at most 17 terms, three layers and the second derivative's cancellation lose less than 2^7 units of 2^−24, that is
// 8e-6.
constexpr testing::Bound float_bound{.relative = 0, .of_rms = 2e-5, .norm = 8e-6, .absolute = 0};

TEST_F(Tools, GapOfAPlanarModelFollowsItsContract) {
  const std::string model = planar_mixture();
  const Json json = run_json({"gap", "--model", model, "--data", model, "--samples", "3000", "--seed", "5", "--grid",
                              "geometric:60:1e-3", "--histograms", file("h/deep"), "--json"});
  using ::testing::ElementsAre;
  EXPECT_THAT(keys(json["w2_squared"]), ElementsAre("ode_sde", "ode_truth", "sde_truth"));
  EXPECT_TRUE(json["sliced_w2_squared"].is_null());
  EXPECT_THAT(keys(json["escaped"]), ElementsAre("ode", "sde"));
  EXPECT_THAT(keys(json["residual"]), ElementsAre("centred_mean_square", "mean_square"));
  EXPECT_EQ(json["samples"], 3000);
  EXPECT_EQ(json["seed"], 5);
  EXPECT_EQ(json["model"], model);

  // An exact model's samplers are as far from the truth as two draws of the truth, within the discretisation of 60
  // steps.
  const double floor = json["noise_floor"];
  EXPECT_GT(floor, 0);
  for (const auto& item : json["w2_squared"].items()) EXPECT_LT(item.value().get<double>(), 4 * floor) << item.key();
  EXPECT_EQ(json["escaped"]["ode"], 0.0);
  // Mixtures work in double. The exact potential's residual is rounding of terms up to (5/0.05)² = 1e4: less than 2^6
  // units of 2^−53 of those, and the square of that is 5e-21.
  EXPECT_LT(json["residual"]["mean_square"].get<double>(), 5e-21);

  std::map<std::string, std::vector<double>> weights;
  for (const char* name : {"ode", "sde", "truth"}) {
    const NpyArray array = load_npy(file(fmt::format("h/deep/{}.npy", name)));
    ASSERT_EQ(array.shape, std::vector<std::int64_t>({4096}));
    EXPECT_FALSE(array.is_float32);
    double sum = 0, x = 0, y = 0;
    for (int i = 0; i < 4096; ++i) {
      sum += array.data[i];
      x += array.data[i] * (-3.5 + 7.0 * (i % 64) / 63);
      y += array.data[i] * (-3.5 + 7.0 * (i / 64) / 63);
    }
    EXPECT_NEAR(sum, 1, 1e-12);
    // Five standard errors of 3000 draws: √((0.25 + 0.1)/3000) = 0.011.
    EXPECT_NEAR(x, 1.0, 0.055) << name;
    EXPECT_NEAR(y, -0.75, 0.055) << name;
    weights[name] = array.data;
  }
  EXPECT_NEAR(w2_squared(weights["ode"], weights["sde"]).w2_squared, json["w2_squared"]["ode_sde"].get<double>(), 1e-9);
  EXPECT_NEAR(w2_squared(weights["ode"], weights["truth"]).w2_squared, json["w2_squared"]["ode_truth"].get<double>(),
              1e-9);
  EXPECT_NEAR(w2_squared(weights["sde"], weights["truth"]).w2_squared, json["w2_squared"]["sde_truth"].get<double>(),
              1e-9);
}

TEST_F(Tools, GapHasNullsWhereTheContractSaysSo) {
  const std::string net = network("net.safetensors", Output::score);
  const Json vector = run_json({"gap", "--model", net, "--data", "blob", "--samples", "200", "--json"});
  EXPECT_TRUE(vector["residual"].is_null());
  EXPECT_TRUE(vector["w2_squared"].is_object());
  EXPECT_EQ(vector["grid"], "paper");

  const std::string model = mixture_3d();
  const Arguments arguments{"gap",    "--model",           model,   "--data", model, "--samples", "500",
                            "--grid", "geometric:40:1e-3", "--json"};
  const Json spatial = run_json(arguments);
  EXPECT_TRUE(spatial["w2_squared"].is_null());
  EXPECT_EQ(keys(spatial["sliced_w2_squared"]), (std::vector<std::string>{"ode_sde", "ode_truth", "sde_truth"}));
  EXPECT_GT(spatial["noise_floor"].get<double>(), 0);
  EXPECT_LT(spatial["sliced_w2_squared"]["sde_truth"].get<double>(), 10 * spatial["noise_floor"].get<double>());
  EXPECT_TRUE(spatial["residual"].is_object());
  Arguments with_histograms = arguments;
  with_histograms.insert(with_histograms.end(), {"--histograms", file("h")});
  expect_failure(run(fokker_tool, with_histograms), "fokker", "dimension 3");
}

TEST_F(Tools, GapComparesTwoFilesOfSamples) {
  const std::vector<float> a{0, 0, 1, 1, 100, 0}, b{0, 0, 1, 1};
  save_npy(file("a.npy"), {3, 2}, a.data());
  save_npy(file("b.npy"), {2, 2}, b.data());
  const Json json = run_json({"gap", "--a", file("a.npy"), "--b", file("b.npy"), "--json"});
  EXPECT_NEAR(json["w2_squared"]["a_b"].get<double>(), 0, 1e-12);
  EXPECT_NEAR(json["escaped"]["a"].get<double>(), 1.0 / 3, 1e-15);
  EXPECT_EQ(json["escaped"]["b"], 0.0);
  EXPECT_TRUE(json["noise_floor"].is_null());
  const Json with_truth = run_json({"gap", "--a", file("a.npy"), "--b", file("b.npy"), "--data", "blob", "--json"});
  EXPECT_TRUE(with_truth["w2_squared"]["b_truth"].is_number());
  EXPECT_TRUE(with_truth["noise_floor"].is_number());
  save_npy(file("c.npy"), {2, 1}, b.data());
  expect_failure(run(fokker_tool, {"gap", "--a", file("a.npy"), "--b", file("c.npy")}), "fokker", "must be the same");

  const std::vector<float> far(4, 100.0f);
  save_npy(file("far.npy"), {2, 2}, far.data());
  const Outcome lost = run(fokker_tool, {"gap", "--a", file("far.npy"), "--b", file("b.npy")});
  EXPECT_EQ(lost.code, 0);
  EXPECT_THAT(lost.out, AllOf(HasSubstr("a_b          –\n"), Not(HasSubstr("nan"))));
  EXPECT_THAT(lost.err, HasSubstr(fmt::format("all samples in '{}' are outside", file("far.npy"))));

  // What would be ignored is refused.
  const std::string mixture = planar_mixture();
  for (const auto& [option, value] : std::vector<std::pair<std::string, std::string>>{{"--model", mixture},
                                                                                      {"--samples", "10"},
                                                                                      {"--grid", "paper"},
                                                                                      {"--scheme", "heun"},
                                                                                      {"--precision", "half"},
                                                                                      {"--histograms", file("h")},
                                                                                      {"--activation", "tanh"},
                                                                                      {"--beta", "3"},
                                                                                      {"--output", "score"},
                                                                                      {"--layers", "a,b"},
                                                                                      {"--sde", "ve"},
                                                                                      {"--sde-parameters", "{}"},
                                                                                      {"--seed", "1"}}) {
    expect_failure(run(fokker_tool, {"gap", "--a", file("a.npy"), "--b", file("b.npy"), option, value}), "fokker",
                   option, 2);
  }
  EXPECT_FALSE(fs::exists(file("h")));
  run_json({"gap", "--a", file("a.npy"), "--b", file("b.npy"), "--data", "blob", "--seed", "1", "--json"});
}

TEST_F(Tools, FieldFollowsItsContract) {
  struct Case {
    std::string model;
    std::int64_t dimension;
    bool potential;
  };
  const std::vector<Case> cases{{network("p2.safetensors", Output::potential), 2, true},
                                {network("p1.safetensors", Output::potential, 1, Activation::silu), 1, true},
                                {network("v3.safetensors", Output::score, 3, Activation::tanh), 3, false},
                                {mixture_3d(), 3, true}};
  for (const Case& c : cases) {
    for (const std::int64_t n : {0, 1, 99}) {
      const std::int64_t d = c.dimension;
      std::vector<double> points(n * (1 + d)), t(n), x(n * d);
      for (std::int64_t i = 0; i < n; ++i) {
        for (std::int64_t k = 0; k <= d; ++k) {
          // A multiple of 2^−10: the same in float and double.
          const double value =
              std::round(1024 * (k == 0 ? 0.05 + 0.09 * double(i) : 2 * std::sin(double(7 * i + 3 * k)))) / 1024;
          points[i * (1 + d) + k] = value;
          (k == 0 ? t[i] : x[i * d + k - 1]) = value;
        }
      }
      // float32 and float64 alike.
      if (n == 99) {
        const std::vector<float> narrow(points.begin(), points.end());
        save_npy(file("points.npy"), {n, 1 + d}, narrow.data());
      } else {
        save_npy(file("points.npy"), {n, 1 + d}, points.data());
      }
      const Json json = run_json({"field", "--model", c.model, "--points", file("points.npy"), "--out",
                                  file("fields.safetensors"), "--hessian", "--json"});
      EXPECT_EQ(json["points"], n);
      const SafeTensors fields = SafeTensors::load(file("fields.safetensors"));
      EXPECT_EQ(fields.tensors.size(), c.potential ? 6u : 3u);

      const Model model = load_model(c.model);
      std::vector<double> value(n), dt(n), score(n * d), divergence(n), hessian(n * d * d), residual(n);
      FieldOutputs<double> outputs;
      outputs.score = View<double>(score, d);
      outputs.divergence = View<double>(divergence);
      outputs.hessian = View<double>(hessian, d * d);
      if (c.potential) {
        outputs.value = View<double>(value);
        outputs.dt = View<double>(dt);
        outputs.residual = View<double>(residual);
      }
      Fields<double>(Context(), model).evaluate({View<const double>(t), View<const double>(x, d)}, outputs);
      const auto expect = [&](const char* name, const std::vector<std::int64_t>& shape,
                              const std::vector<double>& wanted) {
        SCOPED_TRACE(fmt::format("{} of {}, {} points", name, c.model, n));
        const Tensor& tensor = fields.at(name);
        EXPECT_EQ(tensor.dtype, "F32");
        EXPECT_EQ(tensor.shape, shape);
        const std::vector<double> found = tensor.to_double();
        EXPECT_TRUE(testing::agrees(std::span<const double>(found), std::span<const double>(wanted), float_bound));
      };
      expect("score", {n, d}, score);
      expect("hessian", {n, d, d}, hessian);
      if (c.potential) {
        expect("value", {n}, value);
        expect("dt", {n}, dt);
        expect("laplacian", {n}, divergence);
        if (c.model != file("mixture3.json")) expect("residual", {n}, residual);  // an exact residual is rounding only
      } else {
        expect("divergence", {n}, divergence);
      }
    }
  }
}

TEST_F(Tools, FieldRefusesTimesOutsideTheHorizon) {
  const std::string model = planar_mixture();  // T = 10
  struct Case {
    double time;
    bool allowed;
  };
  for (const auto& [time, allowed] : {Case{0, true}, Case{10, true}, Case{10 * (1 + 5e-7), true}, Case{-1e-6, true},
                                      Case{-1e-4, false}, Case{10.001, false}, Case{1e30, false}}) {
    SCOPED_TRACE(time);
    const std::vector<double> points{1, 0, 0, time, 0.5, 0.5};
    save_npy(file("points.npy"), {2, 3}, points.data());
    const Outcome outcome =
        run(fokker_tool, {"field", "--model", model, "--points", file("points.npy"), "--out", file("f.safetensors")});
    if (allowed) {
      EXPECT_EQ(outcome.code, 0) << outcome.err;
      const std::vector<double> score = SafeTensors::load(file("f.safetensors")).at("score").to_double();
      EXPECT_TRUE(std::isfinite(score[2]) && std::isfinite(score[3]));
    } else {
      expect_failure(outcome, "fokker",
                     fmt::format("row 1 of '{}' has the time {}; allowed for this model's SDE: 0 to 10",
                                 file("points.npy"), time));
    }
  }
}

TEST_F(Tools, FieldByProbesIsTheLibrarysAndDependsOnTheirSeed) {
  const std::string model = network("net.safetensors", Output::potential);
  const std::vector<float> points{0.5f, 0.1f, -0.2f, 1.0f, 0.3f, 0.7f};
  save_npy(file("points.npy"), {2, 3}, points.data());
  std::map<std::string, std::vector<double>> laplacian;
  for (const char* seed : {"1", "2"}) {
    run_json({"field", "--model", model, "--points", file("points.npy"), "--out", file("f.safetensors"), "--probes",
              "3", "--law", "gaussian", "--probe-seed", seed, "--json"});
    laplacian[seed] = SafeTensors::load(file("f.safetensors")).at("laplacian").to_double();
  }
  EXPECT_NE(laplacian["1"], laplacian["2"]);
  std::vector<float> t{0.5f, 1.0f}, x{0.1f, -0.2f, 0.3f, 0.7f}, expected(2);
  FieldOutputs<float> outputs;
  outputs.divergence = View<float>(expected);
  Fields<float>(Context(), load_model(model))
      .evaluate({View<const float>(t), View<const float>(x, 2)}, outputs,
                {.probes = 3, .law = ProbeLaw::gaussian, .seed = 1});
  EXPECT_EQ(laplacian["1"], std::vector<double>(expected.begin(), expected.end()));
}

TEST_F(Tools, DensityIsTheLibrarys) {
  for (const std::string& path : {mixture_3d(), network("net.safetensors", Output::potential)}) {
    const Model model = load_model(path);
    const std::int64_t d = model.dimension();
    for (const std::int64_t n : {0, 1, 19}) {
      std::vector<double> x;
      for (std::int64_t i = 0; i < n * d; ++i) x.push_back(std::sin(double(3 * i + 1)));
      save_npy(file("x.npy"), {n, d}, x.data());
      const Json json =
          run_json({"density", "--model", path, "--points", file("x.npy"), "--out", file("d.safetensors"), "--time",
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
  expect_failure(run(fokker_tool, wrong), "fokker", "has shape [19, 2]; needed for this model: [N, 3]");
  Arguments late = wrong;
  late[2] = planar_mixture();
  late.insert(late.end(), {"--time", "10.5"});
  expect_failure(run(fokker_tool, late), "fokker", "at time 10.5 was asked for; allowed: 0 to 10");
  EXPECT_FALSE(fs::exists(file("e.safetensors")));
}

TEST_F(Tools, DiagnoseFollowsItsContract) {
  const auto diagnose = [&](const std::string& model, const Arguments& more = {}) {
    Arguments arguments{
        "diagnose",        "--model", model,          "--grid", "geometric:20:0.01", "--nodes", "48",
        "--bound-samples", "19",      "--box-points", "19",     "--samples",         "999",     "--json"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run_json(arguments);
  };
  // An exact density: e^φ integrable, R = 0.
  const Json planar = diagnose(planar_mixture());
  EXPECT_EQ(planar["radial_slopes"]["integrable"], true);
  EXPECT_EQ(planar["radial_slopes"]["reason"], nullptr);
  EXPECT_EQ(planar["energy"]["method"], "grid");
  EXPECT_EQ(planar["energy"]["times"].size(), 21u);
  EXPECT_EQ(planar["energy"]["mass"].size(), 21u);
  for (const char* key : {"kl_end", "dissipation", "kl_prior", "residual_work", "left", "right", "difference"}) {
    EXPECT_TRUE(planar["identity"][key]["value"].is_number()) << key;
    EXPECT_EQ(planar["identity"][key]["standard_error"], 0) << key;
  }
  EXPECT_GT(planar["identity"]["left"]["step_error"], 0);
  EXPECT_EQ(planar["energy"]["step_error"].size(), 21u);
  EXPECT_TRUE(planar["resolved"].is_boolean());
  EXPECT_NEAR(planar["identity"]["residual_work"]["value"], 0, 1e-9);
  EXPECT_EQ(planar["upper_bound"]["over_box"]["largest_eigenvalue"].size(), 21u);
  EXPECT_TRUE(planar["upper_bound"]["over_samples"]["vacuous"].is_boolean());
  EXPECT_GT(planar["gap"]["w2"], 0);
  EXPECT_EQ(planar["gap"]["sliced_w2"], nullptr);

  const Json solid = diagnose(mixture_3d(), {"--energy-samples", "32", "--paths", "4"});
  EXPECT_EQ(solid["energy"]["method"], "paths");
  EXPECT_EQ(solid["energy"]["mass"], nullptr);
  EXPECT_GT(solid["identity"]["left"]["standard_error"], 0);
  EXPECT_EQ(solid["gap"]["w2"], nullptr);
  EXPECT_GT(solid["gap"]["sliced_w2"], 0);

  // A bounded potential has no Z, but an energy and a balance.
  const std::string bounded = network("tanh.safetensors", Output::potential, 2, Activation::tanh);
  const Json refused = diagnose(bounded);
  EXPECT_EQ(refused["radial_slopes"]["integrable"], false);
  EXPECT_THAT(refused["radial_slopes"]["reason"].get<std::string>(), HasSubstr("tanh is bounded"));
  EXPECT_EQ(refused["identity"], nullptr);
  EXPECT_TRUE(refused["energy"]["balance"]["difference"]["value"].is_number());
  const Outcome text = run(fokker_tool, {"diagnose", "--model", bounded, "--grid", "geometric:9:0.01", "--nodes", "32",
                                         "--bound-samples", "19", "--box-points", "19", "--samples", "0"});
  EXPECT_EQ(text.code, 0);
  EXPECT_THAT(text.out, AllOf(HasSubstr("e^φ is not integrable"), HasSubstr("balance without Z"),
                              HasSubstr(", step error "), HasSubstr("a maximum over points is no bound")));

  const auto fails = [&](const Arguments& more, const std::string& what, int code) {
    Arguments arguments{"diagnose", "--model", planar_mixture()};
    arguments.insert(arguments.end(), more.begin(), more.end());
    expect_failure(run(fokker_tool, arguments), "fokker", what, code);
  };
  fails({"--energy-samples", "33"}, "33, 32, 48 and 33 were given", 2);
  fails({"--box", "0"}, "0 and 0 were given", 2);
  fails({"--method", "guess"}, "'guess' given; allowed: auto, grid, paths", 2);
  expect_failure(run(fokker_tool, {"diagnose", "--model", mixture_3d(), "--method", "grid"}), "fokker",
                 "in dimension 3; allowed: 1 and 2", 1);
  expect_failure(run(fokker_tool, {"diagnose", "--model", network("v.safetensors", Output::score)}), "fokker",
                 "needs a potential", 1);
}

TEST_F(Tools, SamplesAreTheLibrarysForAnyNumberOfThreads) {
  const std::string model = network("net.safetensors", Output::potential);
  const Arguments base{"sample", "--model", model,    "--samples",         "989",
                       "--seed", "11",      "--grid", "geometric:30:1e-3", "--scheme"};
  for (const char* scheme : {"sde", "euler", "heun", "rk4"}) {
    Arguments one = base, two = base;
    one.insert(one.end(),
               {scheme, "--threads", "1", "--out", file("one.npy"), "--log-density", file("one_p.npy"), "--json"});
    two.insert(two.end(),
               {scheme, "--threads", "2", "--out", file("two.npy"), "--log-density", file("two_p.npy"), "--json"});
    const Json json = run_json(one);
    EXPECT_EQ(json["steps"], 30);
    run_json(two);
    EXPECT_EQ(read(file("one.npy")), read(file("two.npy"))) << scheme;
    EXPECT_EQ(read(file("one_p.npy")), read(file("two_p.npy"))) << scheme;

    const NpyArray array = load_npy(file("one.npy")), density = load_npy(file("one_p.npy"));
    EXPECT_TRUE(array.is_float32);
    EXPECT_EQ(array.shape, (std::vector<std::int64_t>{989, 2}));
    double mean[2] = {0, 0}, covariance[2][2] = {};
    for (std::size_t i = 0; i < 2 * 989; ++i) mean[i % 2] += array.data[i] / 989;
    for (std::size_t i = 0; i < 2 * 989; i += 2) {
      for (std::size_t k = 0; k < 4; ++k) {
        covariance[k / 2][k % 2] += (array.data[i + k / 2] - mean[k / 2]) * (array.data[i + k % 2] - mean[k % 2]) / 989;
      }
    }
    EXPECT_EQ(json["moments"]["count"], 989);
    EXPECT_EQ(json["moments"]["left_out"], 0);
    const double square = covariance[0][0] + covariance[1][1];  // sums of 989 terms round by less than 1e-12 of it
    for (std::size_t k = 0; k < 4; ++k) {
      EXPECT_NEAR(json["moments"]["mean"][k / 2].get<double>(), mean[k / 2], 1e-12 * std::sqrt(square));
      EXPECT_NEAR(json["moments"]["covariance"][k / 2][k % 2].get<double>(), covariance[k / 2][k % 2], 1e-12 * square);
    }
    EXPECT_EQ(density.shape, std::vector<std::int64_t>{989});
    const Model loaded = load_model(model);
    const Sampler sampler(Context(), loaded, TimeGrid::parse("geometric:30:1e-3", loaded.sde));
    std::vector<float> samples(2 * 989), log_density(989);
    SampleOptions options;
    options.scheme = parse_scheme(scheme);
    options.seed = 11;
    sampler.sample(View<float>(samples, 2), options);
    EXPECT_EQ(array.data, std::vector<double>(samples.begin(), samples.end())) << scheme;
    sampler.log_density(View<const float>(samples, 2), View<float>(log_density),
                        options.scheme == Scheme::euler_maruyama ? Scheme::heun : options.scheme);
    EXPECT_EQ(density.data, std::vector<double>(log_density.begin(), log_density.end())) << scheme;
  }
  Arguments other = base;
  other[6] = "12";
  other.insert(other.end(), {"sde", "--out", file("other.npy"), "--json"});
  run_json(other);
  EXPECT_NE(read(file("one.npy")), read(file("other.npy")));
}

// Bad input of every kind: one sentence, exit code 1, and what was at the output's place stays.
TEST_F(Tools, HostileInputIsRefusedInOneSentenceAndDestroysNothing) {
  const std::string net = network("net.safetensors", Output::potential), mixture = planar_mixture();
  const std::string good_net = read(net), out = file("out.npy"), net_out = file("out.safetensors");
  write(out, "precious");
  write(net_out, "precious");

  const auto altered = [&](const std::string& name, const std::string& bytes) {
    write(file(name), bytes);
    return file(name);
  };
  const auto length = [](std::uint64_t n) { return std::string(reinterpret_cast<const char*>(&n), 8); };
  const auto safetensors = [&](const std::string& header, std::size_t data = 0) {
    return length(header.size()) + header + std::string(data, '\0');
  };
  std::string not_finite = good_net;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::memcpy(not_finite.data() + not_finite.size() - 4, &nan, 4);

  struct Bad {
    std::string file, what;
  };
  const std::vector<Bad> models{
      {file("absent.safetensors"), "absent.safetensors"},
      {folder_.string(), ""},
      {altered("empty.safetensors", ""), "empty.safetensors"},
      {altered("cut.safetensors", good_net.substr(0, good_net.size() - 5)), "cut.safetensors"},
      {altered("cut_header.safetensors", good_net.substr(0, 30)), "cut_header.safetensors"},
      {altered("longer.safetensors", good_net + "x"), "longer.safetensors"},
      {altered("huge_header.safetensors", length(~std::uint64_t{0}) + "{}"), "huge_header.safetensors"},
      {altered("no_json.safetensors", safetensors("{{{{")), "no_json.safetensors"},
      {altered("deep.safetensors", safetensors(std::string(200000, '['))), "deep.safetensors"},
      {altered(
           "offsets.safetensors",
           safetensors(R"({"a.weight":{"dtype":"F32","shape":[1,3],"data_offsets":[0,18446744073709551612]}})", 12)),
       "offsets.safetensors"},
      {altered("shape.safetensors",
               safetensors(R"({"a.weight":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}})")),
       "shape.safetensors"},
      {altered("negative.safetensors",
               safetensors(R"({"a.weight":{"dtype":"F32","shape":[-1,-3],"data_offsets":[0,12]}})", 12)),
       "negative.safetensors"},
      {altered("nan.safetensors", not_finite), "finite"},
      {altered("name.txt", good_net), "name.txt"},
      {altered("bad.json", R"({"weights": [1], "means": [[0, 0]]})"), "bad.json"},
      {altered("weights.json", R"({"weights": [-1], "means": [[0, 0]], "covariances": [1]})"), "weights.json"},
  };
  for (const Bad& bad : models) {
    SCOPED_TRACE(bad.file);
    expect_failure(run(fokker_tool, {"sample", "--model", bad.file, "--samples", "10", "--out", out}), "fokker",
                   bad.what);
    expect_failure(run(fokker_tool, {"info", "--model", bad.file, "--json"}), "fokker", bad.what);
  }

  const std::string header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }\n";
  const auto npy = [&](const std::string& text, std::size_t data) {
    const std::uint16_t size = static_cast<std::uint16_t>(text.size());
    return std::string("\x93NUMPY\x01\x00", 8) + std::string(reinterpret_cast<const char*>(&size), 2) + text +
           std::string(data, '\0');
  };
  const auto shaped = [&](const std::string& shape, std::size_t data) {
    return npy("{'descr': '<f4', 'fortran_order': False, 'shape': " + shape + ", }\n", data);
  };
  EXPECT_EQ(run(fokker_tool, {"field", "--model", net, "--points", altered("good.npy", npy(header, 24)), "--out",
                              file("good.safetensors")})
                .code,
            0);
  const std::vector<Bad> arrays{
      {file("absent.npy"), "absent.npy"},
      {altered("empty.npy", ""), "empty.npy"},
      {altered("cut.npy", npy(header, 23)), "cut.npy"},
      {altered("long.npy", npy(header, 25)), "long.npy"},
      {altered("huge.npy", shaped("(4611686018427387904, 3)", 24)), "huge.npy"},
      {altered("negative.npy", shaped("(-2, 3)", 24)), "negative.npy"},
      {altered("columns.npy", shaped("(3, 2)", 24)), "[N, 3]"},
      {altered("flat.npy", shaped("(6,)", 24)), "[N, 3]"},
      {altered("object.npy", npy("{'descr': '|O', 'fortran_order': False, 'shape': (2, 3), }\n", 48)), "object.npy"},
      {altered("fortran.npy", npy("{'descr': '<f4', 'fortran_order': True, 'shape': (2, 3), }\n", 24)), "fortran.npy"},
      {altered("text.npy", "hello, world"), "text.npy"},
  };
  for (const Bad& bad : arrays) {
    SCOPED_TRACE(bad.file);
    expect_failure(run(fokker_tool, {"field", "--model", net, "--points", bad.file, "--out", net_out}), "fokker",
                   bad.what);
  }

  write(file("regular"), "a file");
  const std::string huge = "9000000000000000000";
  const std::string huge_seed = "18446744073709551616";
  fs::create_directory(file("folder.npy"));
  struct Refused {
    Arguments arguments;
    std::string what;
    int code = 1;  // 2 where the command line alone shows it
  };
  const std::vector<Refused> commands{
      {{"sample", "--model", net, "--samples", "0", "--out", out}, "--samples 0", 2},
      {{"sample", "--model", net, "--samples", "-5", "--out", out}, "--samples -5", 2},
      {{"sample", "--model", net, "--samples", huge, "--out", out}, "--samples " + huge, 2},
      {{"sample", "--model", net, "--samples", "900000000000", "--out", out}, "memory"},
      {{"sample", "--model", net, "--scheme", "leapfrog", "--out", out}, "leapfrog", 2},
      {{"sample", "--model", net, "--grid", "cubic", "--out", out}, "cubic", 2},
      {{"sample", "--model", net, "--grid", "uniform:0", "--out", out}, "steps; 0", 2},
      {{"sample", "--model", net, "--grid", "file:" + file("absent.npy"), "--out", out}, "absent.npy"},
      {{"sample", "--model", net, "--threads", "-1", "--out", out}, "--threads -1", 2},
      {{"sample", "--model", net, "--activation", "relu", "--out", out}, "relu", 2},
      {{"sample", "--model", net, "--beta", "nan", "--out", out}, "beta", 2},
      {{"sample", "--model", net, "--sde", "levy", "--out", out}, "levy", 2},
      {{"sample", "--model", net, "--sde-parameters", "{\"T\": -1}", "--out", out}, "T"},
      {{"sample", "--model", net, "--sde-parameters", "{", "--out", out}, "not valid JSON", 2},
      {{"sample", "--model", net, "--layers", "input,nothing", "--out", out}, "nothing"},
      {{"sample", "--model", net, "--out", file("nowhere/s.npy")}, "nowhere"},
      {{"sample", "--model", net, "--out", file("folder.npy")}, "folder"},
      {{"sample", "--model", net, "--out", file("regular/s.npy")}, "regular"},
      {{"sample", "--model", net, "--out", file("s.txt")}, ".npy", 2},
      {{"sample", "--model", net, "--out", ""}, ".npy", 2},
      {{"sample", "--model", net, "--log-density", net_out, "--out", out}, ".npy", 2},
      {{"sample", "--model", net, "--seed", "-5", "--out", out},
       "--seed -5 given; allowed: integers from 0 to 1844",
       2},
      {{"sample", "--model", net, "--seed", huge_seed, "--out", out}, "--seed " + huge_seed + " given", 2},
      {{"sample", "--model", net, "--seed", "0x10", "--out", out}, "--seed 0x10", 2},
      {{"sample", "--model", net, "--seed", "", "--out", out}, "--seed '' given", 2},
      {{"sample", "--model", net, "--samples", huge + "0", "--out", out}, "--samples " + huge + "0", 2},
      {{"sample", "--model", net, "--samples", "1e5", "--out", out}, "--samples 1e5", 2},
      {{"sample", "--model", net, "--threads", huge_seed, "--out", out}, "--threads " + huge_seed, 2},
      {{"sample", "--model", net, "--grid", "uniform:5:-1", "--out", out}, "-1", 2},
      {{"sample", "--model", net, "--grid", "geometric:5:0", "--out", out}, "a finite end above 0; 0 was given", 2},
      {{"sample", "--model", net, "--grid", "file:", "--out", out}, "names no file", 2},
      {{"sample", "--model", net, "--grid", "uniform:5:10", "--out", out}, "10 was given"},  // this model's horizon
      {{"sample", "--model", net, "--sde-parameters", "{\"t_min\": 1e-40}", "--out", out}, "at least 1e-37"},
      {{"field", "--model", net, "--points", file("good.npy"), "--out", out}, ".safetensors", 2},
      {{"field", "--model", net, "--points", file("good.npy"), "--out", net_out, "--probe-seed", "-1"},
       "--probe-seed -1",
       2},
      {{"field", "--model", net, "--points", file("good.npy"), "--out", file("regular/f.safetensors")}, "regular"},
      {{"field", "--model", net, "--points", file("good.npy"), "--out", net_out, "--probes", "-1"}, "--probes -1", 2},
      {{"gap", "--model", mixture, "--data", "spiral", "--samples", "10"}, "spiral", 2},
      {{"gap", "--model", mixture, "--data", mixture_3d(), "--samples", "10"}, "must be the same"},
      {{"gap", "--model", mixture, "--data", "blob", "--samples", "0"}, "--samples 0", 2},
      {{"gap", "--model", mixture, "--data", "blob", "--samples", "10", "--scheme", "sde"}, "allowed for the ODE", 2},
      {{"gap", "--model", mixture, "--data", "blob", "--samples", "10", "--histograms", file("regular")}, "regular"},
      {{"gap", "--model", mixture, "--data", "blob", "--samples", "10", "--histograms", file("regular/deep")},
       "regular"},
      {{"gap", "--model", mixture, "--data", "blob", "--seed", huge_seed}, "--seed " + huge_seed, 2},
      {{"train", "--data", "blob", "--out", out}, ".safetensors", 2},
      {{"train", "--data", "blob", "--out", net_out, "--hidden", "16,,16"}, "16,,16", 2},
      {{"train", "--data", "blob", "--out", net_out, "--hidden", "16,"}, "16,", 2},
      {{"train", "--data", "blob", "--out", net_out, "--seed", huge_seed}, "--seed " + huge_seed, 2},
      {{"train", "--data", "blob", "--out", net_out, "--iterations", huge + "0"}, "--iterations " + huge + "0", 2},
      {{"train", "--data", "blob", "--out", net_out, "--output", "energy"}, "energy", 2},
      {{"train", "--data", "blob", "--out", net_out, "--sde-parameters", "{\"T\": -1}"}, "T = -1", 2},
      {{"train", "--data", "blob", "--out", net_out, "--sde-parameters", "{\"t_min\": 0}"}, "at least 1e-37", 2},
      {{"train", "--data", "spiral", "--out", net_out}, "spiral", 2},
      {{"train", "--data", "blob", "--out", net_out, "--iterations", "-1"}, "-1", 2},
      {{"train", "--data", "blob", "--out", net_out, "--denoising-points", "0"}, "0", 2},
      {{"train", "--data", "blob", "--out", net_out, "--collocation-points", "-3"}, "-3", 2},
      {{"train", "--data", "blob", "--out", net_out, "--hidden", "16,0"}, "0", 2},
      {{"train", "--data", "blob", "--out", net_out, "--activation", "relu"}, "relu", 2},
      {{"train", "--data", "blob", "--out", net_out, "--schedule", "warm"}, "warm", 2},
      {{"train", "--data", "blob", "--out", net_out, "--time-law", "late"}, "late", 2},
      {{"train", "--data", "blob", "--out", net_out, "--average", "sum"}, "sum", 2},
      {{"train", "--data", "blob", "--out", net_out, "--peak-rate", "nan"}, "nan", 2},
      {{"train", "--data", "blob", "--out", net_out, "--peak-rate", "abc"},
       "--peak-rate abc given; allowed: a number",
       2},
      {{"train", "--data", "blob", "--out", net_out, "--box", ""}, "--box '' given; allowed: a number", 2},
      {{"train", "--data", "blob", "--out", net_out, "--log", file("log.txt")}, "ends in .csv or .jsonl", 2},
      {{"train", "--data", "blob", "--out", net_out, "--residual-weight", "-1"}, "-1", 2},
      {{"train", "--data", "blob", "--out", net_out, "--save-every", "often"}, "often", 2},
      {{"train", "--data", "blob", "--out", net_out, "--log-every", "0"}, "--log-every 0", 2},
      {{"train", "--data", "blob", "--out", net_out, "--resume", file("absent.state")}, "absent.state"},
      {{"train", "--data", "blob", "--out", net_out, "--resume", net}, "net.safetensors"},
      {{"train", "--data", "blob", "--out", net_out, "--log", file("regular/log.csv")}, "regular"},
      {{"train", "--data", "blob", "--out", net_out, "--state", folder_.string()}, "folder"},
  };
  for (const auto& [arguments, what, code] : commands) {
    SCOPED_TRACE(fmt::format("{}", fmt::join(arguments, " ")));
    expect_failure(run(fokker_tool, arguments), "fokker", what, code);
  }
  expect_failure(run(reproduce_tool, {"--preset", "smoke", "--out", file("regular")}), "reproduce", "regular");
  expect_failure(run(reproduce_tool, {"--preset", "smoke", "--data", "spiral", "--out", file("r")}), "reproduce",
                 "spiral", 2);
  expect_failure(run(reproduce_tool, {"--preset", "smoke", "--samples", "0", "--out", file("r")}), "reproduce",
                 "--samples 0", 2);
  expect_failure(run(reproduce_tool, {"--preset", "smoke", "--iterations", "-1", "--out", file("r")}), "reproduce",
                 "-1", 2);
  expect_failure(run(reproduce_tool, {"--preset", "smoke", "--weights", "0,abc", "--out", file("r")}), "reproduce",
                 "--weights 0,abc given; allowed: numbers with commas between", 2);
  expect_failure(run(reproduce_tool, {"--preset", "smoke", "--weights", "1,1", "--out", file("r")}), "reproduce",
                 "share");
  EXPECT_EQ(read(out), "precious");
  EXPECT_EQ(read(net_out), "precious");
  EXPECT_EQ(read(file("regular")), "a file");
  EXPECT_EQ(read(net), good_net);
  EXPECT_FALSE(fs::exists(file("r")));
}

// Whatever an option reads, no option may write, by whatever name.
TEST_F(Tools, OutputsAreNeverInputs) {
  const std::string net = network("net.safetensors", Output::potential), mixture = planar_mixture();
  const std::vector<float> numbers{2, 1, 0.5f, 0.25f, 0.125f, 0.1f};
  save_npy(file("times.npy"), {6}, numbers.data());
  save_npy(file("points.npy"), {2, 3}, numbers.data());
  save_npy(file("samples.npy"), {3, 2}, numbers.data());
  run_json({"train", "--data", "blob", "--hidden", "4", "--iterations", "2", "--denoising-points", "8", "--out",
            file("t.safetensors"), "--state", file("t.state"), "--json"});
  fs::create_directory(file("h"));
  const auto hard = [&](const std::string& from, const std::string& name) {
    fs::create_hard_link(from, file(name));
    return file(name);
  };
  const auto soft = [&](const std::string& from, const std::string& name) {
    fs::create_symlink(from, file(name));
    return file(name);
  };
  const std::string model_link = hard(net, "h/truth.npy"), data_link = hard(file("samples.npy"), "h/sde.npy"),
                    grid_link = soft(file("times.npy"), "h/ode.npy"), state_link = hard(file("t.state"), "state.csv");
  std::map<std::string, std::string> before;
  for (const auto& entry : fs::recursive_directory_iterator(folder_)) {
    if (entry.is_regular_file() && entry.path().parent_path().filename() != "streams") {
      before[entry.path()] = read(entry.path());
    }
  }

  const Arguments sample{"sample", "--model", net, "--samples", "10"},
      gap{"gap", "--model", mixture, "--samples", "10", "--histograms", file("h")},
      resume{"train", "--data", "blob", "--resume", file("t.state")},
      train{"train", "--hidden", "4", "--iterations", "2", "--denoising-points", "8"};
  const std::string out = file("out.safetensors");
  const std::vector<std::pair<Arguments, Arguments>> commands{
      {sample, {"--grid", "file:" + file("times.npy"), "--out", file("times.npy")}},
      {sample, {"--grid", "file:" + file("times.npy"), "--out", file("s.npy"), "--log-density", grid_link}},
      {sample, {"--grid", "uniform:2", "--out", model_link}},
      {{"field", "--model", net, "--points", file("points.npy")}, {"--out", net}},
      {{"field", "--model", net, "--points", file("points.npy")}, {"--out", hard(file("points.npy"), "p.safetensors")}},
      {gap, {"--data", "blob", "--grid", "file:" + file("times.npy")}},
      {gap, {"--data", file("samples.npy"), "--grid", "uniform:2"}},
      {{"gap", "--model", net, "--samples", "10", "--histograms", file("h")},
       {"--data", "blob", "--grid", "uniform:2"}},
      {resume, {"--out", out, "--log", state_link}},
      {resume, {"--out", hard(file("t.state"), "state.safetensors")}},
      {resume, {"--out", out, "--state", file("new.state"), "--log", state_link}},
      {train, {"--data", file("samples.npy"), "--out", out, "--state", data_link}},
      {train, {"--data", file("samples.npy"), "--out", out, "--log", soft(file("samples.npy"), "log.csv")}},
      {train, {"--data", mixture, "--out", out, "--log", soft(mixture, "mixture.csv")}},
      {train, {"--data", "blob", "--out", out, "--state", out}},
  };
  for (const auto& [command, more] : commands) {
    Arguments arguments = command;
    arguments.insert(arguments.end(), more.begin(), more.end());
    SCOPED_TRACE(fmt::format("{}", fmt::join(arguments, " ")));
    expect_failure(run(fokker_tool, arguments), "fokker", " given ");
  }
  for (const auto& [path, bytes] : before) EXPECT_EQ(read(path), bytes) << path;
  EXPECT_FALSE(fs::exists(out));
  // The state that is gone on from is the one file that may be both.
  run_json({"train", "--data", "blob", "--resume", file("t.state"), "--state", state_link, "--out", out, "--json"});

  // All histograms are looked at before any work.
  for (const char* name : {"ode", "sde", "truth"}) {
    const std::string folder = file(fmt::format("folder_{}", name));
    fs::create_directories(fmt::format("{}/{}.npy", folder, name));
    expect_failure(run(fokker_tool, {"gap", "--model", mixture, "--data", "blob", "--histograms", folder}), "fokker",
                   "a folder has that name");
  }
}

TEST_F(Tools, TrainingKeepsTheFilesOfOthers) {
  const auto train = [&](const Arguments& more) {
    Arguments arguments{"train",
                        "--data",
                        "blob",
                        "--hidden",
                        "4",
                        "--iterations",
                        "3",
                        "--denoising-points",
                        "8",
                        "--out",
                        file("t.safetensors")};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run(fokker_tool, arguments);
  };
  write(file("state"), "another's");
  expect_failure(
      train({"--state", file("state")}), "fokker",
      fmt::format("'{0}' is there already: go on from the state in it with --resume '{0}', remove it", file("state")));
  EXPECT_EQ(read(file("state")), "another's");
  for (const char* name : {"notes.csv", "notes.jsonl"}) {
    write(file(name), "another's\n");
    expect_failure(train({"--log", file(name)}), "fokker", "is not a log of a training");
    EXPECT_EQ(read(file(name)), "another's\n");
  }
  for (const char* name : {"log.csv", "log.jsonl"}) {
    ASSERT_EQ(train({"--log", file(name)}).code, 0);
    const std::string log = read(file(name));
    // Not even the first iteration is done: in this box the residual is not finite.
    expect_failure(train({"--residual-weight", "1", "--box", "1e30", "--log", file(name)}), "fokker",
                   "stopped at iteration 0");
    EXPECT_EQ(read(file(name)), log);
    ASSERT_EQ(train({"--log", file(name)}).code, 0);  // our own is begun anew
    EXPECT_EQ(read(file(name)), log);
  }
  write(file("empty.csv"), "");
  EXPECT_EQ(train({"--log", file("empty.csv")}).code, 0);
}

TEST_F(Tools, TrainingThatDivergesLeavesItsRecordsAndTheStateBefore) {
  const Arguments arguments{"train",
                            "--data",
                            "blob",
                            "--hidden",
                            "8,8",
                            "--iterations",
                            "300",
                            "--peak-rate",
                            "2e4",
                            "--denoising-points",
                            "64",
                            "--out",
                            file("t.safetensors"),
                            "--log",
                            file("t.csv")};
  const Outcome without = run(fokker_tool, arguments);
  expect_failure(without, "fokker", "nothing was saved");
  const std::string log = read(file("t.csv"));
  Arguments with_state = arguments;
  with_state.insert(with_state.end(), {"--state", file("t.state")});
  const Outcome outcome = run(fokker_tool, with_state);
  expect_failure(outcome, "fokker", fmt::format("the state is in '{}'", file("t.state")));
  EXPECT_THAT(outcome.err, Not(HasSubstr("nan")));
  EXPECT_FALSE(fs::exists(file("t.safetensors")));

  std::int64_t stopped = 0;
  const Tensor iteration = SafeTensors::load(file("t.state")).at("iteration");
  ASSERT_EQ(iteration.bytes.size(), 8u);
  std::memcpy(&stopped, iteration.bytes.data(), 8);
  EXPECT_GT(stopped, 1);  // the rate rises from a 25th of its peak
  EXPECT_THAT(outcome.err, HasSubstr(fmt::format("stopped at iteration {},", stopped)));
  EXPECT_EQ(std::count(log.begin(), log.end(), '\n'), 1 + stopped);
  EXPECT_EQ(read(file("t.csv")), log);
  // The state can be gone on from, to the same end.
  expect_failure(run(fokker_tool, {"train", "--data", "blob", "--resume", file("t.state"), "--log", file("t.csv"),
                                   "--out", file("t.safetensors")}),
                 "fokker", fmt::format("stopped at iteration {},", stopped));
  EXPECT_EQ(read(file("t.csv")), log);
}

TEST_F(Tools, AFullDiskIsOneSentenceAndLeavesWhatWasThere) {
  const std::string net = network("net.safetensors", Output::potential), mixture = planar_mixture();
  fs::create_directory(file("results"));
  const auto expect_kept = [&](const std::string& name, const Arguments& arguments) {
    SCOPED_TRACE(name);
    const std::string path = file("results/" + name);
    write(path, "precious");
    Outcome outcome = start(fokker_tool, arguments, 2048).wait();
    if (arguments[0] == "gap") {  // what it measured is out before it saves
      EXPECT_THAT(outcome.out, AllOf(HasSubstr("ODE–SDE"), HasSubstr("mean R²")));
      outcome.out.clear();
    }
    expect_failure(outcome, "fokker", "cannot write");
    EXPECT_EQ(read(path), "precious");
    for (const auto& entry : fs::directory_iterator(file("results"))) {
      EXPECT_EQ(entry.path().filename(), name) << "left behind";
    }
    fs::remove(path);
  };
  const Arguments quick{"--grid", "uniform:4:1e-3"};
  expect_kept("s.npy",
              {"sample", "--model", net, "--samples", "1000", "--grid", "uniform:4", "--out", file("results/s.npy")});
  std::vector<float> points(3 * 1000, 0.5f);
  save_npy(file("points.npy"), {1000, 3}, points.data());
  expect_kept("f.safetensors",
              {"field", "--model", net, "--points", file("points.npy"), "--out", file("results/f.safetensors")});
  expect_kept("ode.npy", {"gap", "--model", mixture, "--data", mixture, "--samples", "100", "--grid", "uniform:4:1e-3",
                          "--histograms", file("results")});
  expect_kept("m.safetensors", {"train", "--data", "blob", "--hidden", "32,32", "--iterations", "3",
                                "--denoising-points", "16", "--out", file("results/m.safetensors")});
}

// A training so long that it cannot end before the signal, compared with the library's own trainer, which is run from
// the start to the iteration that the state names.
TEST_F(Tools, TrainingKilledOrInterruptedGoesOnAsIfUndisturbed) {
  TrainOptions options;
  options.iterations = 1'000'000'000'000;
  options.denoising_points = 64;
  options.collocation_points = 16;
  options.residual_weight = 0.5;
  options.seed = 7;
  const DataSet data = DataSet::named("circles2");
  const Architecture architecture{.hidden = {8, 8}, .beta = 20, .layer_names = {}};
  const std::string reference = file("reference.state");
  const auto expect_undisturbed = [&](const std::string& state, const std::string& log) {
    std::int64_t iteration = 0;
    std::memcpy(&iteration, SafeTensors::load(state).at("iteration").bytes.data(), 8);
    Trainer trainer(Context(), {ForwardSde(), Mlp::initialise(architecture, options.seed)}, data, options);
    std::string expected = "iteration,denoising,residual,total,gradient_norm,rate\n";
    for (const TrainRecord& r : trainer.run(iteration)) {
      expected += fmt::format("{},{:.8g},{:.8g},{:.8g},{:.8g},{:.8g}\n", r.iteration, r.denoising, r.residual, r.total,
                              r.gradient_norm, r.rate);
    }
    trainer.save_state(reference);
    EXPECT_EQ(read(state), read(reference));
    EXPECT_EQ(read(log).substr(0, expected.size()), expected);  // a killed run's log may be ahead of its state
    return iteration;
  };
  for (const int signal : {SIGKILL, SIGTERM, SIGINT}) {
    SCOPED_TRACE(signal);
    const std::string name = fmt::format("part{}", signal), state = file(name + ".state"), log = file(name + ".csv");
    const auto train = [&](const Arguments& more) {
      Arguments arguments{"train", "--data", "circles2", "--out", file(name + ".safetensors"), "--log", log};
      arguments.insert(arguments.end(), more.begin(), more.end());
      return start(fokker_tool, arguments);
    };
    const Process process = train({"--state", state, "--save-every", "20", "--hidden", "8,8", "--iterations",
                                   "1000000000000", "--denoising-points", "64", "--collocation-points", "16",
                                   "--residual-weight", "0.5", "--seed", "7", "--threads", "1"});
    ASSERT_TRUE(process.wait_for(state));
    process.send(signal);
    const Outcome outcome = process.wait();
    if (signal == SIGKILL) {
      EXPECT_EQ(outcome.signal, SIGKILL);
    } else {
      expect_failure(outcome, "fokker", "interrupted after");
    }
    const std::int64_t first = expect_undisturbed(state, log);
    EXPECT_GE(first, 20);

    const std::string again = file(name + "_again.state");
    const Process resumed = train({"--resume", state, "--state", again, "--save-every", "20", "--threads", "2"});
    ASSERT_TRUE(resumed.wait_for(again));
    resumed.send(SIGTERM);
    expect_failure(resumed.wait(), "fokker", "interrupted after");
    EXPECT_GT(expect_undisturbed(again, log), first);
    EXPECT_FALSE(fs::exists(file(name + ".safetensors")));
  }
}

// The second signal does not wait for the iteration, which here takes seconds. A signal may find the one before it not
// yet delivered and be one with it, so they are sent until the process ends.
TEST_F(Tools, ASecondSignalEndsATrainingAtOnce) {
  const Process process = start(fokker_tool, {"train", "--data", "circles2", "--iterations", "1000000",
                                              "--denoising-points", "2000000", "--out", file("m.safetensors")});
  ASSERT_TRUE(process.wait_for_text("training on circles2: 0 %\n"));
  while (process.runs()) {
    process.send(SIGTERM);
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  const Outcome outcome = process.wait();
  EXPECT_EQ(outcome.signal, SIGTERM) << outcome.err;
  EXPECT_FALSE(fs::exists(file("m.safetensors")));
}

// A signal in the last iteration, which takes a while here, finds nothing left to stop.
TEST_F(Tools, ASignalInTheLastIterationLosesNothing) {
  const Process process = start(fokker_tool, {"train", "--data", "circles2", "--iterations", "1", "--denoising-points",
                                              "1000000", "--out", file("m.safetensors")});
  ASSERT_TRUE(process.wait_for_text("training on circles2: 0 %\n"));
  process.send(SIGTERM);
  const Outcome outcome = process.wait();
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.err, ::testing::ContainsRegex("1 iteration in [0-9.e-]+ (s|min)"));
  EXPECT_TRUE(fs::exists(file("m.safetensors")));
}

TEST_F(Tools, TrainingResumedEndsAsIfUndisturbed) {
  const Arguments recipe{
      "--hidden",          "8,8", "--iterations", "200", "--denoising-points", "64", "--collocation-points", "16",
      "--residual-weight", "0.5", "--seed",       "7"};
  const auto train = [&](const std::string& name, const Arguments& more) {
    Arguments arguments{
        "train", "--data", "circles2", "--out", file(name + ".safetensors"), "--log", file(name + ".csv"), "--json"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  };
  const Json whole = run_json(train("whole", recipe));
  EXPECT_EQ(whole["first_iteration"], 0);
  EXPECT_EQ(whole["iterations"], 200);
  EXPECT_EQ(whole["recipe"]["residual_weight"], 0.5);
  const std::string model = read(file("whole.safetensors")), log = read(file("whole.csv"));
  EXPECT_EQ(std::count(log.begin(), log.end(), '\n'), 201);

  // Before and within the average of the last fifth; the log of the part is ahead of its state, and ends within a line.
  for (const std::int64_t part : {1, 99, 177}) {
    SCOPED_TRACE(part);
    TrainOptions options;
    options.iterations = 200;
    options.denoising_points = 64;
    options.collocation_points = 16;
    options.residual_weight = 0.5;
    options.seed = 7;
    const Architecture architecture{.hidden = {8, 8}, .beta = 20, .layer_names = {}};
    Trainer trainer(Context(), {ForwardSde(), Mlp::initialise(architecture, 7)}, DataSet::named("circles2"), options);
    trainer.run(part);
    const std::string name = fmt::format("part{}", part), state = file(name + ".state");
    trainer.save_state(state);
    write(file(name + ".csv"), log.substr(0, log.size() - 5));
    EXPECT_EQ(run_json(train(name, {"--resume", state}))["first_iteration"], part);
    EXPECT_EQ(read(file(name + ".safetensors")), model);
    EXPECT_EQ(read(file(name + ".csv")), log);

    // A finished state has nothing left to do, and says so by the same model.
    fs::remove(file(name + ".safetensors"));
    EXPECT_EQ(run_json(train(name, {"--resume", state}))["first_iteration"], 200);
    EXPECT_EQ(read(file(name + ".safetensors")), model);
    EXPECT_EQ(read(file(name + ".csv")), log);
    Arguments other_data = train(name, {"--resume", state});
    other_data[2] = "blob";
    expect_failure(run(fokker_tool, other_data), "fokker", "circles2");
  }
}

TEST_F(Tools, TrainingRecordsAsJsonLinesAndOtherNetworks) {
  run_json({"train",
            "--data",
            planar_mixture(),
            "--out",
            file("v.safetensors"),
            "--output",
            "score",
            "--activation",
            "silu",
            "--sde",
            "vp-linear",
            "--hidden",
            "8",
            "--iterations",
            "20",
            "--denoising-points",
            "64",
            "--log",
            file("v.jsonl"),
            "--log-every",
            "5",
            "--json"});
  std::ifstream lines(file("v.jsonl"));
  std::vector<int> iterations;
  for (std::string line; std::getline(lines, line);) {
    const Json record = Json::parse(line);
    iterations.push_back(record["iteration"]);
    EXPECT_GT(record["denoising"].get<double>(), 0);
    EXPECT_EQ(record["residual"], 0.0);
  }
  EXPECT_EQ(iterations, (std::vector<int>{0, 5, 10, 15}));
  const Model model = load_model(file("v.safetensors"));
  EXPECT_EQ(model.output(), Output::score);
  EXPECT_EQ(model.sde.kind(), SdeKind::vp_linear);
}

TEST_F(Tools, ReproductionLeavesEverythingAndGoesOnWhereItStopped) {
  const std::string out = file("smoke");
  Outcome outcome = run(reproduce_tool, {"--preset", "smoke", "--out", out});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("ODE–SDE"));
  EXPECT_THAT(outcome.out, HasSubstr("circles2: the ODE–SDE gap"));
  const Json results = Json::parse(read(out + "/results.json"));
  EXPECT_EQ(results["preset"], "smoke");
  EXPECT_EQ(results["finished"], true);
  ASSERT_EQ(results["runs"].size(), 2u);
  for (const Json& entry : results["runs"]) {
    const std::string folder = out + "/" + entry["folder"].get<std::string>();
    for (const char* name : {"recipe.json", "model.safetensors", "training.json", "gap.json", "log.csv", "ode.npy",
                             "sde.npy", "truth.npy"}) {
      EXPECT_TRUE(fs::is_regular_file(folder + "/" + name)) << folder << " " << name;
    }
    EXPECT_TRUE(entry["gap"]["w2_squared"]["ode_sde"].is_number());
    EXPECT_TRUE(entry["gap"]["residual"]["centred_mean_square"].is_number());
    EXPECT_GT(entry["gap"]["noise_floor"].get<double>(), 0);
  }

  // Once more: nothing is done again.
  const std::string model_file = out + "/circles2_softplus20_w1_s0/model.safetensors", model = read(model_file);
  const auto written = fs::last_write_time(model_file),
             measured = fs::last_write_time(out + "/circles2_softplus20_w1_s0/gap.json");
  EXPECT_EQ(run(reproduce_tool, {"--preset", "smoke", "--out", out}).code, 0);
  EXPECT_EQ(fs::last_write_time(model_file), written);
  EXPECT_EQ(fs::last_write_time(out + "/circles2_softplus20_w1_s0/gap.json"), measured);
  // Fewer samples: measured again from the same model.
  EXPECT_EQ(run(reproduce_tool, {"--preset", "smoke", "--samples", "1000", "--out", out}).code, 0);
  EXPECT_EQ(fs::last_write_time(model_file), written);
  EXPECT_EQ(Json::parse(read(out + "/results.json"))["runs"][1]["gap"]["samples"], 1000);
  // Another recipe: refused.
  expect_failure(run(reproduce_tool, {"--preset", "smoke", "--iterations", "7", "--out", out}), "reproduce",
                 "iterations: 300 there, 7 asked for");
  EXPECT_EQ(read(model_file), model);

  // Interrupted while it trains, then called again: the same model.
  const std::string other = file("interrupted");
  const Arguments again{"--preset", "smoke", "--weights", "1", "--samples", "1000", "--out", other};
  const Process process = start(reproduce_tool, again);
  ASSERT_TRUE(process.wait_for(other + "/circles2_softplus20_w1_s0/log.csv"));
  process.send(SIGTERM);
  expect_failure(process.wait(), "reproduce", "interrupted after");
  EXPECT_TRUE(fs::exists(other + "/circles2_softplus20_w1_s0/state.safetensors"));
  EXPECT_EQ(run(reproduce_tool, again).code, 0);
  EXPECT_EQ(read(other + "/circles2_softplus20_w1_s0/model.safetensors"), model);
  EXPECT_EQ(read(other + "/circles2_softplus20_w1_s0/log.csv"), read(out + "/circles2_softplus20_w1_s0/log.csv"));
}

// The first Python with all of these packages, or nothing.
std::string python_with(const std::string& packages) {
  for (const std::string python : {"python3", "/usr/bin/python3"}) {
    if (std::system((python + " -c 'import " + packages + "' 2> /dev/null").c_str()) == 0) return python;
  }
  return "";
}

TEST_F(Tools, TheReportShowsAReproduction) {
  const std::string python = python_with("numpy, matplotlib");
  if (python.empty()) GTEST_SKIP() << "no python3 with numpy and matplotlib; Debian: python3-matplotlib";
  const std::string out = file("smoke");
  Outcome outcome = run(reproduce_tool, {"--preset", "smoke", "--samples", "1000", "--out", out});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  outcome = run("/usr/bin/env", {python, tools_folder + "/report.py", out});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  const std::string page = read(out + "/report.html");
  EXPECT_THAT(page, HasSubstr("data:image/png;base64,"));
  EXPECT_THAT(page, HasSubstr("noise floor"));
  for (const char* name : {"density_circles2", "gap_circles2", "training_circles2", "residual"}) {
    EXPECT_TRUE(fs::is_regular_file(fmt::format("{}/figures/{}.png", out, name)));
  }
  expect_failure(run("/usr/bin/env", {python, tools_folder + "/report.py", file("nowhere")}), "report.py",
                 "results.json");
}

// Asked for help or the impossible, it answers before it builds or installs anything.
TEST_F(Tools, TheComparisonWithOthersExplainsItself) {
  const std::string script = tools_folder + "/../bench/peers/run.sh";
  const Outcome help = run(script, {"--help"});
  EXPECT_EQ(help.code, 0) << help.err;
  for (const char* option : {"--build DIR", "--venv DIR", "--rounds", "--small"}) {
    EXPECT_THAT(help.out, HasSubstr(option));
  }
  const std::vector<std::pair<Arguments, std::string>> refused{
      {{"--build"}, "--build needs a folder"}, {{"--venv"}, "--venv needs a folder"},
      {{"--threads", "0"}, "--threads 0"},     {{"--threads", "many"}, "--threads"},
      {{"--rounds", "0"}, "--rounds 0"},       {{"--seconds", "-1"}, "--seconds -1"},
      {{"--works", "sleep"}, "sleep"},         {{"--peers", "abacus"}, "abacus"},
      {{"--nonsense"}, "--nonsense"}};
  for (const auto& [given, what] : refused) {
    SCOPED_TRACE(fmt::format("{}", fmt::join(given, " ")));
    Arguments arguments = given;
    // Folders that do not exist and must not come to.
    if (given.size() > 1 || given[0] == "--nonsense") {
      arguments.insert(arguments.end(), {"--build", file("build"), "--venv", file("venv")});
    }
    const Outcome outcome = run(script, arguments);
    EXPECT_EQ(outcome.code, 2) << outcome.err;
    EXPECT_THAT(outcome.err, HasSubstr(what));
    EXPECT_FALSE(fs::exists(file("build")));
    EXPECT_FALSE(fs::exists(file("venv")));
  }
}

}  // namespace
}  // namespace fokker
