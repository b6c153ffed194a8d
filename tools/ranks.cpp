#include "ranks.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <string>

#include "console.hpp"
#include "fokker/error.hpp"

#ifdef FOKKER_WITH_MPI
#include <mpi.h>
#endif

namespace fokker::tools {
namespace {

std::shared_ptr<Ranks>& program_ranks() {
  static std::shared_ptr<Ranks> all = one_rank();
  return all;
}

RankOfMachine& program_rank_of_machine() {
  static RankOfMachine own;
  return own;
}

// What launchers of MPI tell a process: which rank it is, and of how many; Open MPI's, those that speak PMI, and Slurm by
// PMIx. Without the first of a row no such launcher started it; the first row with one counts, since mpirun's processes
// may find variables of the job that it runs in.
struct LauncherVariables {
  const char *rank, *size;
};
constexpr LauncherVariables launchers[] = {
    {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"}, {"PMI_RANK", "PMI_SIZE"}, {"PMIX_RANK", "SLURM_STEP_NUM_TASKS"}};

// How many processes a launcher of MPI started with this one; 0 where none did. A process that was started by itself does
// without MPI, whose start would take longer than many a command.
int launched() {
  for (const LauncherVariables& names : launchers) {
    if (std::getenv(names.rank) == nullptr) continue;
    const char* const size = std::getenv(names.size);
    return std::max(1, size != nullptr ? std::atoi(size) : 1);
  }
  return 0;
}

#ifdef FOKKER_WITH_MPI
// MPI ends all processes with a message of its own where one of its calls fails.
class MpiRanks final : public Ranks {
 public:
  MpiRanks() {
    MPI_Comm_rank(MPI_COMM_WORLD, &rank_);
    MPI_Comm_size(MPI_COMM_WORLD, &size_);
  }
  int rank() const override { return rank_; }
  int size() const override { return size_; }
  void send(std::span<const std::byte> bytes, int to) override {
    in_parts(bytes, [&](std::span<const std::byte> part) {
      MPI_Send(part.data(), count(part), MPI_BYTE, to, tag, MPI_COMM_WORLD);
    });
  }
  void receive(std::span<std::byte> bytes, int from) override {
    in_parts(bytes, [&](std::span<std::byte> part) {
      MPI_Status status;
      MPI_Recv(part.data(), count(part), MPI_BYTE, from, tag, MPI_COMM_WORLD, &status);
      int received = 0;
      MPI_Get_count(&status, MPI_BYTE, &received);
      if (received == count(part)) return;
      throw Error(fmt::format("rank {} of {} expects {} bytes of rank {}, which sent {}", rank_, size_, part.size(),
                              from, received));
    });
  }
  void broadcast(std::span<std::byte> bytes, int from) override {
    in_parts(bytes,
             [&](std::span<std::byte> part) { MPI_Bcast(part.data(), count(part), MPI_BYTE, from, MPI_COMM_WORLD); });
  }
  void all_gather(std::span<const std::byte> mine, std::span<std::byte> all) override {
    if (mine.size() > most) return Ranks::all_gather(mine, all);
    MPI_Allgather(mine.data(), count(mine), MPI_BYTE, all.data(), count(mine), MPI_BYTE, MPI_COMM_WORLD);
  }
  void barrier() override { MPI_Barrier(MPI_COMM_WORLD); }

 private:
  static constexpr int tag = 0;
  static constexpr std::size_t most = std::size_t{1} << 30;  // bytes of a message, whose number is an int

  template <class Bytes>
  static int count(const Bytes& bytes) {
    return static_cast<int>(bytes.size());
  }
  template <class Byte, class Call>
  static void in_parts(std::span<Byte> bytes, const Call& call) {
    do {
      const std::size_t part = std::min(most, bytes.size());
      call(bytes.first(part));
      bytes = bytes.subspan(part);
    } while (!bytes.empty());
  }

  int rank_ = 0, size_ = 1;
};

#endif

}  // namespace

void start_ranks() {
  if (launched() == 0) return;
#ifdef FOKKER_WITH_MPI
  int provided = 0;  // one thread of each rank calls MPI
  MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided);
  program_ranks() = std::make_shared<MpiRanks>();
  MPI_Comm machine = MPI_COMM_NULL;
  MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &machine);
  MPI_Comm_rank(machine, &program_rank_of_machine().rank);
  MPI_Comm_size(machine, &program_rank_of_machine().size);
  MPI_Comm_free(&machine);
  speak_as_rank(program_ranks()->rank(), program_ranks()->size());
#endif
}

const std::shared_ptr<Ranks>& ranks() {
#ifdef FOKKER_WITH_MPI
  constexpr const char* why =
      "which this build's MPI does not see; allowed: the launcher of that MPI, one process, or srun --mpi=none with "
      "--rank";
#else
  constexpr const char* why =
      "and built without MPI; allowed: one process, a build with FOKKER_MPI=ON, or srun --mpi=none with --rank";
#endif
  if (const int started = launched(); started > 1 && program_ranks()->size() == 1) {
    throw Error(fmt::format("started as one of {} ranks by a launcher, {}", started, why));
  }
  return program_ranks();
}

std::string mpi_library() {
#ifdef FOKKER_WITH_MPI
  char text[MPI_MAX_LIBRARY_VERSION_STRING] = {};
  int length = 0;
  MPI_Get_library_version(text, &length);  // also before MPI is started
  const std::string library(text);
  return library.substr(0, library.find_first_of(",\n"));
#else
  return "";
#endif
}

RankOfMachine rank_of_machine() { return program_rank_of_machine(); }

bool is_first_rank() { return ranks()->rank() == 0; }

int end_ranks(int exit_code) {
#ifdef FOKKER_WITH_MPI
  int initialised = 0;
  MPI_Initialized(&initialised);
  if (initialised == 0) return exit_code;
  if (exit_code != 0 && program_ranks()->size() > 1) MPI_Abort(MPI_COMM_WORLD, exit_code);
  MPI_Finalize();
#endif
  return exit_code;
}

}  // namespace fokker::tools
