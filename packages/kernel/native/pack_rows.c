// Packs rows of model files into panels: blocks, and numbers, which may be divided by factors and rounded to bytes.

#include "pack_rows.h"
#include "memory.h"
#include "numbers.h"
#include "pack_blocks.h"
#include "tensor.h"

enum {
  /** Number of inputs that all outputs of a panel are packed of in turn, so that their lines stay in the cache: whole blocks. */
  PIECE = 256,
  /** Magnitude of the largest byte. */
  LARGEST = 127,
};

static size_t float_bytes(int32_t format) { return !reads_floats((Format)format) ? 0 : format == FORMAT_FLOAT ? 4 : 2; }

size_t packed_panel_bytes(const RowsToPack *rows) {
  enum { MOST_INPUTS = 1 << 24 };
  int32_t format = rows->format, numIn = rows->numIn;
  if (numIn < 1 || numIn > MOST_INPUTS) return 0;
  int changesNumbers = format == FORMAT_INT8 || format == FORMAT_FLOAT;
  if (changesNumbers ? float_bytes(rows->source) == 0 && block_panel_bytes(rows->source, numIn) == 0 : format != rows->source || rows->inputs != NULL)
    return 0;
  if (format == FORMAT_INT8) return (size_t)(numIn + GROUP - 1) / GROUP * GROUP * PANEL;
  return format >= FORMAT_BLOCKS ? block_panel_bytes(format, numIn) : float_bytes(format) * (size_t)numIn * PANEL;
}

size_t packed_row_bytes(const RowsToPack *rows) {
  return rows->source >= FORMAT_BLOCKS ? block_row_bytes(rows->source, rows->numIn) : float_bytes(rows->source) * (size_t)rows->numIn;
}

int count_rows(RowsToPack *rows, size_t length) {
  size_t rowBytes = packed_panel_bytes(rows) > 0 ? packed_row_bytes(rows) : 0;
  if (rowBytes == 0 || length == 0 || length % rowBytes != 0 || length / rowBytes > INT32_MAX / 2) return 0;
  rows->numRows = (int32_t)(length / rowBytes);
  return 1;
}

static uint16_t short_at(const uint8_t *p) { uint16_t value; memcpy(&value, p, 2); return value; }

/** Reads inputs of a row, divided by their factors, and zeros behind the last one. @returns their number */
static int32_t read_piece(const RowsToPack *rows, int32_t row, int32_t from, float *values) {
  int32_t count = rows->numIn - from < PIECE ? rows->numIn - from : PIECE;
  const uint8_t *p = rows->rows + ((size_t)row * (size_t)rows->numIn + (size_t)from) * float_bytes(rows->source);
  if (count < PIECE) memset(values, 0, PIECE * sizeof *values);
  if (rows->source >= FORMAT_BLOCKS) read_values(rows->source, rows->rows + (size_t)row * packed_row_bytes(rows), from, count, values);
  if (rows->source == FORMAT_FLOAT) memcpy(values, p, (size_t)count * 4);
  if (rows->source == FORMAT_HALF)
    for (int32_t i = 0; i < count; i++) values[i] = float_of(short_at(p + 2 * i));
  if (rows->source == FORMAT_BFLOAT)
    for (int32_t i = 0; i < count; i++) values[i] = bfloat_of(short_at(p + 2 * i));
  if (rows->inputs)
    for (int32_t i = 0; i < count; i++) values[i] /= rows->inputs[from + i];
  return count;
}

static void pack_floats(const RowsToPack *rows) {
  float values[PIECE];
  for (int32_t from = 0; from < rows->numIn; from += PIECE)
    for (int32_t row = 0; row < rows->numRows; row++) {
      int32_t count = read_piece(rows, row, from, values);
      for (int32_t i = 0; i < count; i++) memcpy(rows->out + 4 * ((size_t)(from + i) * PANEL + (size_t)row), values + i, 4);
    }
}

/** Packs weights of 16 bits as they are. */
static void pack_shorts(const RowsToPack *rows) {
  size_t numIn = (size_t)rows->numIn;
  for (size_t from = 0; from < numIn; from += PIECE)
    for (size_t row = 0; row < (size_t)rows->numRows; row++)
      for (size_t i = from; i < numIn && i < from + PIECE; i++) memcpy(rows->out + 2 * (i * PANEL + row), rows->rows + 2 * (row * numIn + i), 2);
}

/** Returns the scale by which a row's largest magnitude becomes 127; 0 for rows whose quotients would not fit a byte. */
static float scale_of(const RowsToPack *rows, int32_t row) {
  float values[PIECE], largest;
  // Bits have the order of magnitudes, and a NaN is the largest.
  int32_t most = 0, bits[PIECE];
  for (int32_t from = 0; from < rows->numIn; from += PIECE) {
    read_piece(rows, row, from, values);
    memcpy(bits, values, sizeof bits);
    for (int i = 0; i < PIECE; i++) most = (bits[i] & INT32_MAX) > most ? bits[i] & INT32_MAX : most;
  }
  memcpy(&largest, &most, 4);
  float scale = largest / LARGEST;
  return scale < 0x1p-126f ? 0 : scale;
}

/** Rounds to bytes from 1 to 255; weights of a row that is not finite to 0 and 128. */
static void round_piece(const float *values, float scale, uint8_t *bytes) {
  if (scale <= 0x1p127f)
    for (int i = 0; i < PIECE; i++) bytes[i] = (uint8_t)(int32_t)((double)values[i] / (double)scale + 128.5);
  else
    for (int i = 0; i < PIECE; i++) bytes[i] = values[i] - values[i] == 0 && scale == scale ? 128 : 0;
}

static void round_floats(const RowsToPack *rows) {
  float values[PIECE];
  uint8_t bytes[PIECE];
  for (int32_t row = 0; row < rows->numRows; row++) rows->scales[row] = scale_of(rows, row);
  for (int32_t from = 0; from < rows->numIn; from += PIECE)
    for (int32_t row = 0; row < rows->numRows; row++) {
      if (rows->scales[row] == 0) continue;
      int32_t count = read_piece(rows, row, from, values);
      round_piece(values, rows->scales[row], bytes);
      for (int32_t i = 0; i < count; i += 4) memcpy(rows->out + (size_t)(from + i) * PANEL + 4 * (size_t)row, bytes + i, 4);
    }
}

void pack_panel(const RowsToPack *rows, int32_t panel) {
  RowsToPack own = *rows;
  size_t first = (size_t)panel * PANEL, panelBytes = packed_panel_bytes(rows);
  own.numRows = rows->numRows - (int32_t)first < PANEL ? rows->numRows - (int32_t)first : PANEL;
  own.rows += first * packed_row_bytes(rows);
  own.out += (size_t)panel * panelBytes;
  if (rows->format == FORMAT_INT8) own.scales += first;
  if (rows->format == FORMAT_INT8) memset(own.out, 128, panelBytes);
  else if (own.numRows < PANEL) memset(own.out, 0, panelBytes);
  if (rows->format >= FORMAT_BLOCKS) pack_blocks(&own);
  else if (rows->format == FORMAT_INT8) round_floats(&own);
  else if (rows->format == FORMAT_FLOAT) pack_floats(&own);
  else pack_shorts(&own);
}
