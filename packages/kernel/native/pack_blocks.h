// Packing of blocks of model files.

#pragma once
#include <stddef.h>
#include <stdint.h>

/** Returns the bytes of a panel of 64 outputs; 0 for formats that no file has, and rows that are no whole blocks. */
size_t packed_panel_bytes(int32_t format, int32_t numIn);
/** Returns the bytes of a row in a file. */
size_t packed_row_bytes(int32_t format, int32_t numIn);
/** Packs up to 64 rows of a file into a panel; outputs that are missing become 0. */
void pack_panel(int32_t format, int32_t numIn, const uint8_t *rows, int32_t numRows, uint8_t *out);
