// Sorts rows by expert: once per step where steps name the experts, and in each mixture the rows of its choice.

#include "phases.h"

/**
 * Sorts `numRows` rows; rows of one expert stay in their order.
 * @param experts - by row, or by the rows that `from` lists
 */
static void group(Kernel *kernel, Groups *groups, const int32_t *experts, const int32_t *from, int32_t numRows, int32_t numExperts) {
  int32_t *places = kernel->counts, end = 0, numTasks = 0;
  for (int32_t e = 0; e < numExperts; e++) places[e] = 0;
  for (int32_t i = 0; i < numRows; i++) places[experts[from ? from[i] : i]]++;
  groups->numRows = numRows;
  groups->numExperts = 0;
  for (int32_t e = 0; e < numExperts; e++) {
    int32_t count = places[e];
    places[e] = end;
    if (count == 0) continue;
    groups->experts[groups->numExperts] = e;
    groups->tasks[groups->numExperts] = numTasks;
    groups->starts[groups->numExperts++] = end;
    end += count;
    numTasks += row_tasks(count);
  }
  groups->starts[groups->numExperts] = end;
  groups->tasks[groups->numExperts] = numTasks;
  atomic_store_explicit(&groups->numTasks, numTasks, memory_order_relaxed);
  for (int32_t i = 0; i < numRows; i++) groups->rows[places[experts[from ? from[i] : i]]++] = i;
}

void group_rows(Kernel *kernel) {
  const int32_t *experts = kernel->step->experts, numExperts = kernel->model.numExperts;
  group(kernel, &kernel->all, experts, NULL, kernel->step->numRows, numExperts);
  group(kernel, &kernel->wanted, experts, kernel->active, kernel->numActive, numExperts);
}

void group_pairs(Kernel *kernel, const Layer *layer, int from, int to) {
  int32_t count = layer->description.expertsPerToken, numPairs = (to - from) * count;
  group(kernel, &kernel->pairs, kernel->choices + (size_t)from * (size_t)count, NULL, numPairs, layer->numExperts);
  for (int32_t place = 0; place < numPairs; place++) kernel->pairPlaces[kernel->pairs.rows[place]] = place;
}
