// Functions that copy and fill memory. They are instructions in WebAssembly, which has no C library here.

#pragma once
#ifdef __wasm__
#include <stddef.h>
#define memcpy __builtin_memcpy
#define memset __builtin_memset
#else
#include <string.h>
#endif
