// The program that trainer_state_test kills: trains on from the state in the file that is named, and saves it there after
// every iteration.
#include "fokker/trainer.hpp"

int main(int, char** arguments) {
  const char* state = arguments[1];
  fokker::Trainer trainer = fokker::Trainer::resume(
      fokker::Context({.backend = fokker::BackendKind::cpu, .threads = 2}), state, fokker::DataSet::named("blob"));
  while (!trainer.run(1).empty()) trainer.save_state(state);
}
