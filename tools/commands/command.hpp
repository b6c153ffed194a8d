#pragma once

// The subcommands of `fokker`, one a file: options, help and work.
#include <CLI/CLI.hpp>
#include <memory>
#include <string>

#include "console.hpp"
#include "options.hpp"

namespace fokker::tools {

class Command {
 public:
  virtual ~Command() = default;
  virtual void run() = 0;
  bool chosen() const { return app_->parsed(); }
  // Whether it shares its work with the other ranks of the program (ranks.hpp).
  virtual bool on_ranks() const { return false; }

 protected:
  Command(CLI::App& parent, const std::string& name, const std::string& summary)
      : app_(parent.add_subcommand(name, summary)) {}
  // What the help says below the options, each part of whole lines after an empty one: what the command does, the files
  // that it reads (files_help()), and examples, which run in the order in which they stand.
  void explain(const std::string& text, const std::string& files, const std::string& examples) {
    app_->footer(text.substr(1) + files + "\nExamples:" + examples + "\n" + exit_codes_help);
  }

  CLI::App* app_;
};

std::unique_ptr<Command> train_command(CLI::App& parent);
std::unique_ptr<Command> sample_command(CLI::App& parent);
std::unique_ptr<Command> field_command(CLI::App& parent);
std::unique_ptr<Command> density_command(CLI::App& parent);
std::unique_ptr<Command> gap_command(CLI::App& parent);
std::unique_ptr<Command> diagnose_command(CLI::App& parent);
std::unique_ptr<Command> import_command(CLI::App& parent);
std::unique_ptr<Command> info_command(CLI::App& parent);
std::unique_ptr<Command> residual_command(CLI::App& parent);
std::unique_ptr<Command> merge_command(CLI::App& parent);

}  // namespace fokker::tools
