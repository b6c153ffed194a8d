#pragma once

// Libraries that are loaded when they are first needed: an executable that links fokker starts without them.
#include <string>
#include <vector>

namespace fokker::cuda {

class Library {
 public:
  // The first of `files` that can be loaded. Throws Error where there is none, which begins with `needed`.
  Library(std::string name, const std::string& needed, const std::vector<std::string>& files);
  // Throws Error where the library has no such function.
  template <class Function>
  void find(const char* name, Function& function) const {
    function = reinterpret_cast<Function>(address(name));
  }

 private:
  void* address(const char* name) const;
  std::string name_;
  void* handle_ = nullptr;  // never closed: its functions are called until the process ends
};

}  // namespace fokker::cuda
