// fokker merge: puts together what several processes wrote with --rank.
#include <fmt/format.h>

#include <string>
#include <utility>
#include <vector>

#include "commands/command.hpp"
#include "files.hpp"
#include "parts.hpp"

namespace fokker::tools {
namespace {

class Merge : public Command {
 public:
  explicit Merge(CLI::App& parent)
      : Command(parent, "merge", "Put together the files of calls with --rank I/R, each of a part") {
    explain(R"(
The file is that of one call without --rank, to the byte, but of networks that are not resident on a GPU: cuBLAS may add
in another order for another number of rows. Parts may stand in any order, and of several numbers R, as
0/2, 2/4 and 3/4. They have to be of one call, which the file FILE.part.json beside each says: the same options, model
and contents of files, instruction set and backend; and to have each index once. Samples, log densities and states on
the way are merged in a call each. Nothing is computed, and all of it is in memory, some 20 bytes a number of float32.
)",
            "", R"(
  fokker train --data circles2 --out circles2.safetensors
  fokker sample --model circles2.safetensors --samples 1000 --rank 0/3 --out x0.npy
  fokker sample --model circles2.safetensors --samples 1000 --rank 1/3 --out x1.npy
  fokker sample --model circles2.safetensors --samples 1000 --rank 2/3 --out x2.npy
  fokker merge x0.npy x1.npy x2.npy --out x.npy
)");
    app_->add_option("PARTS", files_, "files of the parts: .npy, .npz, .csv or .safetensors")
        ->required()
        ->type_name("FILE");
    app_->add_option("--out", out_, "file for the whole, of the same ending")
        ->required()
        ->type_name("FILE")
        ->check(ends_in({".npy", ".npz", ".csv", ".safetensors"}));
    add_json(*app_, json_);
  }

  void run() override {
    std::vector<std::string> inputs;
    for (const std::string& file : files_) inputs.insert(inputs.end(), {file, part_file(file)});
    const std::vector<Claim> claims = claim_outputs({out_}, inputs);
    std::vector<Part> parts;
    for (const std::string& file : files_) parts.push_back(load_part(file));
    const Part first = parts.front();
    merge_parts(std::move(parts), out_);
    if (json_) {
      print_json({{"out", out_}, {"holds", first.holds}, {"count", first.range.all}, {"parts", files_}});
    } else {
      write_message(fmt::format("{} {} of {}, in '{}'\n", first.range.all, first.holds,
                                counted(std::ssize(files_), "part"), printable(out_)));
    }
  }

 private:
  std::vector<std::string> files_;
  std::string out_;
  bool json_ = false;
};

}  // namespace

std::unique_ptr<Command> merge_command(CLI::App& parent) { return std::make_unique<Merge>(parent); }

}  // namespace fokker::tools
