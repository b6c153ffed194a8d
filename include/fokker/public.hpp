#pragma once

// What a shared library shows: the namespaces of public headers say so, and nothing else of it is visible.
#if defined(__GNUC__) && !defined(__CUDACC__)
#define FOKKER_PUBLIC [[gnu::visibility("default")]]
#else
#define FOKKER_PUBLIC
#endif
