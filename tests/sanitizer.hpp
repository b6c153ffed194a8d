#pragma once

// Which sanitizer the tests are compiled with: what reserves address space or forks beside threads does not go with it.
#if defined(__has_feature)
#define FOKKER_HAS_FEATURE(feature) __has_feature(feature)
#else
#define FOKKER_HAS_FEATURE(feature) 0
#endif

namespace fokker::testing {

#if defined(__SANITIZE_ADDRESS__) || FOKKER_HAS_FEATURE(address_sanitizer)
constexpr bool with_asan = true;
#else
constexpr bool with_asan = false;
#endif
#if defined(__SANITIZE_THREAD__) || FOKKER_HAS_FEATURE(thread_sanitizer)
constexpr bool with_tsan = true;
#else
constexpr bool with_tsan = false;
#endif

}  // namespace fokker::testing
