#pragma once

// The readers of what comes from outside, as functions of bytes: for libFuzzer, and for the replay of kept inputs.
#include <span>
#include <string>
#include <string_view>

namespace fokker::fuzz {

struct Target {
  std::string_view name;
  // Reads the input. Whatever it is, it is read or refused by an Error, or a CLI::ParseError, of one short printable
  // line; anything else ends the process, or leaves by another exception.
  void (*read)(const std::string& input);
};

std::span<const Target> targets();

// The target of that name; throws std::invalid_argument, with the names there are.
const Target& find_target(std::string_view name);

}  // namespace fokker::fuzz
