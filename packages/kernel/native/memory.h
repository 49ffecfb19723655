// What most files need of the compiler. Copies and fills are instructions in WebAssembly, which has no C library here.

#pragma once

/** Begins functions that are compiled into their callers, with the callers' constants. */
#define INLINE static inline __attribute__((always_inline))

#ifdef __wasm__
#include <stddef.h>
#define memcpy __builtin_memcpy
#define memset __builtin_memset
#else
#include <string.h>
#endif
