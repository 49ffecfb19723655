// Loras: low-rank changes of a model. A lora adds `raise * (scales * (lower * inputs))` to products of the rows that have it.

#include "memory.h"
#include "phases.h"
#include "platform.h"
#include "reader.h"

/** Number of inputs in one part of lowered inputs, and of rows that one task lowers. */
enum { PART_INPUTS = 256, LOWERED_ROWS = 4, MOST_TOGETHER = 3 };

static size_t element_bytes(LoraFormat format) { return format == LORA_FLOAT ? 4 : format == LORA_HALF ? 2 : 1; }

static int num_parts(int numIn) { return (numIn + PART_INPUTS - 1) / PART_INPUTS; }

/** Finds the weights that an entry changes; NULL for a product that the model does not have. */
static const Tensor *lora_tensor(const Kernel *kernel, int index) {
  if (index == kernel->model.numLayers * LORA_PRODUCTS) return kernel->head;
  const Layer *layer = &kernel->layers[index / LORA_PRODUCTS];
  // Queries of a low rank are behind another product.
  const Tensor *const tensors[LORA_PRODUCTS] = {layer->queryLow ? NULL : layer->query, layer->key, layer->value, layer->attentionOutput, layer->gate, layer->up, layer->down};
  return tensors[index % LORA_PRODUCTS];
}

static int read_entry(Reader *reader, const Kernel *kernel, int index, LoraFormat format, const LoraEntry *entry, LoraFactors *low) {
  *low = (LoraFactors){.rank = entry->rank};
  if (entry->rank == 0) return 1;
  const Tensor *tensor = lora_tensor(kernel, index);
  if (!tensor) return fail(reader, "a lora of a product that the model does not have");
  if (entry->rank < 0 || entry->rank > MOST_RANK || entry->rank % 16 != 0) return fail(reader, "a lora's rank");
  uint64_t rank = (uint64_t)entry->rank, bytes = element_bytes(format);
  low->format = format;
  uint64_t numIn = (uint64_t)(format == LORA_INT8 ? whole(tensor->numIn, GROUP) : tensor->numIn);
  low->lower = bytes_at(reader, entry->lower, numIn * rank * bytes);
  low->raise = bytes_at(reader, entry->raise, (uint64_t)tensor->numPanels * PANEL * rank * bytes);
  low->scales = (const float *)bytes_at(reader, entry->scales, rank * 4);
  return reader->error == NULL;
}

static int read_lora(Reader *reader, const Kernel *kernel, Lora *lora) {
  int32_t numEntries = kernel->model.numLayers * LORA_PRODUCTS + 1;
  LoraDescription head;
  if (reader->bytes < sizeof head + (size_t)numEntries * sizeof(LoraEntry)) return fail(reader, "a lora's length");
  memcpy(&head, reader->file, sizeof head);
  if (head.magic != LORA_MAGIC || head.version != LORA_VERSION) return fail(reader, "a lora's version");
  if (head.numLayers != kernel->model.numLayers) return fail(reader, "a lora's layers");
  if (head.format < LORA_FLOAT || head.format > LORA_INT8) return fail(reader, "a lora's format");
  lora->format = (LoraFormat)head.format;
  for (int32_t i = 0; i < numEntries; i++) {
    LoraEntry entry;
    memcpy(&entry, reader->file + sizeof head + (size_t)i * sizeof entry, sizeof entry);
    if (!read_entry(reader, kernel, i, (LoraFormat)head.format, &entry, &lora->products[i])) return 0;
    if (entry.rank > lora->maxRank) lora->maxRank = entry.rank;
  }
  return 1;
}

/** Makes room for lowered inputs of loras of this rank. @returns 0 when there is no memory */
static int reserve_lowered(Kernel *kernel, int32_t rank) {
  if (rank <= kernel->loweredRank) return 1;
  uint64_t most = 0, rows = (uint64_t)(kernel->options.maxRows < LOGIT_ROWS ? LOGIT_ROWS : kernel->options.maxRows);
  for (int32_t i = 0; i <= kernel->model.numLayers * LORA_PRODUCTS; i++) {
    const Tensor *tensor = lora_tensor(kernel, i);
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
  if (slot < kernel->numLoras) return 1;
  int32_t count = least(MOST_LORAS, slot + 1 + slot / 2);
  Lora **loras = platform_allocate((size_t)count * sizeof *loras);
  if (!loras) return 0;
  if (kernel->numLoras > 0) memcpy(loras, kernel->loras, (size_t)kernel->numLoras * sizeof *loras);
  platform_free(kernel->loras);
  kernel->loras = loras;
  kernel->numLoras = count;
  return 1;
}

const char *kernel_place_lora(Kernel *kernel, int32_t slot, const uint8_t *bytes, size_t length) {
  if (slot < 0 || slot >= MOST_LORAS) return "a lora's slot";
  if ((uintptr_t)bytes % 64 != 0) return "a lora at a multiple of 64 bytes";
  Lora *lora = NULL;
  if (bytes) {
    Reader reader = {.file = bytes, .bytes = length};
    size_t numEntries = (size_t)kernel->model.numLayers * LORA_PRODUCTS + 1;
    lora = platform_allocate(sizeof *lora + numEntries * sizeof(LoraFactors));
    const char *error = !lora ? "memory" : !read_lora(&reader, kernel, lora) ? reader.error : NULL;
    if (!error && !(reserve_lowered(kernel, lora->maxRank) && reserve_slot(kernel, slot))) error = "memory";
    if (error) {
      platform_free(lora);
      return error;
    }
    lora->slot = slot;
  } else if (slot >= kernel->numLoras) {
    return NULL;
  }
  Lora *before = kernel->loras[slot];
  kernel->loras[slot] = lora;
  // Factors of bytes are multiplied by rounded inputs, which products of float32 do not need.
  if (lora && lora->format == LORA_INT8) kernel->rounds = 1;
  // A step that has begun may point to the lora that was replaced.
  for (int32_t i = 0; i < kernel->numUsed; i++)
    if (kernel->used[i] == before) kernel->step = NULL;
  platform_free(before);
  return NULL;
}

void close_loras(Kernel *kernel) {
  for (int32_t i = 0; i < kernel->numLoras; i++) platform_free(kernel->loras[i]);
  platform_free(kernel->loras);
  platform_free(kernel->lowered);
}

/** Adds a lora to those of the step, unless it is among them. */
static void use(Kernel *kernel, const Lora *lora) {
  for (int32_t i = kernel->numUsed - 1; i >= 0; i--)
    if (kernel->used[i] == lora) return;
  kernel->used[kernel->numUsed++] = lora;
}

void find_loras(Kernel *kernel) {
  const Step *step = kernel->step;
  kernel->numUsed = 0;
  for (int32_t row = 0; row < step->numRows; row++) {
    const Lora *lora = step->loras[row] < 0 ? NULL : kernel->loras[step->loras[row]];
    kernel->rowLoras[row] = lora;
    if (lora && !(row > 0 && lora == kernel->rowLoras[row - 1])) use(kernel, lora);
  }
  for (int32_t i = 0; i < kernel->numActive; i++) kernel->activeLoras[i] = kernel->rowLoras[kernel->active[i]];
  for (int32_t i = 0; i < step->numRows; i++) kernel->placeLoras[i] = kernel->rowLoras[kernel->all.rows[i]];
  for (int32_t i = 0; i < kernel->numActive; i++) kernel->wantedLoras[i] = kernel->activeLoras[kernel->wanted.rows[i]];
}

static int have_loras(const Kernel *kernel, const LoraRows *loraRows) {
  for (int32_t i = 0; i < kernel->numUsed; i++)
    for (int p = loraRows->first; p < loraRows->first + loraRows->numProducts; p++)
      if (kernel->used[i]->products[p].rank > 0) return 1;
  return 0;
}

/** Counts the rows from `row` on, up to `end`, that have the same lora. */
static int run_of(const LoraRows *loraRows, int row, int end) {
  int next = row + 1;
  while (next < end && loraRows->loras[next] == loraRows->loras[row]) next++;
  return next - row;
}

static Lowered lowered_shape(const Kernel *kernel, const LoraRows *loraRows) {
  int32_t rank = kernel->loweredRank;
  return (Lowered){loraRows->numParts, rank, rank * loraRows->numParts * loraRows->numProducts};
}

/** Returns the first part of a row's lowered inputs of a product. */
static float *lowered_at(const Kernel *kernel, const LoraRows *loraRows, Lowered shape, int row, int product) {
  return kernel->lowered + (size_t)row * (size_t)shape.rowStride + (size_t)product * (size_t)(shape.partStride * loraRows->numParts);
}

/** Prefetches elements of a factor into the second-level cache. */
static void prefetch(const uint8_t *factor, size_t from, size_t count, LoraFormat format) {
  const uint8_t *at = factor + from * element_bytes(format);
  for (size_t i = 0; i < count * element_bytes(format); i += 64) __builtin_prefetch(at + i, 0, 2);
}

/** Prefetches the factors with which a task lowers inputs `[from, to)` of rows `[row, end)`, except for its first run. */
static void prefetch_lower(const LoraRows *loraRows, int row, int end, int from, int to) {
  row += run_of(loraRows, row, end);
  for (int count; row < end; row += count) {
    count = run_of(loraRows, row, end);
    for (int p = 0; loraRows->loras[row] && p < loraRows->numProducts; p++) {
      const LoraFactors *low = &loraRows->loras[row]->products[loraRows->first + p];
      if (low->rank > 0) prefetch(low->lower, (size_t)from * (size_t)low->rank, (size_t)(to - from) * (size_t)low->rank, low->format);
    }
  }
}

void prefetch_raise(const LoraRows *loraRows, int product, int rowFrom, int rowTo, int from, int to) {
  if (loraRows->numParts == 0 || product >= loraRows->numProducts) return;
  for (int row = rowFrom, count; row < rowTo; row += count) {
    count = run_of(loraRows, row, rowTo);
    if (!loraRows->loras[row]) continue;
    const LoraFactors *low = &loraRows->loras[row]->products[loraRows->first + product];
    size_t vector = 16 * (size_t)low->rank;
    if (low->rank > 0) prefetch(low->raise, (size_t)from * vector, (size_t)(to - from) * vector, low->format);
  }
}

LoraRows lower_rows(Kernel *kernel, Member *member, LoraRows loraRows, const Rows *inputs, int numIn) {
  if (loraRows.numRows == 0 || !have_loras(kernel, &loraRows)) return loraRows;
  loraRows.numParts = num_parts(numIn);
  Lowered shape = lowered_shape(kernel, &loraRows);
  EACH_TASK(member, task, (loraRows.numRows + LOWERED_ROWS - 1) / LOWERED_ROWS * loraRows.numParts) {
    int part = task % loraRows.numParts, row = task / loraRows.numParts * LOWERED_ROWS, end = least(row + LOWERED_ROWS, loraRows.numRows);
    int from = part * PART_INPUTS, to = least(from + PART_INPUTS, numIn);
    prefetch_lower(&loraRows, row, end, from, to);
    for (int count; row < end; row += count) {
      count = run_of(&loraRows, row, end);
      for (int p = 0; loraRows.loras[row] && p < loraRows.numProducts; p++) {
        const LoraFactors *low = &loraRows.loras[row]->products[loraRows.first + p];
        float *out = lowered_at(kernel, &loraRows, shape, row, p) + (size_t)part * (size_t)shape.partStride;
        if (low->rank > 0) kernel->loops->lower(low, inputs, row, count, from, to, out, shape.rowStride);
      }
    }
  }
  team_next_phase(member);
  return loraRows;
}

void raise_rows(const Kernel *kernel, const LoraRows *loraRows, int product, int rowFrom, int rowTo, int from, int to, float *out, int outStride) {
  // Gates of attention, and further products of a recurrence, have no loras.
  if (loraRows->numParts == 0 || product >= loraRows->numProducts) return;
  Lowered shape = lowered_shape(kernel, loraRows);
  for (int row = rowFrom, count; row < rowTo; row += count) {
    count = run_of(loraRows, row, rowTo);
    const LoraFactors *low = loraRows->loras[row] ? &loraRows->loras[row]->products[loraRows->first + product] : NULL;
    if (!low || low->rank == 0) continue;
    const float *parts = lowered_at(kernel, loraRows, shape, row, product);
    kernel->loops->raise(low, from, to, parts, shape, count, out + (size_t)(row - rowFrom) * (size_t)outStride, outStride);
  }
}
