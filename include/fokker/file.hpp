#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "fokker/public.hpp"

namespace FOKKER_PUBLIC fokker {

// Writes `text` as every file of the library is written: to a temporary name beside `path` (.fokker-PID-N.tmp), synced,
// renamed over the file that `path` leads to. A failure (a full disk, a missing folder, a folder of that name) leaves
// what was there, removes the temporary and throws Error; where the folder's sync fails after the rename, Error is
// thrown too, and the new file is in place. Only a process killed in the midst leaves its temporary, which may be
// removed; nothing does so by itself, since a process of another machine may be writing in a shared folder.
void write_text(const std::string& path, const std::string& text);

// Throws the Error that write_text() would, as far as that can be known before: where `path` leads to a folder, a
// device or a loop of links, where its name is too long or may not be written, and where no new file can be made beside
// it; one is made and removed. Returns the name of the file that `path` leads to. To be called before long work, whose
// result would be lost.
std::string check_writable(const std::string& path);

// FNV-1a (Fowler, Noll and Vo) of bytes, going on from `hash`. It tells contents apart and does not withstand forgery.
std::uint64_t hash_bytes(std::span<const std::byte> bytes, std::uint64_t hash = 0xCBF29CE484222325);

}  // namespace fokker
