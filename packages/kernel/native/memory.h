// Copying and filling memory, which are instructions of WebAssembly: there is no C library for it.

#pragma once
#ifdef __wasm__
#include <stddef.h>
#define memcpy __builtin_memcpy
#define memset __builtin_memset
#else
#include <string.h>
#endif
