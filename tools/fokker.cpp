// The command line: train, sample, field, density, gap, residual, diagnose, import, info, merge.
#include "fokker/fokker.hpp"

#include <fmt/format.h>

#include <memory>
#include <vector>

#include "commands/command.hpp"
#include "ranks.hpp"

int main(int argc, char** argv) {
  using namespace fokker::tools;
  start_ranks();
  CLI::App app("Score-based diffusion: train a network, sample it both ways, measure the gap between the two.",
               "fokker");
  app.set_version_flag("--version", std::string(fokker::version()), "Print the version and exit");
  app.require_subcommand(1);
  app.footer(
      fmt::format("Forward SDEs (--sde, --sde-parameters) and the defaults of their parameters:\n{}\n"
                  "Examples:\n"
                  "  fokker train --data circles2 --out circles2.safetensors\n"
                  "  fokker gap --model circles2.safetensors --data circles2\n\n"
                  "With --json standard output holds one JSON object; progress and notes go to standard error.\n"
                  "More about a command, with examples: fokker COMMAND --help\n\n{}",
                  fokker::ForwardSde::describe_all(), exit_codes_help));
  std::vector<std::unique_ptr<Command>> commands;
  for (const auto& make : {train_command, sample_command, field_command, density_command, gap_command, residual_command,
                           diagnose_command, import_command, info_command, merge_command}) {
    commands.push_back(make(app));
  }
  return end_ranks(run_main(app, argc, argv, [&] {
    for (const auto& command : commands) {
      if (!command->chosen()) continue;
      if (const int size = ranks()->size(); size > 1 && !command->on_ranks()) {
        throw fokker::Error(fmt::format("started as {} ranks; allowed with this command: one", size));
      }
      command->run();
    }
  }));
}
