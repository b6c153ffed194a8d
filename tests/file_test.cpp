// Reading and writing of files: what is on disk is whole or untouched, and no bytes a stranger may have written do more
// than raise an Error.
#include "io/file.hpp"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <thread>

#include "archive.hpp"
#include "fmt/format.h"
#include "fokker/array.hpp"
#include "fokker/safetensors.hpp"
#include "gmock/gmock.h"
#include "scratch.hpp"

namespace fokker {
namespace {

using testing::bytes_of;
using testing::crc32_of;
using testing::damaged;
using testing::get;
using ::testing::HasSubstr;
using testing::little;
using testing::message_of;
using testing::npy;
using testing::put;
using testing::Scratch;
using testing::status_of_child;
using Names = std::set<std::string>;

std::string text_of(const std::vector<std::byte>& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// ------------------------------------------------------------------------------------------------------------- files

TEST(WriteFile, WhatIsWrittenIsReadBack) {
  const Scratch scratch;
  for (const std::size_t size : {0, 1, 19, 99, 989, 3'000'001}) {
    std::string text(size, '\0');
    for (std::size_t i = 0; i < size; ++i) text[i] = static_cast<char>(i * 31 + i / 251);
    write_text(scratch / "file", text);
    EXPECT_EQ(get(scratch / "file"), text) << size;
    EXPECT_EQ(text_of(read_file(scratch / "file")), text) << size;
    EXPECT_EQ(scratch.list(), Names{"file"});
  }
}

TEST(WriteFile, PiecesFollowOneAnother) {
  const Scratch scratch;
  const std::string a = "first", b, c = "third";
  const auto piece = [](const std::string& s) { return std::as_bytes(std::span(s.data(), s.size())); };
  const std::vector<std::span<const std::byte>> pieces = {piece(a), piece(b), piece(c)};
  write_file(scratch / "file", pieces);
  EXPECT_EQ(get(scratch / "file"), "firstthird");
  write_file(scratch / "file", std::span<const std::span<const std::byte>>());
  EXPECT_EQ(get(scratch / "file"), "");
}

TEST(WriteFile, KeepsThePermissionsOfTheOldFile) {
  const Scratch scratch;
  put(scratch / "file", "old");
  ASSERT_EQ(::chmod((scratch / "file").c_str(), 0640), 0);
  write_text(scratch / "file", "new");
  struct stat status {};
  ASSERT_EQ(::stat((scratch / "file").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777, 0640u);
}

TEST(WriteFile, WritesThroughSymbolicLinks) {
  const Scratch scratch;
  std::filesystem::create_directory(scratch / "folder");
  put(scratch / "folder/target", "old");
  std::filesystem::create_symlink("folder/target", scratch / "link");
  std::filesystem::create_symlink(scratch / "link", scratch / "link_to_link");
  write_text(scratch / "link_to_link", "new");
  EXPECT_TRUE(std::filesystem::is_symlink(scratch / "link"));
  EXPECT_TRUE(std::filesystem::is_symlink(scratch / "link_to_link"));
  EXPECT_EQ(get(scratch / "folder/target"), "new");

  std::filesystem::create_symlink("folder/not_yet", scratch / "dangling");
  write_text(scratch / "dangling", "made");
  EXPECT_EQ(get(scratch / "folder/not_yet"), "made");

  std::filesystem::create_symlink("loop", scratch / "loop");
  message_of([&] { write_text(scratch / "loop", "x"); });
  EXPECT_EQ(scratch.list(), (Names{"folder", "link", "link_to_link", "dangling", "loop"}));
}

TEST(WriteFile, TakesANameInTheCurrentFolder) {
  const Scratch scratch;
  const auto before = std::filesystem::current_path();
  std::filesystem::current_path(scratch.folder());
  write_text("plain", "text");
  std::filesystem::create_directory("made");
  write_text("made/../other", "text");
  std::filesystem::current_path(before);
  EXPECT_EQ(scratch.list(), (Names{"plain", "made", "other"}));
}

TEST(WriteFile, RefusalsSayWhyAndLeaveEverythingAsItWas) {
  const Scratch scratch;
  put(scratch / "file", "old");
  std::filesystem::create_directory(scratch / "folder");
  ASSERT_EQ(::mkfifo((scratch / "pipe").c_str(), 0600), 0);
  const auto refusal = [&](const std::string& path) {
    const std::string text = message_of([&] { write_text(path, "new"); });
    EXPECT_THAT(text, HasSubstr("cannot write"));
    return text;
  };
  EXPECT_THAT(refusal(scratch / "missing/file"), HasSubstr("No such file or directory"));
  EXPECT_THAT(refusal(scratch / "file/file"), HasSubstr("Not a directory"));
  EXPECT_THAT(refusal(scratch / "folder"), HasSubstr("it is a folder"));
  EXPECT_THAT(refusal(scratch / "folder/"), HasSubstr("it is a folder"));
  EXPECT_THAT(refusal(scratch / "pipe"), HasSubstr("not a regular file"));
  EXPECT_THAT(refusal("/dev/null"), HasSubstr("not a regular file"));
  EXPECT_THAT(refusal(scratch / std::string(300, 'x')), HasSubstr("File name too long"));
  EXPECT_THAT(refusal(scratch / std::string("a\0b", 3)), HasSubstr("not a file name"));
  EXPECT_THAT(refusal(""), HasSubstr("not a file name"));
  EXPECT_THAT(refusal(scratch / "no\nline\x1b[0m/file"), HasSubstr("no?line?[0m"));
  EXPECT_EQ(scratch.list(), (Names{"file", "folder", "pipe"}));
  EXPECT_EQ(get(scratch / "file"), "old");
  EXPECT_TRUE(std::filesystem::is_fifo(scratch / "pipe"));
  EXPECT_TRUE(std::filesystem::is_character_file("/dev/null"));
}

// Runs `write` where no file may exceed 1000 bytes: 0 where it throws an Error that says so.
template <class Write>
int status_on_full_disk(Write&& write) {
  return status_of_child([&] {
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{1000, 1000};
    if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) return 3;
    try {
      write();
    } catch (const Error& error) {
      return std::string(error.what()).find("File too large") == std::string::npos ? 2 : 0;
    }
    return 1;
  });
}

TEST(WriteFile, AFullDiskLeavesTheOldFile) {
  const Scratch scratch;
  put(scratch / "file", "old");
  EXPECT_EQ(status_on_full_disk([&] { write_text(scratch / "file", std::string(5000, 'x')); }), 0);
  EXPECT_EQ(status_on_full_disk([&] { write_text(scratch / "new", std::string(1001, 'x')); }), 0);
  const std::vector<double> data(500);
  EXPECT_EQ(status_on_full_disk([&] { save_npy(scratch / "file", {500}, data.data()); }), 0);
  SafeTensors tensors;
  tensors.tensors["a"] = Tensor::from_double({500}, data.data());
  EXPECT_EQ(status_on_full_disk([&] { tensors.save(scratch / "file"); }), 0);
  EXPECT_EQ(get(scratch / "file"), "old");
  EXPECT_EQ(scratch.list(), Names{"file"});
  // What fits is written.
  EXPECT_EQ(status_on_full_disk([&] { write_text(scratch / "file", std::string(1000, 'x')); }), 1);
  EXPECT_EQ(get(scratch / "file"), std::string(1000, 'x'));
}

TEST(WriteFile, RespectsPermissions) {
  const Scratch scratch;
  std::filesystem::create_directory(scratch / "locked");
  put(scratch / "locked/file", "old");
  std::filesystem::create_directory(scratch / "open");
  put(scratch / "open/protected", "old");
  ASSERT_EQ(::chmod(scratch.folder().c_str(), 0755), 0);
  ASSERT_EQ(::chmod((scratch / "locked").c_str(), 0555), 0);
  ASSERT_EQ(::chmod((scratch / "open").c_str(), 0777), 0);
  ASSERT_EQ(::chmod((scratch / "open/protected").c_str(), 0444), 0);
  put(scratch / "unreadable", "secret");
  ASSERT_EQ(::chmod((scratch / "unreadable").c_str(), 0), 0);
  const int status = status_of_child([&] {
    // Permissions do not bind the superuser: become nobody, whoever that is.
    constexpr uid_t nobody = 65534;
    if (::geteuid() == 0 && (::setgid(nobody) != 0 || ::setuid(nobody) != 0)) return 50;
    const auto denied = [&](auto&& call) {
      try {
        call();
      } catch (const Error& error) {
        return std::string(error.what()).find("Permission denied") != std::string::npos;
      }
      return false;
    };
    if (!denied([&] { write_text(scratch / "locked/new", "x"); })) return 1;
    if (!denied([&] { write_text(scratch / "locked/file", "x"); })) return 2;
    if (!denied([&] { write_text(scratch / "open/protected", "x"); })) return 3;
    if (!denied([&] { read_file(scratch / "unreadable"); })) return 4;
    return 0;
  });
  if (status == 50) GTEST_SKIP() << "the superuser cannot become another user here";
  EXPECT_EQ(status, 0);
  EXPECT_EQ(get(scratch / "locked/file"), "old");
  EXPECT_EQ(get(scratch / "open/protected"), "old");
  ASSERT_EQ(::chmod((scratch / "locked").c_str(), 0755), 0);
}

TEST(WriteFile, SeveralWritersAtOnceLeaveOneWholeFile) {
  const Scratch scratch;
  std::vector<std::thread> writers;
  for (int w = 0; w < 4; ++w) {
    writers.emplace_back([&, w] {
      for (int i = 0; i < 10; ++i) write_text(scratch / "file", std::string(100'000 + w, static_cast<char>('a' + w)));
    });
  }
  for (auto& writer : writers) writer.join();
  const std::string text = get(scratch / "file");
  ASSERT_FALSE(text.empty());
  EXPECT_EQ(text, std::string(100'000 + (text[0] - 'a'), text[0]));
  EXPECT_EQ(scratch.list(), Names{"file"});
}

TEST(ReadFile, RefusalsSayWhy) {
  const Scratch scratch;
  put(scratch / "file", "text");
  ASSERT_EQ(::mkfifo((scratch / "pipe").c_str(), 0600), 0);
  const auto refusal = [&](const std::string& path) {
    const std::string text = message_of([&] { read_file(path); });
    EXPECT_THAT(text, HasSubstr("cannot read"));
    return text;
  };
  EXPECT_THAT(refusal(scratch / "missing"), HasSubstr("No such file or directory"));
  EXPECT_THAT(refusal(scratch / "file/file"), HasSubstr("Not a directory"));
  EXPECT_THAT(refusal(scratch.folder().string()), HasSubstr("it is a folder"));
  EXPECT_THAT(refusal(scratch / "pipe"), HasSubstr("not a regular file"));
  EXPECT_THAT(refusal("/dev/zero"), HasSubstr("not a regular file"));
  EXPECT_THAT(refusal(""), HasSubstr("No such file"));
  EXPECT_THAT(refusal(scratch / std::string("a\0b", 3)), HasSubstr("zero byte"));
}

// --------------------------------------------------------------------------------------------------------------- npy

template <class T>
std::vector<T> awkward_values(std::size_t count) {
  using Limits = std::numeric_limits<T>;
  const T special[] = {T(0),  T(-0.0), Limits::denorm_min(), -Limits::max(), Limits::infinity(), Limits::quiet_NaN(),
                       T(0.1)};
  std::vector<T> values(count);
  for (std::size_t i = 0; i < count; ++i) values[i] = i < 7 ? special[i] : static_cast<T>(std::sin(double(i)) * 100);
  return values;
}

template <class T>
void expect_npy_round_trip() {
  const Scratch scratch;
  for (const std::vector<std::int64_t>& shape :
       std::vector<std::vector<std::int64_t>>{{0}, {1}, {19}, {989}, {0, 3}, {3, 0}, {1, 1}, {99, 2}, {19, 7}}) {
    const auto count = std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
    const std::vector<T> values = awkward_values<T>(static_cast<std::size_t>(count));
    save_npy(scratch / "a.npy", shape, values.data());
    const Array array = load_array(scratch / "a.npy");
    EXPECT_EQ(array.shape, shape);
    EXPECT_EQ(array.is_float32, sizeof(T) == 4);
    // Bit for bit, NaN included.
    const std::vector<T> back(array.data.begin(), array.data.end());
    EXPECT_EQ(bytes_of(back), bytes_of(values));
    const std::string file = get(scratch / "a.npy");
    EXPECT_EQ((file.size() - values.size() * sizeof(T)) % 64, 0u);
    EXPECT_EQ(file.substr(file.size() - values.size() * sizeof(T)), bytes_of(values));
  }
}

TEST(Npy, RoundTripsFloat) { expect_npy_round_trip<float>(); }
TEST(Npy, RoundTripsDouble) { expect_npy_round_trip<double>(); }

TEST(Npy, ReadsEveryWayTheHeaderMayBeWritten) {
  const Scratch scratch;
  const std::vector<float> values = {1.5f, -2, 3, 4, 5, 6};
  const std::string data = bytes_of(values);
  const auto load = [&](const std::string& file) {
    put(scratch / "a.npy", file);
    return load_array(scratch / "a.npy");
  };
  for (const std::string& text : {
           npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }      \n", data),
           npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }\n", data, 2),
           npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)}", data, 3),
           npy("{\"shape\":(2,3,),\"fortran_order\":False,\"descr\":\"<f4\"}", data),
       }) {
    const Array array = load(text);
    EXPECT_EQ(array.shape, (std::vector<std::int64_t>{2, 3}));
    EXPECT_EQ(array.data, std::vector<double>(values.begin(), values.end()));
  }
  // One dimension has the same order in C and in Fortran.
  EXPECT_EQ(load(npy("{'descr': '<f4', 'fortran_order': True, 'shape': (6,), }\n", data)).shape.size(), 1u);
  EXPECT_EQ(load(npy("{'descr': '<f8', 'fortran_order': False, 'shape': (3,), }\n", data)).data.size(), 3u);
}

TEST(Npy, ReadsOtherOrdersTypesAndPythonTwo) {
  const Scratch scratch;
  const auto load = [&](const std::string& dictionary, const std::string& data) {
    put(scratch / "a.npy", npy(dictionary, data));
    return load_array(scratch / "a.npy");
  };
  const auto reversed = [](std::string data, std::size_t item) {
    for (std::size_t at = 0; at < data.size(); at += item) std::reverse(data.begin() + at, data.begin() + at + item);
    return data;
  };
  const std::vector<double> rows = {1, 2, 3, 4, 5, 6}, columns = {1, 4, 2, 5, 3, 6};
  const std::vector<float> rows32(rows.begin(), rows.end()), columns32(columns.begin(), columns.end());
  // Column after column, as a transposed array, a data frame, Fortran and MATLAB have it.
  Array array = load("{'descr': '<f4', 'fortran_order': True, 'shape': (2, 3), }\n", bytes_of(columns32));
  EXPECT_EQ(array.shape, (std::vector<std::int64_t>{2, 3}));
  EXPECT_EQ(array.data, rows);
  EXPECT_TRUE(array.is_float32);
  EXPECT_EQ(load("{'descr': '<f8', 'fortran_order': True, 'shape': (6, 1), }\n", bytes_of(rows)).data, rows);
  EXPECT_EQ(load("{'descr': '<f8', 'fortran_order': True, 'shape': (1, 6), }\n", bytes_of(rows)).data, rows);
  EXPECT_EQ(load("{'descr': '<f8', 'fortran_order': True, 'shape': (6, 0), }\n", "").shape[0], 6);
  // Long integers of Python 2.
  EXPECT_EQ(load("{'descr': '<f4', 'fortran_order': False, 'shape': (2L, 3L), }\n", bytes_of(rows32)).data, rows);
  // Bytes in the other order.
  EXPECT_EQ(load("{'descr': '>f4', 'fortran_order': False, 'shape': (6,), }\n", reversed(bytes_of(rows32), 4)).data,
            rows);
  array = load("{'descr': '>f8', 'fortran_order': True, 'shape': (2, 3), }\n", reversed(bytes_of(columns), 8));
  EXPECT_EQ(array.data, rows);
  EXPECT_FALSE(array.is_float32);
  const std::vector<std::uint16_t> halves = {0x3c00, 0xc000, 0x7bff, 0x0001, 0x8000, 0x3555};
  const std::vector<double> values = {1, -2, 65504, 0x1p-24, -0.0, 0.333251953125};
  EXPECT_EQ(load("{'descr': '<f2', 'fortran_order': False, 'shape': (2, 3), }\n", bytes_of(halves)).data, values);
  array = load("{'descr': '>f2', 'fortran_order': False, 'shape': (6,), }\n", reversed(bytes_of(halves), 2));
  EXPECT_EQ(array.data, values);
  EXPECT_TRUE(array.is_float32);
}

TEST(Npy, RefusesWhatItCannotUse) {
  const Scratch scratch;
  const std::string data(24, '\0');
  struct {
    std::string file;
    const char* message;
  } const cases[] = {
      {"", "begin with"},
      {"\x93NUMPX\x01", "begin with"},
      {"\x93NUMPY", "ends within"},
      {npy("{'descr': '<f4', 'fortran_order': False, 'shape': (6,), }\n", data, 4), "version is 4.0"},
      {npy("{'descr': '<f4', 'fortran_order': False, 'shape': (6,), }\n", data, 0), "version is 0.0"},
      {npy("{'descr': '<i3', 'fortran_order': False, 'shape': (8,), }\n", data), "'<i3', allowed are bool, integers"},
      {npy("{'descr': '|i8', 'fortran_order': False, 'shape': (3,), }\n", data), "'|i8'"},
      {npy("{'descr': '<c8', 'fortran_order': False, 'shape': (3,), }\n", data), "'<c8'"},
      {npy("{'descr': '<c8', 'fortran_order': False, 'shape': (3,), }\n", data), "not complex numbers (array.real)"},
      {npy("{'descr': '<M8[ns]', 'fortran_order': False, 'shape': (3,), }\n", data), "'<M8[ns]'"},
      {npy("{'descr': '<f16', 'fortran_order': False, 'shape': (3,), }\n", data), "'<f16'"},
      {npy("{'descr': '|O', 'fortran_order': False, 'shape': (3,), }\n", data), "'|O'"},
      {npy("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (6,), }\n", data), "structured array"},
      {npy("{'descr': [('a]', '<f2'), ('b', [('c', '<f2')])], 'fortran_order': False, 'shape': (6,), }\n", data),
       "structured array"},
      {npy("{'descr': [('a', '<f4'), 'fortran_order': False, 'shape': (6,), }\n", data), "header is not"},
      {npy("{'descr': [('a', '<f4'),   \n", ""), "header is not"},
      {npy("{'descr': '<f4', 'fortran_order': False, 'shape': (6l,), }\n", data), "header is not"},
      {npy("{'descr': '<f4', 'fortran_order': False, 'shape': (), }\n", data), "0 dimensions"},
      {npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2, 3), }\n", data), "3 dimensions"},
      {npy("{'descr': '<f4', 'fortran_order': False, 'shape': (5,), }\n", data), "needs 20 bytes of data, it has 24"},
      {npy("{'descr': '<f4', 'fortran_order': False, 'shape': (7,), }\n", data), "needs 28 bytes of data, it has 24"},
      {npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-6,), }\n", data), "header"},
      {npy("{'descr': '<f4', 'fortran_order': False, 'shape': (6), }\n", data), "header"},
      {npy("{'descr': '<f4', 'fortran_order': False, 'shape': (,), }\n", data), "header"},
      {npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2 3), }\n", data), "header"},
      {npy("{'descr': '<f4', 'fortran_order': False, 'shape': (6.0,), }\n", data), "header"},
      {npy("{'descr': '<f4', 'fortran_order': False, 'shape': [6], }\n", data), "header"},
      {npy("{'descr': '<f4', 'fortran_order': 0, 'shape': (6,), }\n", data), "header"},
      {npy("{'descr': '<f4', 'fortran_order': False, 'shape': (9223372036854775807,), }\n", data), "too large"},
      {npy("{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904, 4), }\n", data), "too large"},
      {npy("{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296), }\n", data), "too large"},
      {npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }\n", data), "needs 4000000000000"},
      {npy("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,), }\n", data), "header"},
      {npy("{'descr': '<f4', 'fortran_order': False, 'shape': (6,), 'shape': (6,), }\n", data), "header"},
      {npy("{'descr': '<f4', 'fortran_order': False, 'shape': (6,), 'extra': 1, }\n", data), "header"},
      {npy("{'descr': '<f4', 'shape': (6,), }\n", data), "header"},
      {npy("{'descr': '<f4', 'fortran_order': False, 'shape': (6,), } x\n", data), "header"},
      {npy("{'descr': '<f4', 'fortran_order': False, 'shape': (6,), ", data), "header"},
      {npy("{'descr': '<f4", data), "header"},
      {npy("", data), "header"},
      {npy(std::string(60000, '('), data), "header"},
      {npy("{'descr': '\n<f4', 'fortran_order': False, 'shape': (6,), }\n", data), "'?<f4'"},
  };
  for (const auto& [file, message] : cases) {
    SCOPED_TRACE(message);
    put(scratch / "a.npy", file);
    EXPECT_THAT(message_of([&] { load_array(scratch / "a.npy"); }), HasSubstr(message));
  }
  // A length of the header beyond the file.
  for (const char* start : {"\x93NUMPY\x01\x00\xff\xff{'de", "\x93NUMPY\x02\x00\xff\xff\xff\xff{'de"}) {
    put(scratch / "a.npy", std::string(start, start[6] == 1 ? 14 : 16));
    EXPECT_THAT(message_of([&] { load_array(scratch / "a.npy"); }), HasSubstr("ends within its header"));
  }
}

// Rounding to float32 takes up to 8 from a number above 2^27 = 1.3e8, and up to 2^−11 from one above 2^13.
TEST(Npy, BecomesFloat32WhereThatKeepsItsNumbersApart) {
  const auto rounded = [](std::vector<double> numbers, std::int64_t columns) {
    const std::int64_t rows = std::ssize(numbers) / columns;
    return to_float32({{rows, columns}, std::move(numbers), false}, "a.npy");
  };
  EXPECT_EQ(rounded({0.1, 1, 0.2, 2}, 2), (std::vector<float>{0.1f, 1, 0.2f, 2}));
  EXPECT_EQ(rounded({8192.1, 8193.3, 8194.7}, 1), (std::vector<float>{8192.1f, 8193.3f, 8194.7f}));
  EXPECT_EQ(rounded({1e8 + 0.3, 1e8 + 0.3}, 1), (std::vector<float>{1e8f, 1e8f}));  // nothing to keep apart
  EXPECT_EQ(rounded({0.3, 0.1 + 0.2}, 1), (std::vector<float>{0.3f, 0.3f}));        // but for double's own rounding
  EXPECT_EQ(rounded({1e8, 2e8, 3e8}, 1), (std::vector<float>{1e8f, 2e8f, 3e8f}));
  EXPECT_EQ(rounded({}, 3).size(), 0u);
  const std::vector<double> stamps{0, 1.4e8, 0, 1.4e8 + 1, 0, 1.4e8 + 2};
  EXPECT_THAT(testing::message_of([&] { rounded(stamps, 2); }),
              ::testing::AllOf(HasSubstr("column 1 of 'a.npy' does not fit in float32"),
                               HasSubstr("its 3 different numbers, up to 1.4e+08 with a standard deviation of 0.816, "
                                         "would become 1; subtract an offset")));
  // Counts are of different numbers: 2^27 + 16 and what is next to it stay apart from 2^27.
  EXPECT_THAT(testing::message_of([&] {
                rounded({0x1p27, 0x1p27, 0x1p27 + 16, 0x1p27 + 16.1, 0x1p27}, 1);
              }),
              HasSubstr("its 3 different numbers, up to 1.34e+08 with a standard deviation of 7.86, would become 2"));
  // Doubles hold integers as they are, so nothing of theirs is rounding.
  EXPECT_THAT(testing::message_of([&] { rounded({0x1p52, 0x1p52 + 1}, 1); }), HasSubstr("its 2 different numbers"));
  EXPECT_EQ(rounded({0x1p52 + 1, 0x1p52 + 1}, 1), (std::vector<float>{0x1p52f, 0x1p52f}));
  // One dimension is one column; and what came as float32 has lost nothing more.
  EXPECT_THAT(testing::message_of([] { to_float32({{2}, {1e8, 1e8 + 1}, false}, "a.npy"); }), HasSubstr("column 0"));
  EXPECT_EQ(to_float32({{2}, {1e8, 1e8 + 8}, true}, "a.npy"), (std::vector<float>{1e8f, 100000008}));
  // What is not finite is for others to refuse.
  EXPECT_TRUE(std::isnan(rounded({std::numeric_limits<double>::quiet_NaN(), 1e8, 1e8 + 1}, 1)[0]));
  EXPECT_TRUE(std::isinf(rounded({1e300, 0}, 1)[0]));
}

TEST(Npy, WritesOnlyWhatItReads) {
  const Scratch scratch;
  const double data[8] = {};
  for (const std::vector<std::int64_t>& shape :
       std::vector<std::vector<std::int64_t>>{{}, {2, 2, 2}, {-1}, {std::int64_t{1} << 40, std::int64_t{1} << 40}}) {
    message_of([&] { save_npy(scratch / "a.npy", shape, data); });
  }
  EXPECT_TRUE(scratch.list().empty());
}

// Byte by byte as the format says, and read back.
TEST(Npz, WritesArchivesOfArrays) {
  const Scratch scratch;
  const std::vector<float> x = awkward_values<float>(24);
  const std::vector<double> t = awkward_values<double>(3);
  save_npz(scratch / "a.npz", {{"x", {4, 3, 2}, x.data()}, {"time", {3}, t.data()}, {"none", {0, 2}, x.data()}});
  const std::string file = get(scratch / "a.npz");
  save_npy(scratch / "t.npy", {3}, t.data());
  save_npy(scratch / "none.npy", {0, 2}, x.data());
  const std::string cube = "{'descr': '<f4', 'fortran_order': False, 'shape': (4, 3, 2), }",
                    blanks(128 - 10 - cube.size() - 1, ' ');
  const std::pair<std::string, std::string> members[] = {{"x.npy", npy(cube + blanks + "\n", bytes_of(x))},
                                                         {"time.npy", get(scratch / "t.npy")},
                                                         {"none.npy", get(scratch / "none.npy")}};
  std::string whole, directory;
  for (const auto& [name, bytes] : members) {
    const std::string facts = little(20, 2) + little(0, 6) + little(0x21, 2) + little(crc32_of(bytes), 4) +
                              little(bytes.size(), 4) + little(bytes.size(), 4) + little(name.size(), 2) + little(0, 2);
    directory += "PK\1\2" + little(20, 2) + facts + std::string(10, '\0') + little(whole.size(), 4) + name;
    whole += "PK\3\4" + facts + name + bytes;
  }
  const std::string end = "PK\5\6" + little(0, 4) + little(3, 2) + little(3, 2) + little(directory.size(), 4) +
                          little(whole.size(), 4) + little(0, 2);
  EXPECT_TRUE(file == whole + directory + end);
  EXPECT_EQ(bytes_of(load_array(scratch / "a.npz:time").data), bytes_of(t));
  EXPECT_EQ(load_array(scratch / "a.npz:none").shape, (std::vector<std::int64_t>{0, 2}));
  EXPECT_THAT(message_of([&] { load_array(scratch / "a.npz:x"); }), HasSubstr("it has 3 dimensions"));
  // Where they are asked for, three are read, in C order.
  const Array three = load_array(scratch / "a.npz:x", 3);
  EXPECT_EQ(three.shape, (std::vector<std::int64_t>{4, 3, 2}));
  EXPECT_EQ(bytes_of(std::vector<float>(three.data.begin(), three.data.end())), bytes_of(x));
  EXPECT_TRUE(three.is_float32);
  for (const auto& [header, why] :
       {std::pair("{'descr': '<f4', 'fortran_order': True, 'shape': (1, 2, 1), }\n", "3 dimensions in Fortran order"),
        std::pair("{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2, 1, 1), }\n", "allowed are 1, 2 and 3")}) {
    put(scratch / "a.npy", npy(header, std::string(8, '\0')));
    EXPECT_THAT(message_of([&] { load_array(scratch / "a.npy", 3); }), HasSubstr(why));
  }

  put(scratch / "a.npz", "precious");
  for (const std::vector<std::int64_t>& shape :
       std::vector<std::vector<std::int64_t>>{{}, {1, 1, 1, 1}, {-1}, {std::int64_t{1} << 40, std::int64_t{1} << 40}}) {
    EXPECT_THAT(message_of([&] {
                  save_npz(scratch / "a.npz", {{"x", shape, x.data()}});
                }),
                HasSubstr("one to 3 non-negative dimensions"));
  }
  EXPECT_EQ(get(scratch / "a.npz"), "precious");
}

// Every shorter version of a file is refused, and so is a longer one.
template <class Load>
void expect_no_other_length(const std::string& file, const std::string& path, Load load) {
  put(path, file);
  load();
  for (std::size_t length = 0; length < file.size(); ++length) {
    SCOPED_TRACE(length);
    put(path, file.substr(0, length));
    message_of(load);
  }
  put(path, file + '\0');
  message_of(load);
}

TEST(Npy, RefusesEveryTruncation) {
  const Scratch scratch;
  const std::vector<float> values = {1, 2, 3, 4, 5, 6};
  save_npy(scratch / "a.npy", {2, 3}, values.data());
  expect_no_other_length(get(scratch / "a.npy"), scratch / "a.npy", [&] { load_array(scratch / "a.npy"); });
}

TEST(Npy, SurvivesDamage) {
  const Scratch scratch;
  const std::vector<float> values = {1, 2, 3, 4, 5, 6};
  save_npy(scratch / "a.npy", {2, 3}, values.data());
  const std::string file = get(scratch / "a.npy");
  std::mt19937 random(1);
  int read = 0;
  for (int trial = 0; trial < 4000; ++trial) {
    put(scratch / "a.npy", damaged(file, random));
    try {
      const Array array = load_array(scratch / "a.npy");
      const auto count = std::accumulate(array.shape.begin(), array.shape.end(), std::int64_t{1}, std::multiplies<>());
      ASSERT_EQ(static_cast<std::size_t>(count), array.data.size());
      ASSERT_LE(array.data.size(), 7u);
      ++read;
    } catch (const Error& error) {
      ASSERT_EQ(std::string(error.what()).find('\n'), std::string::npos);
    }
  }
  EXPECT_GT(read, 0);  // damage to the data alone is none to the format
}

// ------------------------------------------------------------------------------------------------------- safetensors

std::string safetensors(const std::string& header, std::size_t data_bytes) {
  std::string file(8, '\0');
  const std::uint64_t length = header.size();
  std::memcpy(file.data(), &length, 8);
  return file + header + std::string(data_bytes, '\1');
}

SafeTensors some_tensors() {
  SafeTensors file;
  const auto floats = awkward_values<float>(12);
  const auto doubles = awkward_values<double>(7);
  const std::vector<std::int64_t> integers = {std::numeric_limits<std::int64_t>::min(), -1, 0, 1};
  file.tensors["weight"] = Tensor::from_float({3, 4}, floats.data());
  file.tensors["z.double"] = Tensor::from_double({7}, doubles.data());
  file.tensors["integers"] = Tensor::from_int64({2, 2}, integers.data());
  file.tensors["scalar"] = Tensor::from_float({}, floats.data() + 6);
  file.tensors["empty"] = Tensor::from_float({0, 5}, nullptr);
  file.tensors["half"] = {"F16", {3}, std::vector<std::byte>(6, std::byte{60})};
  file.tensors["flag"] = {"BOOL", {1}, {std::byte{1}}};
  file.tensors["name with ünïcode \"quotes\" and \n"] = Tensor::from_float({1}, floats.data() + 6);
  file.metadata = {{"key", "value"}, {"", ""}, {"text", "tab\t newline\n quote\" ünïcode \\"}};
  return file;
}

TEST(SafeTensorsFile, RoundTripsBitForBit) {
  const Scratch scratch;
  const SafeTensors file = some_tensors();
  file.save(scratch / "a.safetensors");
  const SafeTensors back = SafeTensors::load(scratch / "a.safetensors");
  EXPECT_EQ(back.metadata, file.metadata);
  ASSERT_EQ(back.tensors.size(), file.tensors.size());
  for (const auto& [name, tensor] : file.tensors) {
    SCOPED_TRACE(name);
    EXPECT_EQ(back.at(name).dtype, tensor.dtype);
    EXPECT_EQ(back.at(name).shape, tensor.shape);
    EXPECT_EQ(back.at(name).bytes, tensor.bytes);
    EXPECT_EQ(back.at(name).size(), tensor.size());
  }
  // The data begin at a multiple of 8, so that a mapped tensor is aligned.
  std::uint64_t length;
  std::memcpy(&length, get(scratch / "a.safetensors").data(), 8);
  EXPECT_EQ(length % 8, 0u);

  SafeTensors().save(scratch / "empty.safetensors");
  EXPECT_TRUE(SafeTensors::load(scratch / "empty.safetensors").tensors.empty());
}

TEST(SafeTensorsFile, NothingWrongIsWritten) {
  const Scratch scratch;
  put(scratch / "a.safetensors", "old");
  const auto refuse = [&](const char* name, const Tensor& tensor) {
    SafeTensors file;
    file.tensors[name] = tensor;
    message_of([&] { file.save(scratch / "a.safetensors"); });
  };
  refuse("a", {"F32", {2}, std::vector<std::byte>(7)});
  refuse("a", {"F33", {2}, std::vector<std::byte>(8)});
  refuse("a", {"F32", {-2}, std::vector<std::byte>(8)});
  refuse("__metadata__", {"F32", {2}, std::vector<std::byte>(8)});
  refuse("not \xff utf-8", {"F32", {2}, std::vector<std::byte>(8)});
  SafeTensors file;
  file.metadata["a"] = "\xc3";
  message_of([&] { file.save(scratch / "a.safetensors"); });
  EXPECT_EQ(get(scratch / "a.safetensors"), "old");
  EXPECT_EQ(scratch.list(), Names{"a.safetensors"});
  message_of([] { Tensor::from_float({-1}, nullptr); });
  message_of([] { Tensor::from_float({std::int64_t{1} << 40, std::int64_t{1} << 40}, nullptr); });
}

TEST(SafeTensorsFile, WidensEveryHalf) {
  Tensor half{"F16", {65536}, {}}, brain{"BF16", {65536}, {}};
  for (int h = 0; h < 65536; ++h) {
    for (Tensor* tensor : {&half, &brain}) {
      tensor->bytes.push_back(std::byte(h & 0xff));
      tensor->bytes.push_back(std::byte(h >> 8));
    }
  }
  const std::vector<double> halves = half.to_double(), brains = brain.to_double();
  for (std::uint32_t h = 0; h < 65536; ++h) {
    // A half's exponent and fraction, moved to where a float has them, lack a factor of 2^(127 − 15).
    const bool special = (h & 0x7c00) == 0x7c00;
    const double magnitude =
        special ? ((h & 0x3ff) ? std::nan("") : INFINITY) : double(std::bit_cast<float>((h & 0x7fff) << 13)) * 0x1p112;
    const double expected = h & 0x8000 ? -magnitude : magnitude;
    const double expected_brain = std::bit_cast<float>(h << 16);
    const auto same = [](double a, double e) {
      return std::isnan(e) ? std::isnan(a) : a == e && std::signbit(a) == std::signbit(e);
    };
    ASSERT_TRUE(same(halves[h], expected)) << h << ": " << halves[h] << " where " << expected << " is expected";
    ASSERT_TRUE(same(brains[h], expected_brain)) << h;
  }
  EXPECT_EQ(halves[0x3c00], 1);
  EXPECT_EQ(halves[0x7bff], 65504);
  EXPECT_EQ(halves[0x0001], 0x1p-24);
  EXPECT_EQ(brains[0x3f80], 1);
}

TEST(SafeTensorsFile, ConvertsNothingElseToDouble) {
  const std::int64_t value = 1;
  EXPECT_THAT(message_of([&] { Tensor::from_int64({1}, &value).to_double(); }), HasSubstr("I64"));
  message_of([] { (Tensor{"F32", {2}, std::vector<std::byte>(4)}).to_double(); });
  EXPECT_THAT(message_of([] { some_tensors().at("weigth"); }), HasSubstr("'weight'"));
  EXPECT_THAT(message_of([] { SafeTensors().at("a"); }), HasSubstr("none"));
}

TEST(SafeTensorsFile, AcceptsWhatTheFormatAllows) {
  const Scratch scratch;
  const auto load = [&](const std::string& header, std::size_t bytes) {
    put(scratch / "a.safetensors", safetensors(header, bytes));
    return SafeTensors::load(scratch / "a.safetensors");
  };
  EXPECT_EQ(load("{}", 0).tensors.size(), 0u);
  EXPECT_EQ(load("{}       ", 0).tensors.size(), 0u);
  EXPECT_EQ(load(R"({"__metadata__":{}})", 0).metadata.size(), 0u);
  EXPECT_EQ(load(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 8).at("a").bytes.size(), 8u);
  // In any order, and without alignment.
  const SafeTensors file = load(R"({"b":{"data_offsets":[1,9],"shape":[1],"dtype":"F64"},)"
                                R"("a":{"dtype":"U8","shape":[1,1],"data_offsets":[0,1]},)"
                                R"("none":{"dtype":"F8_E4M3","shape":[0],"data_offsets":[1,1]}})",
                                9);
  EXPECT_EQ(file.at("b").shape, std::vector<std::int64_t>{1});
  EXPECT_EQ(file.at("b").to_double().size(), 1u);
}

TEST(SafeTensorsFile, RefusesWhatTheFormatForbids) {
  const Scratch scratch;
  const std::string a = R"("a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]})";
  const auto described = [](const std::string& what) { return "{\"a\":{" + what + "}}"; };
  struct {
    std::string header;
    std::size_t data_bytes;
    const char* message;
  } const cases[] = {
      {"", 0, "begin with {"},
      {"[]", 0, "begin with {"},
      {" {}", 0, "begin with {"},
      {"\xef\xbb\xbf{}", 0, "begin with {"},
      {"{", 0, "not valid JSON"},
      {"{}}", 0, "not valid JSON"},
      {"{} x", 0, "not valid JSON"},
      {std::string("{}\0\0", 4), 0, "zero byte"},
      {"{\"a\":1}", 0, "not described by a JSON object"},
      {"{\"a\":null}", 0, "not described by a JSON object"},
      {"{\"a\":{}}", 0, "has no dtype"},
      {described(R"("dtype":"F32","shape":[2])"), 8, "has no data_offsets"},
      {described(R"("dtype":"F32","data_offsets":[0,8])"), 8, "has no shape"},
      {described(R"("dtype":32,"shape":[2],"data_offsets":[0,8])"), 8, "dtype that is not a string"},
      {described(R"("dtype":"F33","shape":[2],"data_offsets":[0,8])"), 8, "unknown dtype 'F33'"},
      {described(R"("dtype":"f32","shape":[2],"data_offsets":[0,8])"), 8, "unknown dtype"},
      {described(R"("dtype":"F32","shape":2,"data_offsets":[0,8])"), 8, "shape that is not an array"},
      {described(R"("dtype":"F32","shape":[-2],"data_offsets":[0,8])"), 8, "non-negative integer"},
      {described(R"("dtype":"F32","shape":[2.0],"data_offsets":[0,8])"), 8, "non-negative integer"},
      {described(R"("dtype":"F32","shape":["2"],"data_offsets":[0,8])"), 8, "non-negative integer"},
      {described(R"("dtype":"F32","shape":[true],"data_offsets":[0,8])"), 8, "non-negative integer"},
      {described(R"("dtype":"F32","shape":[[2]],"data_offsets":[0,8])"), 8, "nested"},
      {described(R"("dtype":"F32","shape":[9223372036854775807],"data_offsets":[0,8])"), 8, "too large"},
      {described(R"("dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,8])"), 8, "non-negative integer"},
      {described(R"("dtype":"F32","shape":[99999999999999999999],"data_offsets":[0,8])"), 8, "non-negative integer"},
      {described(R"("dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8])"), 8, "too large"},
      {described(R"("dtype":"F32","shape":[4611686018427387904,2,2],"data_offsets":[0,0])"), 0, "too large"},
      {described(R"("dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000])"), 8, "it has 8"},
      {described(R"("dtype":"F32","shape":[2],"data_offsets":[0])"), 8, "two non-negative integers"},
      {described(R"("dtype":"F32","shape":[2],"data_offsets":[0,8,8])"), 8, "two non-negative integers"},
      {described(R"("dtype":"F32","shape":[2],"data_offsets":[-8,0])"), 8, "two non-negative integers"},
      {described(R"("dtype":"F32","shape":[2],"data_offsets":{"0":0,"1":8})"), 8, "two non-negative integers"},
      {described(R"("dtype":"F32","shape":[2],"data_offsets":[8,0])"), 8, "need 8 bytes"},
      {described(R"("dtype":"F32","shape":[2],"data_offsets":[0,4])"), 4, "need 8 bytes"},
      {described(R"("dtype":"F32","shape":[2],"data_offsets":[18446744073709551608,0])"), 8, "need 8 bytes"},
      {described(R"("dtype":"F32","shape":[2],"data_offsets":[18446744073709551607,18446744073709551615])"), 8,
       "begins at byte"},
      {described(R"("dtype":"F32","shape":[2],"data_offsets":[4,12])"), 12, "begins at byte 4"},
      {"{" + a + "}", 7, "it has 7"},
      {"{" + a + "}", 9, "it has 9"},
      {"{" + a + "," + a + "}", 8, "the key 'a' twice"},
      {"{" + a + R"(,"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})", 12, "begins at byte 4"},
      {"{" + a + R"(,"b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 8, "begins at byte 0"},
      {"{" + a + R"(,"b":{"dtype":"F32","shape":[2],"data_offsets":[12,20]}})", 20, "begins at byte 12"},
      {R"({"a":{"dtype":"F32","shape":[2],"shape":[2],"data_offsets":[0,8]}})", 8, "the key 'shape' twice"},
      {R"({"__metadata__":{"a":"1","a":"2"}})", 0, "the key 'a' twice"},
      {R"({"__metadata__":{"a":1}})", 0, "metadata 'a' is not a string"},
      {R"({"__metadata__":{"a":null}})", 0, "metadata 'a' is not a string"},
      {R"({"__metadata__":[]})", 0, "metadata is not a JSON object"},
      {R"({"__metadata__":{"a":{}}})", 0, "metadata 'a' is not a string"},
      {R"({"__metadata__":{"a":{"b":{}}}})", 0, "nested"},
      {"{\"\xff\":{}}", 0, "not valid JSON"},
      {"{\"\xc0\xaf\":{}}", 0, "not valid JSON"},
      {"{\"\\ud800\":{}}", 0, "not valid JSON"},
      {"{\"a\":1e999}", 0, "out of range"},
      {"{\"a\":NaN}", 0, "not valid JSON"},
      {"{'a':{}}", 0, "not valid JSON"},
      {"{\"a\":" + std::string(1'000'000, '[') + "}", 0, "nested"},
      {"{\"line\\nfeed\":1}", 0, "'line?feed'"},
      {"{\"" + std::string(100'000, 'x') + "\":1}", 0, "x…x"},
      {"{\"a\\u009bb\\u202ec\\u001bd\":1}", 0, "'a?b?c?d'"},
  };
  for (const auto& [header, data_bytes, message] : cases) {
    SCOPED_TRACE(header.substr(0, 100));
    put(scratch / "a.safetensors", safetensors(header, data_bytes));
    EXPECT_THAT(message_of([&] { SafeTensors::load(scratch / "a.safetensors"); }), HasSubstr(message));
  }
  std::string nested;
  for (int i = 0; i < 200'000; ++i) nested += "{\"a\":";
  put(scratch / "a.safetensors", safetensors(nested, 0));
  EXPECT_THAT(message_of([&] { SafeTensors::load(scratch / "a.safetensors"); }), HasSubstr("nested"));
}

// In time proportional to their number: at a time of its square, this takes minutes.
TEST(SafeTensorsFile, ReadsAndWritesManyTensors) {
  const Scratch scratch;
  SafeTensors file;
  for (int i = 0; i < 40'000; ++i) file.tensors[fmt::format("t{}.weight", i)] = {"F32", {0, 0}, {}};
  file.save(scratch / "a.safetensors");
  EXPECT_EQ(SafeTensors::load(scratch / "a.safetensors").tensors.size(), 40'000u);
}

TEST(SafeTensorsFile, RefusesHeadersThatCannotBe) {
  const Scratch scratch;
  for (const std::uint64_t length : {std::uint64_t{3}, std::uint64_t{100'000'000}, std::uint64_t{100'000'001},
                                     std::uint64_t{1} << 63, ~std::uint64_t{0}, ~std::uint64_t{0} - 7}) {
    std::string file = safetensors("{}", 0);
    std::memcpy(file.data(), &length, 8);
    put(scratch / "a.safetensors", file);
    EXPECT_THAT(message_of([&] { SafeTensors::load(scratch / "a.safetensors"); }), HasSubstr("header"));
  }
  message_of([&] { SafeTensors::load(scratch.folder().string()); });
  message_of([&] { SafeTensors::load(scratch / "missing"); });
}

TEST(SafeTensorsFile, RefusesEveryTruncation) {
  const Scratch scratch;
  const std::string path = scratch / "a.safetensors";
  some_tensors().save(path);
  expect_no_other_length(get(path), path, [&] { SafeTensors::load(path); });
}

TEST(SafeTensorsFile, SurvivesDamage) {
  const Scratch scratch;
  const std::string path = scratch / "a.safetensors";
  const SafeTensors tensors = some_tensors();
  tensors.save(path);
  const std::string file = get(path);
  std::size_t data_bytes = 0;
  for (const auto& [name, tensor] : tensors.tensors) data_bytes += tensor.bytes.size();
  std::mt19937 random(2);
  int read = 0;
  for (int trial = 0; trial < 6000; ++trial) {
    std::string other = damaged(file, random);
    // Half of the trials keep the length of the header true, so that the damage reaches the JSON.
    if (trial % 2 == 0 && other.size() > data_bytes + 8) {
      const std::uint64_t length = other.size() - 8 - data_bytes;
      std::memcpy(other.data(), &length, 8);
    }
    put(path, other);
    try {
      const SafeTensors back = SafeTensors::load(path);
      for (const auto& [name, tensor] : back.tensors) ASSERT_LE(tensor.bytes.size(), other.size()) << name;
      ++read;
    } catch (const Error& error) {
      ASSERT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
    }
  }
  EXPECT_GT(read, 0);
}

}  // namespace
}  // namespace fokker
