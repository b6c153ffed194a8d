// What every command's help says: it names no option without a description, the defaults that it shows are those that
// hold, and its examples run.
#include <map>
#include <regex>
#include <sstream>
#include <string>
#include <vector>

#include "command_line.hpp"

namespace fokker::testing {
namespace {

using ::testing::AnyOf;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

const std::vector<std::string> commands{"train", "sample", "field", "density", "gap", "diagnose", "info"};

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

// The options with a default, and what it is.
Arguments shown_defaults(const std::string& help) {
  Arguments defaults;
  const std::regex option("^  (--[a-z-]+) [^ =]+=([^ ]+)");
  for (const std::string& line : lines_of(help)) {
    std::smatch found;
    if (std::regex_search(line, found, option)) defaults.insert(defaults.end(), {found[1], found[2]});
  }
  return defaults;
}

// The commands below "Examples:", one a string.
std::vector<std::string> examples_of(const std::string& help) {
  std::vector<std::string> examples;
  bool inside = false, continued = false;
  for (std::string line : lines_of(help)) {
    if (line.empty()) inside = false;
    if (inside) {
      const bool goes_on = line.ends_with("\\");
      if (goes_on) line.pop_back();
      if (continued) {
        examples.back() += line;
      } else {
        examples.push_back(line);
      }
      continued = goes_on;
    }
    if (line == "Examples:") inside = true;
  }
  return examples;
}

class Help : public CommandLine {
 protected:
  std::string help_of(const std::string& command) const { return fokker({command, "--help"}).out; }
};

TEST_F(Help, DescribesEveryOptionInPhrases) {
  for (const std::string& command : commands) {
    SCOPED_TRACE(command);
    const std::string help = help_of(command);
    EXPECT_THAT(help, Not(AnyOf(HasSubstr("Excludes"), HasSubstr("Needs:"))));
    int options = 0;
    const std::vector<std::string> lines = lines_of(help);
    for (std::size_t i = 0; i < lines.size(); ++i) {
      EXPECT_LE(lines[i].size(), 120u) << lines[i];
      if (!lines[i].starts_with("  --") && !lines[i].starts_with("  -h")) continue;
      ++options;
      const std::string described = lines[i].size() > 30 && lines[i][29] == ' ' ? lines[i].substr(30) : lines.at(i + 1);
      const std::string description = std::regex_replace(described, std::regex("^ +"), "");
      EXPECT_GT(description.size(), 12u) << lines[i];
      EXPECT_THAT(description, Not(AnyOf(StartsWith("of "), StartsWith("as "), StartsWith("--")))) << lines[i];
    }
    EXPECT_GT(options, 3);
  }
}

TEST_F(Help, SaysWhatFilesHold) {
  for (const char* command : {"sample", "field", "density", "gap", "diagnose", "info"}) {
    EXPECT_THAT(help_of(command), HasSubstr("an MLP of t and x_1 ... x_d, in the order"));
  }
  for (const std::string& command : commands) EXPECT_THAT(help_of(command), HasSubstr("{\"weights\": [1, 1]"));
  EXPECT_THAT(help_of("field"), HasSubstr("each row is t, x_1"));
  EXPECT_THAT(help_of("density"), HasSubstr("each row is x_1"));
  // The mixture that it shows is one.
  put(file("m.json"), R"({"weights": [1, 1], "means": [[1.5, -0.5], [0.5, -1]], "covariances": [0.05, 0.1]})");
  EXPECT_EQ(load_model(file("m.json")).dimension(), 2);
}

// Given by themselves, the defaults that are shown change nothing. What would take long is made small in both runs.
TEST_F(Help, ShowsTheDefaultsThatHold) {
  const std::string model = planar_mixture(), out = file("out.npy"), fields = file("out.safetensors"),
                    x = file("x.npy");
  const std::vector<float> numbers{0.5f, 1, -1, 0.25f};
  save_npy(x, {2, 2}, numbers.data());
  const std::multimap<std::string, Arguments> small{
      {"train", {"--data", "blob", "--out", fields, "--iterations", "2", "--denoising-points", "8", "--hidden", "7"}},
      {"sample", {"--model", model, "--out", out, "--log-density", file("density.npy"), "--samples", "19"}},
      {"field", {"--model", model, "--points", points(), "--out", fields}},
      {"density", {"--model", model, "--points", x, "--out", fields, "--paths", "8"}},
      {"density", {"--model", model, "--points", x, "--out", fields, "--scheme", "heun"}},
      {"gap", {"--model", model, "--data", "blob", "--samples", "99"}},
      {"diagnose",
       {"--model", model, "--nodes", "32", "--samples", "19", "--bound-samples", "9", "--box-points", "9", "--grid",
        "geometric:20"}},
      {"info", {"--model", model}}};
  // Those of the law that a density is not of, and of probes that a training has not, are refused.
  const Arguments of_sde{"--paths", "--steps", "--seed"},
      of_flow{"--grid", "--probes", "--law", "--probe-seed", "--probe-repeats"};
  const auto is_refused = [&](const Arguments& command, const std::string& option) {
    if (command[0] == "train") return option == "--probe-law";  // without probes
    if (command[0] != "density") return false;
    const bool flow = std::find(command.begin(), command.end(), "heun") != command.end();
    const Arguments& others = flow ? of_sde : of_flow;
    return std::find(others.begin(), others.end(), option) != others.end();
  };
  for (const std::string& command : commands) EXPECT_EQ(small.count(command), command == "density" ? 2u : 1u);
  for (const auto& [command, arguments] : small) {
    SCOPED_TRACE(command);
    const Arguments given = with({command, "--json"}, arguments);
    const auto run = [&](const Arguments& more) {
      Json printed = fokker_json(with(given, more));
      printed.erase("seconds");
      std::string bytes;
      for (const std::string& written : {out, fields}) {
        if (std::filesystem::exists(written)) bytes += get(written);
        std::filesystem::remove(written);
      }
      return std::pair(printed, bytes);
    };
    const Arguments shown = shown_defaults(help_of(command));
    Arguments explicitly;
    for (std::size_t i = 0; i < shown.size(); i += 2) {
      if (std::find(given.begin(), given.end(), shown[i]) == given.end() && !is_refused(given, shown[i])) {
        explicitly.insert(explicitly.end(), {shown[i], shown[i + 1]});
      }
    }
    EXPECT_GE(shown.size(), 2u);
    EXPECT_EQ(run({}), run(explicitly)) << fmt::format("{}", fmt::join(explicitly, " "));
  }
  // The time of a density is the model's t_min where none is given, and no number is shown for it.
  EXPECT_THAT(help_of("density"), HasSubstr("--time NUMBER  "));
  EXPECT_THAT(help_of("diagnose"), HasSubstr("--nodes INTEGER  "));
  EXPECT_EQ(fokker_json(with({"density", "--json"}, small.find("density")->second))["time"],
            load_model(model).sde.t_min());
}

// In the order in which they stand, with sizes that take no time.
TEST_F(Help, HasExamplesThatRun) {
  const std::map<std::string, std::vector<std::pair<std::string, std::string>>> small{
      {"train", {{"--iterations", "3"}, {"--denoising-points", "16"}}},
      {"sample", {{"--samples", "32"}, {"--grid", "geometric:9:1e-3"}}},
      {"density", {{"--paths", "8"}}},
      {"gap", {{"--samples", "32"}, {"--grid", "geometric:9:1e-3"}}},
      {"diagnose",
       {{"--samples", "32"},
        {"--grid", "geometric:9:1e-3"},
        {"--nodes", "32"},
        {"--bound-samples", "9"},
        {"--box-points", "9"}}}};
  std::vector<std::string> helps{fokker({"--help"}).out, help_of("merge")};
  for (const std::string& command : commands) helps.push_back(help_of(command));
  for (const std::string& help : helps) {
    const std::string folder = file("examples");
    std::filesystem::create_directory(folder);
    const std::vector<std::string> examples = examples_of(help);
    EXPECT_GE(examples.size(), 2u);
    for (const std::string& example : examples) {
      SCOPED_TRACE(example);
      Arguments arguments = words(example);
      if (arguments[0] == "python3") {
        std::filesystem::copy_file(points(), folder + "/points.npy");
        continue;
      }
      ASSERT_EQ(arguments[0], "fokker");
      const auto says = [&](const char* words) { return example.find(words) != std::string::npos; };
      const bool has_options = !says("--resume") && !says("--a ") && !says("--points x.npy --scheme");
      if (const auto sizes = small.find(arguments[1]); has_options && sizes != small.end()) {
        for (const auto& [option, value] : sizes->second) {
          const auto given = std::find(arguments.begin(), arguments.end(), option);
          if (given == arguments.end()) {
            arguments.insert(arguments.end(), {option, value});
          } else {
            *(given + 1) = value;
          }
        }
      }
      arguments[0] = fokker_tool;
      const Outcome outcome =
          start({"/bin/sh", "-c", fmt::format("cd {} && exec {}", folder, fmt::join(arguments, " "))}).wait();
      EXPECT_EQ(outcome.code, 0) << outcome.err;
    }
    std::filesystem::remove_all(folder);
  }
}

}  // namespace
}  // namespace fokker::testing
