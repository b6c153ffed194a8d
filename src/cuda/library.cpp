#include "cuda/library.hpp"

#include <dlfcn.h>
#include <fmt/format.h>

#include <utility>

#include "fokker/error.hpp"

namespace fokker::cuda {

Library::Library(std::string name, const std::string& needed, const std::vector<std::string>& files)
    : name_(std::move(name)) {
  for (auto file = files.begin(); handle_ == nullptr && file != files.end(); ++file) {
    handle_ = dlopen(file->c_str(), RTLD_NOW | RTLD_LOCAL);
  }
  if (handle_ == nullptr) {
    throw Error(fmt::format("{}, and {} cannot be loaded: {}", needed, files.front(), dlerror()));
  }
}

void* Library::address(const char* name) const {
  void* const found = dlsym(handle_, name);
  if (found == nullptr) throw Error(fmt::format("{} has no function {}: {}", name_, name, dlerror()));
  return found;
}

}  // namespace fokker::cuda
