#include "fokker/array.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <string_view>

#include "core/quote.hpp"
#include "fokker/error.hpp"
#include "io/array_formats.hpp"
#include "io/file.hpp"

namespace fokker {
namespace {

constexpr std::string_view before_member = ".npz:";

// Counts of different numbers in a column of an array, as they are and in float32.
struct Different {
  std::int64_t numbers, rounded;

  Different(const Array& array, std::size_t column) {
    std::vector<double> values;
    for (std::size_t i = column; i < array.data.size(); i += static_cast<std::size_t>(array.columns())) {
      values.push_back(array.data[i]);
    }
    std::sort(values.begin(), values.end());
    numbers = std::unique(values.begin(), values.end()) - values.begin();
    rounded = std::unique(values.begin(), values.begin() + numbers,
                          [](double a, double b) { return static_cast<float>(a) == static_cast<float>(b); }) -
              values.begin();
  }
};

}  // namespace

ArrayName::ArrayName(const std::string& text) : file(text) {
  const std::size_t at = text.rfind(before_member);
  if (at == std::string::npos) return;
  file = text.substr(0, at + before_member.size() - 1);
  member = text.substr(at + before_member.size());
  if (member.empty()) {
    throw Error(fmt::format("{} names no array; allowed: FILE.npz, or FILE.npz:NAME", in_quotes(text)));
  }
}

bool ArrayName::has_extension() const {
  const std::size_t dot = file.rfind('.');
  if (dot == std::string::npos || dot == 0) return false;
  const std::string_view extension = std::string_view(file).substr(dot);
  return extension == ".npy" || extension == ".npz" || extension == ".csv";
}

Array load_array(const std::string& name, std::size_t most_dimensions) {
  const ArrayName parts(name);
  const std::vector<std::byte> file = read_file(parts.file);
  const std::string_view text(reinterpret_cast<const char*>(file.data()), file.size());
  const std::string subject = in_quotes(parts.file) + " holds no array that can be used";
  // An archive begins with a member, or has none.
  if (text.starts_with("PK\3\4") || text.starts_with("PK\5\6")) return read_npz(file, parts, subject, most_dimensions);
  if (!parts.member.empty()) throw Error(subject + ": it is no .npz file, which begins with PK");
  if (text.starts_with(npy_magic)) return read_npy(file, subject, most_dimensions);
  if (parts.file.ends_with(".csv")) return read_csv(text, subject);
  throw Error(subject +
              ": it does not begin with \\x93NUMPY, as .npy does, or with PK, as .npz does, and is not called .csv");
}

std::vector<float> to_float32(const Array& array, const std::string& name) {
  struct Column {
    double sum = 0, squares = 0, errors = 0, largest = 0;
    bool integers = true;
  };
  std::vector<float> rounded(array.data.begin(), array.data.end());
  if (array.is_float32 || rounded.empty()) return rounded;
  std::vector<Column> columns(static_cast<std::size_t>(array.columns()));
  const double rows = double(rounded.size() / columns.size());
  for (std::size_t i = 0; i < rounded.size(); ++i) {
    const std::size_t j = i % columns.size();
    // The first row is near the others, so that little cancels in the sums.
    const double value = array.data[i], from_first = value - array.data[j], error = rounded[i] - value;
    columns[j].sum += from_first;
    columns[j].squares += from_first * from_first;
    columns[j].errors += error * error;
    columns[j].largest = std::max(columns[j].largest, std::fabs(value));
    columns[j].integers = columns[j].integers && value == std::trunc(value);
  }
  for (std::size_t j = 0; j < columns.size(); ++j) {
    const auto& [sum, squares, errors, largest, integers] = columns[j];
    const double mean = sum / rows, deviation = std::sqrt(std::max(0.0, squares / rows - mean * mean)),
                 error = std::sqrt(errors / rows);
    // What double may have rounded itself; it holds integers as they are.
    const double noise = integers && largest < first_inexact_integer ? 0 : 1e-13 * largest;
    // Also false where a number is not finite, which is for the caller to refuse.
    if (!(error > 1e-3 * deviation && deviation > noise && std::isfinite(error))) continue;
    const Different different(array, j);
    throw Error(fmt::format(
        "column {} of {} does not fit in float32, which fokker computes in: its {} different numbers, up to {:.3g} "
        "with a standard deviation of {:.3g}, would become {}; subtract an offset from the column first, or scale it",
        j, in_quotes(name, 60), different.numbers, largest, deviation, different.rounded));
  }
  return rounded;
}

}  // namespace fokker
