// Layout of weights in the packed file, and of inputs that products read.

#pragma once
#include <stddef.h>
#include <stdint.h>

/** Outputs are stored in panels of 64, inputs in groups of 32, both padded with zeros. */
enum { PANEL = 64, GROUP = 32 };

static inline int32_t whole(int32_t size, int32_t unit) { return (size + unit - 1) / unit * unit; }

typedef enum {
  /** A plain table `[numOut][numIn]` of float32 or of halves, whose rows are looked up and not multiplied. */
  FORMAT_FLOAT_TABLE = 0,
  FORMAT_HALF_TABLE = 1,
  /** float32 `[panel][numIn][64]`. */
  FORMAT_FLOAT = 2,
  /** Bytes `weight + 128`, `[panel][group][8][64][4]`, and one float32 scale per output. */
  FORMAT_INT8 = 3,
  /** FORMAT_FLOAT, whose products and sums round separately, which gives the same bits in WebAssembly; not in files. */
  FORMAT_ROUTER = 4,
  /** Weights of 16 bits, half precision or the upper bits of float32, `[panel][numIn][64]`, multiplied as float32. */
  FORMAT_HALF = 5,
  FORMAT_BFLOAT = 6,
  /** First of the formats of blocks; see `blocks.h`. */
  FORMAT_BLOCKS = 16,
} Format;

/** Whether a product reads its inputs in float32; others read rounded ones. */
static inline int reads_floats(Format format) { return format == FORMAT_FLOAT || format == FORMAT_HALF || format == FORMAT_BFLOAT; }

typedef struct {
  Format format;
  int32_t numOut, numIn;
  int32_t numPanels, numGroups;
  size_t panelBytes;
  const uint8_t *weights;
  /** One per output, in FORMAT_INT8. */
  const float *scales;
  /** One per output, in whole panels; NULL for none. */
  const float *bias;
} Tensor;

/** Number types of a lora's factors. */
typedef enum { LORA_FLOAT = 0, LORA_HALF = 1, LORA_INT8 = 2 } LoraFormat;

/** Largest rank of a lora. */
enum { MOST_RANK = 256 };

/** What a lora adds to one product: `out += raise * (scales * (lower * inputs))`. */
typedef struct {
  /** Rank, in whole vectors of 16; 0 when the product does not change. */
  int32_t rank;
  LoraFormat format;
  /**
   * Factors: `[numIn][rank]`, and `[panels * 4][rank][16]` with outputs in vectors of 16. Bytes are `factor + 128`,
   * `[groups * 8][rank][4]` and `[panels * 4][rank / 4][16][4]`. Factors of no input and of no output are zero.
   */
  const uint8_t *lower, *raise;
  /** `[rank]` */
  const float *scales;
} LoraFactors;

/** Places of the lowered inputs of rows: inputs are lowered in parts, whose sum is the row's. */
typedef struct {
  int32_t numParts, partStride, rowStride;
} Lowered;

/** Rows of inputs: as floats, and rounded to `scale * value` in groups of 32 with the sums of their values. */
typedef struct {
  /** Number of inputs of a row, in whole groups. */
  int32_t width;
  float *floats;
  int8_t *values;
  /** Values in 16 bits, for products of WebAssembly. */
  int16_t *wide;
  /** `[row][width / 32]`. */
  float *scales;
  int32_t *sums;
  /** Start values of the dot products of each group; see `offset_of`. */
  int32_t *offsets;
  /** Sums of the first 16 values of each group. */
  int32_t *halfSums;
} Rows;
