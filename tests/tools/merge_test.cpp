// Parts that processes write with --rank, and what `fokker merge` makes of them.
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "command_line.hpp"

namespace fokker::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class Merge : public CommandLine {
 protected:
  std::string save(const std::string& name, std::int64_t rows, std::int64_t columns, double step) const {
    std::vector<float> numbers;
    for (std::int64_t i = 0; i < rows * columns; ++i) numbers.push_back(float(std::sin(1 + step * double(i))));
    save_npy(file(name), {rows, columns}, numbers.data());
    return file(name);
  }

  struct File {
    std::string option, name, ending;
  };

  // The files of R processes, merged, are those of one.
  void expect_merged(const Arguments& command, const std::vector<File>& outputs, int ranks) const {
    SCOPED_TRACE(fmt::format("{} by {}", fmt::join(command, " "), ranks));
    const auto name = [&](const File& output, const std::string& which) {
      return file(output.name + which + output.ending);
    };
    const auto run = [&](const std::string& which, const Arguments& more) {
      Arguments arguments = with(command, more);
      for (const File& output : outputs) {
        arguments.insert(arguments.end(), {output.option, name(output, which)});
      }
      const Outcome outcome = fokker(arguments);
      ASSERT_EQ(outcome.code, 0) << outcome.err;
    };
    run("_whole", {});
    for (int rank = 0; rank < ranks; ++rank)
      run(fmt::format("_{}", rank), {"--rank", fmt::format("{}/{}", rank, ranks)});
    for (const File& output : outputs) {
      Arguments merge{"merge", "--out", name(output, "_merged")};
      for (int rank = ranks; rank-- > 0;) merge.push_back(name(output, fmt::format("_{}", rank)));
      const Outcome outcome = fokker(merge);
      ASSERT_EQ(outcome.code, 0) << outcome.err;
      EXPECT_TRUE(get(name(output, "_merged")) == get(name(output, "_whole"))) << output.option << output.ending;
    }
  }
};

TEST_F(Merge, GivesTheBytesOfOneCall) {
  const std::string net = network("net.safetensors", Output::potential), grid = "geometric:9:1e-3";
  const Arguments sample{"sample", "--model", net, "--grid", grid, "--seed", "11", "--threads", "1"};
  const File x{"--out", "x", ".npy"}, x_csv{"--out", "x", ".csv"}, p{"--log-density", "p", ".npy"},
      p_csv{"--log-density", "p", ".csv"}, way{"--trajectory", "t", ".npz"};
  for (const int ranks : {1, 2, 3, 7}) {
    // Paths of the SDE with the flow's density by a second pass; paths of the flow with theirs.
    expect_merged(with(sample, {"--samples", "23", "--probes", "2", "--first-index", "5"}), {x, p_csv, way}, ranks);
    expect_merged(with(sample, {"--samples", "23", "--scheme", "heun"}), {x_csv, p}, ranks);
  }
  // Fewer samples than ranks, so that some parts have none.
  expect_merged(with(sample, {"--samples", "3", "--probes", "1"}), {x_csv, p, way}, 7);
  expect_merged(with(sample, {"--samples", "23", "--scheme", "tsit5", "--tolerance", "1e-3"}), {x, p}, 3);
  // Each with a state or a condition of its own.
  const Arguments from{"--scheme", "ddim", "--eta", "0.5", "--initial"};
  expect_merged(with(sample, with(from, {save("states.npy", 23, 2, 0.7)})), {x}, 3);
  expect_merged(with(sample, with(from, {save("few.npy", 3, 2, 0.7)})), {x, p, way}, 7);
}

TEST_F(Merge, GivesTheBytesOfOneCallOfConditionsAndOfPoints) {
  const std::string net = network("net.safetensors", Output::potential), x = save("x.npy", 23, 2, 0.7);
  Architecture a;
  a.hidden = {9};
  a.activation = Activation::silu, a.output = Output::score;
  a.condition = {{{5, {Activation::mish, 1}, false}}, {0}, {}, 3};
  save_model(file("given.safetensors"), {ForwardSde::defaults(SdeKind::ou), Mlp::initialise(a, 3)});
  const File npy{"--out", "d", ".npy"}, csv{"--out", "d", ".csv"}, tensors{"--out", "d", ".safetensors"};
  const Arguments given{"sample", "--model",    file("given.safetensors"), "--grid", "geometric:9:1e-3", "--scheme",
                        "heun",   "--condition"};
  expect_merged(with(given, {save("y.npy", 23, 3, 0.3)}), {npy}, 3);
  expect_merged(with(given, {save("few_y.npy", 3, 3, 0.3)}), {npy}, 7);
  // float64 of the SDE, float32 of the flow.
  const Arguments density{"density", "--model", net, "--points", x};
  const Arguments of_sde = with(density, {"--paths", "9", "--steps", "8", "--bits-per-dim", "0"});
  for (const File& out : {npy, csv, tensors}) expect_merged(of_sde, {out}, 3);
  expect_merged(with(of_sde, {"--common-paths"}), {tensors}, 7);
  const Arguments of_flow = with(density, {"--scheme", "heun", "--grid", "geometric:9:1e-3"});
  expect_merged(with(of_flow, {"--probes", "1", "--probe-repeats", "2"}), {tensors}, 3);
  expect_merged(of_flow, {csv}, 2);
  // Fewer points than ranks.
  const Arguments few{"density", "--model", net, "--points", save("few.npy", 3, 2, 0.7)};
  expect_merged(with(few, {"--paths", "9", "--steps", "8"}), {tensors}, 7);
  expect_merged(with(few, {"--scheme", "heun", "--grid", "geometric:9:1e-3", "--probes", "1"}), {csv}, 7);
  expect_merged(with(few, {"--scheme", "tsit5", "--grid", "geometric:9:1e-3", "--tolerance", "1e-3"}), {npy}, 7);
  std::vector<float> rows;
  for (int i = 0; i < 23; ++i) rows.insert(rows.end(), {0.1f + 0.1f * float(i), 0.5f, -0.01f * float(i)});
  save_npy(file("tx.npy"), {23, 3}, rows.data());
  const Arguments field{"field", "--model", net, "--hessian", "--probes", "1", "--points"};
  expect_merged(with(field, {file("tx.npy")}), {tensors}, 3);
  save_npy(file("few_tx.npy"), {3, 3}, rows.data());
  expect_merged(with(field, {file("few_tx.npy")}), {tensors}, 7);
}

// Without a sample too much or too little, of one call and as they were written.
TEST_F(Merge, RefusesPartsThatAreNotTheWhole) {
  const std::string net = network("net.safetensors", Output::potential), out = file("out.npy");
  const auto part = [&](const std::string& name, const std::string& rank, const std::string& seed = "0") {
    const Json json = fokker_json({"sample", "--model", net, "--samples", "20", "--seed", seed, "--grid", "uniform:3",
                                   "--rank", rank, "--out", file(name), "--json"});
    return json["rank"];
  };
  EXPECT_EQ(part("a.npy", "0/3"), (Json{{"rank", 0}, {"ranks", 3}, {"first", 0}, {"all", 20}}));
  EXPECT_EQ(part("b.npy", "1/3")["first"], 6);
  EXPECT_EQ(part("c.npy", "2/3")["first"], 13);
  part("half.npy", "1/2");
  part("other.npy", "1/3", "1");
  part("c.csv", "2/3");
  const std::string a = file("a.npy"), b = file("b.npy"), c = file("c.npy"), half = file("half.npy"),
                    other = file("other.npy");
  EXPECT_EQ(fokker({"merge", a, b, c, "--out", out}).code, 0);
  const std::string whole = get(out);
  const auto expect_merge_refused = [&](const Arguments& parts, const std::vector<std::string>& what, int code = 1) {
    put(out, "precious");
    const Outcome outcome = fokker(with(with({"merge"}, parts), {"--out", out}));
    for (const std::string& words : what) expect_failure(outcome, "fokker", words, code);
    EXPECT_EQ(get(out), "precious");
  };
  expect_merge_refused({a, c},
                       {"of 20 samples the parts lack 6 to 12, after those of '" + a + "', before those of '" + c});
  expect_merge_refused({b, c}, {"lack 0 to 5, before those of '" + b});
  expect_merge_refused({b, a}, {"lack 13 to 19, after those of '" + b});
  expect_merge_refused({a, b, half}, {"samples 10 to 12 are in both '" + b + "' and '" + half});
  expect_merge_refused({a, b, b, c}, {"samples 6 to 12 are in both"});
  expect_merge_refused({a, other, c},
                       {other, a, "not parts of one call (options.--seed: \"1\" there, \"0\" in the other)"});
  expect_merge_refused({a, b, file("c.csv")}, {"allowed: names of one ending"});
  expect_merge_refused({a, b, file("none.npy")}, {"cannot read"});
  expect_merge_refused({}, {"PARTS"}, 2);
  // Of two numbers of ranks.
  fokker_json({"sample", "--model", net, "--samples", "20", "--seed", "0", "--grid", "uniform:3", "--rank", "0/2",
               "--out", file("first.npy"), "--json"});
  EXPECT_EQ(fokker({"merge", half, file("first.npy"), "--out", out}).code, 0);
  EXPECT_EQ(get(out), whole);

  const std::string beside = c + ".part.json", said = get(beside), bytes = get(c);
  std::filesystem::remove(beside);
  expect_merge_refused({a, b, c}, {c + "' has no '" + beside});
  for (const char* text : {"{}", "[", R"({"holds": "samples", "first": 13, "count": 7, "all": 20, "contents": 1})"}) {
    put(beside, text);
    expect_merge_refused({a, b, c}, {beside});
  }
  Json changed = Json::parse(said);
  changed["count"] = 8;
  put(beside, changed.dump());
  expect_merge_refused({a, b, c}, {"says 8 from 13 on of 20"});
  changed["count"] = 6.5;
  put(beside, changed.dump());
  expect_merge_refused({a, b, c}, {"count of", "is 6.5"});
  put(beside, said);
  put(c, get(b));
  expect_merge_refused({a, b, c}, {"has other bytes than"});
  put(c, bytes);
  // A model of other numbers under the same name.
  Architecture architecture;
  architecture.hidden = {17, 9}, architecture.beta = 5;
  save_model(net, {ForwardSde::defaults(SdeKind::ou), Mlp::initialise(architecture, 4)});
  part("c.npy", "2/3");
  expect_merge_refused({a, b, c}, {"not parts of one call (contents.--model"});
}

TEST_F(Merge, RanksAreGivenOrSlurms) {
  const std::string model = planar_mixture();
  const Arguments sample{"sample",    "--model", model,   "--samples",   "10",    "--grid",
                         "uniform:3", "--json",  "--out", file("x.npy"), "--rank"};
  for (const char* wrong : {"3/3", "-1/3", "1", "1/0", "a/b", "1/3/5", "0/9999999", "Slurm", ""}) {
    expect_refused(with(sample, {wrong}), "allowed: I/R", 2);
  }
  for (const char* name : {"SLURM_PROCID", "SLURM_NTASKS", "SLURM_ARRAY_TASK_COUNT"}) ::unsetenv(name);
  expect_refused(with(sample, {"slurm"}), "--rank slurm given without SLURM_PROCID and SLURM_NTASKS");
  ::setenv("SLURM_PROCID", "2", 1);
  expect_refused(with(sample, {"slurm"}), "--rank slurm given without SLURM_NTASKS in the environment");
  ::setenv("SLURM_NTASKS", "2", 1);
  expect_refused(with(sample, {"slurm"}), "SLURM_PROCID is '2' and SLURM_NTASKS '2'");
  ::setenv("SLURM_NTASKS", "4", 1);
  const Json json = fokker_json(with(sample, {"slurm"}));
  EXPECT_EQ(json["rank"], (Json{{"rank", 2}, {"ranks", 4}, {"first", 5}, {"all", 10}}));
  EXPECT_EQ(json["samples"], 2);
  EXPECT_EQ(json["first_index"], 5);
  // In a job of an array every task is 0 of 1.
  ::setenv("SLURM_ARRAY_TASK_COUNT", "12", 1);
  EXPECT_EQ(fokker_json(with(sample, {"slurm"}))["rank"]["ranks"], 4);
  ::setenv("SLURM_PROCID", "0", 1);
  ::setenv("SLURM_NTASKS", "1", 1);
  expect_refused(with(sample, {"slurm"}),
                 "one of the 12 jobs of an array, where SLURM_NTASKS is 1; allowed there: --rank "
                 "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT");
  for (const char* name : {"SLURM_PROCID", "SLURM_NTASKS", "SLURM_ARRAY_TASK_COUNT"}) ::unsetenv(name);
  // A part is no input of its call, and its side file no output of another.
  expect_refused({"sample", "--model", model, "--rank", "0/2", "--out", file("x.npy"), "--log-density", file("y.csv"),
                  "--trajectory", file("x.npz"), "--initial", file("x.npy.part.json")},
                 "both to be read and to be written");
}

}  // namespace
}  // namespace fokker::testing
