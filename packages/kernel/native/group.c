// Sorts a step's rows by expert, once per step, because a row has the same expert in all layers.

#include "phases.h"

/** Sorts `numRows` rows, or the rows that `from` lists; rows of one expert stay in their order. */
static void group(Kernel *kernel, Groups *groups, const int32_t *from, int32_t numRows) {
  const int32_t *experts = kernel->step->experts;
  int32_t *places = kernel->counts, numExperts = kernel->model.numExperts, end = 0;
  for (int32_t e = 0; e < numExperts; e++) places[e] = 0;
  for (int32_t i = 0; i < numRows; i++) places[experts[from ? from[i] : i]]++;
  groups->numRows = numRows;
  groups->numExperts = 0;
  for (int32_t e = 0; e < numExperts; e++) {
    int32_t count = places[e];
    places[e] = end;
    if (count == 0) continue;
    groups->experts[groups->numExperts] = e;
    groups->starts[groups->numExperts++] = end;
    end += count;
  }
  groups->starts[groups->numExperts] = end;
  for (int32_t i = 0; i < numRows; i++) groups->rows[places[experts[from ? from[i] : i]]++] = i;
}

void group_rows(Kernel *kernel) {
  group(kernel, &kernel->all, NULL, kernel->step->numRows);
  group(kernel, &kernel->wanted, kernel->active, kernel->numActive);
}
