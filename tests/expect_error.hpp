#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "fokker/error.hpp"

namespace fokker::testing {

// The call must throw Error with all of these in its sentence.
inline void expect_error(const std::function<void()>& call, const std::vector<std::string>& parts) {
  try {
    call();
  } catch (const Error& e) {
    for (const std::string& part : parts) EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what();
    return;
  }
  ADD_FAILURE() << "no error; expected one with '" << (parts.empty() ? "" : parts[0]) << "'";
}

}  // namespace fokker::testing
