#include "parts.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <optional>
#include <span>
#include <string_view>
#include <type_traits>
#include <variant>

#include "files.hpp"
#include "kept_json.hpp"
#include "ranks.hpp"

namespace fokker::tools {
namespace {

constexpr std::int64_t most_ranks = 1'000'000;  // whose product with max_samples 63 bits hold

std::optional<std::int64_t> number_in(std::string_view text) {
  std::int64_t value = 0;
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), value);
  return failure == std::errc() && end == text.data() + text.size() ? std::optional(value) : std::nullopt;
}

bool is_rank(std::optional<std::int64_t> rank, std::optional<std::int64_t> ranks) {
  return rank && ranks && *rank >= 0 && *rank < *ranks && *ranks <= most_ranks;
}

RankOf rank_of_slurm() {
  const char *const rank = std::getenv("SLURM_PROCID"), *const ranks = std::getenv("SLURM_NTASKS"),
                    *const jobs = std::getenv("SLURM_ARRAY_TASK_COUNT");
  if (rank == nullptr || ranks == nullptr) {
    throw Error(fmt::format(
        "--rank slurm given without {} in the environment; allowed: in a task that Slurm's srun started, or --rank I/R",
        rank != nullptr    ? "SLURM_NTASKS"
        : ranks != nullptr ? "SLURM_PROCID"
                           : "SLURM_PROCID and SLURM_NTASKS"));
  }
  const auto number = number_in(rank), all = number_in(ranks);
  if (!is_rank(number, all)) {
    throw Error(fmt::format(
        "--rank slurm given where SLURM_PROCID is '{}' and SLURM_NTASKS '{}'; allowed: a number of tasks up "
        "to {} and one of them, from 0",
        rank, ranks, most_ranks));
  }
  // Each job of an array is rank 0 of 1 and would do everything.
  if (*all == 1 && jobs != nullptr && number_in(jobs).value_or(0) > 1) {
    throw Error(fmt::format(
        "--rank slurm given in one of the {} jobs of an array, where SLURM_NTASKS is 1; allowed there: --rank "
        "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT, of an array from 0 on",
        jobs));
  }
  return {*number, *all};
}

}  // namespace

RankOf RankOf::parse(const std::string& text) {
  if (text == "slurm") return rank_of_slurm();
  const std::size_t slash = std::min(text.find('/'), text.size());
  const auto rank = number_in(std::string_view(text).substr(0, slash)),
             ranks = slash < text.size() ? number_in(std::string_view(text).substr(slash + 1)) : std::nullopt;
  if (!is_rank(rank, ranks)) {
    throw Error(fmt::format("'{}' given; allowed: I/R, rank I of R, from 0/R to (R - 1)/R with R up to {}, or slurm",
                            text, most_ranks));
  }
  return {*rank, *ranks};
}

IndexRange IndexRange::of(const RankOf& rank, std::int64_t all) {
  const std::int64_t first = all * rank.rank / rank.ranks, end = all * (rank.rank + 1) / rank.ranks;
  return {first, end - first, all};
}

std::vector<float> IndexRange::of_rows(std::vector<float> rows, std::int64_t columns) const {
  if (rows.empty() || count == all) return rows;
  const auto begin = rows.begin() + first * columns;
  return {begin, begin + count * columns};
}

Array IndexRange::of_rows(const Array& rows) const {
  Array own{.shape = rows.shape, .is_float32 = rows.is_float32};
  own.shape[0] = count;
  const auto begin = rows.data.begin() + first * rows.columns();
  own.data.assign(begin, begin + count * rows.columns());
  return own;
}

std::vector<std::int64_t> deal(const std::vector<double>& costs, std::int64_t ranks) {
  std::vector<std::size_t> order(costs.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return costs[a] > costs[b]; });
  std::vector<double> load(static_cast<std::size_t>(std::min<std::int64_t>(ranks, std::ssize(costs))));
  std::vector<std::int64_t> taken_by(costs.size());
  for (const std::size_t i : order) {
    const auto least = std::min_element(load.begin(), load.end());
    *least += costs[i];
    taken_by[i] = least - load.begin();
  }
  return taken_by;
}

void RankOption::add_to(CLI::App& app, const std::string& help) {
  app.add_option("--rank", text_, help + "; or slurm, which takes I and R from SLURM_PROCID and SLURM_NTASKS")
      ->type_name("I/R")
      ->check(usable([](const std::string& text) {
        if (text != "slurm") RankOf::parse(text);  // what the environment lacks is no wrong usage
      }));
}

void RankOption::add_to_outputs(CLI::App& app, const std::string& things) {
  add_to(app,
         fmt::format("only part I, from 0 to R - 1, of R parts of the {}, whose files 'fokker merge' puts together",
                     things));
}

bool RankOption::in_parts() const { return !text_.empty(); }

RankOf RankOption::rank() const {
  const std::int64_t own = ranks()->rank(), all = ranks()->size();
  if (!in_parts()) return {own, all};
  if (all > 1) {
    throw Error(fmt::format("--rank {} given to one of {} ranks of MPI; allowed: one of the two", text_, all));
  }
  return RankOf::parse(text_);
}

void RankOption::check() const { static_cast<void>(rank()); }

IndexRange RankOption::range(std::int64_t all) const { return IndexRange::of(rank(), all); }

std::vector<std::string> RankOption::files_of(const std::vector<std::string>& outputs) const {
  if (!is_first_rank()) return {};
  std::vector<std::string> files = outputs;
  for (const std::string& output : outputs) {
    if (in_parts() && !output.empty()) files.push_back(part_file(output));
  }
  return files;
}

Json RankOption::describe(const IndexRange& range) const {
  if (!in_parts()) return nullptr;
  const RankOf own = rank();
  return {{"rank", own.rank}, {"ranks", own.ranks}, {"first", range.first}, {"all", range.all}};
}

namespace {

template <class T>
std::vector<T> gather_rows_of(std::vector<T> mine, std::int64_t columns, const IndexRange& range) {
  Ranks& all = *ranks();
  if (all.size() == 1) return mine;
  if (all.rank() != 0) {
    all.send(std::as_bytes(std::span(mine)), 0);
    return {};
  }
  mine.resize(static_cast<std::size_t>(range.all * columns));
  for (int from = 1; from < all.size(); ++from) {
    const IndexRange theirs = IndexRange::of({from, all.size()}, range.all);
    all.receive(std::as_writable_bytes(std::span(mine).subspan(static_cast<std::size_t>(theirs.first * columns),
                                                               static_cast<std::size_t>(theirs.count * columns))),
                from);
  }
  return mine;
}

}  // namespace

std::vector<float> gather_rows(std::vector<float> mine, std::int64_t columns, const IndexRange& range) {
  return gather_rows_of(std::move(mine), columns, range);
}
std::vector<double> gather_rows(std::vector<double> mine, std::int64_t columns, const IndexRange& range) {
  return gather_rows_of(std::move(mine), columns, range);
}

namespace {

// Of every rank, in their order.
template <class T>
std::vector<T> of_all_ranks(const T& mine) {
  static_assert(std::is_trivially_copyable_v<T>);
  std::vector<T> all(static_cast<std::size_t>(ranks()->size()));
  ranks()->all_gather(std::as_bytes(std::span(&mine, 1)), std::as_writable_bytes(std::span(all)));
  return all;
}

}  // namespace

std::int64_t sum_over_ranks(std::int64_t mine) {
  const std::vector<std::int64_t> all = of_all_ranks(mine);
  return std::accumulate(all.begin(), all.end(), std::int64_t{0});
}

AdaptiveReport sum_over_ranks(AdaptiveReport mine, const IndexRange& range) {
  if (ranks()->size() == 1) return mine;
  mine.first_failed += range.first;
  const std::vector<AdaptiveReport> reports = of_all_ranks(mine);
  AdaptiveReport sum;
  for (const AdaptiveReport& report : reports) {
    if (sum.failed == 0 && report.failed > 0) {
      sum.first_failed = report.first_failed;
      sum.why_first = report.why_first;
      sum.steps_of_first = report.steps_of_first;
      sum.time_of_first = report.time_of_first;
    }
    sum.paths += report.paths, sum.failed += report.failed;
    sum.accepted += report.accepted, sum.refused += report.refused, sum.evaluations += report.evaluations;
    sum.most_evaluations = std::max(sum.most_evaluations, report.most_evaluations);
  }
  return sum;
}

void check_ranks(const Json& work, const std::string& name) {
  const std::string text = text_of(work);
  check_same_work(*ranks(), hash_bytes(std::as_bytes(std::span(text))), name);
}

namespace {

// Of all networks in a model: a composition's file names others.
std::uint64_t hash_of_parameters(const Model& model, std::uint64_t hash) {
  if (const auto* mlp = std::get_if<Mlp>(&model.network)) {
    return hash_bytes(std::as_bytes(std::span(mlp->parameters)), hash);
  }
  if (const auto* sum = std::get_if<Composition>(&model.network)) {
    for (const Term& term : sum->terms) hash = hash_of_parameters(term.model, hash);
  }
  return hash;
}

}  // namespace

Json describe_call(const CLI::App& app, const Context& context, const Model& model,
                   const std::vector<std::string>& outputs,
                   const std::vector<std::pair<std::string, std::string>>& inputs) {
  Json call{{"command", app.get_name()}, {"options", Json::object()}, {"contents", Json::object()}};
  for (const CLI::Option* option : app.get_options()) {
    const std::string name = option->get_name();
    const auto is_name = [&](const auto& other) { return name == other; };
    const char* const left_out[] = {"--rank", "--json", "--backend", "--threads", "--precision"};
    if (option->count() == 0 || std::any_of(std::begin(left_out), std::end(left_out), is_name)) continue;
    if (std::any_of(inputs.begin(), inputs.end(),
                    [&](const auto& input) { return input.first == name && !input.second.empty(); })) {
      continue;
    }
    const bool output = std::any_of(outputs.begin(), outputs.end(), is_name);
    call["options"][name] = output ? Json(true) : Json(fmt::format("{}", fmt::join(option->results(), " ")));
  }
  for (const auto& [option, file] : inputs) {
    if (file.empty()) continue;
    const std::vector<std::string> given = app.get_option(option)->results();
    const std::string member = given.empty() ? "" : ArrayName(given.front()).member;
    call["contents"][option] = fingerprint(read_text(file)) + (member.empty() ? "" : ":" + member);
  }
  call["parameters"] = fmt::format("{:016x}", hash_of_parameters(model, 0));
  call.update(describe_arithmetic(context));
  return written(call);
}

Json shared_call(bool in_parts, const CLI::App& app, const Context& context, const Model& model,
                 const std::vector<std::string>& outputs,
                 const std::vector<std::pair<std::string, std::string>>& inputs) {
  if (!in_parts && ranks()->size() == 1) return nullptr;
  Json call = describe_call(app, context, model, outputs, inputs);
  check_ranks(call, "call");
  return call;
}

std::string part_file(const std::string& file) { return file + ".part.json"; }

void save_part(const Part& part) {
  const Json json{{"holds", part.holds},
                  {"first", part.range.first},
                  {"count", part.range.count},
                  {"all", part.range.all},
                  {"contents", fingerprint(read_text(part.file))},
                  {"call", part.call}};
  write_text(part_file(part.file), text_of(json, 1) + "\n");
}

Part load_part(const std::string& file) {
  const std::string beside = part_file(file);
  if (is_file(file) && !is_file(beside)) {
    throw Error(
        fmt::format("'{}' has no '{}' beside it, which says what part it is; commands leave both where --rank is given",
                    file, beside));
  }
  const Json json = read_json(beside);
  check_shape(json,
              {{"holds", "text"},
               {"first", "number"},
               {"count", "number"},
               {"all", "number"},
               {"contents", "text"},
               {"call", Json::object()}},
              beside, "make the part again");
  const auto count = [&](const char* key) {
    return count_of(json[key].is_null() ? -1 : json[key].get<double>(), fmt::format("{} of '{}'", key, beside));
  };
  Part part{.file = file,
            .holds = json["holds"],
            .range = {count("first"), count("count"), count("all")},
            .call = json["call"]};
  if (part.range.first > part.range.all || part.range.count > part.range.all - part.range.first) {
    throw Error(fmt::format("'{}' says {} from {} on of {}; make the part again", beside, part.range.count,
                            part.range.first, part.range.all));
  }
  if (json["contents"] != fingerprint(read_text(file))) {
    throw Error(fmt::format("'{}' has other bytes than '{}' says; make the part again", file, beside));
  }
  return part;
}

namespace {

std::string range_text(std::int64_t first, std::int64_t end) {
  return end - first == 1 ? fmt::format("{}", first) : fmt::format("{} to {}", first, end - 1);
}

// In the order of their indices, which are all there once.
void check_ranges(std::vector<Part>& parts) {
  std::stable_sort(parts.begin(), parts.end(), [](const Part& a, const Part& b) {
    return std::pair(a.range.first, a.range.count) < std::pair(b.range.first, b.range.count);
  });
  const std::int64_t all = parts.front().range.all;
  const std::string& holds = parts.front().holds;
  std::int64_t end = 0;
  const Part* last = nullptr;  // with an index
  const auto check_gap = [&](std::int64_t first, const std::string& before) {
    if (first <= end) return;
    throw Error(fmt::format("of {} {} the parts lack {}{}{}; allowed: parts that have each index once", all, holds,
                            range_text(end, first), last ? fmt::format(", after those of '{}'", last->file) : "",
                            before));
  };
  for (const Part& part : parts) {
    const IndexRange& range = part.range;
    if (range.count == 0) continue;
    if (range.first < end) {
      throw Error(fmt::format("{} {} are in both '{}' and '{}'; allowed: parts that have each index once", holds,
                              range_text(range.first, std::min(end, range.first + range.count)), last->file,
                              part.file));
    }
    check_gap(range.first, fmt::format(", before those of '{}'", part.file));
    end = range.first + range.count;
    last = &part;
  }
  check_gap(all, "");
}

void check_call(const Part& first, const Part& other) {
  const std::string difference = first.holds != other.holds ? fmt::format("{} and {}", first.holds, other.holds)
                                 : first.range.all != other.range.all
                                     ? fmt::format("of {} and of {} {}", first.range.all, other.range.all, first.holds)
                                 : first.call != other.call ? first_difference(other.call, first.call, "in the other")
                                                            : "";
  if (difference.empty()) return;
  throw Error(fmt::format("'{}' and '{}' are not parts of one call ({})", other.file, first.file, difference));
}

std::string ending_of(const std::string& file) {
  for (const char* ending : {".npy", ".npz", ".csv", ".safetensors"}) {
    if (file.ends_with(ending)) return ending;
  }
  return "";
}

Tensor tensor_of(const Array& array) {
  if (!array.is_float32) return Tensor::from_double(array.shape, array.data.data());
  const std::vector<float> rounded(array.data.begin(), array.data.end());
  return Tensor::from_float(array.shape, rounded.data());
}

// The indices of a part are those of an axis of its arrays.
void check_rows(const Part& part, const Tensor& tensor, std::size_t axis) {
  if (axis < tensor.shape.size() && tensor.shape[axis] == part.range.count) return;
  throw Error(fmt::format("'{}' has an array of shape [{}] and is said to have {} {}; make the part again", part.file,
                          fmt::join(tensor.shape, ", "), part.range.count, part.holds));
}

Tensor join(const std::vector<Tensor>& parts, std::size_t axis) {
  const auto but_for_axis = [&](Tensor tensor) {
    tensor.shape[axis] = 0;
    return std::pair(tensor.dtype, tensor.shape);
  };
  Tensor whole{.dtype = parts.front().dtype, .shape = parts.front().shape};
  std::size_t blocks = 1;  // of bytes that follow each other in a part
  for (std::size_t k = 0; k < axis; ++k) blocks *= static_cast<std::size_t>(whole.shape[k]);
  whole.shape[axis] = 0;
  for (const Tensor& part : parts) {
    if (but_for_axis({part.dtype, part.shape}) != but_for_axis({whole.dtype, whole.shape})) {
      throw Error(fmt::format("the parts have arrays of shapes [{}] and [{}]; make them again",
                              fmt::join(parts.front().shape, ", "), fmt::join(part.shape, ", ")));
    }
    whole.shape[axis] += part.shape[axis];
  }
  for (std::size_t block = 0; block < blocks; ++block) {
    for (const Tensor& part : parts) {
      const std::size_t bytes = part.bytes.size() / blocks;
      const auto begin = part.bytes.begin() + static_cast<std::ptrdiff_t>(block * bytes);
      whole.bytes.insert(whole.bytes.end(), begin, begin + static_cast<std::ptrdiff_t>(bytes));
    }
  }
  return whole;
}

// The numbers, aligned for their type.
template <class T>
std::vector<T> numbers_of(const Tensor& tensor) {
  std::vector<T> numbers(tensor.bytes.size() / sizeof(T));
  if (!numbers.empty()) std::memcpy(numbers.data(), tensor.bytes.data(), tensor.bytes.size());
  return numbers;
}

void merge_npy(const std::vector<Part>& parts, const std::string& whole) {
  std::vector<Tensor> tensors;
  for (const Part& part : parts) check_rows(part, tensors.emplace_back(tensor_of(load_array(part.file))), 0);
  const Tensor joined = join(tensors, 0);
  if (joined.dtype == "F32") {
    save_npy(whole, joined.shape, numbers_of<float>(joined).data());
  } else {
    save_npy(whole, joined.shape, numbers_of<double>(joined).data());
  }
}

// Trajectories: x [K, N, d], and the times t [K] that all have.
void merge_npz(const std::vector<Part>& parts, const std::string& whole) {
  std::vector<Tensor> states;
  const Array times = load_array(parts.front().file + ":t");
  for (const Part& part : parts) {
    check_rows(part, states.emplace_back(tensor_of(load_array(part.file + ":x", 3))), 1);
    if (load_array(part.file + ":t").data != times.data) {
      throw Error(fmt::format("'{}' and '{}' have other times; make the parts again", part.file, parts.front().file));
    }
  }
  const Tensor joined = join(states, 1);
  const std::vector<float> x = numbers_of<float>(joined);
  save_npz(whole, {{"x", joined.shape, x.data()}, {"t", times.shape, times.data.data()}});
}

void merge_safetensors(const std::vector<Part>& parts, const std::string& whole) {
  std::vector<SafeTensors> files;
  for (const Part& part : parts) {
    files.push_back(SafeTensors::load(part.file));
    for (const auto& [name, tensor] : files.back().tensors) check_rows(part, tensor, 0);
  }
  SafeTensors joined{.metadata = files.front().metadata};
  for (const auto& [name, first] : files.front().tensors) {
    std::vector<Tensor> tensors;
    for (const SafeTensors& file : files) tensors.push_back(file.at(name));
    joined.tensors[name] = join(tensors, 0);
  }
  joined.save(whole);
}

// A line of names, then one for each index.
void merge_csv(const std::vector<Part>& parts, const std::string& whole) {
  std::string text;
  for (const Part& part : parts) {
    const std::string own = read_text(part.file);
    const std::size_t names = own.find('\n') + 1;
    if (std::count(own.begin() + static_cast<std::ptrdiff_t>(names), own.end(), '\n') != part.range.count) {
      throw Error(fmt::format("'{}' has not the {} {} that it is said to have; make the part again", part.file,
                              part.range.count, part.holds));
    }
    text += text.empty() ? own : own.substr(names);
  }
  write_text(whole, text);
}

}  // namespace

void merge_parts(std::vector<Part> parts, const std::string& whole) {
  for (const Part& part : parts) check_call(parts.front(), part);
  check_ranges(parts);
  const std::string ending = ending_of(whole);
  for (const Part& part : parts) {
    if (ending_of(part.file) == ending && !ending.empty()) continue;
    throw Error(
        fmt::format("'{}' is to be made of '{}'; allowed: names of one ending, that of the parts", whole, part.file));
  }
  if (ending == ".npy") merge_npy(parts, whole);
  if (ending == ".npz") merge_npz(parts, whole);
  if (ending == ".csv") merge_csv(parts, whole);
  if (ending == ".safetensors") merge_safetensors(parts, whole);
}

}  // namespace fokker::tools
