#include "fokker/safetensors.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <optional>
#include <span>
#include <string_view>
#include <utility>

#include "core/quote.hpp"
#include "fmt/format.h"
#include "fokker/error.hpp"
#include "io/file.hpp"
#include "io/half.hpp"
#include "io/json.hpp"

// The format: 8 bytes N, little-endian; N bytes of JSON {"NAME": {"dtype": …, "shape": […], "data_offsets": [begin,
// end]}, …, "__metadata__": {"KEY": "VALUE", …}}, blanks at its end allowed; the data, offsets counted from here. As
// its reference implementation demands: tensors cover the data without holes or overlaps, a header has at most 100 MB
// and begins with {.
namespace fokker {
namespace {

static_assert(std::endian::native == std::endian::little, "files are little-endian and are copied as they are");

constexpr std::uint64_t max_header_bytes = 100'000'000;
constexpr const char* metadata_key = "__metadata__";

struct Type {
  std::string_view name;
  std::int64_t bytes;
};
constexpr Type types[] = {{"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"F8_E5M2", 1}, {"F8_E4M3", 1}, {"F8_E8M0", 1},
                          {"I16", 2},  {"U16", 2}, {"F16", 2}, {"BF16", 2},    {"I32", 4},     {"U32", 4},
                          {"F32", 4},  {"F64", 8}, {"I64", 8}, {"U64", 8},     {"C64", 8}};

std::optional<std::int64_t> item_bytes(std::string_view dtype) {
  for (const Type& type : types) {
    if (type.name == dtype) return type.bytes;
  }
  return {};
}

// Bytes of a tensor; nothing where the type is unknown, a dimension negative, or the product beyond 63 bits.
std::optional<std::int64_t> byte_count(std::string_view dtype, const std::vector<std::int64_t>& shape) {
  auto bytes = item_bytes(dtype);
  for (const std::int64_t n : shape) {
    if (!bytes || n < 0 || (n > 0 && *bytes > std::numeric_limits<std::int64_t>::max() / n)) return {};
    *bytes *= n;
  }
  return bytes;
}

double from_bfloat(std::uint16_t bits) { return std::bit_cast<float>(std::uint32_t{bits} << 16); }

template <class T, class Convert>
std::vector<double> widen(const std::vector<std::byte>& bytes, Convert convert) {
  std::vector<double> values(bytes.size() / sizeof(T));
  for (std::size_t i = 0; i < values.size(); ++i) {
    T value;
    std::memcpy(&value, bytes.data() + i * sizeof(T), sizeof(T));
    values[i] = convert(value);
  }
  return values;
}

template <class T>
Tensor tensor_of(const char* dtype, std::vector<std::int64_t> shape, const T* data) {
  const auto bytes = byte_count(dtype, shape);
  if (!bytes) throw Error(fmt::format("a tensor cannot have the shape [{}]", fmt::join(shape, ", ")));
  if (*bytes > 0 && data == nullptr) {
    throw Error(fmt::format("no numbers are given for a tensor of shape [{}]", fmt::join(shape, ", ")));
  }
  Tensor tensor{dtype, std::move(shape), std::vector<std::byte>(static_cast<std::size_t>(*bytes))};
  if (*bytes > 0) std::memcpy(tensor.bytes.data(), data, tensor.bytes.size());
  return tensor;
}

// A tensor's entry in the header, with everything about it checked that can be checked without the others.
struct Entry {
  std::string name;
  Tensor tensor;
  std::uint64_t begin = 0, end = 0;
};

Entry read_entry(const std::string& name, const JsonValue& json) {
  const auto fail = [&](const std::string& why) {
    return Error(fmt::format("its tensor {} {}", in_quotes(name), why));
  };
  if (json.object() == nullptr) throw fail("is not described by a JSON object");
  for (const char* key : {"dtype", "shape", "data_offsets"}) {
    if (json.find(key) == nullptr) throw fail(fmt::format("has no {}", key));
  }
  const std::string* dtype = json.find("dtype")->string();
  const JsonValue::Array *shape = json.find("shape")->array(), *offsets = json.find("data_offsets")->array();
  const auto unsigned_of = [](const JsonValue& value) { return std::get_if<std::uint64_t>(&value.value()); };
  Entry entry{name, {}, 0, 0};
  if (dtype == nullptr) throw fail("has a dtype that is not a string");
  entry.tensor.dtype = *dtype;
  if (!item_bytes(*dtype)) throw fail(fmt::format("has the unknown dtype {}", in_quotes(*dtype)));
  if (shape == nullptr) throw fail("has a shape that is not an array");
  for (const JsonValue& n : *shape) {
    const std::uint64_t* size = unsigned_of(n);
    if (size == nullptr || !std::in_range<std::int64_t>(*size)) {
      throw fail("has a shape with an entry that is not a non-negative integer");
    }
    entry.tensor.shape.push_back(static_cast<std::int64_t>(*size));
  }
  if (offsets == nullptr || offsets->size() != 2 || !unsigned_of((*offsets)[0]) || !unsigned_of((*offsets)[1])) {
    throw fail("has data_offsets that are not two non-negative integers");
  }
  entry.begin = *unsigned_of((*offsets)[0]);
  entry.end = *unsigned_of((*offsets)[1]);
  const auto bytes = byte_count(entry.tensor.dtype, entry.tensor.shape);
  if (!bytes) throw fail("has a shape that is too large");
  if (entry.begin > entry.end || entry.end - entry.begin != static_cast<std::uint64_t>(*bytes)) {
    throw fail(fmt::format("has data_offsets [{}, {}], but its shape and dtype need {} bytes", entry.begin, entry.end,
                           *bytes));
  }
  return entry;
}

SafeTensors read(std::span<const std::byte> file) {
  std::uint64_t header_bytes = 0;
  if (file.size() < sizeof(header_bytes)) throw Error("it is shorter than 8 bytes");
  std::memcpy(&header_bytes, file.data(), sizeof(header_bytes));
  file = file.subspan(sizeof(header_bytes));
  if (header_bytes > max_header_bytes) {
    throw Error(fmt::format("its header would have {} bytes, at most {} are allowed", header_bytes, max_header_bytes));
  }
  if (header_bytes > file.size()) throw Error("it ends within its header");
  const std::string_view header(reinterpret_cast<const char*>(file.data()), static_cast<std::size_t>(header_bytes));
  const auto data = file.subspan(static_cast<std::size_t>(header_bytes));
  if (!header.starts_with('{')) throw Error("its header does not begin with {");
  const JsonValue json = parse_json(header, "its header", 3);

  SafeTensors result;
  std::vector<Entry> entries;
  for (const auto& [name, value] : *json.object()) {
    if (name != metadata_key) {
      entries.push_back(read_entry(name, value));
      continue;
    }
    if (value.object() == nullptr) throw Error("its metadata is not a JSON object");
    for (const auto& [key, text] : *value.object()) {
      if (text.string() == nullptr) throw Error(fmt::format("its metadata {} is not a string", in_quotes(key)));
      result.metadata[key] = *text.string();
    }
  }
  std::sort(entries.begin(), entries.end(),
            [](const Entry& a, const Entry& b) { return std::pair(a.begin, a.end) < std::pair(b.begin, b.end); });
  std::uint64_t covered = 0;
  for (const Entry& entry : entries) {
    if (entry.begin != covered) {
      throw Error(fmt::format("its tensor {} begins at byte {} of the data, but the one before ends at {}",
                              in_quotes(entry.name), entry.begin, covered));
    }
    covered = entry.end;
  }
  if (covered != data.size()) {
    throw Error(fmt::format("its tensors need {} bytes of data, it has {}", covered, data.size()));
  }
  for (Entry& entry : entries) {
    const auto bytes =
        data.subspan(static_cast<std::size_t>(entry.begin), static_cast<std::size_t>(entry.end - entry.begin));
    entry.tensor.bytes.assign(bytes.begin(), bytes.end());
    result.tensors.emplace(entry.name, std::move(entry.tensor));
  }
  return result;
}

// The parts of a file in their order, which stay with the tensors that they are of.
struct Layout {
  std::uint64_t header_bytes = 0;
  std::string header;
  std::vector<const Tensor*> tensors;

  std::vector<std::span<const std::byte>> pieces() const {
    std::vector<std::span<const std::byte>> all = {std::as_bytes(std::span(&header_bytes, 1)),
                                                   std::as_bytes(std::span(header.data(), header.size()))};
    for (const Tensor* tensor : tensors) all.emplace_back(tensor->bytes);
    return all;
  }
};

Layout layout_of(const SafeTensors& file) {
  // Large items first, so that every tensor is aligned to its item; then by name.
  std::vector<const std::pair<const std::string, Tensor>*> order;
  for (const auto& entry : file.tensors) {
    const Tensor& tensor = entry.second;
    const auto bytes = byte_count(tensor.dtype, tensor.shape);
    if (entry.first == metadata_key || !bytes || static_cast<std::size_t>(*bytes) != tensor.bytes.size()) {
      throw Error(fmt::format("the tensor {} of dtype {} and shape [{}] holds {} bytes", in_quotes(entry.first),
                              in_quotes(tensor.dtype), fmt::join(tensor.shape, ", "), tensor.bytes.size()));
    }
    order.push_back(&entry);
  }
  std::stable_sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
    return *item_bytes(a->second.dtype) > *item_bytes(b->second.dtype);
  });

  Layout layout{0, "{", {}};
  std::string& header = layout.header;
  std::string texts;
  for (const auto& [key, text] : file.metadata) {
    texts += fmt::format("{}{}:{}", texts.empty() ? "" : ",", json_text(key), json_text(text));
  }
  if (!file.metadata.empty()) header += fmt::format("\"{}\":{{{}}}", metadata_key, texts);
  std::uint64_t offset = 0;
  for (const auto* entry : order) {
    const Tensor& tensor = entry->second;
    const std::uint64_t end = offset + tensor.bytes.size();
    header += fmt::format(R"({}{}:{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})", header.size() > 1 ? "," : "",
                          json_text(entry->first), tensor.dtype, fmt::join(tensor.shape, ","), offset, end);
    offset = end;
    layout.tensors.push_back(&tensor);
  }
  header += '}';
  header.resize((header.size() + 7) / 8 * 8, ' ');
  if (header.size() > max_header_bytes) throw Error(fmt::format("its header would have {} bytes", header.size()));
  layout.header_bytes = header.size();
  return layout;
}

}  // namespace

std::int64_t Tensor::size() const {
  const auto count = byte_count("U8", shape);
  if (!count) throw Error(fmt::format("a tensor cannot have the shape [{}]", fmt::join(shape, ", ")));
  return *count;
}

std::vector<double> Tensor::to_double() const {
  const auto expected = byte_count(dtype, shape);
  if (!expected || static_cast<std::size_t>(*expected) != bytes.size()) {
    throw Error(fmt::format("a tensor {} [{}] holds {} bytes", dtype, fmt::join(shape, ", "), bytes.size()));
  }
  if (dtype == "F64") return widen<double>(bytes, [](double v) { return v; });
  if (dtype == "F32") return widen<float>(bytes, [](float v) { return double{v}; });
  if (dtype == "F16") return widen<std::uint16_t>(bytes, from_half);
  if (dtype == "BF16") return widen<std::uint16_t>(bytes, from_bfloat);
  throw Error(fmt::format("a tensor of dtype {} is given where F64, F32, F16 or BF16 is needed", dtype));
}

Tensor Tensor::from_float(std::vector<std::int64_t> shape, const float* data) {
  return tensor_of("F32", std::move(shape), data);
}
Tensor Tensor::from_double(std::vector<std::int64_t> shape, const double* data) {
  return tensor_of("F64", std::move(shape), data);
}
Tensor Tensor::from_int64(std::vector<std::int64_t> shape, const std::int64_t* data) {
  return tensor_of("I64", std::move(shape), data);
}

SafeTensors SafeTensors::load(const std::string& path) { return parse(read_file(path), in_quotes(path)); }

SafeTensors SafeTensors::parse(std::span<const std::byte> contents, const std::string& subject) {
  try {
    return read(contents);
  } catch (const Error& error) {
    throw Error(fmt::format("{} is not a safetensors file that can be used: {}", subject, error.what()));
  }
}

void SafeTensors::save(const std::string& path) const {
  const Layout layout = [&] {
    try {
      return layout_of(*this);
    } catch (const Error& error) {
      throw Error(fmt::format("cannot write {}: {}", in_quotes(path), error.what()));
    }
  }();
  write_file(path, layout.pieces());
}

std::vector<std::byte> SafeTensors::contents() const {
  const Layout layout = layout_of(*this);
  std::vector<std::byte> bytes;
  for (const std::span<const std::byte> piece : layout.pieces()) bytes.insert(bytes.end(), piece.begin(), piece.end());
  return bytes;
}

const Tensor& SafeTensors::at(const std::string& name) const {
  const auto found = tensors.find(name);
  if (found != tensors.end()) return found->second;
  std::string names;
  std::size_t listed = 0;
  for (const auto& [other, tensor] : tensors) {
    if (++listed > 10 || names.size() > 150) {
      names += ", …";
      break;
    }
    names += (names.empty() ? "" : ", ") + in_quotes(other, 40);
  }
  throw Error(fmt::format("there is no tensor {}: there are {}", in_quotes(name, 60), names.empty() ? "none" : names));
}

}  // namespace fokker
