#pragma once

// Which sanitizer this is compiled with, for the preprocessor and for tests: what reserves address space or forks beside
// threads does not go with it.
#if defined(__SANITIZE_ADDRESS__)
#define FOKKER_ASAN
#elif defined(__SANITIZE_THREAD__)
#define FOKKER_TSAN
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define FOKKER_ASAN
#elif __has_feature(thread_sanitizer)
#define FOKKER_TSAN
#endif
#endif

namespace fokker::testing {

#ifdef FOKKER_ASAN
constexpr bool with_asan = true;
#else
constexpr bool with_asan = false;
#endif
#ifdef FOKKER_TSAN
constexpr bool with_tsan = true;
#else
constexpr bool with_tsan = false;
#endif

}  // namespace fokker::testing
