#include "io/file.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <new>
#include <stdexcept>
#include <system_error>
#include <utility>

#include "core/quote.hpp"
#include "fmt/format.h"
#include "fokker/error.hpp"

namespace fokker {
namespace {

std::string reason(int code) { return std::generic_category().message(code); }

class Descriptor {
 public:
  explicit Descriptor(int value) : value_(value) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (value_ >= 0) ::close(value_);
  }
  int get() const { return value_; }
  // A file system may report a failed write only here.
  int close() { return ::close(std::exchange(value_, -1)); }

 private:
  int value_;
};

// Where a write through the symbolic links of `path` ends up; what is renamed over is the file, not the link to it.
std::filesystem::path follow_links(std::filesystem::path path) {
  std::error_code ignored;
  for (int links = 0; links < 40 && std::filesystem::is_symlink(path, ignored); ++links) {
    const auto target = std::filesystem::read_symlink(path, ignored);
    path = target.is_absolute() ? target : path.parent_path() / target;
  }
  return path;
}

Error unwritable(const std::string& path, const std::string& why) {
  return Error(fmt::format("cannot write {}: {}", in_quotes(path), why));
}

// A file that is removed at its end. Its name is kept before there is a file of it, so that none is left where memory
// runs out.
struct Temporary {
  std::string name = {};
  bool there = false;

  Temporary() = default;
  Temporary(const Temporary&) = delete;
  Temporary& operator=(const Temporary&) = delete;
  ~Temporary() {
    if (there) ::unlink(name.c_str());
  }
};

// A new file beside the one that a path leads to, which a rename puts in its place. Throws Error where that cannot be.
struct Replacement {
  struct stat old {};  // st_mode is 0 where there is no such file yet
  std::string target;
  Temporary temporary;
  Descriptor file;

  explicit Replacement(const std::string& path) : target(find_target(path)), file(create(path)) {
    if (old.st_mode != 0 && ::fchmod(file.get(), old.st_mode & 07777) != 0) throw unwritable(path, reason(errno));
  }

 private:
  std::string find_target(const std::string& path) {
    const auto fail = [&](const std::string& why) { return unwritable(path, why); };
    if (path.empty() || path.find('\0') != std::string::npos) throw fail("that is not a file name");
    const std::filesystem::path found = follow_links(path);
    if (!found.has_filename()) throw fail("it is a folder");
    if (::stat(found.c_str(), &old) != 0) {
      if (errno != ENOENT) throw fail(reason(errno));
      return found.string();
    }
    if (S_ISDIR(old.st_mode)) throw fail("it is a folder");
    if (!S_ISREG(old.st_mode)) throw fail("it is not a regular file");
    // A rename would replace even a file that is write-protected.
    if (::access(found.c_str(), W_OK) != 0) throw fail(reason(errno));
    return found.string();
  }

  // Its name is one that no one else has.
  int create(const std::string& path) {
    static std::atomic<unsigned> counter{0};
    for (;;) {
      temporary.name =
          (std::filesystem::path(target).parent_path() / fmt::format(".fokker-{}-{}.tmp", ::getpid(), counter++))
              .string();
      const int opened = ::open(temporary.name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
      temporary.there = opened >= 0;
      if (temporary.there) return opened;
      if (errno != EEXIST) throw unwritable(path, fmt::format("{} (a new file in its folder)", reason(errno)));
    }
  }
};

// Makes the rename itself durable. A folder that cannot be opened or synced (some network file systems) is no reason to
// report failure: the file is in place.
int sync_folder(const std::filesystem::path& file) {
  const auto folder = file.parent_path().empty() ? std::filesystem::path(".") : file.parent_path();
  Descriptor opened(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  return opened.get() >= 0 && ::fsync(opened.get()) != 0 && errno == EIO ? EIO : 0;
}

}  // namespace

std::vector<std::byte> read_file(const std::string& path) {
  const auto fail = [&](const std::string& why) {
    return Error(fmt::format("cannot read {}: {}", in_quotes(path), why));
  };
  if (path.find('\0') != std::string::npos) throw fail("its name holds a zero byte");
  // O_NONBLOCK: a pipe without a writer is refused below instead of waited for.
  Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (file.get() < 0) throw fail(reason(errno));
  struct stat status {};
  if (::fstat(file.get(), &status) != 0) throw fail(reason(errno));
  if (S_ISDIR(status.st_mode)) throw fail("it is a folder");
  if (!S_ISREG(status.st_mode)) throw fail("it is not a regular file");
  std::vector<std::byte> bytes;
  try {
    bytes.resize(static_cast<std::size_t>(status.st_size));
  } catch (const std::exception&) {
    throw fail(fmt::format("its {} bytes do not fit in memory", status.st_size));
  }
  for (std::size_t done = 0; done < bytes.size();) {
    const ssize_t n = ::read(file.get(), bytes.data() + done, bytes.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw fail(reason(errno));
    if (n == 0) throw fail("it became shorter while it was read");
    done += static_cast<std::size_t>(n);
  }
  return bytes;
}

void write_file(const std::string& path, std::span<const std::span<const std::byte>> pieces) {
  const auto fail = [&](const std::string& why) { return unwritable(path, why); };
  const auto fail_code = [&](int code) { return fail(reason(code)); };
  Replacement replacement(path);
  Descriptor& file = replacement.file;
  for (const auto& piece : pieces) {
    for (std::size_t done = 0; done < piece.size();) {
      const ssize_t n = ::write(file.get(), piece.data() + done, piece.size() - done);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) throw fail_code(errno);
      if (n == 0) throw fail("nothing more can be written");
      done += static_cast<std::size_t>(n);
    }
  }
  if (::fsync(file.get()) != 0) throw fail_code(errno);
  if (file.close() != 0) throw fail_code(errno);
  const std::string& target = replacement.target;
  if (::rename(replacement.temporary.name.c_str(), target.c_str()) != 0) throw fail_code(errno);
  replacement.temporary.there = false;
  if (const int code = sync_folder(target)) throw fail_code(code);
}

std::string check_writable(const std::string& path) { return Replacement(path).target; }

std::uint64_t hash_bytes(std::span<const std::byte> bytes, std::uint64_t hash) {
  for (const std::byte byte : bytes) hash = (hash ^ std::to_integer<std::uint64_t>(byte)) * 0x100000001B3;
  return hash;
}

void write_text(const std::string& path, const std::string& text) {
  const std::span<const std::byte> piece = std::as_bytes(std::span(text.data(), text.size()));
  write_file(path, std::span(&piece, 1));
}

}  // namespace fokker
