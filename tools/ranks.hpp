#pragma once

// The ranks that a program is: those that mpirun, or another launcher of MPI, started it as; otherwise one.
#include <memory>
#include <string>

#include "fokker/ranks.hpp"

namespace fokker::tools {

// Joins the ranks, first in main(). Those but the first write no messages from then on (speak_as_rank()).
void start_ranks();
// Throws Error where a launcher started several and this build has no MPI or one that does not see them.
const std::shared_ptr<Ranks>& ranks();
// The MPI that this build runs by, as "Open MPI v4.1.4"; empty where it has none.
std::string mpi_library();
// Which of the ranks of this machine, as the launcher's MPI knows them, this one is, and of how many.
struct RankOfMachine {
  int rank = 0, size = 1;
};
RankOfMachine rank_of_machine();
bool is_first_rank();  // the one that writes files and messages
// Leaves them, last in main(), with the program's exit code, which it returns. Where that is a failure's, all ranks end.
int end_ranks(int exit_code);

}  // namespace fokker::tools
