// The loops of a step, built once for each instruction set. All builds give the same bits, except that float32 products
// have no fused multiply-add in WebAssembly.

#pragma once
#include <stdint.h>
#include "tensor.h"

/** Number of tokens in a page of keys and values, and of lanes in a vector. */
enum { PAGE_TOKENS = 16 };

/** Number of outputs of the head that share a largest logit and a sum of exponentials. */
enum { LOGIT_BLOCK = 64 };

/** ACTIVATION_CLAMPED is `(1 + up) gate sigmoid(1.702 gate)`, gates at most 7 and up within 7 of 0; it needs a gate. */
typedef enum { ACTIVATION_SILU = 0, ACTIVATION_GELU_TANH = 1, ACTIVATION_GELU = 2, ACTIVATION_CLAMPED = 3 } Activation;

/** Scales of a norm and, of a layer norm, its biases; in an RMS norm these are NULL. */
typedef struct {
  const float *scales, *biases;
} Norm;

/** Number types of keys and values, in the order of `KV_PRECISIONS` in `kernel/src/kv/kv-shape.ts`. */
typedef enum { KV_FLOAT = 0, KV_HALF = 1, KV_BYTE = 2 } KvType;

/** Returns the size of a key's or value's number, in bytes. */
static inline int kv_bytes(KvType type) { return type == KV_FLOAT ? 4 : type == KV_HALF ? 2 : 1; }

/** Addresses of the keys and values of one layer and one key head. */
typedef struct {
  /**
   * A page's keys, `[paddedSize][16]`, and its values, `[16][paddedSize]`. Behind bytes follow float32 scales of the keys,
   * `[16]`, and of the values, `[16]`.
   */
  uint8_t *base;
  /** Distance from a page to the next. */
  size_t pageBytes;
  KvType type;
  int32_t headSize;
  /** `headSize`, rounded up to whole vectors. */
  int32_t paddedSize;
} HeadPages;

/**
 * Number of positions of a tile of attention, and of the floats that a query has of a tile behind its outputs: 16 sums,
 * and its largest score. Bits depend on the first.
 */
#ifndef ATTEND_TILE
enum { ATTEND_TILE = 256 };
#endif
enum { TILE_SUMS = 32 };

/** Largest numbers of queries in one call of `attend`, and of those that are computed together. */
enum { ATTEND_MOST = 128, ATTEND_TOGETHER = 12 };

/** Memory of a thread for attention. */
typedef struct {
  /** `[ATTEND_MOST][headSize]`; `[ATTEND_TOGETHER][ATTEND_TILE]`; `[ATTEND_TOGETHER][paddedSize + TILE_SUMS]`. */
  float *queries, *scores, *tile;
  /** Keys and values of a tile in float32, by page. */
  float *pages;
} AttendRoom;

/** Rows of one sequence and query heads of one key head that attend together. */
typedef struct {
  HeadPages pages;
  /** The sequence's pages, in the order of its positions. */
  const int32_t *pageTable;
  /** Number of queries, and of those of each row. */
  int32_t numQueries, perRow;
  /** A row's queries `[perRow][paddedSize]`, and the distance to the next row's. */
  const float *queries;
  size_t rowStride;
  /** Position of the first row; the others follow. */
  int32_t position;
  /** Number of positions that a query sees, including its own; 0 is all. */
  int32_t window;
  /** Number of later positions that a query sees, as far as the sequence's end. */
  int32_t ahead, end;
  float scale;
  /** Bound of scores, 0 for none. */
  float cap;
  /** Addends of scores, at this distance for each head of a row: entry `d` for a key `d` behind its query; or NULL. */
  const float *distances;
  size_t distancesStride;
  /** Tiles that the queries see, or some of these. */
  int32_t firstTile, endTile;
  /** `[numQueries][paddedSize + TILE_SUMS]`: numbers of all tiles together or, at this distance, of each tile. */
  float *results;
  size_t tileStride;
  AttendRoom room;
} Attention;

/** Columns of products at successive positions, the last one's outputs. */
typedef struct {
  /** The product of each position, the oldest first, and what it is multiplied by, or NULL. */
  const float *const *inputs, *const *factors;
  /** By position, at this distance; then biases if there are any. */
  const float *weights;
  size_t stride;
  int32_t numTaps, hasBias;
  /** Factors of outputs; NULL for SiLU. */
  const float *gate;
  int32_t size;
  float *out;
} Convolution;

/** The state of one head of a sequence, and its next rows; see `MIX_DELTA` and `MIX_SPACE`. */
typedef struct {
  /** `[columns / 16][keySize][16]`, whose columns are those of values. */
  float *state;
  /** The first row's head, and the distance to the next row's. */
  const float *query, *key, *value;
  size_t stride;
  const float *decays, *strengths;
  size_t gainsStride;
  float skip;
  int32_t isDelta, numRows, keySize, valueSize;
  /** `[numRows][valueSize in whole vectors]`. */
  float *outs;
  /** `[numRows][2 * keySize + valueSize in whole vectors]`. */
  float *room;
} Recurrence;

typedef struct {
  const char *name;
  /** `x += scale * y`, whole vectors. */
  void (*add_scaled)(float *x, const float *y, float scale, int32_t size);
  /**
   * `out = x / sqrt(mean(x^2) + epsilon) * scales`; with biases, which are added, the mean of x is subtracted before.
   * Vectors are padded with zeros to `padded`.
   */
  void (*norm)(const float *x, Norm norm, float epsilon, int32_t size, int32_t padded, float *out);
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
  /** Writes the products of rows' inputs `[from, to)` with a lora's first factor, `[numRows][rank]`. */
  void (*lower)(const LoraFactors *low, const Rows *rows, int32_t row, int32_t numRows, int32_t from, int32_t to, float *out, int32_t outStride);
  /** Adds the products of lowered inputs with a lora's second factor to outputs `[16 * vectorFrom, 16 * vectorTo)`. */
  void (*raise)(const LoraFactors *low, int32_t vectorFrom, int32_t vectorTo, const float *parts, Lowered shape, int32_t numRows, float *out,
                int32_t outStride);
  /** Stores a token's key and value, `[headSize]` each, at `position`. */
  void (*store_token)(HeadPages pages, const int32_t *pageTable, int32_t position, const float *key, const float *value);
  void (*attend)(const Attention *attention);
  /**
   * Joins the numbers of a query's tiles, and turns them into its outputs `[size]`, at the place of the first.
   * @param sink - score that counts in the sum of weights, or NULL
   */
  void (*join_tiles)(float *results, size_t tileStride, int32_t numTiles, int32_t size, const float *sink);
  void (*convolve)(const Convolution *convolution);
  void (*recur)(const Recurrence *recurrence);
  /** Replaces numbers by `cap * tanh(x / cap)`. */
  void (*cap_values)(float *x, int32_t size, float cap);
  /** Writes the largest logit of each block of 64, and the block's sum of `exp(logit - largest)`: NaN if a logit is not finite. */
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
