// fokker gap: the numbers and nulls that it prints, its histograms, and two files compared.
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "archive.hpp"
#include "command_line.hpp"

namespace fokker::testing {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

class GapCommand : public CommandLine {};

TEST_F(GapCommand, OfAPlanarModelFollowsItsContract) {
  const std::string model = planar_mixture();
  const Json json = fokker_json({"gap", "--model", model, "--data", model, "--samples", "3000", "--seed", "5", "--grid",
                                 "geometric:60:1e-3", "--histograms", file("h/deep"), "--json"});
  EXPECT_THAT(keys(json["w2_squared"]), ElementsAre("ode_sde", "ode_truth", "sde_truth"));
  EXPECT_THAT(keys(json["sliced_w2_squared"]), ElementsAre("ode_sde", "ode_truth", "sde_truth"));
  EXPECT_EQ(json["sliced_samples"], 3000);
  EXPECT_THAT(keys(json["escaped"]), ElementsAre("ode", "sde", "truth"));
  EXPECT_THAT(keys(json["residual"]), ElementsAre("centred_mean_square", "mean_square"));
  EXPECT_EQ(json["samples"], 3000);
  EXPECT_EQ(json["seed"], 5);
  EXPECT_EQ(json["model"], model);

  // An exact model's samplers are as far from the truth as two draws of the truth, within the discretisation of 60
  // steps.
  const double floor = json["noise_floor"];
  EXPECT_GT(floor, 0);
  for (const auto& item : json["w2_squared"].items()) EXPECT_LT(item.value().get<double>(), 4 * floor) << item.key();
  const double sliced_floor = json["sliced_noise_floor"];
  EXPECT_GT(sliced_floor, 0);
  for (const auto& item : json["sliced_w2_squared"].items()) {
    EXPECT_LT(item.value().get<double>(), 4 * sliced_floor) << item.key();
  }
  for (const char* law : {"ode", "sde", "truth"}) EXPECT_EQ(json["escaped"][law], 0.0);
  EXPECT_EQ(json["box"], Json({{"x", {-3.5, 3.5}}, {"y", {-3.5, 3.5}}, {"nodes", 64}}));
  // Mixtures work in double. The exact potential's residual is rounding of terms up to (5/0.05)² = 1e4: less than 2^6
  // units of 2^−53 of those, and the square of that is 5e-21.
  EXPECT_LT(json["residual"]["mean_square"].get<double>(), 5e-21);

  std::map<std::string, std::vector<double>> weights;
  for (const char* name : {"ode", "sde", "truth"}) {
    const Array array = load_array(file(fmt::format("h/deep/{}.npy", name)));
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

TEST_F(GapCommand, FollowsTheFamilyBetweenItsSamplers) {
  const std::string model = planar_mixture();
  Arguments arguments{"gap",    "--model",           model,   "--data",     model, "--samples", "3000", "--seed", "5",
                      "--grid", "geometric:60:1e-3", "--eta", "0,0.5,1,1.5"};
  const std::string text = fokker(arguments).out;
  EXPECT_THAT(text, AllOf(HasSubstr("\nW2² of 3000 draws each\n"), HasSubstr("\nsliced W2² of 3000 draws each\n"),
                          HasSubstr("escaped: ODE 0.00000, SDE 0.00000, truth 0.00000\n")));
  EXPECT_THAT(text, AllOf(HasSubstr("eta 0.5    to ODE 0."), HasSubstr("eta 1.5    to ODE 0.")));
  arguments.push_back("--json");
  const Json json = fokker_json(arguments);
  const double floor = json["noise_floor"];
  ASSERT_EQ(json["along_eta"].size(), 4u);
  for (const Json& of : json["along_eta"]) {
    EXPECT_THAT(keys(of),
                ElementsAre("escaped", "eta", "far_out", "not_finite", "ode", "seconds", "truth", "warnings"));
    EXPECT_LT(of["truth"].get<double>(), 4 * floor);
  }
  EXPECT_EQ(json["along_eta"][2]["ode"], json["w2_squared"]["ode_sde"]);
  EXPECT_LT(json["along_eta"][0]["ode"].get<double>(), 1e-3 * floor);
  expect_refused({"gap", "--model", model, "--data", model, "--eta", "0.5,-1"},
                 "eta -1 given with euler-maruyama; allowed: 0 to 100", 2);
}

TEST_F(GapCommand, HasNullsWhereTheContractSaysSo) {
  const std::string net = network("net.safetensors", Output::score);
  const Json vector = fokker_json({"gap", "--model", net, "--data", "blob", "--samples", "200", "--json"});
  EXPECT_TRUE(vector["residual"].is_null());
  EXPECT_TRUE(vector["w2_squared"].is_object());
  EXPECT_EQ(vector["grid"], "paper");

  const std::string model = mixture_3d();
  const Arguments arguments{"gap",    "--model",           model,   "--data", model, "--samples", "500",
                            "--grid", "geometric:40:1e-3", "--json"};
  const Json spatial = fokker_json(arguments);
  EXPECT_TRUE(spatial["w2_squared"].is_null());
  EXPECT_EQ(keys(spatial["sliced_w2_squared"]), (std::vector<std::string>{"ode_sde", "ode_truth", "sde_truth"}));
  EXPECT_GT(spatial["noise_floor"].get<double>(), 0);
  EXPECT_EQ(spatial["sliced_noise_floor"], spatial["noise_floor"]);
  EXPECT_LT(spatial["sliced_w2_squared"]["sde_truth"].get<double>(), 10 * spatial["noise_floor"].get<double>());
  EXPECT_TRUE(spatial["residual"].is_object());
  const Arguments with_histograms = with(arguments, {"--histograms", file("h")});
  expect_refused(with_histograms, "dimension 3");
}

TEST_F(GapCommand, ComparesTwoFilesOfSamples) {
  const std::vector<float> a{0, 0, 1, 1, 100, 0}, b{0, 0, 1, 1};
  save_npy(file("a.npy"), {3, 2}, a.data());
  save_npy(file("b.npy"), {2, 2}, b.data());
  const Json json = fokker_json({"gap", "--a", file("a.npy"), "--b", file("b.npy"), "--json"});
  EXPECT_NEAR(json["w2_squared"]["a_b"].get<double>(), 0, 1e-12);
  EXPECT_NEAR(json["certificate_gap"]["a_b"].get<double>(), 0, 1e-12);
  EXPECT_GT(json["sliced_w2_squared"]["a_b"].get<double>(), 1000);  // which leaves nothing out
  EXPECT_THAT(keys(json["escaped"]), ElementsAre("a", "b"));
  EXPECT_NEAR(json["escaped"]["a"].get<double>(), 1.0 / 3, 1e-15);
  EXPECT_EQ(json["escaped"]["b"], 0.0);
  EXPECT_TRUE(json["noise_floor"].is_null());
  const Json with_truth = fokker_json({"gap", "--a", file("a.npy"), "--b", file("b.npy"), "--data", "blob", "--json"});
  EXPECT_TRUE(with_truth["w2_squared"]["b_truth"].is_number());
  EXPECT_TRUE(with_truth["noise_floor"].is_number());
  EXPECT_TRUE(with_truth["sliced_noise_floor"].is_number());
  EXPECT_THAT(keys(with_truth["sliced_w2_squared"]), ElementsAre("a_b", "a_truth", "b_truth"));
  EXPECT_THAT(keys(with_truth["escaped"]), ElementsAre("a", "b", "truth"));
  save_npy(file("c.npy"), {2, 1}, b.data());
  expect_refused({"gap", "--a", file("a.npy"), "--b", file("c.npy")}, "must be the same");

  const std::vector<float> far(4, 100.0f);
  save_npy(file("far.npy"), {2, 2}, far.data());
  const Outcome lost = fokker({"gap", "--a", file("far.npy"), "--b", file("b.npy")});
  EXPECT_EQ(lost.code, 0);
  EXPECT_THAT(lost.out, AllOf(HasSubstr("a_b          –\n"), Not(HasSubstr("nan"))));
  EXPECT_THAT(lost.err, HasSubstr(fmt::format("all 2 samples in '{}' are outside", file("far.npy"))));

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
    expect_refused({"gap", "--a", file("a.npy"), "--b", file("b.npy"), option, value}, option, 2);
  }
  EXPECT_FALSE(std::filesystem::exists(file("h")));
  fokker_json({"gap", "--a", file("a.npy"), "--b", file("b.npy"), "--data", "blob", "--seed", "1", "--json"});
}

// Between the points themselves, in any dimension: a shift, and what a square's corners have of its middle.
TEST_F(GapCommand, ComparesPointsExactly) {
  const auto save = [&](const std::string& name, std::int64_t columns, std::vector<float> numbers) {
    save_npy(file(name), {std::ssize(numbers) / columns, columns}, numbers.data());
    return file(name);
  };
  std::vector<float> line, moved;
  for (int i = 0; i < 60; ++i) line.push_back(0.125f * float(i * i)), moved.push_back(line.back() + float(i % 3));
  const std::string a = save("a.npy", 3, line), b = save("b.npy", 3, moved);
  const Json json = fokker_json({"gap", "--a", a, "--b", b, "--points", "--json"});
  EXPECT_NEAR(json["w2_squared"]["a_b"].get<double>(), 5, 1e-9);  // 0² + 1² + 2²
  EXPECT_NEAR(json["certificate_gap"]["a_b"].get<double>(), 0, 1e-9);
  EXPECT_TRUE(json["sliced_w2_squared"]["a_b"].is_number());
  EXPECT_TRUE(json["box"].is_null());
  EXPECT_EQ(json["points"], true);
  // Outside any box, and of unlike numbers.
  const std::string corners = save("c.npy", 2, {99, 99, 101, 99, 99, 101, 101, 101}),
                    middle = save("d.npy", 2, {100, 100});
  const Json square = fokker_json({"gap", "--a", corners, "--b", middle, "--points", "--json"});
  EXPECT_EQ(square["w2_squared"]["a_b"], 2.0);
  EXPECT_EQ(square["escaped"]["a"], 0.0);
  EXPECT_TRUE(square["warnings"].empty());
  // Beside the data: draws of the law itself are as far from it as two draws of it are, within a factor.
  const std::string model = planar_mixture();
  fokker_json({"sample", "--model", model, "--samples", "200", "--grid", "geometric:60:1e-3", "--out", file("x.npy"),
               "--json"});
  const Arguments beside{"gap", "--a", file("x.npy"), "--b", file("x.npy"), "--points", "--data", model};
  const Json found = fokker_json(with(beside, {"--json"}));
  EXPECT_EQ(found["w2_squared"]["a_b"], 0.0);
  EXPECT_EQ(found["w2_squared"]["a_truth"], found["w2_squared"]["b_truth"]);
  EXPECT_LT(found["w2_squared"]["a_truth"].get<double>(), 4 * found["noise_floor"].get<double>());
  EXPECT_GT(found["noise_floor"].get<double>(), found["sliced_noise_floor"].get<double>());
  EXPECT_THAT(fokker(beside).out, AllOf(HasSubstr("\nW2² a_truth      0."), HasSubstr("\nW2² noise floor  0."),
                                        HasSubstr("\nsliced W2² noise floor  0.")));

  const float none[] = {std::nanf(""), 1};
  save_npy(file("none.npy"), {1, 2}, none);
  const Outcome lost = fokker({"gap", "--a", corners, "--b", file("none.npy"), "--points"});
  EXPECT_EQ(lost.code, 0);
  EXPECT_THAT(lost.out, HasSubstr("W2² a_b          –\n"));
  save_npy(file("many.npy"), {5793, 2}, std::vector<float>(2 * 5793).data());
  expect_refused({"gap", "--a", file("many.npy"), "--b", file("many.npy"), "--points"},
                 "exact W2 of 5793 and 5793 points; allowed: numbers whose product is up to 33554432");
  for (const auto& [option, value] : {std::pair("--box", "7"), std::pair("--nodes", "32")}) {
    expect_refused({"gap", "--a", a, "--b", b, "--points", option, value}, option, 2);
  }
  expect_refused({"gap", "--model", model, "--data", model, "--points"}, "--points requires --a", 2);
}

// A box for each axis holds what no symmetric one does as finely.
TEST_F(GapCommand, TakesABoxForEachAxis) {
  std::vector<float> numbers, moved;
  for (int i = 0; i < 50; ++i) {
    const float v = 0.02f * float(i);
    numbers.insert(numbers.end(), {v - 0.5f, 4 + 5 * v});
    moved.insert(moved.end(), {v, 4 + 5 * v});
  }
  save_npy(file("a.npy"), {50, 2}, numbers.data());
  save_npy(file("b.npy"), {50, 2}, moved.data());
  const Arguments gap{"gap", "--a", file("a.npy"), "--b", file("b.npy"), "--nodes", "201", "--json"};
  const Json json = fokker_json(with(gap, {"--box", "-1:4,0:10"}));
  EXPECT_EQ(json["box"], Json({{"x", {-1.0, 4.0}}, {"y", {0.0, 10.0}}, {"nodes", 201}}));
  EXPECT_EQ(json["escaped"], Json({{"a", 0.0}, {"b", 0.0}}));
  EXPECT_NEAR(json["w2_squared"]["a_b"].get<double>(), 0.25, 0.05);  // to the nodes, at most 0.05 apart
  EXPECT_EQ(fokker_json(with(gap, {"--box", "3,12"}))["box"]["y"], Json({-12.0, 12.0}));
  EXPECT_EQ(fokker_json(with(gap, {"--box", "-2:11"}))["box"]["x"], Json({-2.0, 11.0}));
  EXPECT_GT(fokker_json(with(gap, {"--box", "7"}))["escaped"]["a"].get<double>(), 0.1);
  for (const char* bad :
       {"0", "-1", "nan", "inf", "1:1", "2:1", "1:2:3", "a:b", "1:", ":1", "", "1,2,3", "1,", "1;2"}) {
    SCOPED_TRACE(bad);
    expect_refused(with(gap, {"--box", bad}), "given; allowed: a half-width above 0, or LOW:HIGH with HIGH above LOW",
                   2);
  }
}

TEST_F(GapCommand, TakesArraysOfEveryFormat) {
  const std::vector<float> a{0, 1.5f, -1, 2}, b{1, 2.5f, 0, 3};
  save_npy(file("a.npy"), {4}, a.data());
  put(file("a.csv"), "x\n0\n1.5\n-1\n2\n");
  put(file("b.npz"), archive({{.name = "times.npy", .bytes = npy_of("<f4", "(4,)", bytes_of(a))},
                              {.name = "moved.npy", .bytes = npy_of("<f4", "(4,)", bytes_of(b))}}));
  for (const char* name : {"a.npy", "a.csv", "b.npz:times"}) {
    const Json json = fokker_json({"gap", "--a", file(name), "--b", file("b.npz:moved"), "--json"});
    EXPECT_NEAR(json["sliced_w2_squared"]["a_b"].get<double>(), 1, 1e-6) << name;
  }
  expect_refused({"gap", "--a", file("b.npz"), "--b", file("a.npy")}, "name one, as FILE.npz:times");
  expect_refused({"gap", "--a", file("b.npz:x"), "--b", file("a.npy")}, "there are 'times', 'moved'");
  put(file("c.csv"), "x\n0\none\n");
  expect_refused({"gap", "--a", file("c.csv"), "--b", file("a.npy")}, "line 3, column 1, 'one', is no number");
}

// What is no result of the two laws is named beside it.
TEST_F(GapCommand, NamesDistancesOfSurvivorsAndOfTheGrid) {
  const auto save = [&](const std::string& name, std::int64_t columns, std::vector<float> numbers) {
    save_npy(file(name), {std::ssize(numbers) / columns, columns}, numbers.data());
    return file(name);
  };
  std::vector<float> near, shifted, wide;
  for (int i = 0; i < 50; ++i) {
    const float v = float(i) / 25 - 1;
    near.insert(near.end(), {v, -v});
    wide.insert(wide.end(), {10 * v, 10 * v});
  }
  for (const float v : near) shifted.push_back(1e-3f * v + 5e-3f);
  const std::string a = save("a.npy", 2, near), b = save("b.npy", 2, wide), small = save("small.npy", 2, shifted);
  const Outcome outside = fokker({"gap", "--a", a, "--b", b, "--threads", "2"});
  EXPECT_EQ(outside.code, 0);
  EXPECT_THAT(outside.out, ::testing::ContainsRegex("^gap by 2 threads in [0-9.e-]+ (s|min)\n"));
  EXPECT_THAT(outside.err, AllOf(HasSubstr(fmt::format("fokker: warning: of 50 samples in '{}' 66 % are outside the "
                                                       "box, and distances leave them out\n",
                                                       b)),
                                 Not(HasSubstr("a.npy"))));
  const Json json = fokker_json({"gap", "--a", a, "--b", b, "--json"});
  EXPECT_NEAR(json["escaped"]["b"].get<double>(), 0.66, 1e-12);
  EXPECT_EQ(json["warnings"].size(), 1u);
  EXPECT_EQ(json["threads"], Context(BackendKind::cpu).threads());
  // In a box that holds them: the distance of 10 (v, v) from (v, −v), whose nearest plan no grid of 256 nodes misses by
  // more than four spacings of 24/255.
  const Json whole = fokker_json({"gap", "--a", a, "--b", b, "--box", "12", "--nodes", "256", "--json"});
  EXPECT_TRUE(whole["warnings"].empty());
  EXPECT_EQ(whole["box"], Json({{"x", {-12.0, 12.0}}, {"y", {-12.0, 12.0}}, {"nodes", 256}}));
  EXPECT_EQ(whole["escaped"]["b"], 0.0);
  EXPECT_GT(whole["w2_squared"]["a_b"].get<double>(), 30);
  EXPECT_THAT(fokker({"gap", "--a", small, "--b", small}).err, HasSubstr("distances are those of the grid"));
  EXPECT_EQ(fokker({"gap", "--a", small, "--b", small, "--box", "0.01"}).err.find("warning"), std::string::npos);

  // Beyond the plane: numbers that no fixed point is for, and samples that no data account for.
  put(file("data.json"), R"({"weights": [1], "means": [[0, 0, 0]], "covariances": 1})");
  const std::string diverged = save("c.npy", 3, {0, 0, 0, 1e19f, 0, 0, 1, 1, 1}),
                    finite = save("d.npy", 3, {0, 0, 0, 1, 0, 0, 1, 1, 1});
  const Outcome apart = fokker({"gap", "--a", diverged, "--b", finite, "--data", file("data.json")});
  EXPECT_THAT(apart.out, ::testing::ContainsRegex("sliced W2² a_b +[0-9.]+e\\+37\n"));
  EXPECT_THAT(apart.out, HasSubstr("escaped: a 0.33333, b 0.00000"));
  EXPECT_THAT(apart.err, HasSubstr(fmt::format("of 3 samples in '{}' 1 have a coordinate beyond ", diverged)));
  // Without data the scale of one file is what the other is held to.
  std::vector<float> line, far;
  for (int i = 0; i < 20; ++i) line.push_back(float(i)), far.push_back(1e18f * float(i));
  const std::string one = save("e.npy", 1, line), other = save("f.npy", 1, far);
  EXPECT_THAT(fokker({"gap", "--a", other, "--b", one}).err,
              HasSubstr(fmt::format("numbers of '{}' are within 1.8e+19, and of '{}' within 18: one may have diverged",
                                    other, one)));
  EXPECT_EQ(fokker({"gap", "--a", one, "--b", one}).err.find("warning"), std::string::npos);

  // Draws of the data outside the box are named beside files of samples too.
  put(file("off.json"), R"({"weights": [1], "means": [[3.5, 0]], "covariances": 1})");
  EXPECT_THAT(fokker_json({"gap", "--a", a, "--b", a, "--data", file("off.json"), "--json"})["warnings"].dump(),
              HasSubstr(" draws of the data "));
}

TEST_F(GapCommand, NamesTheSamplesThatLeaveTheScaleOfTheData) {
  put(file("wide.json"), R"({"weights": [1], "means": [[0, 0, 0]], "covariances": 1e6})");
  const Json json = fokker_json({"gap", "--model", file("wide.json"), "--data", mixture_3d(), "--samples", "99",
                                 "--grid", "geometric:9:1e-2", "--json"});
  EXPECT_EQ(json["sde"]["name"], "ou");
  const Outcome text = fokker(
      words("gap --backend cpu --threads 1 --samples 9 --grid uniform:2 --model " + planar_mixture() + " --data blob"));
  EXPECT_THAT(text.out, ::testing::ContainsRegex("^gap by 1 thread in [0-9.e-]+ (s|min); SDE ou \\{"));
  for (const char* sampler : {"ode", "sde"}) {
    const int far_out = json["far_out"][sampler];
    EXPECT_GT(far_out, 0);
    EXPECT_EQ(json["not_finite"][sampler], 0);
    EXPECT_DOUBLE_EQ(json["escaped"][sampler].get<double>(), far_out / 99.0);
  }
  EXPECT_EQ(json["warnings"].size(), 2u);
  EXPECT_GT(json["far"].get<double>(), 10);
}

TEST_F(GapCommand, RefusesWhatIsNotAllowed) {
  const std::string mixture = planar_mixture();
  put(file("regular"), "a file");
  const Arguments gap{"gap", "--model", mixture};
  expect_refused({{with(gap, {"--data", "spiral", "--samples", "10"}), "spiral", 2},
                  {with(gap, {"--data", mixture_3d(), "--samples", "10"}), "must be the same"},
                  {with(gap, {"--data", "blob", "--samples", "0"}), "--samples 0", 2},
                  {with(gap, {"--data", "blob", "--box", "-1"}), "--box -1 given; allowed: a half-width above 0", 2},
                  {with(gap, {"--data", "blob", "--nodes", "257"}), "--nodes 257", 2},
                  {with(gap, {"--data", "blob", "--samples", "10", "--scheme", "sde"}), "allowed for the ODE", 2},
                  {with(gap, {"--data", "blob", "--samples", "10", "--histograms", file("regular")}), "regular"},
                  {with(gap, {"--data", "blob", "--samples", "10", "--histograms", file("regular/deep")}), "regular"},
                  {with(gap, {"--data", "blob", "--seed", std::string("18446744073709551616")}),
                   "--seed " + std::string("18446744073709551616"), 2}});
  EXPECT_EQ(get(file("regular")), "a file");
}

}  // namespace
}  // namespace fokker::testing
