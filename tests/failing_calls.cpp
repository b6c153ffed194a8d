// Loaded before the C library (LD_PRELOAD) it lets one call of one function fail, as a full disk, a lost server or a
// lack of memory would: FOKKER_FAIL=NAME:N names the function and the number of the call, from 1, counted from the
// first file that the process creates, which each command does when its work begins. The file FOKKER_CALLS then holds
// the number of calls that there were, with those of threads.
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

extern "C" {
void* __libc_malloc(std::size_t);
void* __libc_calloc(std::size_t, std::size_t);
void* __libc_realloc(void*, std::size_t);
void* __libc_memalign(std::size_t, std::size_t);
}

namespace {

std::atomic<bool> begun{false};
std::atomic<long> calls{0};

// The name, and behind its colon the number.
const char* wanted() {
  static const char* const text = std::getenv("FOKKER_FAIL");
  return text;
}

bool fails(const char* name) {
  const std::size_t length = std::strlen(name);
  if (!begun || wanted() == nullptr || std::strncmp(wanted(), name, length) != 0 || wanted()[length] != ':')
    return false;
  return ++calls == std::strtol(wanted() + length + 1, nullptr, 10);
}

template <class Function>
Function* next(const char* name) {
  return reinterpret_cast<Function*>(::dlsym(RTLD_NEXT, name));
}

int open_file(const char* path, int flags, mode_t mode) {
  if ((flags & O_CREAT) != 0) begun = true;
  if (fails("open")) return errno = EMFILE, -1;
  return next<int(const char*, int, mode_t)>("open")(path, flags, mode);
}

__attribute__((destructor)) void say_calls() {
  const char* const path = std::getenv("FOKKER_CALLS");
  if (path == nullptr) return;
  begun = false;
  const int file = ::open(path, O_WRONLY | O_TRUNC);
  char text[32];
  const int length = std::snprintf(text, sizeof(text), "%ld", calls.load());
  if (file >= 0) [[maybe_unused]]
    const auto written = ::write(file, text, static_cast<std::size_t>(length));
}

}  // namespace

extern "C" {

int open(const char* path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = (flags & O_CREAT) != 0 ? va_arg(arguments, mode_t) : 0;
  va_end(arguments);
  return open_file(path, flags, mode);
}

ssize_t write(int file, const void* data, std::size_t size) {
  if (fails("write")) return errno = ENOSPC, -1;
  return next<ssize_t(int, const void*, std::size_t)>("write")(file, data, size);
}

std::size_t fwrite(const void* data, std::size_t size, std::size_t count, std::FILE* file) {
  if (fails("fwrite")) return errno = ENOSPC, 0;
  return next<std::size_t(const void*, std::size_t, std::size_t, std::FILE*)>("fwrite")(data, size, count, file);
}

int fsync(int file) {
  if (fails("fsync")) return errno = EIO, -1;
  return next<int(int)>("fsync")(file);
}

int flock(int file, int operation) noexcept {
  if (fails("flock")) return errno = EIO, -1;
  return next<int(int, int)>("flock")(file, operation);
}

int rename(const char* from, const char* to) noexcept {
  if (fails("rename")) return errno = EIO, -1;
  return next<int(const char*, const char*)>("rename")(from, to);
}

int close(int file) {
  const int result = next<int(int)>("close")(file);
  if (fails("close")) return errno = EIO, -1;
  return result;
}

void* malloc(std::size_t size) noexcept {
  if (fails("malloc")) return errno = ENOMEM, nullptr;
  return __libc_malloc(size);
}

void* calloc(std::size_t count, std::size_t size) noexcept {
  if (fails("malloc")) return errno = ENOMEM, nullptr;
  return __libc_calloc(count, size);
}

void* realloc(void* old, std::size_t size) noexcept {
  if (fails("malloc")) return errno = ENOMEM, nullptr;
  return __libc_realloc(old, size);
}

void* aligned_alloc(std::size_t alignment, std::size_t size) noexcept {
  if (fails("malloc")) return errno = ENOMEM, nullptr;
  return __libc_memalign(alignment, size);
}

int posix_memalign(void** to, std::size_t alignment, std::size_t size) noexcept {
  if (fails("malloc")) return ENOMEM;
  *to = __libc_memalign(alignment, size);
  return *to == nullptr ? ENOMEM : 0;
}
}
