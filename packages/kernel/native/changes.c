// Low-rank changes of a model. A change adds `raise * (scales * (lower * inputs))` to products of the rows that have it.

#include "memory.h"
#include "phases.h"
#include "platform.h"
#include "reader.h"

/** Number of inputs in one part of lowered inputs, and of rows that one task lowers. */
enum { PART_INPUTS = 256, LOWERED_ROWS = 4, MOST_TOGETHER = 3 };

static size_t element_bytes(ChangeFormat format) { return format == CHANGE_FLOAT ? 4 : format == CHANGE_HALF ? 2 : 1; }

static int num_parts(int numIn) { return (numIn + PART_INPUTS - 1) / PART_INPUTS; }

/** Finds the weights that an entry changes; NULL for a product that the model does not have. */
static const Tensor *changed_tensor(const Kernel *kernel, int index) {
  if (index == kernel->model.numLayers * CHANGED_PRODUCTS) return kernel->head;
  const Layer *layer = &kernel->layers[index / CHANGED_PRODUCTS];
  const Tensor *const tensors[CHANGED_PRODUCTS] = {layer->query, layer->key, layer->value, layer->attentionOutput, layer->gate, layer->up, layer->down};
  return tensors[index % CHANGED_PRODUCTS];
}

static int read_entry(Reader *reader, const Kernel *kernel, int index, ChangeFormat format, const ChangeEntry *entry, LowRank *low) {
  *low = (LowRank){.rank = entry->rank};
  if (entry->rank == 0) return 1;
  const Tensor *tensor = changed_tensor(kernel, index);
  if (!tensor) return fail(reader, "a change of a product that the model does not have");
  if (entry->rank < 0 || entry->rank > MOST_RANK || entry->rank % 16 != 0) return fail(reader, "a change's rank");
  uint64_t rank = (uint64_t)entry->rank, bytes = element_bytes(format);
  low->format = format;
  uint64_t numIn = (uint64_t)(format == CHANGE_INT8 ? whole(tensor->numIn, GROUP) : tensor->numIn);
  low->lower = bytes_at(reader, entry->lower, numIn * rank * bytes);
  low->raise = bytes_at(reader, entry->raise, (uint64_t)tensor->numPanels * PANEL * rank * bytes);
  low->scales = (const float *)bytes_at(reader, entry->scales, rank * 4);
  return reader->error == NULL;
}

static int read_change(Reader *reader, const Kernel *kernel, Change *change) {
  int32_t numEntries = kernel->model.numLayers * CHANGED_PRODUCTS + 1;
  ChangeDescription head;
  if (reader->bytes < sizeof head + (size_t)numEntries * sizeof(ChangeEntry)) return fail(reader, "a change's length");
  memcpy(&head, reader->file, sizeof head);
  if (head.magic != CHANGE_MAGIC || head.version != CHANGE_VERSION) return fail(reader, "a change's version");
  if (head.numLayers != kernel->model.numLayers) return fail(reader, "a change's layers");
  if (head.format < CHANGE_FLOAT || head.format > CHANGE_INT8) return fail(reader, "a change's format");
  change->format = (ChangeFormat)head.format;
  for (int32_t i = 0; i < numEntries; i++) {
    ChangeEntry entry;
    memcpy(&entry, reader->file + sizeof head + (size_t)i * sizeof entry, sizeof entry);
    if (!read_entry(reader, kernel, i, (ChangeFormat)head.format, &entry, &change->products[i])) return 0;
    if (entry.rank > change->maxRank) change->maxRank = entry.rank;
  }
  return 1;
}

/** Makes room for lowered inputs of changes of this rank. @returns 0 when there is no memory */
static int reserve_lowered(Kernel *kernel, int32_t rank) {
  if (rank <= kernel->loweredRank) return 1;
  uint64_t most = 0, rows = (uint64_t)(kernel->options.maxRows < LOGIT_ROWS ? LOGIT_ROWS : kernel->options.maxRows);
  for (int32_t i = 0; i <= kernel->model.numLayers * CHANGED_PRODUCTS; i++) {
    const Tensor *tensor = changed_tensor(kernel, i);
    if (tensor && (uint64_t)num_parts(tensor->numIn) > most) most = (uint64_t)num_parts(tensor->numIn);
  }
  uint64_t bytes = rows * most * MOST_TOGETHER * (uint64_t)rank * 4;
  float *lowered = bytes > SIZE_MAX ? NULL : platform_allocate((size_t)bytes);
  if (!lowered) return 0;
  platform_free(kernel->lowered);
  kernel->lowered = lowered;
  kernel->loweredRank = rank;
  return 1;
}

/** Makes room for a slot. @returns 0 when there is no memory */
static int reserve_slot(Kernel *kernel, int32_t slot) {
  if (slot < kernel->numChanges) return 1;
  int32_t count = least(MOST_CHANGES, slot + 1 + slot / 2);
  Change **changes = platform_allocate((size_t)count * sizeof *changes);
  if (!changes) return 0;
  if (kernel->numChanges > 0) memcpy(changes, kernel->changes, (size_t)kernel->numChanges * sizeof *changes);
  platform_free(kernel->changes);
  kernel->changes = changes;
  kernel->numChanges = count;
  return 1;
}

const char *kernel_place_change(Kernel *kernel, int32_t slot, const uint8_t *bytes, size_t length) {
  if (slot < 0 || slot >= MOST_CHANGES) return "a change's slot";
  if ((uintptr_t)bytes % 64 != 0) return "a change at a multiple of 64 bytes";
  Change *change = NULL;
  if (bytes) {
    Reader reader = {.file = bytes, .bytes = length};
    size_t numEntries = (size_t)kernel->model.numLayers * CHANGED_PRODUCTS + 1;
    change = platform_allocate(sizeof *change + numEntries * sizeof(LowRank));
    const char *error = !change ? "memory" : !read_change(&reader, kernel, change) ? reader.error : NULL;
    if (!error && !(reserve_lowered(kernel, change->maxRank) && reserve_slot(kernel, slot))) error = "memory";
    if (error) {
      platform_free(change);
      return error;
    }
    change->slot = slot;
  } else if (slot >= kernel->numChanges) {
    return NULL;
  }
  platform_free(kernel->changes[slot]);
  kernel->changes[slot] = change;
  // Factors of bytes are multiplied by rounded inputs, which products of float32 do not need.
  if (change && change->format == CHANGE_INT8) kernel->rounds = 1;
  // A step that has begun may point to the change that was replaced.
  kernel->step = NULL;
  return NULL;
}

void close_changes(Kernel *kernel) {
  for (int32_t i = 0; i < kernel->numChanges; i++) platform_free(kernel->changes[i]);
  platform_free(kernel->changes);
  platform_free(kernel->lowered);
}

/** Adds a change to those of the step, unless it is among them. */
static void use(Kernel *kernel, const Change *change) {
  for (int32_t i = kernel->numUsed - 1; i >= 0; i--)
    if (kernel->used[i] == change) return;
  kernel->used[kernel->numUsed++] = change;
}

void find_changes(Kernel *kernel) {
  const Step *step = kernel->step;
  kernel->numUsed = 0;
  for (int32_t row = 0; row < step->numRows; row++) {
    const Change *change = step->changes[row] < 0 ? NULL : kernel->changes[step->changes[row]];
    kernel->rowChanges[row] = change;
    if (change && !(row > 0 && change == kernel->rowChanges[row - 1])) use(kernel, change);
  }
  for (int32_t i = 0; i < kernel->numActive; i++) kernel->activeChanges[i] = kernel->rowChanges[kernel->active[i]];
  for (int32_t i = 0; i < step->numRows; i++) kernel->placeChanges[i] = kernel->rowChanges[kernel->all.rows[i]];
  for (int32_t i = 0; i < kernel->numActive; i++) kernel->wantedChanges[i] = kernel->activeChanges[kernel->wanted.rows[i]];
}

static int is_changed(const Kernel *kernel, const Changed *changed) {
  for (int32_t i = 0; i < kernel->numUsed; i++)
    for (int p = changed->first; p < changed->first + changed->numProducts; p++)
      if (kernel->used[i]->products[p].rank > 0) return 1;
  return 0;
}

/** Counts the rows from `row` on, up to `end`, that have the same change. */
static int run_of(const Changed *changed, int row, int end) {
  int next = row + 1;
  while (next < end && changed->changes[next] == changed->changes[row]) next++;
  return next - row;
}

static Lowered lowered_shape(const Kernel *kernel, const Changed *changed) {
  int32_t rank = kernel->loweredRank;
  return (Lowered){changed->numParts, rank, rank * changed->numParts * changed->numProducts};
}

/** Returns the first part of a row's lowered inputs of a product. */
static float *lowered_at(const Kernel *kernel, const Changed *changed, Lowered shape, int row, int product) {
  return kernel->lowered + (size_t)row * (size_t)shape.rowStride + (size_t)product * (size_t)(shape.partStride * changed->numParts);
}

/** Prefetches elements of a factor into the second-level cache. */
static void prefetch(const uint8_t *factor, size_t from, size_t count, ChangeFormat format) {
  const uint8_t *at = factor + from * element_bytes(format);
  for (size_t i = 0; i < count * element_bytes(format); i += 64) __builtin_prefetch(at + i, 0, 2);
}

/** Prefetches the factors with which a task lowers inputs `[from, to)` of rows `[row, end)`, except for its first run. */
static void prefetch_lower(const Changed *changed, int row, int end, int from, int to) {
  row += run_of(changed, row, end);
  for (int count; row < end; row += count) {
    count = run_of(changed, row, end);
    for (int p = 0; changed->changes[row] && p < changed->numProducts; p++) {
      const LowRank *low = &changed->changes[row]->products[changed->first + p];
      if (low->rank > 0) prefetch(low->lower, (size_t)from * (size_t)low->rank, (size_t)(to - from) * (size_t)low->rank, low->format);
    }
  }
}

void prefetch_raise(const Changed *changed, int product, int rowFrom, int rowTo, int from, int to) {
  if (changed->numParts == 0) return;
  for (int row = rowFrom, count; row < rowTo; row += count) {
    count = run_of(changed, row, rowTo);
    if (!changed->changes[row]) continue;
    const LowRank *low = &changed->changes[row]->products[changed->first + product];
    size_t vector = 16 * (size_t)low->rank;
    if (low->rank > 0) prefetch(low->raise, (size_t)from * vector, (size_t)(to - from) * vector, low->format);
  }
}

Changed lower_rows(Kernel *kernel, Member *member, Changed changed, const Rows *inputs, int numIn) {
  if (changed.numRows == 0 || !is_changed(kernel, &changed)) return changed;
  changed.numParts = num_parts(numIn);
  Lowered shape = lowered_shape(kernel, &changed);
  EACH_TASK(member, task, (changed.numRows + LOWERED_ROWS - 1) / LOWERED_ROWS * changed.numParts) {
    int part = task % changed.numParts, row = task / changed.numParts * LOWERED_ROWS, end = least(row + LOWERED_ROWS, changed.numRows);
    int from = part * PART_INPUTS, to = least(from + PART_INPUTS, numIn);
    prefetch_lower(&changed, row, end, from, to);
    for (int count; row < end; row += count) {
      count = run_of(&changed, row, end);
      for (int p = 0; changed.changes[row] && p < changed.numProducts; p++) {
        const LowRank *low = &changed.changes[row]->products[changed.first + p];
        float *out = lowered_at(kernel, &changed, shape, row, p) + (size_t)part * (size_t)shape.partStride;
        if (low->rank > 0) kernel->loops->lower(low, inputs, row, count, from, to, out, shape.rowStride);
      }
    }
  }
  team_next_phase(member);
  return changed;
}

void raise_rows(const Kernel *kernel, const Changed *changed, int product, int rowFrom, int rowTo, int from, int to, float *out, int outStride) {
  if (changed->numParts == 0) return;
  Lowered shape = lowered_shape(kernel, changed);
  for (int row = rowFrom, count; row < rowTo; row += count) {
    count = run_of(changed, row, rowTo);
    const LowRank *low = changed->changes[row] ? &changed->changes[row]->products[changed->first + product] : NULL;
    if (!low || low->rank == 0) continue;
    const float *parts = lowered_at(kernel, changed, shape, row, product);
    kernel->loops->raise(low, from, to, parts, shape, count, out + (size_t)(row - rowFrom) * (size_t)outStride, outStride);
  }
}
