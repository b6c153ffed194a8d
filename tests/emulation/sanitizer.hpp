#pragma once

// FOKKER_ASAN or FOKKER_TSAN where the compiler instruments for that sanitizer.
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
