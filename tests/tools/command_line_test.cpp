// What all commands have alike: help, exit codes, backends, and files that are never destroyed.
#include "command_line.hpp"

#include <cstring>
#include <limits>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace fokker::testing {
namespace {

// As the tests were started, before they hide the GPUs.
const std::string visible_devices = [] {
  const char* value = std::getenv("CUDA_VISIBLE_DEVICES");
  return std::string(value == nullptr ? "all" : value);
}();

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

TEST_F(CommandLine, HelpTeachesAndExitCodesTellUsageFromFailure) {
  for (const Arguments& arguments : std::vector<Arguments>{{"--help"}, {"--version"}, {"info"}}) {
    EXPECT_EQ(fokker(arguments).code, 0) << arguments[0];
  }
  const std::string help = fokker({"--help"}).out;
  for (const char* word :
       {"train", "sample", "field", "density", "gap", "diagnose", "info", "Exit codes", "fokker train --data",
        "vp-linear", "vp-cosine", "subvp", "sigma_max", "beta_start", "dx = s^t dW"}) {
    EXPECT_THAT(help, HasSubstr(word));
  }
  for (const char* command : {"train", "sample", "field", "density", "gap", "diagnose", "info"}) {
    const Outcome outcome = fokker({command, "--help"});
    EXPECT_EQ(outcome.code, 0);
    EXPECT_THAT(outcome.out, AllOf(HasSubstr(fmt::format("fokker {} --", command)), HasSubstr("Exit codes: 0 done")));
  }
  EXPECT_THAT(fokker({"--version"}).out, HasSubstr(version()));

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
    const Outcome outcome = fokker(arguments);
    EXPECT_EQ(outcome.code, 2) << fmt::format("{}", fmt::join(arguments, " "));
    EXPECT_THAT(outcome.out, IsEmpty());
    EXPECT_NE(outcome.err, "");
  }
  expect_refused(
      {"nonsense"},
      "command 'nonsense' given; allowed: train, sample, field, density, gap, residual, diagnose, import, info", 2);
  expect_refused({}, "no command given; allowed: train, sample, field, density, gap, residual, diagnose, import, info",
                 2);
  expect_refused({"--bogus"}, "option '--bogus' given before a command; allowed: --help", 2);
  expect_refused({"info", "--json", "--precision", "half", "--precision", "fp32"},
                 "--precision given 2 times; allowed: once", 2);
  expect_refused({"info", "--model", ""}, "'' is not the name of a model file");
  expect_refused({"gap", "--model", "", "--data", "blob"}, "'' is not the name of a model file");
  for (const char* arguments : {"--help", "--version", "train --help", "info --json"}) {
    expect_failure(start({"/bin/sh", "-c", fmt::format("{} {} > /dev/full", fokker_tool, arguments)}).wait(), "fokker",
                   "standard output");
  }
}

// Standard error closed, on a full disk, and a pipe whose reader goes after a line: the same work, files and exit codes, and no
// message in a file that was opened in its place.
TEST_F(CommandLine, MessagesThatCannotBeWrittenEndNothing) {
  const std::string train = fmt::format(
      "{} train --data blob --backend cpu --hidden 7 --iterations 3 "
      "--denoising-points 19 --seed 3",
      fokker_tool);
  const auto run = [&](const std::string& command, const std::string& errors) {
    return start({"/bin/sh", "-c",
                  errors == "pipe" ? fmt::format("{{ ({}; echo $? > {}) 2>&1 1>&3 | head -n 1 > {}; }} 3>&1; "
                                                 "exit $(cat {})",
                                                 command, file("code"), file("line"), file("code"))
                                   : fmt::format("{} {}", command, errors)})
        .wait();
  };
  ASSERT_EQ(run(fmt::format("{} --out {} --log {}", train, file("as.safetensors"), file("as.csv")), "").code, 0);
  for (const std::string errors : {"2>&-", "2> /dev/full", "pipe"}) {
    SCOPED_TRACE(errors);
    const Outcome trained = run(fmt::format("{} --out {} --log {} --state {} --json", train, file("t.safetensors"),
                                            file("t.csv"), file("t.state")),
                                errors);
    EXPECT_EQ(trained.code, 0) << trained.signal;
    EXPECT_EQ(Json::parse(trained.out, nullptr, false).value("iterations", 0), 3) << trained.out;
    EXPECT_EQ(get(file("t.safetensors")), get(file("as.safetensors")));
    EXPECT_EQ(get(file("t.csv")), get(file("as.csv")));
    std::filesystem::remove(file("t.state"));
    EXPECT_EQ(run(fokker_tool + " sample --model absent.json --out " + file("x.npy"), errors).code, 1);
    EXPECT_EQ(run(fokker_tool + " no-such-command", errors).code, 2);
  }
  // A reproduction, too, whose reader goes after a line.
  const auto reproduce = [&](const std::string& out, const std::string& errors) {
    return run(fmt::format("{} --preset smoke --data blob --iterations 3 --samples 200 --grid geometric:30:1e-2 "
                           "--weights 0,1 --backend cpu --out {}",
                           REPRODUCE_TOOL, file(out)),
               errors);
  };
  const auto bits = [&](const std::string& out) {
    std::string all;
    for (const char* folder : {"blob_softplus20_w0_s0", "blob_softplus20_w1_s0"}) {
      for (const char* name : {"model.safetensors", "log.csv", "ode.npy", "sde.npy", "truth.npy"}) {
        const std::string path = file(fmt::format("{}/{}/{}", out, folder, name));
        EXPECT_TRUE(std::filesystem::is_regular_file(path)) << path;
        all += get(path);
      }
    }
    return all;
  };
  const Outcome whole = reproduce("as", "");
  ASSERT_EQ(whole.code, 0) << whole.err;
  EXPECT_GT(std::count(whole.err.begin(), whole.err.end(), '\n'), 2) << whole.err;
  for (const auto& [out, errors] : {std::pair<std::string, std::string>("closed", "2>&-"),
                                    std::pair<std::string, std::string>("full", "2> /dev/full"),
                                    std::pair<std::string, std::string>("unread", "pipe")}) {
    SCOPED_TRACE(errors);
    const Outcome reproduced = reproduce(out, errors);
    EXPECT_EQ(reproduced.code, 0) << reproduced.signal;
    EXPECT_THAT(reproduced.out, HasSubstr("blob: no distance between the samplers"));
    EXPECT_EQ(bits(out), bits("as"));
    EXPECT_EQ(Json::parse(get(file(out + "/results.json")))["finished"], true);
  }
  // Results that cannot be written are a failure.
  for (const char* lost : {">&-", "> /dev/full"}) {
    expect_failure(run(fokker_tool + " info", lost), "fokker", "cannot write to standard output");
  }
  const Outcome unread = run(
      fmt::format("{{ {} info; echo $? > {}; }} | true; exit $(cat {})", fokker_tool, file("code"), file("code")), "");
  EXPECT_THAT(unread.code, ::testing::AnyOf(0, 1)) << unread.signal;  // by who is first
}

// Progress rewrites its line on a terminal that can, and writes lines on one that cannot.
TEST_F(CommandLine, ADumbTerminalGetsPlainLines) {
  const int terminal = ::posix_openpt(O_RDWR | O_NOCTTY);
  ASSERT_GE(terminal, 0);
  ASSERT_EQ(::grantpt(terminal), 0);
  ASSERT_EQ(::unlockpt(terminal), 0);
  const std::string name = ::ptsname(terminal);
  const int held = ::open(name.c_str(), O_RDWR | O_NOCTTY);  // so that what was written can be read afterwards
  const std::vector<std::pair<std::string, bool>> settings{
      {"TERM=xterm", true}, {"TERM=dumb", false}, {"-u TERM", false}};
  for (const auto& [setting, rewrites] : settings) {
    SCOPED_TRACE(setting);
    const Outcome outcome = start({"/bin/sh", "-c",
                                   fmt::format("exec env {} {} train --data blob --hidden 7 --iterations 2 "
                                               "--denoising-points 19 --out {} 2> {}",
                                               setting, fokker_tool, file("m.safetensors"), name)})
                                .wait();
    EXPECT_EQ(outcome.code, 0);
    char bytes[4096];
    const ssize_t count = ::read(terminal, bytes, sizeof bytes);
    const std::string shown(bytes, std::size_t(std::max<ssize_t>(count, 0)));
    EXPECT_THAT(shown, HasSubstr("training on blob: 0 %"));
    EXPECT_EQ(shown.find("\033[K") != std::string::npos, rewrites) << shown;
  }
  ::close(held);
  ::close(terminal);
}

// More threads than may run are refused, and that is said.
TEST_F(CommandLine, ThreadsAreNotMoreThanMayRun) {
  const auto details = [&](const std::string& setting) {
    const Outcome outcome =
        start({"/bin/sh", "-c", fmt::format("exec env {} {} info --json", setting, fokker_tool)}).wait();
    return Json::parse(outcome.out)["backends"][0]["detail"].get<std::string>();
  };
  const std::string asked = details("OMP_NUM_THREADS=1000");
  const std::string all = details("-u OMP_NUM_THREADS");
  EXPECT_THAT(asked, HasSubstr("OMP_NUM_THREADS asks for 1000 threads where "));
  EXPECT_EQ(asked.substr(asked.rfind(',')), all.substr(all.rfind(',')));
  EXPECT_THAT(details("OMP_NUM_THREADS=1"), ::testing::EndsWith(", 1 threads"));
  EXPECT_THAT(details("OMP_NUM_THREADS=many"), HasSubstr("OMP_NUM_THREADS is 'many', which is no number of threads"));
  const Outcome compared =
      start({"/bin/sh", "-c",
             fmt::format("OMP_NUM_THREADS=many exec {} gap --model {} --data blob --samples 19 --grid uniform:3:1 "
                         "--backend cpu",
                         fokker_tool, planar_mixture())})
          .wait();
  EXPECT_THAT(compared.err, ::testing::StartsWith("OMP_NUM_THREADS is 'many', which is no number of threads\n"));
  const Outcome sampled =
      start({"/bin/sh", "-c",
             fmt::format("OMP_NUM_THREADS=1000 exec {} sample --model {} --samples 19 --grid uniform:3:1 --backend cpu "
                         "--out {}",
                         fokker_tool, planar_mixture(), file("s.npy"))})
          .wait();
  EXPECT_THAT(sampled.err,
              AllOf(HasSubstr("OMP_NUM_THREADS asks for 1000"), HasSubstr("19 samples by "), HasSubstr("; SDE ou {")));
}

TEST_F(CommandLine, AutoFallsBackSayingWhyOnStandardError) {
  const std::string model = planar_mixture(), out = file("s.npy");
  const std::string reason = fokker_json({"info", "--json"})["backends"][1]["detail"];
  const Arguments sample{"sample", "--model", model, "--samples", "19", "--grid", "uniform:3", "--out", out, "--json"};
  const Outcome fallen = fokker(sample);
  EXPECT_EQ(fallen.code, 0);
  EXPECT_THAT(fallen.err, HasSubstr("backend cpu: " + reason + "\n"));
  const Json json = Json::parse(fallen.out, nullptr, false);
  EXPECT_EQ(json.value("backend", ""), "cpu") << fallen.out;
  EXPECT_EQ(json.value("precision", ""), "fp32");  // as the CPU works, whatever CUDA would have done
  const Arguments by_name = with(sample, {"--backend", "cpu", "--precision", "half"});
  const Outcome chosen = fokker(by_name);
  EXPECT_EQ(chosen.code, 0);
  EXPECT_THAT(chosen.err, Not(HasSubstr("backend cpu")));
}

// On whatever this machine has: --backend cuda works, or fails with the reason that `fokker info` gives.
TEST_F(CommandLine, CudaByNameWorksOrSaysWhyNot) {
  if (visible_devices == "all") {
    ::unsetenv("CUDA_VISIBLE_DEVICES");
  } else {
    ::setenv("CUDA_VISIBLE_DEVICES", visible_devices.c_str(), 1);
  }
  const Json backend = fokker_json({"info", "--json"})["backends"][1];
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
      const Arguments given = with(arguments, {"--backend", "cuda", "--precision", precision, "--json"});
      if (backend["available"] == true) {
        const Json json = fokker_json(given);
        EXPECT_EQ(json["backend"], "cuda");
        EXPECT_EQ(json["precision"], precision);
        if (arguments[0] == "gap") {
          EXPECT_EQ(json["residual"].is_null(), precision == "half");
        }
        if (arguments[0] == "field") {
          EXPECT_EQ(json["tensors"].contains("residual"), precision != "half");
        }
      } else {
        const Outcome outcome = fokker(given);
        expect_failure(outcome, "fokker", "backend 'cuda' is not available: " + backend["detail"].get<std::string>());
        EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
        EXPECT_FALSE(std::filesystem::exists(out + ".npy") || std::filesystem::exists(out + ".safetensors"));
      }
    }
  }
}

TEST_F(CommandLine, PrecisionIsAnOptionWhereAModelRuns) {
  for (const char* command : {"sample", "field", "gap", "diagnose", "info", "train"}) {
    EXPECT_THAT(fokker({command, "--help"}).out, HasSubstr("--precision")) << command;
  }
  expect_refused({"sample", "--model", planar_mixture(), "--out", file("s.npy"), "--precision", "bf16"},
                 "unknown precision 'bf16': allowed are split, fp32, half", 2);
}

// A model file that is none, of every kind: one sentence, and what is at the place of an output stays.
TEST_F(CommandLine, AModelFileThatIsNoneIsRefused) {
  const std::string net = network("net.safetensors", Output::potential);
  const std::string good_net = get(net), out = file("out.npy");

  const auto altered = [&](const std::string& name, const std::string& bytes) {
    put(file(name), bytes);
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
      {folder(), ""},
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
  std::vector<Refused> commands;
  for (const Bad& bad : models) {
    commands.push_back({{"sample", "--model", bad.file, "--samples", "10", "--out", out}, bad.what});
    commands.push_back({{"info", "--model", bad.file, "--json"}, bad.what});
  }
  expect_refused(commands);
  EXPECT_EQ(get(net), good_net);
}

// Whatever an option reads, no option may write, by whatever name.
TEST_F(CommandLine, OutputsAreNeverInputs) {
  const std::string net = network("net.safetensors", Output::potential), mixture = planar_mixture();
  const std::vector<float> numbers{2, 1, 0.5f, 0.25f, 0.125f, 0.1f};
  save_npy(file("times.npy"), {6}, numbers.data());
  save_npy(file("points.npy"), {2, 3}, numbers.data());
  save_npy(file("samples.npy"), {3, 2}, numbers.data());
  fokker_json({"train", "--data", "blob", "--hidden", "4", "--iterations", "2", "--denoising-points", "8", "--out",
               file("t.safetensors"), "--state", file("t.state"), "--json"});
  std::filesystem::create_directory(file("h"));
  const auto hard = [&](const std::string& from, const std::string& name) {
    std::filesystem::create_hard_link(from, file(name));
    return file(name);
  };
  const auto soft = [&](const std::string& from, const std::string& name) {
    std::filesystem::create_symlink(from, file(name));
    return file(name);
  };
  const std::string model_link = hard(net, "h/truth.npy"), data_link = hard(file("samples.npy"), "h/sde.npy"),
                    grid_link = soft(file("times.npy"), "h/ode.npy"), state_link = hard(file("t.state"), "state.csv");
  std::map<std::string, std::string> before;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder())) {
    if (entry.is_regular_file() && entry.path().parent_path().filename() != "streams") {
      before[entry.path()] = get(entry.path());
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
      {sample, {"--grid", "uniform:2", "--initial", file("samples.npy"), "--out", data_link}},
      {{"density", "--model", net, "--points", file("samples.npy"), "--scheme", "heun"}, {"--out", data_link}},
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
    const Arguments arguments = with(command, more);
    SCOPED_TRACE(fmt::format("{}", fmt::join(arguments, " ")));
    expect_refused(arguments, " given ");
  }
  for (const auto& [path, bytes] : before) EXPECT_EQ(get(path), bytes) << path;
  EXPECT_FALSE(std::filesystem::exists(out));
  // The state that is gone on from is the one file that may be both.
  fokker_json({"train", "--data", "blob", "--resume", file("t.state"), "--state", state_link, "--out", out, "--json"});

  // All histograms are looked at before any work.
  for (const char* name : {"ode", "sde", "truth"}) {
    const std::string folder = file(fmt::format("folder_{}", name));
    std::filesystem::create_directories(fmt::format("{}/{}.npy", folder, name));
    expect_refused({"gap", "--model", mixture, "--data", "blob", "--histograms", folder}, "it is a folder");
  }
}

// Of every output of every command: nothing but the sentence is said, and nothing is left.
TEST_F(CommandLine, OutputsThatCannotBeWrittenAreRefusedBeforeTheWork) {
  const std::string net = network("net.safetensors", Output::potential), at = points();
  const std::vector<float> plane{0.5f, 0.1f, -0.2f, 1.0f};
  save_npy(file("x.npy"), {2, 2}, plane.data());
  const Arguments train = words("train --backend cpu --data blob --hidden 4 --iterations 3 --denoising-points 8"),
                  sample{"sample", "--backend", "cpu", "--model", net, "--samples", "9", "--grid", "uniform:3"},
                  out{"--out", file("out.safetensors")};
  const std::vector<std::pair<Arguments, std::string>> outputs{
      {with(train, {"--out"}), ".safetensors"},
      {with(with(train, out), {"--state"}), ".state"},
      {with(with(train, out), {"--log"}), ".csv"},
      {with(sample, {"--out"}), ".npy"},
      {with(sample, {"--out", file("out.npy"), "--log-density"}), ".npy"},
      {with(sample, {"--out", file("out.npy"), "--trajectory"}), ".npz"},
      {{"field", "--backend", "cpu", "--model", net, "--points", at, "--out"}, ".safetensors"},
      {{"density", "--backend", "cpu", "--model", net, "--points", file("x.npy"), "--out"}, ".safetensors"},
      {{"density", "--backend", "cpu", "--model", net, "--points", file("x.npy"), "--scheme", "heun", "--out"},
       ".csv"}};
  for (const auto& [arguments, ending] : outputs) {
    const std::string loop = file("loop" + ending);
    if (!std::filesystem::is_symlink(loop)) std::filesystem::create_symlink(loop, loop);
    for (const auto& [path, what] : {std::pair(file(std::string(300, 'a') + ending), "File name too long"),
                                     std::pair(loop, "Too many levels of symbolic links"),
                                     std::pair(file("missing/a" + ending), "No such file or directory")}) {
      SCOPED_TRACE(fmt::format("{} {}", fmt::join(arguments, " "), path));
      const Outcome outcome = fokker(with(arguments, {path}));
      expect_failure(outcome, "fokker", what);
      EXPECT_THAT(outcome.err, ::testing::StartsWith("fokker: cannot write"));
    }
  }
  EXPECT_FALSE(std::filesystem::exists(file("out.safetensors")) || std::filesystem::exists(file("out.npy")));
  for (const auto& entry : std::filesystem::directory_iterator(folder())) {
    EXPECT_FALSE(entry.path().filename().string().starts_with(".fokker")) << entry.path();
  }
}

TEST_F(CommandLine, AFullDiskIsOneSentenceAndLeavesWhatWasThere) {
  const std::string net = network("net.safetensors", Output::potential), mixture = planar_mixture();
  std::filesystem::create_directory(file("results"));
  const auto expect_kept = [&](const std::string& name, const Arguments& arguments) {
    SCOPED_TRACE(name);
    const std::string path = file("results/" + name);
    put(path, "precious");
    Outcome outcome = start_fokker(arguments, 2048).wait();
    if (arguments[0] == "gap") {  // what it measured is out before it saves
      EXPECT_THAT(outcome.out, AllOf(HasSubstr("ODE–SDE"), HasSubstr("mean R²")));
      outcome.out.clear();
    }
    expect_failure(outcome, "fokker", "cannot write");
    EXPECT_EQ(get(path), "precious");
    for (const auto& entry : std::filesystem::directory_iterator(file("results"))) {
      EXPECT_EQ(entry.path().filename(), name) << "left behind";
    }
    std::filesystem::remove(path);
  };
  const Arguments quick{"--grid", "uniform:4:1e-3"};
  expect_kept("s.npy",
              {"sample", "--model", net, "--samples", "1000", "--grid", "uniform:4", "--out", file("results/s.npy")});
  expect_kept("t.npz", {"sample", "--model", net, "--samples", "90", "--grid", "uniform:4", "--out", file("s.npy"),
                        "--trajectory", file("results/t.npz")});
  std::vector<float> points(3 * 1000, 0.5f);
  save_npy(file("points.npy"), {1000, 3}, points.data());
  expect_kept("f.safetensors",
              {"field", "--model", net, "--points", file("points.npy"), "--out", file("results/f.safetensors")});
  expect_kept("ode.npy", {"gap", "--model", mixture, "--data", mixture, "--samples", "100", "--grid", "uniform:4:1e-3",
                          "--histograms", file("results")});
  expect_kept("m.safetensors", {"train", "--data", "blob", "--hidden", "32,32", "--iterations", "3",
                                "--denoising-points", "16", "--out", file("results/m.safetensors")});
}

}  // namespace
}  // namespace fokker::testing
