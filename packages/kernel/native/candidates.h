// The best logits of a row, without sorting all of them.

#pragma once
#include <stdint.h>

/**
 * @param largest - largest logit of each block of 64
 * @param ids, values - `[count]`: best first, lower ids first among equals; id 0 and -infinity in a row without numbers
 */
void best_candidates(const float *logits, int32_t numLogits, const float *largest, int32_t count, int32_t *ids, float *values);
