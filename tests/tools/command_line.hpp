#pragma once

// What the tests of all commands share: running `fokker`, models to run it on, and how a failure looks.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <iterator>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "fokker/fokker.hpp"
#include "process.hpp"
#include "scratch.hpp"

namespace fokker::testing {

using Json = nlohmann::json;

inline const std::string fokker_tool = FOKKER_TOOL;

// The parts between blanks.
inline Arguments words(const std::string& text) {
  std::istringstream stream(text);
  return {std::istream_iterator<std::string>(stream), {}};
}

// The arguments and more of them.
inline Arguments with(Arguments arguments, const Arguments& more) {
  arguments.insert(arguments.end(), more.begin(), more.end());
  return arguments;
}

inline std::vector<std::string> keys(const Json& json) {
  std::vector<std::string> names;
  for (const auto& item : json.items()) names.push_back(item.key());
  return names;
}

// A failure is this exit code, nothing on standard output, and a last line on standard error that says what is wrong.
inline void expect_failure(const Outcome& outcome, const std::string& tool, const std::string& what, int code = 1) {
  const std::size_t last = outcome.err.rfind(tool + ": ");
  const std::string line = outcome.err.substr(last == std::string::npos ? 0 : last);
  EXPECT_EQ(outcome.code, code) << "signal " << outcome.signal << ": " << outcome.err;
  EXPECT_THAT(outcome.out, ::testing::IsEmpty());
  EXPECT_THAT(line, ::testing::StartsWith(tool + ": "));
  EXPECT_EQ(std::count(line.begin(), line.end(), '\n'), 1) << line;
  EXPECT_THAT(line, ::testing::HasSubstr(what));
}

// A command that is refused by a sentence with `what` in it. Exit code 2 where the command line alone shows why.
struct Refused {
  Arguments arguments;
  std::string what;
  int code = 1;
};

class CommandLine : public ::testing::Test {
 protected:
  CommandLine() {
    std::filesystem::create_directory(file("streams"));
    // What is not about CUDA is held to the CPU backend's numbers: here and in the processes there is no GPU.
    ::setenv("CUDA_VISIBLE_DEVICES", "-1", 1);
  }

  std::string file(const std::string& name) const { return scratch_ / name; }
  std::string folder() const { return scratch_.folder(); }

  Process start(const Arguments& command, rlim_t file_limit = RLIM_INFINITY) const {
    return Process(file("streams"), command, file_limit);
  }
  Process start_fokker(const Arguments& arguments, rlim_t file_limit = RLIM_INFINITY) const {
    return start(with({fokker_tool}, arguments), file_limit);
  }
  Outcome fokker(const Arguments& arguments) const { return start_fokker(arguments).wait(); }

  // What it prints with --json, which is among the arguments.
  Json fokker_json(const Arguments& arguments) const {
    const Outcome outcome = fokker(arguments);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    const Json json = Json::parse(outcome.out, nullptr, false);
    EXPECT_TRUE(json.is_object()) << outcome.out;
    return json;
  }

  void expect_refused(const Arguments& arguments, const std::string& what, int code = 1) const {
    expect_failure(fokker(arguments), "fokker", what, code);
  }
  // Also that each leaves the files as they are that were at the places of outputs: out.npy and out.safetensors.
  void expect_refused(const std::vector<Refused>& commands) const {
    const std::vector<std::string> outputs{file("out.npy"), file("out.safetensors")};
    for (const std::string& output : outputs) put(output, "precious");
    for (const auto& [arguments, what, code] : commands) {
      SCOPED_TRACE(fmt::format("{}", fmt::join(arguments, " ")));
      expect_refused(arguments, what, code);
    }
    for (const std::string& output : outputs) EXPECT_EQ(get(output), "precious");
  }

  std::string planar_mixture() const {
    const std::string path = file("mixture.json");
    put(path, R"({"weights": [1, 1], "means": [[1.5, -0.5], [0.5, -1]], "covariances": [0.05, 0.1]})");
    return path;
  }
  std::string mixture_3d() const {
    const std::string path = file("mixture3.json");
    put(path, R"({"weights": [1], "means": [[1, 0, -1]], "covariances": [0.2]})");
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
  // Points (t, x) for models in the plane.
  std::string points() const {
    const std::vector<float> rows{0.5f, 0.1f, -0.2f, 1.0f, 0.3f, 0.7f};
    save_npy(file("points.npy"), {2, 3}, rows.data());
    return file("points.npy");
  }

 private:
  Scratch scratch_;
};

}  // namespace fokker::testing
