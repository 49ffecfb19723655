// The loops of a step, built once for each instruction set. All builds give the same bits, except that float32 products
// have no fused multiply-add in WebAssembly.

#pragma once
#include <stdint.h>
#include "tensor.h"

/** Number of tokens in a page of keys and values, and of lanes in a vector. */
enum { PAGE_TOKENS = 16 };

/** Number of outputs of the head that share a largest logit and a sum of exponentials. */
enum { LOGIT_BLOCK = 64 };

typedef enum { ACTIVATION_SILU = 0, ACTIVATION_GELU_TANH = 1 } Activation;

/** Addresses of the keys and values of one layer and one key head. */
typedef struct {
  /** A page's keys, `[headSize][16]`; its values, `[16][paddedSize]`, follow. */
  uint8_t *base;
  /** Distance from a page to the next. */
  size_t pageBytes;
  int32_t isHalf;
  int32_t headSize;
  /** `headSize`, rounded up to whole vectors. */
  int32_t paddedSize;
} HeadPages;

/** Rows of one sequence and query heads of one key head that attend together. */
typedef struct {
  HeadPages pages;
  /** The sequence's pages, in the order of its positions. */
  const int32_t *pageTable;
  int32_t numQueries;
  /** `[numQueries]`: queries and outputs `[paddedSize]`, and each query's position. */
  const float **queries;
  float **outputs;
  const int32_t *positions;
  /** Number of positions that a query sees, including its own; 0 is all. */
  int32_t window;
  float scale;
  /** `[ATTEND_MOST][scoresStride]`. */
  float *scores;
  int32_t scoresStride;
} Attention;

/** Largest number of queries in one call of `attend`. */
enum { ATTEND_MOST = 12 };

typedef struct {
  const char *name;
  /** Number of queries that attend together fastest. */
  int32_t attendQueries;
  /** `x += scale * y`, whole vectors. */
  void (*add_scaled)(float *x, const float *y, float scale, int32_t size);
  /** `out = x / sqrt(mean(x^2) + epsilon) * weight`; vectors are padded with zeros to `padded`. */
  void (*norm)(const float *x, const float *weight, float epsilon, int32_t size, int32_t padded, float *out);
  /** Rounds `[width]` floats of a row of `rows` in groups. */
  void (*round_row)(const Rows *rows, int32_t row, int32_t from, int32_t to);
  /** `out = activation(gate) * up`; without a gate `activation(up)`. */
  void (*gate)(const float *gate, const float *up, float *out, int32_t size, Activation activation);
  /**
   * Computes outputs `[16 * vectorFrom, 16 * vectorTo)` of a product for rows `[rowFrom, rowTo)`. `out` is the first
   * row's first output; `ahead` is the panel that this thread multiplies with next, or NULL.
   */
  void (*product)(const Tensor *tensor, int32_t vectorFrom, int32_t vectorTo, const Rows *rows, int32_t rowFrom, int32_t rowTo,
                  float *out, int32_t outStride, const uint8_t *ahead);
  /** Writes the products of rows' inputs `[from, to)` with a change's first factor, `[numRows][rank]`. */
  void (*lower)(const LowRank *low, const Rows *rows, int32_t row, int32_t numRows, int32_t from, int32_t to, float *out, int32_t outStride);
  /** Adds the products of lowered inputs with a change's second factor to outputs `[16 * vectorFrom, 16 * vectorTo)`. */
  void (*raise)(const LowRank *low, int32_t vectorFrom, int32_t vectorTo, const float *parts, Lowered shape, int32_t numRows, float *out,
                int32_t outStride);
  /** Stores a token's key and value, `[headSize]` each, at `position`. */
  void (*store_token)(HeadPages pages, const int32_t *pageTable, int32_t position, const float *key, const float *value);
  void (*attend)(const Attention *attention);
  /** Writes the largest logit of each block of 64, and the block's sum of `exp(logit - largest)`. */
  void (*summarize)(const float *logits, int32_t numLogits, float *largest, float *sums);
  /** `out = exp(x - from)`, whole vectors. */
  void (*exponentials)(const float *x, float from, float *out, int32_t size);
} Loops;

extern const Loops loops_plain;
#if defined(__x86_64__)
extern const Loops loops_avx512, loops_avx_vnni, loops_avx2;
#elif defined(__aarch64__)
extern const Loops loops_neon_dot, loops_neon;
#elif defined(__wasm__)
extern const Loops loops_wasm;
#endif
