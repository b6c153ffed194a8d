// The report of a reproduction, and the demonstration that leads to it.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "fokker/fokker.hpp"
#include "reproduction.hpp"
#include "scratch.hpp"

namespace fokker {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using namespace testing;
using Json = nlohmann::json;

TEST(Report, ShowsAReproduction) {
  const Scratch scratch;
  const std::string python = python_with("numpy, matplotlib");
  if (python.empty()) GTEST_SKIP() << "no python3 with numpy and matplotlib; Debian: python3-matplotlib";
  const std::string out = scratch / "smoke";
  Outcome outcome = run(scratch, reproduce_tool + " --preset smoke --samples 1000 --out " + out);
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  outcome = run(scratch, fmt::format("{} {}/report.py {}", python, tools_folder, out));
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  const std::string page = get(out + "/report.html");
  EXPECT_THAT(page, HasSubstr("data:image/png;base64,"));
  EXPECT_THAT(page, AllOf(HasSubstr("noise floor"), HasSubstr("These numbers mean nothing")));
  for (const char* name : {"density_circles2", "gap_circles2", "training_circles2", "residual"}) {
    EXPECT_TRUE(std::filesystem::is_regular_file(fmt::format("{}/figures/{}.png", out, name)));
  }
  outcome = run(scratch, fmt::format("{} {}/report.py {}", python, tools_folder, scratch / "nowhere"));
  EXPECT_EQ(outcome.code, 1);
  EXPECT_THAT(outcome.err, AllOf(::testing::StartsWith("report.py: "), HasSubstr("results.json")));
}

// A potential that grows in every direction, measured; and beside it what a diagnosis may say, put into the results.
TEST(Report, SaysWhereThereIsNoDensityNoBoundAndNoEnergy) {
  const Scratch scratch;
  ASSERT_EQ(reproduce(scratch, "blob", "0").code, 0);
  const std::string model_file = scratch / "out/blob_softplus20_w0_s0/model.safetensors";
  Model model = load_model(model_file);
  Mlp& network = std::get<Mlp>(model.network);
  const auto output = network.parameters.begin() + network.architecture.weight_offset(3);
  std::transform(output, network.parameters.end(), output, std::negate<>());
  save_model(model_file, model, {{"training", SafeTensors::load(model_file).metadata.at("training")}});
  ASSERT_EQ(reproduce(scratch, "blob", "0", 3, "--detail yes").code, 0);
  const std::string results_file = scratch / "out/results.json";
  Json results = Json::parse(get(results_file));
  Json &run = results["runs"][0], &over_time = run["gap"]["along_the_way"];
  const std::size_t times = over_time["times"].size();
  EXPECT_EQ(over_time["potential_integrable"], Json(std::vector<bool>(times, false)));
  EXPECT_EQ(over_time["share_of_growing_directions"], Json(std::vector<double>(times, 1)));
  if (!can_report()) GTEST_SKIP() << "no Python with numpy and matplotlib: the report was not tried";

  const auto of = [](double value) { return Json{{"value", value}, {"standard_error", 0}, {"step_error", 0}}; };
  const auto bound = [](const char* text, bool vacuous) { return Json{{"text", text}, {"vacuous", vacuous}}; };
  const std::string grows = "φ grows in 100 % of the directions", heavy = "the largest weights fall off so slowly";
  run["diagnosis"] = {
      {"radial_slopes", {{"integrable", false}, {"reason", grows}}},
      {"energy", {{"dissipation", of(0.5)}, {"balance", {{"difference", of(0.1)}}}}},
      {"identity", nullptr},
      {"upper_bound",
       {{"over_samples", bound("1.14e+26", true)}, {"over_box", bound("2.52e+30", true)}, {"diameter", 9.9}}},
      {"warnings", {heavy}},
      {"resolved", false}};
  put(results_file, results.dump());
  EXPECT_THAT(report(scratch), AllOf(HasSubstr("<b>Where e<sup>φ</sup> is not integrable</b>"),
                                     HasSubstr("no more than e<sup>φ</sup> restricted to the box"),
                                     HasSubstr("up to 100 % of the directions"), HasSubstr("it is <b>vacuous</b>"),
                                     HasSubstr("1.14e+26 (vacuous)"), HasSubstr("<b>not resolved</b></td>"),
                                     HasSubstr("there is no Z: " + grows), HasSubstr(heavy)));

  over_time["potential_integrable"] = std::vector<bool>(times, true);
  run["diagnosis"]["radial_slopes"]["integrable"] = true;
  run["diagnosis"]["identity"] = {{"kl_end", of(0)},        {"left", of(0.5)},  {"kl_prior", of(0.1)},
                                  {"residual_work", of(0)}, {"right", of(0.1)}, {"difference", of(0.4)}};
  run["diagnosis"]["upper_bound"]["over_samples"] = bound("2.718", false);
  run["diagnosis"]["upper_bound"]["over_box"] = bound("7.389", false);
  run["diagnosis"]["warnings"] = Json::array();
  run["diagnosis"]["resolved"] = true;
  put(results_file, results.dump());
  EXPECT_THAT(report(scratch), AllOf(Not(HasSubstr("not integrable")), Not(HasSubstr("vacuous")), HasSubstr("2.718"),
                                     Not(HasSubstr("<b>not resolved</b></td>")), Not(HasSubstr("there is no Z"))));
}

TEST(Report, OverwritesNothingItReadsAndKnowsItsVersion) {
  const Scratch scratch;
  if (!can_report()) GTEST_SKIP() << "no Python with numpy and matplotlib";
  ASSERT_EQ(reproduce(scratch, "blob", "0").code, 0);
  const auto report_to = [&](const std::string& out) {
    return run(scratch, fmt::format("python3 {}/report.py {} --out '{}'", tools_folder, scratch / "out", out));
  };
  const std::string results = scratch / "out/results.json", bytes = get(results);
  for (const std::string& out : {results, scratch.folder().string(), std::string()}) {
    const Outcome outcome = report_to(out);
    EXPECT_EQ(outcome.code, 2) << outcome.err;
    EXPECT_THAT(outcome.err, HasSubstr("allowed: a name that ends in .html"));
  }
  std::filesystem::create_directory(scratch / "folder.html");
  std::filesystem::create_hard_link(results, scratch / "link.html");
  for (const auto& [out, what] : {std::pair("folder.html", "is a folder"), std::pair("link.html", "which is read")}) {
    const Outcome outcome = report_to(scratch / out);
    EXPECT_EQ(outcome.code, 1) << outcome.err;
    EXPECT_THAT(outcome.err, HasSubstr(what));
  }
  EXPECT_EQ(get(results), bytes);
  EXPECT_EQ(report_to(scratch / "page.html").code, 0);
  Json earlier = Json::parse(bytes);
  earlier.erase("verdicts");
  put(results, earlier.dump());
  const Outcome outcome = report_to(scratch / "page.html");
  EXPECT_EQ(outcome.code, 1);
  EXPECT_THAT(outcome.err, HasSubstr("results.json is of an earlier version of reproduce"));
  EXPECT_EQ(scratch.list(),
            (std::set<std::string>{"folder.html", "link.html", "out", "page.html", "stderr.txt", "stdout.txt"}));
}

// A results.json from elsewhere: its texts are text, and what does not fit together is a sentence.
TEST(Report, TrustsNothingInTheResults) {
  const Scratch scratch;
  const std::string python = python_with("numpy, matplotlib.pyplot");
  if (python.empty()) GTEST_SKIP() << "no Python with numpy and matplotlib";
  ASSERT_EQ(reproduce(scratch, "blob", "0", 3, "--detail yes --eta 0,1").code, 0);
  const std::string results_file = scratch / "out/results.json", figures = scratch / "out/figures";
  Json results = Json::parse(get(results_file));
  const Json estimate{{"value", 1}, {"standard_error", 0}, {"step_error", nullptr}},
      bound{{"text", "1e26"}, {"vacuous", true}};
  results["runs"][0]["diagnosis"] = {{"radial_slopes", {{"integrable", false}, {"reason", "it grows"}}},
                                     {"energy", {{"dissipation", estimate}, {"balance", {{"difference", estimate}}}}},
                                     {"identity", nullptr},
                                     {"upper_bound", {{"over_samples", bound}, {"over_box", bound}, {"diameter", 9.9}}},
                                     {"warnings", {"another"}},
                                     {"resolved", false}};
  put(results_file, results.dump());
  // Each value as each other type is refused or harmless. By the checks and tables alone: a whole report takes seconds.
  const Outcome checked = run(scratch, fmt::format("{} {}/results_shape_test.py {} {}", python, FOKKER_TESTS_FOLDER,
                                                   tools_folder, results_file));
  EXPECT_EQ(checked.code, 0) << checked.out << checked.err;

  // Every text at once is another, which stays text in the page and in the figures; a figure's name leads elsewhere.
  const std::string evil = "_$\\frac{$<script>alert('\"')</script>\x1b[31m";
  Json texts = results;
  const Json flat = results.flatten();
  for (const auto& [pointer, value] : flat.items()) {
    if (value.is_string() && !pointer.ends_with("/folder")) texts[Json::json_pointer(pointer)] = evil;
  }
  put(results_file, texts.dump());
  put(scratch / "precious", "precious");
  std::filesystem::create_directories(figures);
  const std::string figure = figures + "/gap_script___31m.png";
  std::filesystem::create_symlink(scratch / "precious", figure);
  EXPECT_THAT(report(scratch),
              AllOf(Not(HasSubstr("<script")), HasSubstr("&lt;script&gt;alert(&#x27;&quot;&#x27;)&lt;/script&gt;")));
  EXPECT_EQ(get(scratch / "precious"), "precious");
  EXPECT_TRUE(std::filesystem::is_regular_file(figure) && !std::filesystem::is_symlink(figure));

  const auto refused = [&](const std::string& text, const std::string& what) {
    put(results_file, text);
    const Outcome outcome = run(scratch, fmt::format("{} {}/report.py {}", python, tools_folder, scratch / "out"));
    EXPECT_EQ(outcome.code, 1);
    EXPECT_THAT(outcome.err, AllOf(::testing::StartsWith("report.py: "), HasSubstr(what)));
    EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
  };
  refused(std::string(100'000, '['), "is not JSON");
  texts["summary"][0]["data"] = "\x1b[31mother";
  refused(texts.dump(), "has no summary of _$\\frac{$");
  std::filesystem::remove_all(figures);
  std::filesystem::create_directory_symlink(scratch.folder(), figures);
  refused(results.dump(), "figures is a symbolic link");
}

TEST(Report, NamesTheFileThatIsDamaged) {
  const Scratch scratch;
  if (!can_report()) GTEST_SKIP() << "no Python with numpy and matplotlib";
  ASSERT_EQ(reproduce(scratch, "blob", "0", 3, "--detail yes").code, 0);
  const std::vector<double> weights(4095, 1.0 / 4095);
  save_npy(scratch / "size.npy", {4095}, weights.data());
  const std::string size = get(scratch / "size.npy"),
                    header = "iteration,denoising,residual,total,gradient_norm,rate\n";
  for (const auto& [name, damaged] :
       std::vector<std::pair<std::string, std::string>>{{"ode.npy", "junk"},
                                                        {"truth.npy", ""},
                                                        {"sde.npy", size},
                                                        {"along_the_way.npy", "junk"},
                                                        {"along_the_way.npy", size},
                                                        {"log.csv", "junk"},
                                                        {"log.csv", ""},
                                                        {"log.csv", header + "0,1,2\n"},
                                                        {"log.csv", header + "0,1,2,3,4,x\n"}}) {
    SCOPED_TRACE(name + " " + damaged.substr(0, 80));
    const std::string path = scratch / ("out/blob_softplus20_w0_s0/" + name), bytes = get(path);
    put(path, damaged);
    const Outcome outcome = run(scratch, fmt::format("python3 {}/report.py {}", tools_folder, scratch / "out"));
    EXPECT_EQ(outcome.code, 1);
    EXPECT_THAT(outcome.err, AllOf(::testing::StartsWith("report.py: " + path), Not(HasSubstr("pickle"))));
    EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
    put(path, bytes);
  }
  EXPECT_THAT(report(scratch), HasSubstr("Results"));
}

TEST(Report, HasHelpAndNamesThePackagesItLacks) {
  const Scratch scratch;
  // -S leaves out every installed package.
  const std::string bare = fmt::format("/usr/bin/python3 -S {}/report.py ", tools_folder);
  if (run(scratch, "/usr/bin/python3 -S -c ''").code != 0) GTEST_SKIP() << "there is no /usr/bin/python3";
  const Outcome help = run(scratch, bare + "--help");
  EXPECT_EQ(help.code, 0) << help.err;
  EXPECT_THAT(help.out, AllOf(HasSubstr("examples:"), HasSubstr("report.py build/demo")));
  EXPECT_EQ(run(scratch, bare).code, 2);
  const Outcome wrong = run(scratch, bare + "x --out 'a\033[31mb'");
  EXPECT_EQ(wrong.code, 2);
  EXPECT_THAT(wrong.err, HasSubstr("--out 'a?[31mb' given; allowed: a name that ends in .html"));
  const Outcome outcome = run(scratch, bare + (scratch / "out"));
  EXPECT_EQ(outcome.code, 1);
  EXPECT_THAT(outcome.err, AllOf(HasSubstr("python3-numpy"), HasSubstr("python3-matplotlib")));
  EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
}

// In a tree of stand-ins: demo.sh passes the options of reproduce on as they are, and ends as reproduce does.
TEST(Demo, LeavesOptionsToReproduce) {
  const Scratch scratch;
  const std::string demo = scratch / "tree/tools/demo.sh";
  for (const char* folder : {"tree/tools", "tree/build/tools", "bin"}) {
    std::filesystem::create_directories(scratch / folder);
  }
  std::filesystem::copy_file(tools_folder + "/demo.sh", demo);
  const auto program = [&](const std::string& name, const std::string& lines) {
    put(scratch / name, "#!/bin/sh\n" + lines + "\n");
    std::filesystem::permissions(scratch / name, std::filesystem::perms::owner_all);
  };
  program("bin/cmake", "exit 0");
  program("bin/python3", "echo page.html");
  program("tree/build/tools/reproduce", "[ \"$2\" != huge ] || exit 2; echo \"$@\"");
  const auto call = [&](const std::string& options) {
    return run(scratch, fmt::format("env PATH={}:$PATH {} {}", scratch / "bin", demo, options));
  };
  EXPECT_THAT(call("--help").out, AllOf(HasSubstr("--no-install"), HasSubstr("reproduce, whose --help")));
  const std::string tree = scratch / "tree";
  const Outcome plain = call("--no-install");
  EXPECT_EQ(plain.code, 0) << plain.err;
  EXPECT_THAT(plain.out, AllOf(HasSubstr(fmt::format("--preset quick --out {}/build/demo\n", tree)),
                               HasSubstr("The report is in page.html")));
  EXPECT_THAT(
      call(fmt::format("--no-install --preset=smoke --bounds=no --weights 0,1 --out {}", scratch / "there")).out,
      HasSubstr(fmt::format("--preset smoke --out {} --bounds=no --weights 0,1\n", scratch / "there")));
  EXPECT_EQ(call("--no-install --preset huge").code, 2);
  for (const char* wrong : {"--out", "--preset", "--out=", "--out ''"}) {
    const Outcome outcome = call(wrong);
    EXPECT_EQ(outcome.code, 2) << wrong;
    EXPECT_THAT(outcome.err, ::testing::StartsWith("demo.sh: "));
    EXPECT_EQ(outcome.out, "");
  }
}

}  // namespace
}  // namespace fokker
