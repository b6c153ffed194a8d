// Arrays of the formats that people have: integers as .npy, archives of .npy files, .csv. What NumPy itself writes is read
// in numpy_arrays_test.py; here are the bytes that it would not write.
#include "fokker/array.hpp"

#include <algorithm>
#include <clocale>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <numeric>

#include "archive.hpp"
#include "fmt/format.h"
#include "fokker/data.hpp"
#include "fokker/sde.hpp"
#include "fokker/time_grid.hpp"
#include "gmock/gmock.h"
#include "io/inflate.hpp"
#include "scratch.hpp"

namespace fokker {
namespace {

using testing::archive;
using testing::ArchiveMember;
using testing::bytes_of;
using testing::damaged;
using ::testing::HasSubstr;
using testing::message_of;
using testing::npy_of;
using testing::put;
using testing::Scratch;

using Shape = std::vector<std::int64_t>;
using Numbers = std::vector<double>;

class Arrays : public ::testing::Test {
 protected:
  Array load(const std::string& bytes, const std::string& name, const std::string& member = "") const {
    put(scratch / name, bytes);
    return load_array((scratch / name) + member);
  }
  std::string refusal(const std::string& bytes, const std::string& name, const std::string& member = "") const {
    return message_of([&] { load(bytes, name, member); });
  }

  Scratch scratch;
};

// ---------------------------------------------------------------------------------------------------------- integers

template <class T>
void expect_integers(const std::function<Array(const std::string&, const std::string&)>& load, const char* code) {
  SCOPED_TRACE(code);
  using Limits = std::numeric_limits<T>;
  constexpr std::int64_t exact = (std::int64_t{1} << 53) - 1;
  std::vector<T> values{0, 1, 100, static_cast<T>(-1), Limits::min(), Limits::max()};
  if (sizeof(T) == 8) values = {0, 1, 100, static_cast<T>(exact), static_cast<T>(exact - 2), 7};
  std::vector<double> expected;
  for (const T value : values) expected.push_back(static_cast<double>(value));
  std::string swapped = bytes_of(values);
  for (std::size_t at = 0; at < swapped.size(); at += sizeof(T)) {
    std::reverse(swapped.begin() + at, swapped.begin() + at + sizeof(T));
  }
  const std::string one = sizeof(T) == 1 ? "|" : "<";
  for (const auto& [descr, data] :
       {std::pair(one + code, bytes_of(values)), std::pair(std::string(">") + code, swapped)}) {
    const Array array = load(npy_of(descr, "(3, 2)", data), "a.npy");
    EXPECT_EQ(array.shape, (Shape{3, 2}));
    EXPECT_EQ(array.data, expected);
    EXPECT_EQ(array.is_float32, sizeof(T) <= 2);
  }
}

TEST_F(Arrays, IntegersOfEveryWidthAndOrder) {
  const auto read = [&](const std::string& bytes, const std::string& name) { return load(bytes, name); };
  expect_integers<std::int8_t>(read, "i1");
  expect_integers<std::int16_t>(read, "i2");
  expect_integers<std::int32_t>(read, "i4");
  expect_integers<std::int64_t>(read, "i8");
  expect_integers<std::uint8_t>(read, "u1");
  expect_integers<std::uint16_t>(read, "u2");
  expect_integers<std::uint32_t>(read, "u4");
  expect_integers<std::uint64_t>(read, "u8");
  const Array flags = load(npy_of("|b1", "(4,)", std::string("\0\1\0\1", 4)), "a.npy");
  EXPECT_EQ(flags.data, (Numbers{0, 1, 0, 1}));
  EXPECT_EQ(flags.columns(), 1);
  EXPECT_TRUE(flags.is_float32);
}

// Their double would be another number; others beyond 2^53 are as they were.
TEST_F(Arrays, IntegersThatDoubleMayNotHoldAreRefused) {
  constexpr std::int64_t first = std::int64_t{1} << 53;
  for (const std::int64_t value : {first + 1, -first - 1, std::numeric_limits<std::int64_t>::max()}) {
    EXPECT_THAT(refusal(npy_of("<i8", "(2,)", bytes_of(std::vector<std::int64_t>{1, value})), "a.npy"),
                HasSubstr(fmt::format("it holds {}, which double does not", value)));
  }
  const std::vector<std::int64_t> exact{first, -first, std::numeric_limits<std::int64_t>::min(), 3 * first};
  EXPECT_EQ(load(npy_of("<i8", "(4,)", bytes_of(exact)), "a.npy").data, (Numbers{0x1p53, -0x1p53, -0x1p63, 0x1.8p54}));
  const std::vector<std::uint64_t> largest{std::numeric_limits<std::uint64_t>::max()};
  EXPECT_THAT(refusal(npy_of("<u8", "(1,)", bytes_of(largest)), "a.npy"), HasSubstr("18446744073709551615"));
}

// --------------------------------------------------------------------------------------------------------------- npz

const std::vector<float> six{1, 2.5f, -3, 4, 5e-3f, 6};
const Numbers six_numbers(six.begin(), six.end());

std::string matrix() { return npy_of("<f4", "(3, 2)", bytes_of(six)); }
std::string vector() { return npy_of("<f8", "(2,)", bytes_of(Numbers{7, 8})); }

// What numpy.savez_compressed of NumPy 2.4.6 wrote of x, the 12 float64 numbers [6, 2] i²/8 − i.
constexpr const char* of_numpy =
    "504b03042d000000080000002100052b4c1bffffffffffffffff05001400782e6e707901001000e00000000000000066000000000000"
    "009bec17ea1b10c9c850c650ad9e925a9c5ca46ea5a06e9366a1aea3a09e965f54529498179f5f94920a12774bcc294e058a17672416"
    "a402f91a663a0a469a3a0ab50a64032e0614f0663f84fe01a5ff41698603a87c983c4c3d0c7cb287d02c0e60aa41c00100504b01022d"
    "032d000000080000002100052b4c1b66000000e0000000050000000000000000000000800100000000782e6e7079504b050600000000"
    "01000100330000009d0000000000";

std::string from_hexadecimal(std::string_view text) {
  std::string bytes;
  for (std::size_t i = 0; i + 1 < text.size(); i += 2) {
    bytes += static_cast<char>(std::stoi(std::string(text.substr(i, 2)), nullptr, 16));
  }
  return bytes;
}

TEST_F(Arrays, ArchivesAreReadAsTheyMayBeWritten) {
  for (const bool compressed : {false, true}) {
    if (compressed && !has_zlib) continue;
    for (const bool wide : {false, true}) {
      for (const bool wide_end : {false, true}) {
        for (const char* comment : {"", "PK\5\6 and more than twenty bytes of a comment"}) {
          SCOPED_TRACE(fmt::format("{} {} {} '{}'", compressed, wide, wide_end, comment));
          const std::string file =
              archive({{.name = "x.npy", .bytes = matrix(), .compressed = compressed, .wide = wide}},
                      {.comment = comment, .wide = wide_end});
          for (const char* member : {"", ":x", ":x.npy"}) {
            const Array array = load(file, "a.npz", member);
            EXPECT_EQ(array.shape, (Shape{3, 2}));
            EXPECT_EQ(array.data, six_numbers);
            EXPECT_TRUE(array.is_float32);
          }
        }
      }
    }
  }
  if (!has_zlib) GTEST_SKIP() << "this build was made without zlib";
  const Array array = load(from_hexadecimal(of_numpy), "a.npz");
  EXPECT_EQ(array.shape, (Shape{6, 2}));
  for (int i = 0; i < 12; ++i) EXPECT_EQ(array.data[i], i * i / 8.0 - i);
}

TEST_F(Arrays, WithoutZlibCompressedArraysAreRefused) {
  if (has_zlib) GTEST_SKIP() << "this build was made with zlib";
  EXPECT_THAT(refusal(archive({{.name = "x.npy", .bytes = matrix(), .compressed = true}}), "a.npz"),
              HasSubstr("this build was made without zlib"));
}

TEST_F(Arrays, OfSeveralTheMatrixOrTheNamedOne) {
  const ArchiveMember x{.name = "x.npy", .bytes = matrix()}, labels{.name = "labels.npy", .bytes = vector()},
      text{.name = "README", .bytes = "no array"};
  const std::string file = archive({labels, text, x});
  EXPECT_EQ(load(file, "a.npz").data, six_numbers);
  EXPECT_EQ(load(file, "a.npz", ":labels").data, (Numbers{7, 8}));
  EXPECT_THAT(refusal(file, "a.npz", ":y"), HasSubstr("it has no array 'y'; there are 'labels', 'x'"));
  EXPECT_THAT(refusal(file, "a.npz", ":README"), HasSubstr("it has no array 'README'"));
  EXPECT_THAT(refusal(file, "a.npz", ":"), HasSubstr("names no array"));
  EXPECT_EQ(names_in_npz(scratch / "a.npz"), (std::vector<std::string>{"labels", "x"}));
  EXPECT_EQ(load(archive({labels}), "a.npz").data, (Numbers{7, 8}));
  EXPECT_THAT(message_of([&] { names_in_npz(scratch / "not_there.npz"); }), HasSubstr("not_there.npz"));
  const ArchiveMember y{.name = "y.npy", .bytes = matrix()}, more{.name = "z.npy", .bytes = vector()};
  EXPECT_THAT(refusal(archive({x, y}), "a.npz"),
              HasSubstr("it holds 2 arrays, of which 2 have two dimensions: 'x', 'y'; name one, as FILE.npz:x"));
  EXPECT_THAT(refusal(archive({labels, more}), "a.npz"), HasSubstr("of which none have two dimensions"));
  EXPECT_THAT(refusal(archive({x, x}), "a.npz", ":x"), HasSubstr("more than one array 'x'"));
  EXPECT_THAT(refusal(archive({text}), "a.npz"), HasSubstr("an archive without a .npy file"));
  EXPECT_THAT(refusal(archive({}), "a.npz"), HasSubstr("an archive without a .npy file"));
  EXPECT_THAT(refusal(matrix(), "b.npz", ":x"), HasSubstr("it is no .npz file"));
  EXPECT_EQ(load(matrix(), "b.npz").data, six_numbers);  // content decides, not the name
  std::vector<ArchiveMember> many(99, labels);
  for (std::size_t i = 0; i < many.size(); ++i) many[i].name = fmt::format("an array with a long name {}.npy", i);
  EXPECT_THAT(refusal(archive(many), "a.npz"),
              AllOf(HasSubstr(" more; name one"), HasSubstr("'an array with a long name 3' and 95")));
  // Members of which one cannot be used do not stand in another's way.
  const ArchiveMember objects{.name = "o.npy", .bytes = npy_of("|O", "(3, 2)", "pickled")};
  EXPECT_EQ(load(archive({objects, x}), "a.npz").data, six_numbers);
  EXPECT_THAT(refusal(archive({objects, x}), "a.npz", ":o"), AllOf(HasSubstr("array 'o' of "), HasSubstr("'|O'")));
}

TEST_F(Arrays, HostileArchivesAreRefused) {
  const ArchiveMember x{.name = "x.npy", .bytes = matrix()};
  const auto changed = [&](const std::function<void(ArchiveMember&)>& change) {
    ArchiveMember member = x;
    change(member);
    return archive({member});
  };
  EXPECT_THAT(refusal(changed([](ArchiveMember& m) { m.flags = 1; }), "a.npz"), HasSubstr("encrypted"));
  EXPECT_THAT(refusal(changed([](ArchiveMember& m) { m.method = 12; }), "a.npz"), HasSubstr("by another method"));
  EXPECT_THAT(refusal(changed([](ArchiveMember& m) { m.crc ^= 1; }), "a.npz"), HasSubstr("CRC-32"));
  EXPECT_THAT(refusal(changed([](ArchiveMember& m) { m.declared += 1; }), "a.npz"), HasSubstr("two sizes"));
  EXPECT_THAT(refusal(archive({x}) + '\0', "a.npz"), HasSubstr("damaged or cut"));
  EXPECT_THAT(refusal("PK\3\4" + std::string(200, '\0'), "a.npz"), HasSubstr("damaged or cut"));
  // Its directory leads beyond its end, in 4 bytes and in 8.
  for (const bool wide : {false, true}) {
    std::string file = archive({{.name = "x.npy", .bytes = matrix(), .wide = wide}}, {.wide = wide});
    const std::size_t entry = file.find("PK\1\2");
    const std::size_t place = wide ? entry + 46 + 5 + 5 + 4 + 16 : entry + 42;
    for (const char high : {'\x7f', '\xff'}) {
      std::fill_n(file.begin() + static_cast<std::ptrdiff_t>(place), wide ? 8 : 4, high);
      EXPECT_THAT(refusal(file, "a.npz"), HasSubstr("damaged or cut"));
    }
  }
  if (!has_zlib) return;
  const auto compressed = [&](const std::string& bytes, const std::function<void(ArchiveMember&)>& change) {
    ArchiveMember member{.name = "x.npy", .bytes = bytes, .compressed = true};
    change(member);
    return archive({member});
  };
  EXPECT_THAT(refusal(compressed(matrix(), [](ArchiveMember& m) { m.crc ^= 1; }), "a.npz"), HasSubstr("CRC-32"));
  // More or less than is declared; a declared size that the array's header does not bear out takes no memory.
  EXPECT_THAT(refusal(compressed(matrix(), [](ArchiveMember& m) { m.declared -= 4; }), "a.npz"),
              HasSubstr("needs 24 bytes"));
  EXPECT_THAT(refusal(compressed(matrix(), [](ArchiveMember& m) { m.declared = 0xFFFFFFF0; }), "a.npz"),
              HasSubstr("compressed bytes are damaged"));
  const std::string cut = matrix().substr(0, matrix().size() - 4), longer = matrix() + "1234";
  for (const std::string& data :
       {testing::deflated(cut), testing::deflated(longer), testing::deflated(matrix()) + "1",
        testing::deflated(matrix(), 3).substr(0, 200), std::string(), std::string(99, '\xff')}) {
    EXPECT_THAT(refusal(compressed(matrix(), [&](ArchiveMember& m) { m.data = data; }), "a.npz"),
                HasSubstr("compressed bytes are damaged"));
  }
  // An array that would be a million times its file, for all that is said of it.
  const std::string huge = npy_of("|u1", "(1099511627776,)", std::string(8192, '\0'));
  EXPECT_THAT(refusal(compressed(huge,
                                 [&](ArchiveMember& m) {
                                   m.wide = true;
                                   m.declared = huge.size() - 8192 + (std::uint64_t{1} << 40);
                                 }),
                      "a.npz"),
              HasSubstr("more than 200 times as many"));
}

TEST_F(Arrays, ArchivesAreRefusedAtEveryTruncationAndSurviveDamage) {
  std::vector<std::string> files{archive({{.name = "x.npy", .bytes = matrix()}, {.name = "y.npy", .bytes = vector()}})};
  if (has_zlib) {
    files.push_back(archive({{.name = "x.npy", .bytes = matrix(), .compressed = true, .wide = true}}, {.wide = true}));
    files.push_back(from_hexadecimal(of_numpy));
  }
  for (const std::string& file : files) {
    const Array whole = load(file, "a.npz");
    for (std::size_t length = 0; length < file.size(); ++length) {
      SCOPED_TRACE(length);
      refusal(file.substr(0, length), "a.npz");
    }
    std::mt19937 random(1);
    int read = 0;
    for (int trial = 0; trial < 4000; ++trial) {
      try {
        const Array array = load(damaged(file, random), "a.npz");
        const auto count =
            std::accumulate(array.shape.begin(), array.shape.end(), std::int64_t{1}, std::multiplies<>());
        ASSERT_EQ(count, std::ssize(array.data));
        ++read;
        // Only what the checksum does not cover may have changed.
        if (array.shape == whole.shape) {
          ASSERT_EQ(array.data, whole.data);
        }
      } catch (const Error& error) {
        ASSERT_EQ(std::string(error.what()).find('\n'), std::string::npos);
      }
    }
    EXPECT_GT(read, 0);
  }
}

// --------------------------------------------------------------------------------------------------------------- csv

TEST_F(Arrays, RowsOfNumbersWithAndWithoutNames) {
  const Numbers four{1, 2.5, -3e-4, 40};
  for (const char* text :
       {"1,2.5\n-3e-4,40\n", "1,2.5\n-3e-4,40", "1,2.5\r\n-3e-4,40\r\n", "\xEF\xBB\xBFx,y\n1,2.5\n-3e-4,40\n",
        "x,y\n1,2.5\n-3e-4,40\n\n \n", "\"a, b\",\"2\"\n1,2.5\n-3e-4,40\n", "# x, y\n 1 ,\t2.5\n-.3E-3,+4e+1\n",
        "PK,y\n1,2.5\n-0.0003,40.\n"}) {
    SCOPED_TRACE(text);
    const Array array = load(text, "a.csv");
    EXPECT_EQ(array.shape, (Shape{2, 2}));
    EXPECT_EQ(array.data, four);
    EXPECT_FALSE(array.is_float32);
  }
  EXPECT_EQ(load("x\n1\n2\n3\n", "a.csv").shape, (Shape{3, 1}));
  EXPECT_EQ(load("x,y\n", "a.csv").shape, (Shape{0, 2}));
  EXPECT_EQ(load("5", "a.csv").data, (Numbers{5}));
  const Array special = load("nan,inf\n-inf,1e308\n5e-324,-0\n", "a.csv");
  EXPECT_TRUE(std::isnan(special.data[0]));
  EXPECT_EQ(special.data[2], -std::numeric_limits<double>::infinity());
  EXPECT_EQ(special.data[4], std::numeric_limits<double>::denorm_min());
  EXPECT_TRUE(std::signbit(special.data[5]));
  // Every bit of doubles as %.17g writes them.
  std::string text;
  Numbers numbers;
  for (int i = 0; i < 989; ++i) {
    numbers.push_back(std::sin(i) * std::pow(10, i % 40 - 20));
    text += fmt::format("{:.17g}{}", numbers.back(), i % 23 == 22 ? '\n' : ',');
  }
  EXPECT_EQ(load(text, "a.csv").data, numbers);
}

TEST_F(Arrays, ACommaOfTheLocaleIsNoPoint) {
  const std::string before = std::setlocale(LC_ALL, nullptr);
  if (std::setlocale(LC_ALL, "de_DE.UTF-8") == nullptr && std::setlocale(LC_ALL, "fr_FR.UTF-8") == nullptr) {
    GTEST_SKIP() << "no locale with a comma is installed";
  }
  EXPECT_EQ(load("1.5,2\n", "a.csv").data, (Numbers{1.5, 2}));
  std::setlocale(LC_ALL, before.c_str());
}

TEST_F(Arrays, WhatIsNoNumberIsNamedByLineAndColumn) {
  struct {
    const char *text, *message;
  } const cases[] = {
      {"", "it is empty"},
      {"\n\n", "it is empty"},
      {"\xEF\xBB\xBF", "it is empty"},
      {"x,y\n1,2\n3,four\n", "line 3, column 2, 'four', is no number"},
      {"1,2\n3,4x\n", "line 2, column 2, '4x', is no number"},
      {"1,2\n3 4\n", "line 2, column 1, '3 4', is no number"},
      {"1,2\n3,0x1p3\n", "line 2, column 2, '0x1p3', is no number"},
      {"1,2\n3,++4\n", "'++4', is no number"},
      {"1,2\n3,+-4\n", "'+-4', is no number"},
      {"1,2\n3,\"4\"\n", "line 2, column 2, '\"4\"', is no number"},
      {"1,2\n3,\n", "line 2, column 2 is empty"},
      {"1,2\n,4\n", "line 2, column 1 is empty"},
      {"1,2\n3,4,\n", "line 2, column 3 is empty"},
      {"1,2\n3\n", "line 2 has another count of columns, 1, than those before, 2"},
      {"x,y\n1,2,3\n", "line 2 has another count of columns, 3, than those before, 2"},
      {"1\n\n2\n", "line 2 is empty, and more follow"},
      {"\n1\n", "line 1 is empty, and more follow"},
      {"1,2\n3,1e400\n", "line 2, column 2, '1e400', is beyond the numbers of double"},
      {"1,2\n3,1e-400\n", "is beyond the numbers of double"},
      {"9007199254740993,1\n", "line 1, column 1 is 9007199254740993, which double does not hold"},
      {"1\n-9007199254740993 \n", "line 2, column 1 is -9007199254740993, which double"},
      // A first line that may be either is not taken for names in silence.
      {"1,x\n2,3\n", "line 1, column 2, 'x', is no number"},
      {"1.5x\n2\n", "line 1, column 1, '1.5x', is no number"},
      {"1;5\n2;6\n", "line 1, column 1, '1;5', is no number"},
      {"1e400\n2\n", "line 1, column 1, '1e400', is beyond"},
      {"nan,y\n2,3\n", "line 1, column 2, 'y', is no number"},
      {"1,,3\n", "line 1, column 2 is empty"},
      {"x,,z\n1,2,3\n", "line 1, column 2 is empty"},
      // As pandas writes an index, and columns without names.
      {",x\n0,2.5\n", "line 1, column 1 is empty, as where an index of rows is written"},
      {"\"\",\"x\"\n\"1\",2.5\n", "line 1, column 1 is empty, as where an index"},
      {"0,1\n0.5,2.5\n", "line 1 counts from 0, so it may be data or the numbers that pandas gives"},
      {"0\n0.5\n", "line 1 counts from 0"},
      {"x\n\1\n", "line 2, column 1, '?', is no number"},
  };
  for (const auto& [text, message] : cases) {
    SCOPED_TRACE(text);
    EXPECT_THAT(refusal(text, "a.csv"), AllOf(HasSubstr("a.csv"), HasSubstr(message)));
  }
  EXPECT_EQ(load("0,1\n2,3\n", "a.csv").data, (Numbers{0, 1, 2, 3}));
  EXPECT_EQ(load("0.0,1\n2.5,3\n", "a.csv").data, (Numbers{0, 1, 2.5, 3}));
  EXPECT_EQ(load("t,x\n0,1\n2.5,3\n", "a.csv").data, (Numbers{0, 1, 2.5, 3}));
  EXPECT_EQ(load("1e16,-inf\n", "a.csv").data[0], 1e16);  // as doubles are written, it is one
  EXPECT_THAT(refusal("1,2\n", "a.txt"), HasSubstr("is not called .csv"));
}

// ---------------------------------------------------------------------------------------------- where arrays are taken

TEST_F(Arrays, NamesLeadToFilesAndMembers) {
  for (const auto& [text, file, member, has] : std::vector<std::tuple<const char*, const char*, const char*, bool>>{
           {"a.npy", "a.npy", "", true},
           {"a/b.npz", "a/b.npz", "", true},
           {"a.npz:x", "a.npz", "x", true},
           {"a.npz:x/y.npy", "a.npz", "x/y.npy", true},
           {"b.npz:c/a.npz:x", "b.npz:c/a.npz", "x", true},
           {"a.csv", "a.csv", "", true},
           {"a.csv:x", "a.csv:x", "", false},
           {"a.npyx", "a.npyx", "", false},
           {".npy", ".npy", "", false},
           {"blob", "blob", "", false},
           {"", "", "", false}}) {
    const ArrayName name(text);
    EXPECT_EQ(name.file, file);
    EXPECT_EQ(name.member, member);
    EXPECT_EQ(name.has_extension(), has) << text;
  }
}

TEST_F(Arrays, AreDataAndTimes) {
  put(scratch / "x.npz",
      archive({{.name = "x.npy", .bytes = matrix()}, {.name = "t.npy", .bytes = npy_of("|u1", "(3,)", "\3\2\1")}}));
  put(scratch / "x.csv", "x,y\n1,2.5\n-3,4\n0.005,6\n");
  put(scratch / "flat.npy", npy_of("<f4", "(6,)", bytes_of(six)));
  for (const char* name : {"x.npz", "x.npz:x", "x.csv"}) {
    const DataSet data = DataSet::named(scratch / name);
    EXPECT_EQ(data.dimension(), 2);
    EXPECT_EQ(*data.stored(), six);
    EXPECT_EQ(data.name(), scratch / name);
  }
  EXPECT_EQ(DataSet::named(scratch / "x.npz").fingerprint(), DataSet::named(scratch / "x.csv").fingerprint());
  const DataSet flat = DataSet::named(scratch / "flat.npy");
  EXPECT_EQ(flat.dimension(), 1);
  EXPECT_EQ(*flat.stored(), six);
  const ForwardSde sde = ForwardSde::ou();
  EXPECT_EQ(TimeGrid::parse("file:" + (scratch / "x.npz:t"), sde).times(), (Numbers{3, 2, 1}));
  put(scratch / "t.csv", "3\n2\n0.5\n");
  EXPECT_EQ(TimeGrid::parse("file:" + (scratch / "t.csv"), sde).times(), (Numbers{3, 2, 0.5}));
  EXPECT_THAT(message_of([&] { TimeGrid::parse("file:" + (scratch / "x.npz"), sde); }), HasSubstr("holds a matrix"));
}

}  // namespace
}  // namespace fokker
