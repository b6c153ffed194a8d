#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "core/quote.hpp"
#include "fokker/error.hpp"
#include "io/array_formats.hpp"

// Rows of numbers with commas between, one a line, after at most one line of the columns' names, as numpy.savetxt, pandas
// and spreadsheets write them. Numbers are read as in C's locale whatever that of the process, nan and inf among them.
// Nothing is left out, and nothing taken for a number that is none.
namespace fokker {
namespace {

constexpr std::string_view blanks = " \t";

std::string_view trimmed(std::string_view text) {
  const std::size_t begin = text.find_first_not_of(blanks);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(blanks) + 1 - begin);
}

// A number that `text` begins with, after blanks and at most one plus; `rest` is what follows it. As from_chars.
std::errc leading_number(std::string_view text, double& value, std::string_view& rest) {
  text.remove_prefix(std::min(text.find_first_not_of(blanks), text.size()));
  if (text.size() > 1 && text[0] == '+' && text[1] != '-') text.remove_prefix(1);
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  rest = text.substr(static_cast<std::size_t>(end - text.data()));
  rest.remove_prefix(std::min(rest.find_first_not_of(blanks), rest.size()));
  return error;
}

// Whether a field is a number, or begins as one: no name of a column, unless it stands in quotes.
bool begins_as_number(std::string_view field) {
  const std::size_t digit = field.find_first_not_of("+-.");
  if (digit != std::string_view::npos && field[digit] >= '0' && field[digit] <= '9') return true;
  double value;  // nan and inf
  return leading_number(field, value, field) == std::errc() && field.empty();
}

bool is_integer(std::string_view field) { return field.find_first_not_of("+-0123456789") == std::string_view::npos; }

// What stands between the commas, which may stand in quotes.
std::vector<std::string_view> fields_of(std::string_view row) {
  std::vector<std::string_view> fields;
  bool quoted = false;
  std::size_t begin = 0;
  for (std::size_t i = 0; i < row.size(); ++i) {
    if (row[i] == '"') quoted = !quoted;
    if (row[i] != ',' || quoted) continue;
    fields.push_back(trimmed(row.substr(begin, i - begin)));
    begin = i + 1;
  }
  fields.push_back(trimmed(row.substr(begin)));
  return fields;
}

class CsvReader {
 public:
  CsvReader(std::string_view text, const std::string& subject) : text_(text), subject_(subject) {
    if (text_.starts_with("\xEF\xBB\xBF")) text_.remove_prefix(3);  // a byte order mark
  }

  Array read() {
    std::string_view row;
    std::size_t empty = 0;
    while (next(row)) {
      if (trimmed(row).empty()) {
        empty = empty == 0 ? line_ : empty;
        continue;
      }
      if (empty != 0) throw fail(fmt::format("line {} is empty, and more follow", empty));
      if (line_ == 1 && take_names(row)) continue;
      take_numbers(row);
    }
    if (columns_ == 0) throw fail("it is empty");
    array_.shape = {std::ssize(array_.data) / columns_, columns_};
    return std::move(array_);
  }

 private:
  Error fail(const std::string& why) const { return Error(fmt::format("{}: {}", subject_, why)); }

  bool next(std::string_view& row) {
    if (text_.empty()) return false;
    ++line_;
    const std::size_t end = text_.find('\n');
    row = text_.substr(0, end);
    text_.remove_prefix(end == std::string_view::npos ? text_.size() : end + 1);
    if (row.ends_with('\r')) row.remove_suffix(1);
    return true;
  }

  // Whether the first line holds names, and no number.
  bool take_names(std::string_view row) {
    const std::vector<std::string_view> fields = fields_of(row);
    for (std::size_t i = 0; i < fields.size(); ++i) {
      numbered_ = (i == 0 || numbered_) && fields[i] == std::to_string(i);
      if (!fields[i].empty() && fields[i] != "\"\"") continue;
      throw fail(
          fmt::format("line 1, column {} is empty{}", i + 1,
                      i == 0 ? ", as where an index of rows is written; leave that out (pandas: index=False)" : ""));
    }
    if (std::any_of(fields.begin(), fields.end(), begins_as_number)) return false;
    columns_ = std::ssize(fields);
    reserve();
    return true;
  }

  // Room for a number for each two bytes at most, of as many lines as there are.
  void reserve() {
    const auto lines = static_cast<std::size_t>(std::count(text_.begin(), text_.end(), '\n')) + 2;
    array_.data.reserve(std::min(lines * static_cast<std::size_t>(columns_), text_.size() / 2 + columns_));
  }

  void take_numbers(std::string_view row) {
    std::int64_t count = 0;
    for (std::string_view rest = row;;) {
      const std::string_view field = rest;
      double value;
      const std::errc error = leading_number(field, value, rest);
      if (error != std::errc() || !(rest.empty() || rest[0] == ',')) throw no_number(count + 1, field, error);
      if (std::fabs(value) >= first_inexact_integer) {
        check_integer(count + 1, trimmed(field.substr(0, field.size() - rest.size())), value);
      }
      array_.data.push_back(value);
      ++count;
      if (rest.empty()) break;
      rest.remove_prefix(1);
    }
    if (columns_ == 0) {
      columns_ = count;
      reserve();
    }
    if (count != columns_) {
      throw fail(
          fmt::format("line {} has another count of columns, {}, than those before, {}; allowed is one count, with "
                      "commas between",
                      line_, count, columns_));
    }
    const std::vector<std::string_view> fields =
        numbered_ && line_ == 2 ? fields_of(row) : std::vector<std::string_view>();
    if (!std::all_of(fields.begin(), fields.end(), is_integer)) {
      throw fail(
          "line 1 counts from 0, so it may be data or the numbers that pandas gives columns without names; put "
          "names there instead of these, or before the data");
    }
  }

  Error no_number(std::int64_t column, std::string_view field, std::errc error) const {
    field = trimmed(field.substr(0, field.find(',')));
    const std::string where = fmt::format("line {}, column {}", line_, column);
    if (field.empty()) return fail(where + " is empty");
    if (error == std::errc::result_out_of_range) {
      return fail(fmt::format("{}, {}, is beyond the numbers of double", where, in_quotes(field, 40)));
    }
    return fail(fmt::format("{}, {}, is no number; allowed are those as 1.5, -2e3, nan and inf, with commas between",
                            where, in_quotes(field, 40)));
  }

  // Throws Error where the field is an integer that its double is not.
  void check_integer(std::int64_t column, std::string_view field, double value) const {
    if (field.starts_with('+')) field.remove_prefix(1);
    if (!is_integer(field)) return;
    const std::string_view digits = field.substr(field.starts_with('-') ? 1 : 0);
    const std::string held = fmt::format("{:.0f}", std::fabs(value));
    if (digits.substr(std::min(digits.find_first_not_of('0'), digits.size() - 1)) == held) return;
    throw fail(
        fmt::format("line {}, column {} is {}, which double does not hold; subtract an offset from such integers "
                    "first",
                    line_, column, field));
  }

  std::string_view text_;  // what is not read yet
  const std::string& subject_;
  Array array_;
  std::int64_t columns_ = 0;  // 0 before they are known
  std::size_t line_ = 0;
  bool numbered_ = false;  // line 1 is 0, 1, …: numbers, or what pandas writes of columns without names
};

}  // namespace

Array read_csv(std::string_view text, const std::string& subject) { return CsvReader(text, subject).read(); }

}  // namespace fokker
