// What the tools read beside files of the library: counts as people type them, JSON that earlier calls left.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <string>

#include "files.hpp"
#include "kept_json.hpp"
#include "options.hpp"
#include "results.hpp"
#include "run_measurement.hpp"
#include "scratch.hpp"
#include "training.hpp"

namespace fokker::tools {
namespace {

using fokker::testing::message_of;
using fokker::testing::put;
using fokker::testing::Scratch;
using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(Counts, AreTakenAsPeopleTypeThem) {
  for (const auto& [text, value] : std::initializer_list<std::pair<const char*, std::int64_t>>{
           {"0", 0},
           {"007", 7},
           {"100000", 100000},
           {"1e5", 100000},
           {"1E5", 100000},
           {"1e+5", 100000},
           {"1.5e3", 1500},
           {"1.50e1", 15},
           {"100_000", 100000},
           {"1_0_0", 100},
           {"100k", 100000},
           {"1.5M", 1500000},
           {"2G", 2000000000},
           {"5.0", 5},
           {"0e999999999", 0},
           {"1_000e3", 1000000},
           {"-12", -12},
           {"-1e3", -1000},
           {"9223372036854775807", 9223372036854775807},
           {"-9223372036854775808", std::numeric_limits<std::int64_t>::min()}}) {
    EXPECT_EQ(parse_count<std::int64_t>(text), value) << text;
  }
  for (const char* text : {"",
                           "-",
                           "e5",
                           "k",
                           "1e",
                           "1e-1",
                           "1.5",
                           "1.23e1",
                           "_1",
                           "1_",
                           "1__0",
                           ".5",
                           "5.",
                           "1.e3",
                           "1 000",
                           "1,000",
                           "0x10",
                           "1e5.0",
                           "1e5k",
                           "1kk",
                           "10K",
                           "1e19",
                           "9223372036854775808",
                           "1e99",
                           "1e99999999999",
                           "nan",
                           "inf",
                           "+1",
                           "1e--3",
                           "١"}) {
    EXPECT_EQ(parse_count<std::int64_t>(text), std::nullopt) << text;
  }
  EXPECT_EQ(parse_count<std::uint64_t>("18446744073709551615"), ~std::uint64_t{0});
  EXPECT_EQ(parse_count<std::uint64_t>("1.8e19"), 18000000000000000000u);
  EXPECT_EQ(parse_count<std::uint64_t>("18446744073709551616"), std::nullopt);
  EXPECT_EQ(parse_count<std::uint64_t>("-1"), std::nullopt);
  EXPECT_EQ(SaveInterval::parse("1e3").iterations, 1000);
  EXPECT_EQ(SaveInterval::parse("60s").seconds, 60);
  EXPECT_EQ(parse_integer<std::int64_t>("--samples", "10k", 1, 20000), 10000);
  EXPECT_THROW(parse_integer<std::int64_t>("--samples", "1e5", 1, 20000), CLI::ValidationError);
}

// The steps of a grid are such counts; what is none is left to the grid's own sentence.
TEST(Counts, AreThoseOfAGridsSteps) {
  for (const auto& [text, digits] :
       std::initializer_list<std::pair<const char*, const char*>>{{"paper", "paper"},
                                                                  {"uniform:1e3", "uniform:1000"},
                                                                  {"geometric:1.5k:1e-3", "geometric:1500:1e-3"},
                                                                  {"uniform:1_000:", "uniform:1000:"},
                                                                  {"uniform:", "uniform:"},
                                                                  {"uniform:1e-3", "uniform:1e-3"},
                                                                  {"uniform:many:0", "uniform:many:0"},
                                                                  {"file:", "file:"},
                                                                  {"file:1e3", "file:1e3"},
                                                                  {"1e3", "1e3"},
                                                                  {"", ""}}) {
    EXPECT_EQ(grid_in_digits(text), digits) << text;
  }
}

TEST(KeptCounts, AreIntegersThatADoubleHolds) {
  EXPECT_EQ(count_of(0, "it"), 0);
  EXPECT_EQ(count_of(0x1p53, "it"), std::int64_t{1} << 53);
  for (const double value : {-1.0, 0.5, 1e300, 0x1p54, std::nan(""), std::numeric_limits<double>::infinity()}) {
    EXPECT_THAT(message_of([&] { count_of(value, "it"); }), HasSubstr("allowed: integers from 0 to 2^53"));
  }
  EXPECT_EQ(duration_of(0.5, "it"), 0.5);
  for (const double value : {-1.0, std::nan(""), std::numeric_limits<double>::infinity()}) {
    EXPECT_THAT(message_of([&] { duration_of(value, "it"); }), HasSubstr("allowed: finite numbers that are not neg"));
  }
}

TEST(KeptJson, IsReadInItsOrderAndStrictly) {
  const Scratch scratch;
  const auto read = [&](const std::string& text) {
    put(scratch / "kept.json", text);
    return read_json(scratch / "kept.json");
  };
  const std::string text = R"({"z":[1,-2,0.5,null],"a":{"b":true,"text":"ü"},"e":18446744073709551615})";
  EXPECT_EQ(read(text).dump(), text);
  EXPECT_EQ(read("{}"), Json::object());
  for (const char* bad :
       {"", "{", "1e999", "{\"a\":1,\"a\":2}", "[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]", "\"\xff\""}) {
    EXPECT_THAT(message_of([&] { read(bad); }),
                AllOf(HasSubstr("kept.json' cannot be used: "), HasSubstr("; remove it")))
        << bad;
  }
  EXPECT_THAT(message_of([&] { read_json(scratch / "missing"); }), HasSubstr("cannot read"));
  // 200 000 keys, at once.
  std::string keys = "{";
  for (int i = 0; i < 200'000; ++i) keys += "\"" + std::to_string(i) + "\":1,";
  EXPECT_EQ(read(keys + "\"x\":1}").size(), 200'001u);
}

// Whatever of a gap.json is missing or of another type is named; what has the shape can be summarised.
TEST(KeptJson, IsHeldToItsShape) {
  const Json pairs{{"ode_sde", 2}, {"ode_truth", 1}, {"sde_truth", nullptr}}, samplers{{"ode", 0}, {"sde", 0.5}};
  const Json gap{{"w2_squared", pairs},
                 {"sliced_w2_squared", nullptr},
                 {"noise_floor", 5e-4},
                 {"escaped", samplers},
                 {"warnings", Json::array({"of 8 samples of the ODE 1 are not finite"})},
                 {"residual", {{"mean_square", 2}, {"centred_mean_square", 1}}},
                 {"denoising_loss", 3},
                 {"along_the_way",
                  {{"times", {1, 0.5}},
                   {"w2_squared", {{"ode_sde", {1, 2}}, {"potential_sde", Json::array()}, {"potential_ode", {1, 2}}}},
                   {"escaped", {{"ode", {0, 0}}, {"sde", {0, 0}}}},
                   {"potential_integrable", {true, false}},
                   {"share_of_growing_directions", {0, 0.5}},
                   {"noise_floor", {1}}}},
                 {"seconds", {{"ode", 1}, {"sde", 2}, {"measure", 4}}}};
  const auto fault = [&](const Json& json, bool planar = true) {
    return message_of([&] { check_shape(json, gap_shape(planar), "DIR/gap.json", "remove it"); });
  };
  check_shape(gap, gap_shape(true), "DIR/gap.json", "remove it");
  EXPECT_EQ(fault(gap, false), "'DIR/gap.json' is not as it was written: sliced_w2_squared is no object; remove it");
  const auto changed = [&](const std::string& pointer, const Json& value) {
    Json json = gap;
    json[Json::json_pointer(pointer)] = value;
    return json;
  };
  EXPECT_THAT(fault(Json(3)), HasSubstr("it is no object"));
  EXPECT_THAT(fault(changed("/seconds", Json::object())), HasSubstr("it has no seconds.ode"));
  EXPECT_THAT(fault(changed("/w2_squared", nullptr)), HasSubstr("w2_squared is no object"));
  EXPECT_THAT(fault(changed("/escaped/sde", "0")), HasSubstr("escaped.sde is no number"));
  EXPECT_THAT(fault(changed("/warnings/0", 3)), HasSubstr("warnings is no text"));
  EXPECT_THAT(fault(changed("/along_the_way/times", 3)), HasSubstr("along_the_way.times is no list"));
  EXPECT_THAT(fault(changed("/along_the_way/potential_integrable/1", 1)), HasSubstr("potential_integrable is no flag"));
  Json other = gap;
  other.erase("noise_floor");
  EXPECT_THAT(fault(other), HasSubstr("it has no noise_floor"));
  // Every value, in place of which stands one of each type: named, or harmless to what is made of it.
  const Json flat = gap.flatten();
  for (const auto& [pointer, value] : flat.items()) {
    for (const Json& instead : {Json(), Json(-1e300), Json("text"), Json(true), Json::array(), Json::object()}) {
      const Json json = changed(pointer, instead);
      try {
        check_shape(json, gap_shape(true), "DIR/gap.json", "remove it");
      } catch (const Error&) {
        continue;
      }
      Json run{{"data", "blob"},
               {"activation", {{"name", "tanh"}}},
               {"residual_weight", 0},
               {"gap", json},
               {"diagnosis", nullptr}};
      Json runs = Json::array({run, run});
      runs[1]["residual_weight"] = 1;
      const Json summary = summarise(runs);
      EXPECT_NO_THROW(verdicts(summary, 100)) << pointer << " " << instead;
      EXPECT_NO_THROW(acceptance(summary)) << pointer << " " << instead;
      EXPECT_NO_THROW(seconds_of(runs)) << pointer << " " << instead;
    }
  }
  const Json estimate{{"value", 1}, {"standard_error", 0}, {"step_error", nullptr}};
  Json diagnosis{
      {"radial_slopes", {{"integrable", true}, {"reason", nullptr}}},
      {"energy",
       {{"dissipation", estimate}, {"balance", {{"left", estimate}, {"right", estimate}, {"difference", estimate}}}}},
      {"identity", nullptr},
      {"upper_bound",
       {{"over_samples", {{"log_bound", 3}, {"vacuous", true}}},
        {"over_box", {{"log_bound", nullptr}, {"vacuous", false}}},
        {"diameter", 9.9}}},
      {"resolved", true},
      {"warnings", Json::array({"a warning"})},
      {"seconds", 1}};
  check_shape(diagnosis, diagnosis_shape(), "diagnosis.json", "remove it");
  diagnosis["identity"] = Json::object();
  EXPECT_THAT(message_of([&] { check_shape(diagnosis, diagnosis_shape(), "diagnosis.json", "remove it"); }),
              HasSubstr("it has no identity.kl_end"));
}

}  // namespace
}  // namespace fokker::tools
