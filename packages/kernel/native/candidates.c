#include "candidates.h"
#include "loops.h"

/** Checks that a candidate is ordered after another one. */
static int is_worse(float value, int32_t id, float otherValue, int32_t otherId) {
  return value < otherValue || (value == otherValue && id > otherId);
}

/** Restores a heap with the worst on top, whose entry `at` may be better than those below it. */
static void sink(int32_t *ids, float *values, int32_t size, int32_t at) {
  int32_t id = ids[at];
  float value = values[at];
  for (int32_t child; (child = 2 * at + 1) < size; at = child) {
    if (child + 1 < size && is_worse(values[child + 1], ids[child + 1], values[child], ids[child])) child++;
    if (!is_worse(values[child], ids[child], value, id)) break;
    ids[at] = ids[child];
    values[at] = values[child];
  }
  ids[at] = id;
  values[at] = value;
}

void best_candidates(const float *logits, int32_t numLogits, const float *largest, int32_t count, int32_t *ids, float *values) {
  for (int32_t i = 0; i < count; i++) ids[i] = 0, values[i] = -__builtin_inff();
  // Ids rise, so an equal logit never displaces an earlier one.
  for (int32_t from = 0; from < numLogits; from += LOGIT_BLOCK) {
    if (!(largest[from / LOGIT_BLOCK] > values[0])) continue;
    int32_t to = from + LOGIT_BLOCK < numLogits ? from + LOGIT_BLOCK : numLogits;
    for (int32_t id = from; id < to; id++) {
      if (!(logits[id] > values[0])) continue;
      ids[0] = id;
      values[0] = logits[id];
      sink(ids, values, count, 0);
    }
  }
  for (int32_t size = count - 1; size > 0; size--) {
    int32_t id = ids[0];
    float value = values[0];
    ids[0] = ids[size], values[0] = values[size];
    ids[size] = id, values[size] = value;
    sink(ids, values, size, 0);
  }
}
