#pragma once

// Work on N indices (samples, points) split over processes: by --rank I/R into files that are parts of one, which
// `fokker merge` puts together, or over the ranks that the program is started as (ranks.hpp), of which the first writes.
// Part I has the indices from I N/R, rounded down, to (I + 1) N/R, that left out. A rank is a process, be it by --rank or
// by MPI; a part is what --rank gives it and a file of its own holds; a range is the indices of either.
#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "fokker/fokker.hpp"
#include "options.hpp"

namespace fokker::tools {

// A process by its number among several.
struct RankOf {
  std::int64_t rank = 0, ranks = 1;

  // "I/R", I from 0 to R − 1, or "slurm" for SLURM_PROCID and SLURM_NTASKS. Throws Error on anything else, and where
  // these are missing or no such numbers.
  static RankOf parse(const std::string& text);
};

// Indices first … first + count − 1 of 0 … all − 1.
struct IndexRange {
  std::int64_t first = 0, count = 0, all = 0;

  static IndexRange of(const RankOf& rank, std::int64_t all);
  // Of rows [all, columns] those of the range; of none, none.
  std::vector<float> of_rows(std::vector<float> rows, std::int64_t columns) const;
  Array of_rows(const Array& rows) const;
};

// Which process takes which of some pieces of work that cost so much: the dearest first, each to the one that has least
// to do so far.
std::vector<std::int64_t> deal(const std::vector<double>& costs, std::int64_t ranks);

// --rank, and the ranks of the program.
class RankOption {
 public:
  void add_to(CLI::App& app, const std::string& help);
  // Of outputs in parts of what is split, as "samples".
  void add_to_outputs(CLI::App& app, const std::string& things);
  // The range of this process. Throws Error as RankOf::parse(), and where --rank is given to one of several ranks.
  IndexRange range(std::int64_t all) const;
  RankOf rank() const;
  void check() const;  // throws what these do, before any other work
  // Whether outputs are parts, each with a file beside it, part_file(), that says which.
  bool in_parts() const;
  // Outputs with the files beside them; none of a rank that writes none. For claim_outputs().
  std::vector<std::string> files_of(const std::vector<std::string>& outputs) const;
  // "rank" of a result: {"rank", "ranks", "first", "all"}, or null where --rank is not given.
  Json describe(const IndexRange& range) const;

 private:
  std::string text_;
};

// On rank 0 the rows of all ranks, each of which has those of its range, in their order; on the others nothing. Rows of
// one process as they are.
std::vector<float> gather_rows(std::vector<float> mine, std::int64_t columns, const IndexRange& range);
std::vector<double> gather_rows(std::vector<double> mine, std::int64_t columns, const IndexRange& range);
// Of all ranks, on each of them. First failures are counted from 0 in the whole.
AdaptiveReport sum_over_ranks(AdaptiveReport mine, const IndexRange& range);
std::int64_t sum_over_ranks(std::int64_t mine);
// All ranks of the program throw the same Error where one is about to do other `work`, which the message calls by `name`,
// than another.
void check_ranks(const Json& work, const std::string& name);

// All that the numbers depend on which a call writes: its options, of `outputs` that they were given and of `inputs`,
// (option, file), the contents; the model's parameters; what computes. Left out are --rank, --json and what chooses a
// machine.
Json describe_call(const CLI::App& app, const Context& context, const Model& model,
                   const std::vector<std::string>& outputs,
                   const std::vector<std::pair<std::string, std::string>>& inputs);
// The same of a call that shares its work, in parts or over the ranks of the program, which are held to one call by
// check_ranks(); null of one that does all itself. To be called by all ranks before the work.
Json shared_call(bool in_parts, const CLI::App& app, const Context& context, const Model& model,
                 const std::vector<std::string>& outputs,
                 const std::vector<std::pair<std::string, std::string>>& inputs);

// What FILE.part.json says of FILE: the indices that it has, what of ("samples"), the call, and a fingerprint of its bytes.
struct Part {
  std::string file, holds;
  IndexRange range;
  Json call;
};
std::string part_file(const std::string& file);
// Of a part that is written; reads it.
void save_part(const Part& part);
// Throws Error where there is no such file, it is not as it was written, or the part has other bytes than it says.
Part load_part(const std::string& file);

// Writes the whole file that the parts are of, to the bytes of a call that writes it at once. Throws Error, with nothing
// written, where they are not of one call, an index is in none or in two of them, or an ending differs.
void merge_parts(std::vector<Part> parts, const std::string& whole);

}  // namespace fokker::tools
