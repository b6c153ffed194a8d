// JSON from outside and text for a terminal: what is read, what is refused and by which sentence.
#include "io/json.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/quote.hpp"
#include "scratch.hpp"

namespace fokker {
namespace {

using ::testing::HasSubstr;
using testing::message_of;

JsonValue parse(const std::string& text, int deepest = 4) { return parse_json(text, "it", deepest); }

TEST(Json, KeepsWhatTheTextSays) {
  const std::string text =
      R"({"b":[1,-2,3.5,1e-7,18446744073709551615,[],{}],"a":{"text":"ü\"\n","null":null,"flags":[true,false]},"":0.1})";
  const JsonValue json = parse(text);
  EXPECT_EQ(json.dump(), nlohmann::ordered_json::parse(text).dump());
  EXPECT_EQ(json.object()->front().first, "b");
  EXPECT_EQ(json.find("no"), nullptr);
  EXPECT_EQ(json.find("a")->find("text")->find("x"), nullptr);
  for (const char* scalar : {"1", "-1", "0.5", "\"x\"", "true", "null"}) EXPECT_EQ(parse(scalar).dump(), scalar);
}

TEST(Json, ConvertsOnlyWhatTheTypeHolds) {
  const auto to = []<class T>(const std::string& text, T) { return parse(text).to<T>("x"); };
  constexpr std::int64_t least = std::numeric_limits<std::int64_t>::min(),
                         most = std::numeric_limits<std::int64_t>::max();
  EXPECT_EQ(to("-9223372036854775808", std::int64_t{}), least);
  EXPECT_EQ(to("9223372036854775807", std::int64_t{}), most);
  EXPECT_EQ(to("18446744073709551615", std::uint64_t{}), ~std::uint64_t{0});
  EXPECT_EQ(to("3", 0.0), 3);
  EXPECT_EQ(to("-3.25", 0.0), -3.25);
  EXPECT_EQ(to("true", false), true);
  EXPECT_EQ(to("\"text\"", std::string()), "text");
  EXPECT_EQ(to("[1,2]", std::vector<std::int64_t>()), (std::vector<std::int64_t>{1, 2}));
  EXPECT_EQ(to("[\"a\",\"b\"]", std::vector<std::string>()), (std::vector<std::string>{"a", "b"}));
  for (const char* text : {"9223372036854775808", "3000.9", "1e5", "1e300", "true", "\"1\"", "null", "[]", "{}"}) {
    EXPECT_THAT(message_of([&] { to(text, std::int64_t{}); }), HasSubstr("where an integer of 64 bits is needed"))
        << text;
  }
  for (const char* text : {"-1", "1.0", "18446744073709551616"}) {
    EXPECT_THAT(message_of([&] { to(text, std::uint64_t{}); }), HasSubstr("non-negative integer")) << text;
  }
  EXPECT_EQ(message_of([&] { to("[1,\"two\"]", std::vector<std::int64_t>()); }),
            "x is 'two' where an integer of 64 bits is needed");
  EXPECT_EQ(message_of([&] { to("{\"a\":1}", std::vector<std::int64_t>()); }),
            "x is an object of 1 where an array is needed");
  EXPECT_EQ(message_of([&] { to("[]", 0.0); }), "x is an array of 0 where a number is needed");
  EXPECT_EQ(message_of([&] { to("1", false); }), "x is 1 where true or false is needed");
  const JsonValue json = parse(R"({"seed": -1})");
  EXPECT_EQ(message_of([&] { json.get<std::uint64_t>("its options", "seed"); }),
            "its options seed is -1 where a non-negative integer of 64 bits is needed");
  EXPECT_EQ(message_of([&] { json.get<double>("its options", "box"); }), "its options has no box");
  EXPECT_EQ(message_of([&] { parse("3").get<double>("its options", "box"); }),
            "its options is 3 where an object is needed");
}

TEST(Json, RefusesWhatIsNotStrict) {
  for (const char* text : {"", "{", "[1,]", "{\"a\":1,}", "1 2", "NaN", "Infinity", "'a'", "{a:1}", "// x\n1",
                           "\"\xff\"", "\"\\ud800\"", "01", "+1", ".5", "[1}"}) {
    EXPECT_THAT(message_of([&] { parse(text); }), HasSubstr("it is not valid JSON at byte ")) << text;
  }
  EXPECT_THAT(message_of([&] { parse(std::string("1\0", 2)); }), HasSubstr("zero byte"));
  for (const char* text : {"1e999", "[-1e999]", "{\"a\":1e309}"}) {
    EXPECT_THAT(message_of([&] { parse(text); }), HasSubstr("out of range")) << text;
  }
  EXPECT_THAT(message_of([&] { parse(R"({"a":1,"b":{"c":1,"\u0063":2}})"); }), HasSubstr("the key 'c' twice"));
  EXPECT_EQ(parse(R"([{"a":1},{"a":2}])").array()->size(), 2u);
  EXPECT_EQ(parse("[[[[]]]]").array()->size(), 1u);
  EXPECT_THAT(message_of([&] { parse("[[[[[]]]]]"); }), HasSubstr("it is nested more than 4 deep"));
  EXPECT_THAT(message_of([&] { parse(std::string(3'000'000, '[')); }), HasSubstr("nested"));
}

// Each takes time proportional to its length; where it were its square, minutes.
TEST(Json, IsLinearInSiblings) {
  std::string objects = "[", keys = "{", numbers = "[";
  for (int i = 0; i < 200'000; ++i) {
    objects += "{},";
    keys += "\"" + std::to_string(i) + "\":[],";
    numbers += "1,";
  }
  EXPECT_EQ(parse(objects + "{}]").array()->size(), 200'001u);
  EXPECT_EQ(parse(keys + "\"x\":1}").object()->size(), 200'001u);
  EXPECT_EQ(parse(numbers + "1]").array()->size(), 200'001u);
  EXPECT_THAT(message_of([&] { parse(keys + "\"7\":1}"); }), HasSubstr("the key '7' twice"));
}

TEST(Printable, LeavesNothingThatSteersATerminal) {
  EXPECT_EQ(printable("plain – ünïcode φ 漢 🙂 W₂²"), "plain – ünïcode φ 漢 🙂 W₂²");
  EXPECT_EQ(printable("\x1b[31mred\x1b]0;title\x07\r\n\t\x7f"),
            "?[31mred?]0;title?????"
            "");
  EXPECT_EQ(printable("\xc2\x9b"
                      "31m\xc2\x80"),
            "?31m?");  // C1, as UTF-8
  EXPECT_EQ(printable("\x9b"
                      "31m"),
            "?31m");  // and as a byte
  EXPECT_EQ(printable("a\xe2\x80\xae"
                      "b\xe2\x81\xa6"
                      "c\xe2\x80\x8f"
                      "d"),
            "a?b?c?d");  // override, isolate, mark
  EXPECT_EQ(printable("a\xe2\x80\xa8"
                      "b\xe2\x80\x8b"
                      "c\xef\xbb\xbf"
                      "d"),
            "a?b?c?d");                           // separator, no width
  EXPECT_EQ(printable("\xf3\xa0\x81\x81"), "?");  // a tag
  // Not UTF-8: cut off, overlong, a surrogate, beyond the last code point, a lone continuation.
  EXPECT_EQ(printable("\xe2\x80"), "??");
  EXPECT_EQ(printable("\xc0\xaf|\xe0\x80\xaf"), "??|???");
  EXPECT_EQ(printable("\xed\xa0\x80"), "???");
  EXPECT_EQ(printable("\xf4\x90\x80\x80"), "????");
  EXPECT_EQ(printable("n\xff.npy"), "n?.npy");
}

TEST(Printable, LeavesOutTheMiddleOfWhatIsLong) {
  EXPECT_EQ(printable("0123456789", 10), "0123456789");
  EXPECT_EQ(printable("0123456789a", 10), "0123…6789a");
  EXPECT_EQ(printable("0123456789", 3), "0…9");
  EXPECT_EQ(printable("0123456789", 2), "…9");
  EXPECT_EQ(printable("ääääää", 5), "ää…ää");
  EXPECT_EQ(printable("", 5), "");
  EXPECT_EQ(in_quotes("it's\n"), "'it?s?'");
  const std::string megabyte(1 << 20, 'x');
  EXPECT_EQ(std::string(Error("begin" + megabyte + "end").what()),
            "begin" + std::string(144, 'x') + "…" + std::string(147, 'x') + "end");
  EXPECT_EQ(printable(Error("begin" + megabyte + "end").what(), 300), Error("begin" + megabyte + "end").what());
}

}  // namespace
}  // namespace fokker
