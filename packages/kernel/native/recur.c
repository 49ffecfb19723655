// Layers with a recurrence. One phase convolves every row's products with those of rows before it. In the next each task
// runs a head's state through all rows of a sequence, so that a state's numbers depend on the rows before alone.

#include "memory.h"
#include "phases.h"

/** Number of rows that a state runs through in one call. */
enum { RECUR_ROWS = 16 };

static int has_heads(const Layer *layer) { return layer->description.mixing != MIX_CONVOLUTION; }

/** Rows of one sequence, and what is saved of it. */
typedef struct {
  const int32_t *sequence;
  int firstRow, endRow;
  /** Saves `[firstSave, endSave)`. */
  int firstSave, endSave;
  /** First of its rows in `active`, when only some rows' outputs are wanted. */
  int firstActive;
} Span;

/** Moves to the rows of a later sequence. */
static void span_at(const Kernel *kernel, int index, Span *span) {
  const Step *step = kernel->step;
  int number = (int)(span->sequence - step->sequences) / SEQUENCE_FIELDS;
  for (; number < index; number++, span->sequence += SEQUENCE_FIELDS) span->firstRow += span->sequence[0];
  span->endRow = span->firstRow + span->sequence[0];
  while (span->firstSave < step->numSaves && step->savedRows[span->firstSave] < span->firstRow) span->firstSave++;
  for (span->endSave = span->firstSave; span->endSave < step->numSaves && step->savedRows[span->endSave] < span->endRow;) span->endSave++;
  while (span->firstActive < kernel->numActive && kernel->active[span->firstActive] < span->firstRow) span->firstActive++;
}

static float *saved_state(const Kernel *kernel, const Layer *layer, int32_t state) {
  const Pages *pages = kernel->step->pages;
  return pages->states + (size_t)state * pages->stateFloats + layer->state;
}

/** Finds the row of outputs of a row, -1 for none. Rows rise. */
static int place_of(const Kernel *kernel, int isPartial, int row, int *active) {
  if (!isPartial) return row;
  while (*active < kernel->numActive && kernel->active[*active] < row) ++*active;
  return *active < kernel->numActive && kernel->active[*active] == row ? *active : -1;
}

/** Finds the products that are convolved, `back` positions before a row: in the step, else in the state, else zeros. */
static const float *convolved_at(const Kernel *kernel, const Layer *layer, const Cursor *at, int row, int back) {
  int numTaps = layer->description.numTaps, before = at->firstRow - (row - back);
  size_t width = (size_t)layer->convolvedWidth;
  // Keys, which are multiplied by values, are behind queries.
  if (before <= 0) return kernel->projected + (size_t)(row - back) * (size_t)kernel->projectedWidth + (has_heads(layer) ? 0 : width);
  return at->sequence[3] < 0 ? kernel->zeros : saved_state(kernel, layer, at->sequence[3]) + (size_t)(numTaps - 1 - before) * width;
}

/** Convolves columns `[from, to)` of a row into `out`. */
static void convolve_columns(const Kernel *kernel, const Layer *layer, const Cursor *at, int row, int from, int to, float *out) {
  const LayerDescription *d = &layer->description;
  const float *table = (const float *)layer->convolution->weights + from, *inputs[MOST_TAPS], *factors[MOST_TAPS];
  for (int tap = 0; tap < d->numTaps; tap++) {
    int back = d->numTaps - 1 - tap;
    inputs[tap] = convolved_at(kernel, layer, at, row, back) + from;
    factors[tap] = has_heads(layer) || row - back < at->firstRow ? NULL : inputs[tap] + layer->convolvedWidth;
  }
  kernel->loops->convolve(&(Convolution){
      .inputs = inputs,
      .factors = factors,
      .weights = table,
      .stride = (size_t)layer->convolvedWidth,
      .numTaps = d->numTaps,
      .hasBias = layer->convolution->numOut > d->numTaps,
      .gate = has_heads(layer) ? NULL : kernel->projected + (size_t)row * (size_t)kernel->projectedWidth + from,
      .size = to - from,
      .out = out,
  });
}

/** Computes `ln(1 + exp(x))` from `exp(-|x|)`. Bits of the C library's logarithm differ among systems. */
static float soft_plus(float x, float power) {
  double z = (double)power / (2.0 + (double)power), square = z * z, sum = 0;
  for (int i = 19; i > 0; i -= 2) sum = sum * square + 1.0 / i;
  return (float)((x > 0 ? (double)x : 0) + 2 * z * sum) + (x - x);
}

/** Computes a row's decays and strengths by head. */
static void compute_gains(const Kernel *kernel, const Layer *layer, int row) {
  const float *projected = kernel->projected + (size_t)row * (size_t)kernel->projectedWidth;
  const float *rates = (const float *)layer->rates->weights, *biases = rates + RATE_BIAS_ROW * layer->rates->numIn;
  int numHeads = layer->description.numHeads, width = kernel->ratesWidth;
  float *decays = kernel->gains + (size_t)row * 2 * (size_t)width, *strengths = decays + width;
  for (int from = 0; from < numHeads; from += 16) {
    float away[16] = {0}, power[16];
    int count = least(16, numHeads - from);
    for (int i = 0; i < count; i++) {
      float x = projected[layer->decayColumn + from + i] + biases[from + i];
      away[i] = x < 0 ? x : -x;
    }
    kernel->loops->exponentials(away, 0, power, 16);
    for (int i = 0; i < count; i++) {
      float soft = soft_plus(projected[layer->decayColumn + from + i] + biases[from + i], power[i]);
      strengths[from + i] = soft;
      away[i] = rates[from + i] * soft;
    }
    kernel->loops->exponentials(away, 0, decays + from, 16);
    if (layer->description.mixing != MIX_DELTA) continue;
    for (int i = 0; i < count; i++) {
      float x = projected[layer->strengthColumn + from + i];
      away[i] = x < 0 ? x : -x;
    }
    kernel->loops->exponentials(away, 0, power, 16);
    for (int i = 0; i < count; i++) {
      float x = projected[layer->strengthColumn + from + i];
      strengths[from + i] = (x < 0 ? power[i] : 1) / (1 + power[i]) + (x - x);
    }
  }
}

/** Runs a phase whose tasks are some columns of a row. */
static void convolve_rows(Kernel *kernel, Member *member, const Layer *layer, int isPartial) {
  const Step *step = kernel->step;
  int numPanels = layer->convolvedWidth / PANEL, numParts = least(numPanels, 6 * kernel->team.numThreads / step->numRows + 1), active = 0;
  Cursor at = {step->sequences, 0};
  EACH_TASK(member, task, step->numRows * numParts) {
    int row = task / numParts, part = task % numParts;
    int from = numPanels * part / numParts * PANEL, to = numPanels * (part + 1) / numParts * PANEL;
    move_to(&at, row);
    if (has_heads(layer)) {
      convolve_columns(kernel, layer, &at, row, from, to, kernel->convolved + (size_t)row * (size_t)kernel->convolvedWidth + from);
      if (part == 0) compute_gains(kernel, layer, row);
    } else {
      int place = place_of(kernel, isPartial, row, &active);
      if (place >= 0) convolve_columns(kernel, layer, &at, row, from, to, kernel->attended.floats + (size_t)place * kernel->attended.width + from);
    }
  }
  team_next_phase(member);
}

/** Saves what the next positions' convolutions see of a sequence. */
static void save_convolved(const Kernel *kernel, const Layer *layer, const Span *span) {
  int most = layer->description.numTaps - 1, width = layer->convolvedWidth;
  Cursor at = {span->sequence, span->firstRow};
  for (int save = span->firstSave; save < span->endSave; save++) {
    float *to = saved_state(kernel, layer, kernel->step->savedStates[save]);
    for (int back = most - 1; back >= 0; back--, to += width) {
      int row = kernel->step->savedRows[save];
      const float *from = convolved_at(kernel, layer, &at, row, back);
      if (!has_heads(layer) && row - back >= span->firstRow)
        for (int i = 0; i < width; i++) to[i] = from[i] * from[width + i];
      else if (to != from) memcpy(to, from, (size_t)width * 4);
    }
  }
}

size_t recurrence_floats(const Kernel *kernel) {
  size_t most = 0;
  for (int l = 0; l < kernel->model.numLayers; l++) {
    const LayerDescription *d = &kernel->layers[l].description;
    size_t keySize = (size_t)d->headSize, padded = (size_t)whole(d->valueSize, 16);
    size_t floats = keySize * padded + RECUR_ROWS * 2 * (keySize + padded) + 2 * padded;
    if (d->mixing > MIX_CONVOLUTION && floats > most) most = floats;
  }
  return most + 1;
}

/** Gates a head's outputs of a row, and norms them first if they are normed by head. */
static void finish_head(const Kernel *kernel, const Layer *layer, int row, int head, int place, float *out, float *room) {
  const LayerDescription *d = &layer->description;
  int size = d->valueSize, padded = whole(size, 16);
  const float *gates = kernel->projected + (size_t)row * (size_t)kernel->projectedWidth + layer->gateColumn + (size_t)head * (size_t)size;
  memcpy(room, gates, (size_t)size * 4);
  if (d->mixing == MIX_DELTA) kernel->loops->norm(out, layer->outputNorm, kernel->model.normEpsilon, size, padded, out);
  kernel->loops->gate(room, out, room + padded, padded, ACTIVATION_SILU);
  memcpy(kernel->attended.floats + (size_t)place * kernel->attended.width + (size_t)head * (size_t)size, room + padded, (size_t)size * 4);
}

/** Runs the state of one head through a sequence's rows, and saves it. */
static void run_head(const Kernel *kernel, const Layer *layer, Span span, int head, int isPartial, float *room) {
  const LayerDescription *d = &layer->description;
  const Step *step = kernel->step;
  int padded = whole(d->valueSize, 16), keyHead = d->isTiled ? head % d->numKvHeads : head / (d->numHeads / d->numKvHeads);
  size_t size = (size_t)d->headSize * (size_t)padded, offset = (size_t)(d->numTaps - 1) * (size_t)layer->convolvedWidth + (size_t)head * size;
  // Rows change the state that is saved behind the last one, or memory of this thread.
  int isSaved = span.endSave > span.firstSave && step->savedRows[span.endSave - 1] == span.endRow - 1;
  float *state = isSaved ? saved_state(kernel, layer, step->savedStates[span.endSave - 1]) + offset : room;
  const float *before = span.sequence[3] < 0 ? NULL : saved_state(kernel, layer, span.sequence[3]) + offset;
  if (!before) memset(state, 0, size * 4);
  else if (before != state) memcpy(state, before, size * 4);
  const float *skips = (const float *)layer->rates->weights + SKIP_ROW * layer->rates->numIn;
  float *outs = room + size, *spare = outs + RECUR_ROWS * (size_t)padded, *inputs = spare + 2 * (size_t)padded;
  for (int row = span.firstRow, to; row < span.endRow; row = to) {
    int isDone = span.firstSave == span.endSave, nextSave = isDone ? span.endRow : step->savedRows[span.firstSave] + 1;
    to = least(row + RECUR_ROWS, least(span.endRow, nextSave));
    const float *first = kernel->convolved + (size_t)row * (size_t)kernel->convolvedWidth;
    const float *keys = first + layer->query->numPanels * PANEL, *values = keys + layer->key->numPanels * PANEL;
    const float *gains = kernel->gains + (size_t)row * 2 * (size_t)kernel->ratesWidth + head;
    kernel->loops->recur(&(Recurrence){
        .state = state,
        .query = first + (size_t)keyHead * (size_t)d->headSize,
        .key = keys + (size_t)keyHead * (size_t)d->headSize,
        .value = values + (size_t)head * (size_t)d->valueSize,
        .stride = (size_t)kernel->convolvedWidth,
        .decays = gains,
        .strengths = gains + kernel->ratesWidth,
        .gainsStride = 2 * (size_t)kernel->ratesWidth,
        .skip = d->mixing == MIX_SPACE ? skips[head] : 0,
        .isDelta = d->mixing == MIX_DELTA,
        .numRows = to - row,
        .keySize = d->headSize,
        .valueSize = d->valueSize,
        .outs = outs,
        .room = inputs,
    });
    for (int r = row; r < to; r++) {
      int place = place_of(kernel, isPartial, r, &span.firstActive);
      if (place >= 0) finish_head(kernel, layer, r, head, place, outs + (size_t)(r - row) * (size_t)padded, spare);
    }
    if (isDone || nextSave != to) continue;
    float *saved = saved_state(kernel, layer, step->savedStates[span.firstSave++]) + offset;
    if (saved != state) memcpy(saved, state, size * 4);
  }
}

void recur_rows(Kernel *kernel, Member *member, const Layer *layer, int numRows) {
  const Step *step = kernel->step;
  int isPartial = numRows < step->numRows, numParts = 1 + (has_heads(layer) ? layer->description.numHeads : 0);
  float *room = kernel->recurrenceRooms + (size_t)member->thread * recurrence_floats(kernel);
  convolve_rows(kernel, member, layer, isPartial);
  Span span = {.sequence = step->sequences};
  EACH_TASK(member, task, step->numSequences * numParts) {
    span_at(kernel, task / numParts, &span);
    int part = task % numParts;
    if (part == 0) save_convolved(kernel, layer, &span);
    else run_head(kernel, layer, span, part - 1, isPartial, room);
  }
  if (numRows > 0 && (kernel->rounds || layer->outputNorm.scales)) finish_attended(kernel, member, layer, numRows);
}
