// Files, names and numbers from outside: what reaches the terminal, what ends in a sentence, and what people type.
#include <string>
#include <vector>

#include "command_line.hpp"
#include "sanitizer.hpp"

namespace fokker::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class Untrusted : public CommandLine {
 protected:
  // All lines are printable, and those of failures short too.
  static void expect_printable(const Outcome& outcome) {
    for (const std::string& text : {outcome.out, outcome.err}) {
      std::istringstream lines(text);
      for (std::string line; std::getline(lines, line);) EXPECT_EQ(printable(line), line);
    }
    if (outcome.code == 0) return;
    EXPECT_LT(outcome.err.size(), 700u) << outcome.err;  // bytes of 300 characters
  }
  // Commands of a shell, with memory limited to so many MB.
  Outcome limited(int megabytes, const Arguments& arguments) const {
    return start({"/bin/sh", "-c",
                  fmt::format("ulimit -c 0; ulimit -v {}; exec {} {}", megabytes * 1024, fokker_tool,
                              fmt::join(arguments, " "))})
        .wait();
  }
};

// Escapes of C0 and of C1, an override, an isolate, line ends and a separator; and a byte that is no UTF-8.
const std::vector<std::string> steering{
    "\x1b[31m\x1b]0;title\x07\xc2\x9b"
    "31m\xe2\x80\xae\xe2\x81\xa6\r\n\x7f\xe2\x80\xa8",
    "\x9b"};

TEST_F(Untrusted, NamesDoNothingToTheTerminal) {
  for (const std::string& name : steering) {
    SCOPED_TRACE(printable(name));
    const std::string key = name[0] == '\x9b' ? "key" : name;  // what is no UTF-8 is no metadata
    save_model(file("net.safetensors"),
               {ForwardSde{}, Mlp::initialise({.hidden = {3}, .activation = Activation::tanh}, 1)},
               {{key, key + "value"}});
    const std::string net = file("net.safetensors");
    Outcome outcome = fokker({"info", "--model", net});
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    EXPECT_THAT(outcome.out, HasSubstr("metadata"));
    expect_printable(outcome);
    outcome = fokker({"info", "--model", net, "--json"});
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    EXPECT_EQ(Json::parse(outcome.out)["model"]["metadata"][key], key + "value");
    expect_printable(outcome);
    SafeTensors tensors = SafeTensors::load(net);
    if (key == name) {
      tensors.tensors[name + ".weight"] = tensors.tensors[name + ".bias"] = Tensor::from_float({0, 0}, nullptr);
      tensors.metadata.erase("layers");
      tensors.save(file("names.safetensors"));
      outcome = fokker({"info", "--model", file("names.safetensors")});
      EXPECT_EQ(outcome.code, 1);
      expect_printable(outcome);
    }
    for (const Arguments& arguments :
         std::vector<Arguments>{{"info", "--model", net, "--layers", name + ",b"},
                                {"info", "--model", file(name + ".safetensors")},
                                {"info", "--model", name},
                                {"info", "--" + name},
                                {"info", name},
                                {name},
                                {"sample", "--model", net, "--out", name + ".npy", "--samples", name},
                                {"sample", "--model", net, "--out", file("no/" + name + ".npy")},
                                {"sample", "--model", net, "--out", name},
                                {"gap", "--model", net, "--data", name},
                                {"gap", "--a", file(name), "--b", name},
                                {"train", "--data", "blob", "--out", file("m.safetensors"), "--hidden", name},
                                {"train", "--data", "blob", "--out", file("m.safetensors"), "--box", name},
                                {"train", "--data", "blob", "--out", file("m.safetensors"), "--sde-parameters", name},
                                {"info", "--model", net, "--sde", "ve", "--sde-parameters", "{\"" + name + "\": 1}"},
                                {"sample", "--model", net, "--out", file("s.npy"), "--grid", "uniform:" + name}}) {
      SCOPED_TRACE(printable(fmt::format("{}", fmt::join(arguments, " "))));
      outcome = fokker(arguments);
      EXPECT_GT(outcome.code, 0);
      expect_printable(outcome);
    }
  }
}

TEST_F(Untrusted, SentencesStayShort) {
  const std::string megabyte(100'000, 'x');
  put(file("long.json"), "{\"" + megabyte + "\": 1}");
  SafeTensors tensors;
  for (int i = 0; i < 3000; ++i)
    tensors.tensors[fmt::format("{}{}.weight", std::string(50, 'y'), i)] = {"F32", {0, 7}, {}};
  tensors.save(file("many.safetensors"));
  for (const Arguments& arguments : std::vector<Arguments>{
           {"info", "--model", file("long.json")},
           {"info", "--model", file("many.safetensors"), "--activation", "tanh", "--output", "score"},
           {"info", "--model", file("many.safetensors"), "--layers", megabyte},
           {"sample", "--model", planar_mixture(), "--out", megabyte + ".npy"},
           {"sample", "--model", planar_mixture(), "--out", file("s.npy"), "--samples", megabyte},
           {megabyte}}) {
    const Outcome outcome = fokker(arguments);
    EXPECT_GT(outcome.code, 0);
    expect_printable(outcome);
  }
}

// A file that is larger than memory allows ends in a sentence, whenever that is found. The limits count from what the
// program needs to start at all, which grows with the architectures it is built for.
TEST_F(Untrusted, MemoryThatRunsOutIsASentence) {
  if (with_asan || with_tsan) GTEST_SKIP() << "a sanitizer takes all of the address space";
  int start = 8;
  while (limited(start, {"--version"}).code != 0) {
    start += 8;
    ASSERT_LT(start, 4096) << limited(start, {"--version"}).err;
  }
  std::string weights = "1", means = "[0,0]";
  for (int k = 1; k < 200'000; ++k) weights += ",1", means += ",[0,0]";
  put(file("m.json"), fmt::format(R"({{"weights":[{}],"means":[{}],"covariances":1}})", weights, means));
  int failures = 0;
  for (const int more : {0, 4, 8, 16, 32, 64, 5000}) {
    SCOPED_TRACE(fmt::format("{} MB", start + more));
    const Outcome outcome = limited(start + more, {"info", "--model", file("m.json")});
    EXPECT_EQ(outcome.signal, 0) << outcome.err;
    if (outcome.code == 0) continue;
    ++failures;
    EXPECT_LT(more, 5000) << outcome.err;
    EXPECT_EQ(outcome.code, 1) << outcome.err;
    EXPECT_THAT(outcome.err, HasSubstr("memory"));
  }
  EXPECT_GT(failures, 0);
  // Samples that fit nowhere.
  expect_refused({"sample", "--model", planar_mixture(), "--samples", "1000G", "--out", file("s.npy")},
                 "out of memory");
}

TEST_F(Untrusted, CountsAreTakenAsTyped) {
  const std::string model = planar_mixture();
  const auto samples_of = [&](const std::string& count) {
    return fokker_json({"sample", "--model", model, "--samples", count, "--grid", "uniform:2", "--out", file("s.npy"),
                        "--json"})
        .value("samples", 0);
  };
  EXPECT_EQ(samples_of("1e3"), 1000);
  EXPECT_EQ(samples_of("1_000"), 1000);
  EXPECT_EQ(samples_of("1.5k"), 1500);
  for (const char* count : {"1e-3", "1.5", "ten", "1,000", "1e30", "-1", "0"}) {
    expect_refused({"sample", "--model", model, "--samples", count, "--out", file("s.npy")},
                   fmt::format("--samples {} given; allowed: integers from 1 to", count), 2);
  }
  const Json trained =
      fokker_json({"train", "--data", "blob", "--out", file("m.safetensors"), "--hidden", "0.01k,7", "--iterations",
                   "2e0", "--denoising-points", "1e1", "--collocation-points", "1_0", "--json"});
  EXPECT_EQ(trained["iterations"], 2);
  EXPECT_EQ(trained["recipe"]["architecture"]["hidden"], (Json{10, 7}));
}

TEST_F(Untrusted, ArraysOfOtherProgramsAreSamples) {
  const std::vector<float> rows{0.5f, 1, -1, 0.25f, 0.125f, 2}, columns{0.5f, -1, 0.125f, 1, 0.25f, 2};
  save_npy(file("c.npy"), {3, 2}, rows.data());
  save_npy(file("f.npy"), {3, 2}, columns.data());
  std::string bytes = get(file("f.npy"));
  bytes.replace(bytes.find("False"), 5, "True ");
  put(file("f.npy"), bytes);
  const Json gap = fokker_json({"gap", "--a", file("c.npy"), "--b", file("f.npy"), "--json"});
  EXPECT_EQ(gap["w2_squared"]["a_b"], 0.0);
  EXPECT_EQ(gap["samples"]["b"], 3);
}

}  // namespace
}  // namespace fokker::testing
