#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "fokker/array.hpp"
#include "fokker/error.hpp"
#include "fokker/file.hpp"
#include "fokker/safetensors.hpp"

namespace fokker::tools {

std::string read_text(const std::string& path);
bool is_file(const std::string& path);
// A count that a saved file holds as a double; throws Error, which `name` begins, where it is no integer from 0 to
// 2^53.
std::int64_t count_of(double value, const std::string& name);
// Seconds likewise: finite and not negative.
double duration_of(double value, const std::string& name);
// Names contents: hash_bytes() as text.
std::string fingerprint(std::string_view bytes);
// Whether both names lead to one file, through links, symbolic or hard, or as two spellings of a path.
bool same_file(const std::string& a, const std::string& b);
// Throws Error where the folder cannot be made since it, or a name in it, is too long, whether or not those above it
// are there.
void check_length(const std::string& folder);
// Creates the folder and its parents; throws Error, with none of them made, where a name is too long or a regular file
// is in the way.
void make_folder(const std::string& path);

// Why there is no Claim: another process has it, `holder`, as "process 17" or, of another machine, "process 17 on node2".
struct InUse : Error {
  std::string holder;
  InUse(const std::string& path, std::string by);
};

// How many claims of a process at once a signal that ends it removes the lock files of.
constexpr std::size_t most_removed_claims = 16;

// The right to write a file, which one process has at a time. It is a lock (flock) on a file beside it,
// .fokker-HASH.lock, and ends with the process, however that ends. The lock file goes with this object, or with a process
// that SIGINT, SIGTERM or SIGHUP ends; that of a killed one the next takes over. A file system that knows no locks gives
// the right to all; one that keeps them on each machine for itself, to one process of each machine.
class Claim {
 public:
  // Throws Error where the file cannot be written, by check_writable(), or locked, and InUse where it did not come by the
  // right within about `patience` seconds, whichever processes had it in that time.
  explicit Claim(const std::string& path, double patience = 0);
  ~Claim();
  Claim(Claim&& other) noexcept;
  Claim& operator=(Claim&&) = delete;

 private:
  Claim() = default;
  bool take(const std::string& path);

  std::string lock_, holder_;
  int file_ = -1;
};
// The process that has the claim of a file; empty where none has. Makes no lock file.
std::string holder_of(const std::string& path);
// Claims each output that is not empty, before long work whose result would be lost otherwise. Throws Error also where
// two outputs, or an output and an input, are one file. Empty inputs are passed over.
[[nodiscard]] std::vector<Claim> claim_outputs(const std::vector<std::string>& outputs,
                                               const std::vector<std::string>& inputs);

// A file in which a call saves unfinished work, so that the next goes on from there with the same result. It is passed
// over where it was saved for any other `work`, a text that names all the result depends on.
struct SavedWork {
  std::string file;  // empty: nothing is saved
  std::string work;
  double seconds_between_saves = 20;

  std::optional<SafeTensors> load() const;
  void save(SafeTensors state) const;
  // An Error which says that what load() found cannot be gone on with.
  Error unusable(const std::string& why) const;
};

// Points or states from an array file: [N, columns], or [N] for one column. Throws Error on another shape, which `rows`
// ends, saying what a row is.
Array load_points(const std::string& name, std::int64_t columns, const std::string& rows = "");
// These in float32. Throws Error where one is not finite in it; `what` calls them.
std::vector<float> finite_float32(const Array& points, const std::string& name, const std::string& what = "points");

// Writes an array [N] or [N, d] as the ending says: .csv with a line of columns' names before it, NAME or NAME_1 …
// NAME_d, any other as .npy.
template <class T>
void save_array(const std::string& path, const std::string& name, const std::vector<std::int64_t>& shape,
                const T* data);

// The file that a data set's name (--data), or the text of a time grid or a loss weight (file:NAME) reads; empty where it
// reads none.
std::string file_of_data(const std::string& name);
std::string file_of_text(const std::string& text);

}  // namespace fokker::tools
