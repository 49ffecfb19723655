// Packing of blocks of model files.

#pragma once
#include "pack_rows.h"

/** Returns the bytes of a panel of 64 outputs; 0 for formats that no file has, and rows that are no whole blocks. */
size_t block_panel_bytes(int32_t format, int32_t numIn);
/** Returns the bytes of a row in a file. */
size_t block_row_bytes(int32_t format, int32_t numIn);
/** Reads inputs `[from, from + count)` of a row: whole blocks. */
void read_values(int32_t format, const uint8_t *row, int32_t from, int32_t count, float *values);
/** Packs up to 64 rows into a panel; outputs that are missing stay as they are. */
void pack_blocks(const RowsToPack *rows);
