// fokker field: shapes, types and values against the library in double, and which points are refused.
#include <cmath>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "command_line.hpp"
#include "compare.hpp"

namespace fokker::testing {
namespace {

class FieldCommand : public CommandLine {};

// A comparison of floats with what the same numbers give in double: what is left is float32's own rounding. Sums over
// at most 17 terms, three layers and the second derivative's cancellation lose less than 2^7 units of 2^−24, that is
// 8e-6.
constexpr Bound float_bound{.relative = 0, .of_rms = 2e-5, .norm = 8e-6, .absolute = 0};

TEST_F(FieldCommand, FollowsItsContract) {
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
      const Json json = fokker_json({"field", "--model", c.model, "--points", file("points.npy"), "--out",
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
        EXPECT_TRUE(agrees(std::span<const double>(found), std::span<const double>(wanted), float_bound));
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

TEST_F(FieldCommand, RefusesTimesOutsideTheHorizon) {
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
        fokker({"field", "--model", model, "--points", file("points.npy"), "--out", file("f.safetensors")});
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

TEST_F(FieldCommand, ByProbesIsTheLibrarysAndDependsOnTheirSeed) {
  const std::string model = network("net.safetensors", Output::potential);
  const std::vector<float> points{0.5f, 0.1f, -0.2f, 1.0f, 0.3f, 0.7f};
  save_npy(file("points.npy"), {2, 3}, points.data());
  std::map<std::string, std::vector<double>> laplacian;
  for (const char* seed : {"1", "2"}) {
    fokker_json({"field", "--model", model, "--points", file("points.npy"), "--out", file("f.safetensors"), "--probes",
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

// An array file that is none, of every kind.
TEST_F(FieldCommand, RefusesPointsThatAreNone) {
  const std::string net = network("net.safetensors", Output::potential), out = file("out.safetensors");
  const auto altered = [&](const std::string& name, const std::string& bytes) {
    put(file(name), bytes);
    return file(name);
  };
  const std::string header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }\n";
  const auto npy = [&](const std::string& text, std::size_t data) {
    const std::uint16_t size = static_cast<std::uint16_t>(text.size());
    return std::string("\x93NUMPY\x01\x00", 8) + std::string(reinterpret_cast<const char*>(&size), 2) + text +
           std::string(data, '\0');
  };
  const auto shaped = [&](const std::string& shape, std::size_t data) {
    return npy("{'descr': '<f4', 'fortran_order': False, 'shape': " + shape + ", }\n", data);
  };
  EXPECT_EQ(fokker({"field", "--model", net, "--points", altered("good.npy", npy(header, 24)), "--out",
                    file("good.safetensors")})
                .code,
            0);
  struct Bad {
    std::string file, what;
  };
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
      {altered("fields.npy", npy("{'descr': [('t', '<f4')], 'fortran_order': False, 'shape': (2, 3), }\n", 24)),
       "fields.npy"},
      {altered("text.npy", "hello, world"), "text.npy"},
  };
  std::vector<Refused> commands;
  for (const Bad& bad : arrays) {
    commands.push_back({{"field", "--model", net, "--points", bad.file, "--out", out}, bad.what});
  }
  expect_refused(commands);
}

TEST_F(FieldCommand, RefusesWhatIsNotAllowed) {
  const std::string net = network("net.safetensors", Output::potential), out = file("out.safetensors");
  put(file("regular"), "a file");
  const Arguments field{"field", "--model", net, "--points", points(), "--out"};
  expect_refused({{with(field, {file("out.npy")}), ".safetensors", 2},
                  {with(field, {out, "--probe-seed", "-1"}), "--probe-seed -1", 2},
                  {with(field, {out, "--probes", "-1"}), "--probes -1", 2},
                  {with(field, {file("regular/f.safetensors")}), "regular"}});
}

}  // namespace
}  // namespace fokker::testing
