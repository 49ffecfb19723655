// Packing of rows of model files.

#pragma once
#include <stddef.h>
#include <stdint.h>

/** Rows of a product's weights as a file has them, and where their panels go. */
typedef struct {
  /** Format of the panels, and the format whose numbers the rows have; floats and blocks may become floats, or bytes. */
  int32_t format, source;
  int32_t numIn, numRows;
  const uint8_t *rows;
  /** Factors of inputs, by which numbers are divided; NULL for none. */
  const float *inputs;
  /** Whole panels; outputs that are missing become 0. */
  uint8_t *out;
  /** Scales of the rows, in FORMAT_INT8. */
  float *scales;
} RowsToPack;

/** Returns the bytes of a panel; 0 for formats that the rows cannot become, and for rows that are no whole blocks. */
size_t packed_panel_bytes(const RowsToPack *rows);
/** Returns the bytes of a row in a file. */
size_t packed_row_bytes(const RowsToPack *rows);
/** Counts the rows of `length` bytes. @returns whether they are whole rows that can be packed */
int count_rows(RowsToPack *rows, size_t length);
/** Packs up to 64 rows of a file into a panel. */
void pack_panel(const RowsToPack *rows, int32_t panel);
