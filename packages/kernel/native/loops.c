// All loops for one instruction set. The file is built once for each set, with the processor's flags and a name below.

#include <stdint.h>
#include "memory.h"
#include "loops.h"
#include "numbers.h"

#define NOINLINE __attribute__((noinline))

#if defined(LOOPS_AVX512)
#include "vector_avx512.h"
#define LOOPS loops_avx512
#define NAME "avx512-vnni"
#elif defined(LOOPS_AVX_VNNI)
#define USE_AVX_VNNI
#include "vector_avx2.h"
#define LOOPS loops_avx_vnni
#define NAME "avx-vnni"
#elif defined(LOOPS_AVX2)
#include "vector_avx2.h"
#define LOOPS loops_avx2
#define NAME "avx2"
#elif defined(LOOPS_NEON_DOT)
#define USE_DOT_PRODUCT
#include "vector_neon.h"
#define LOOPS loops_neon_dot
#define NAME "neon-dot"
#elif defined(LOOPS_NEON)
#include "vector_neon.h"
#define LOOPS loops_neon
#define NAME "neon"
#elif defined(LOOPS_WASM)
#include "vector_wasm.h"
#define LOOPS loops_wasm
#ifdef USE_RELAXED
#define NAME "wasm-relaxed-simd"
#else
#define NAME "wasm-simd"
#endif
#else
#include "vector_plain.h"
#define LOOPS loops_plain
#define NAME "plain"
#endif

#include "exponential.h"
#include "rows.h"
#include "product.h"
#include "lora.h"
#include "attention.h"
#include "recurrence.h"

const Loops LOOPS = {
    .name = NAME,
    .add_scaled = add_scaled,
    .norm = norm,
    .round_row = round_row,
    .gate = gate,
    .product = product,
    .lower = lower,
    .raise = raise,
    .store_token = store_token,
    .attend = attend,
    .join_tiles = join_tiles,
    .convolve = convolve,
    .recur = recur,
    .cap_values = cap_values,
    .summarize = summarize,
    .exponentials = exponentials,
};
