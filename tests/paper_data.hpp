#pragma once

// The paper's published files, and its checkpoints as parameters of tests.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <string>

namespace fokker::testing {

// The folder of the published files. Without it the test is skipped and the path is empty: return from the test then.
inline std::string paper_data() {
  const char* folder = std::getenv("FOKKER_PAPER_DATA");
  const auto skip = [] { GTEST_SKIP() << "FOKKER_PAPER_DATA does not name the folder of the paper's data"; };
  if (!folder) skip();
  return folder ? folder : "";
}

inline constexpr const char* paper_checkpoints[] = {"blob_w0.0",    "blob_w0.1",    "blob_w1.0",    "blob_w10.0",
                                                    "checker_w0.0", "checker_w0.1", "checker_w1.0", "checker_w10.0"};

// A file's name as gtest takes it.
inline std::string name_in_test(std::string name) {
  std::replace(name.begin(), name.end(), '.', '_');
  return name;
}

}  // namespace fokker::testing
