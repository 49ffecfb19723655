// Tiles of spans with the matrix product of ARM's i8mm: two rows by two outputs by eight inputs. A span's lines are
// joined in pairs first, so that a register holds eight inputs of two outputs.

enum { JOINED_ROWS = 6, HALF_OUTPUTS = 8 };

/** Joins each two lines of a span's codes: outputs 0 to 7 of a vector to the first line's place, 8 to 15 to the second's. */
static void join_lines(uint8_t *codes, int numLines, int numVectors) {
  for (int line = 0; line < numLines; line += 2)
    for (int v = 0; v < numVectors; v++) {
      uint8_t *first = codes + LINE_BYTES * line + 64 * v, *second = first + LINE_BYTES;
      uint32x4_t joined[8];
      UNROLLED(i, 4) {
        uint32x4_t a = vreinterpretq_u32_u8(vld1q_u8(first + 16 * i)), b = vreinterpretq_u32_u8(vld1q_u8(second + 16 * i));
        joined[2 * i] = vzip1q_u32(a, b);
        joined[2 * i + 1] = vzip2q_u32(a, b);
      }
      UNROLLED(i, 4) {
        vst1q_u8(first + 16 * i, vreinterpretq_u8_u32(joined[i]));
        vst1q_u8(second + 16 * i, vreinterpretq_u8_u32(joined[4 + i]));
      }
    }
}

/** Adds a span's products with P pairs of rows, the last of which may be one row, to half a vector of outputs. */
INLINE void tile_pairs(const Tile *tile, const int P, int numRows, int half, const int block, const int hasMinimums) {
  enum { MOST_P = JOINED_ROWS / 2 };
  const int numBlocks = block == 16 ? 2 : 1;
  const Rows rows = *tile->x, *x = &rows;
  const size_t width = (size_t)x->width, groups = width / GROUP;
  size_t row[2 * MOST_P];
  float32x4_t sums[2 * MOST_P][2];
  UNROLLED(r, 2 * P) {
    row[r] = (size_t)(r < numRows ? r : numRows - 1);
    const float *out = tile->out + row[r] * (size_t)tile->outStride + HALF_OUTPUTS * half;
    UNROLLED(i, 2) sums[r][i] = tile->firstGroup == 0 ? vdupq_n_f32(0) : vld1q_f32(out + 4 * i);
    row[r] += (size_t)tile->row;
  }
  for (int g = 0; g < tile->numGroups; g++) {
    const uint8_t *codes = tile->codes + g * GROUP * PANEL + LINE_BYTES * half;
    const size_t group = (size_t)(tile->firstGroup + g);
    prefetch_next(tile, g);
    for (int b = 0; b < numBlocks; b++) {
      int32x4_t dots[MOST_P][4];
      UNROLLED(p, P) {
        int32_t first = block_sum(x, row[2 * p] * groups + group, b, numBlocks), second = block_sum(x, row[2 * p + 1] * groups + group, b, numBlocks);
        int32x4_t start = vcombine_s32(vdup_n_s32(block > 0 ? -tile->zero * first : 0), vdup_n_s32(block > 0 ? -tile->zero * second : 0));
        UNROLLED(i, 4) dots[p][i] = start;
      }
#pragma clang loop unroll(full)
      for (int k = numBlocks == 2 ? 2 * b : 0; k < (numBlocks == 2 ? 2 * b + 2 : 4); k++) {
        int8x16_t inputs[MOST_P];
        UNROLLED(p, P) {
          const int8_t *first = x->values + row[2 * p] * width + group * GROUP, *second = x->values + row[2 * p + 1] * width + group * GROUP;
          inputs[p] = vcombine_s8(vld1_s8(first + 8 * k), vld1_s8(second + 8 * k));
        }
        UNROLLED(i, 4) {
          int8x16_t weights = vreinterpretq_s8_u8(vld1q_u8(codes + LINE_BYTES * 2 * k + 16 * i));
          UNROLLED(p, P) {
            dots[p][i] = vmmlaq_s32(dots[p][i], inputs[p], weights);
            __asm__ volatile("" : "+w"(dots[p][i])::"memory");
          }
        }
      }
      const float *scales = tile->scales + (size_t)(g * numBlocks + b) * PANEL + HALF_OUTPUTS * half;
      const float *minimums = tile->minimums + (size_t)(g * numBlocks + b) * PANEL + HALF_OUTPUTS * half;
      UNROLLED(r, 2 * P) {
        const size_t at = row[r] * groups + group;
        float32x4_t scale = vdupq_n_f32(x->scales[at]), offset = vdupq_n_f32(x->scales[at] * (float)block_sum(x, at, b, numBlocks));
        UNROLLED(i, 2) {
          int64x2_t low = vreinterpretq_s64_s32(dots[r / 2][2 * i]), high = vreinterpretq_s64_s32(dots[r / 2][2 * i + 1]);
          float32x4_t value = vcvtq_f32_s32(vreinterpretq_s32_s64(r % 2 == 0 ? vzip1q_s64(low, high) : vzip2q_s64(low, high)));
          if (block > 0) value = vmulq_f32(value, vld1q_f32(scales + 4 * i));
          sums[r][i] = vaddq_f32(sums[r][i], vmulq_f32(value, scale));
          if (hasMinimums) sums[r][i] = vaddq_f32(sums[r][i], vmulq_f32(vld1q_f32(minimums + 4 * i), offset));
          __asm__ volatile("" : "+w"(sums[r][i])::"memory");
        }
      }
    }
  }
  UNROLLED(r, 2 * P) if (r < numRows) {
    float *out = tile->out + (size_t)r * (size_t)tile->outStride + HALF_OUTPUTS * half;
    UNROLLED(i, 2) vst1q_f32(out + 4 * i, sums[r][i]);
  }
}

/** Runs all rows `[rowFrom, rowTo)` of a span by a vector of outputs, whose lines are joined. */
INLINE void span_rows(Tile tile, int rowFrom, int rowTo, const int V, const int hasBytes, const int block, const int hasMinimums) {
  (void)V, (void)hasBytes;
  float *out = tile.out;
  const uint8_t *next = tile.next;
  // All tiles prefetch a part of the next span.
  int numTiles = 2 * ((rowTo - rowFrom + JOINED_ROWS - 1) / JOINED_ROWS);
  tile.nextLines = (tile.nextLines + numTiles * tile.numGroups - 1) / (numTiles * tile.numGroups);
  for (int half = 0; half < 2; half++)
    for (tile.row = rowFrom; tile.row < rowTo; tile.row += JOINED_ROWS) {
      int left = rowTo - tile.row;
      tile.out = out + (size_t)(tile.row - rowFrom) * (size_t)tile.outStride;
      tile.next = next;
      if (left > 4) tile_pairs(&tile, 3, left < JOINED_ROWS ? left : JOINED_ROWS, half, block, hasMinimums);
      else if (left > 2) tile_pairs(&tile, 2, left, half, block, hasMinimums);
      else tile_pairs(&tile, 1, left, half, block, hasMinimums);
      if (next) next += (size_t)(tile.numGroups * tile.nextLines) * 64;
    }
}
