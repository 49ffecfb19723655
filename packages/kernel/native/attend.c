// Attention as phases: a token's key and value are stored in its sequence's pages, then its queries read all pages.

#include "memory.h"
#include "phases.h"

/** Rotates pairs `(i, i + half)` of a head by the angles of its position. */
static void rotate(const Kernel *kernel, const LayerDescription *d, int32_t position, float *head) {
  if (d->rotary < 0) return;
  int half = d->rotarySize / 2;
  const float *cosines = kernel->rotaries[d->rotary].angles + (size_t)position * (size_t)d->rotarySize, *sines = cosines + half;
  for (int i = 0; i < half; i++) {
    float first = head[i], second = head[i + half];
    head[i] = first * cosines[i] - second * sines[i];
    head[i + half] = second * cosines[i] + first * sines[i];
  }
}

/** Copies one head to `out` `[paddedHead]`, and norms it. */
static void norm_head(const Kernel *kernel, const Layer *layer, const float *head, const float *scales, float *out) {
  int size = layer->description.headSize;
  memset(out + size, 0, (size_t)(layer->paddedHead - size) * 4);
  memcpy(out, head, (size_t)size * 4);
  if (scales && !layer->description.normsAllHeads) kernel->loops->norm(out, scales, kernel->model.normEpsilon, size, layer->paddedHead, out);
}

/** Norms all heads of a row together, in place (OLMo 2). */
static void norm_all_heads(const Kernel *kernel, const Layer *layer, float *projected) {
  const LayerDescription *d = &layer->description;
  if (!d->normsAllHeads) return;
  float *keys = projected + layer->query->numPanels * PANEL, epsilon = kernel->model.normEpsilon;
  if (layer->queryNorm) kernel->loops->norm(projected, layer->queryNorm, epsilon, layer->query->numOut, layer->query->numPanels * PANEL, projected);
  if (layer->keyNorm) kernel->loops->norm(keys, layer->keyNorm, epsilon, layer->key->numOut, layer->key->numPanels * PANEL, keys);
}

static HeadPages head_pages(const Kernel *kernel, const Layer *layer, int kvHead) {
  const Pages *pages = kernel->step->pages;
  size_t firstPage = (size_t)(layer - kernel->layers) * (size_t)pages->numPages;
  return (HeadPages){
      .base = pages->memory + firstPage * pages->pageBytes + (size_t)kvHead * pages->headPageBytes,
      .pageBytes = pages->pageBytes,
      .isHalf = pages->isHalf,
      .headSize = layer->description.headSize,
      .paddedSize = layer->paddedHead,
  };
}

/** Norms and rotates a row's queries of one key head, and stores its key and value. */
static void place_head(Kernel *kernel, const Layer *layer, int row, int kvHead, const int32_t *sequence, int32_t position) {
  const LayerDescription *d = &layer->description;
  float *projected = kernel->projected + (size_t)row * kernel->projectedWidth;
  float *queries = kernel->queries + (size_t)row * (size_t)d->numHeads * layer->paddedHead;
  int perKey = d->numHeads / d->numKvHeads;
  for (int head = kvHead * perKey; head < (kvHead + 1) * perKey; head++) {
    float *query = queries + (size_t)head * layer->paddedHead;
    norm_head(kernel, layer, projected + (size_t)head * d->headSize, layer->queryNorm, query);
    rotate(kernel, d, position, query);
  }
  const float *keys = projected + layer->query->numPanels * PANEL, *values = keys + layer->key->numPanels * PANEL;
  float key[4096 + 16];
  norm_head(kernel, layer, keys + (size_t)kvHead * d->headSize, layer->keyNorm, key);
  rotate(kernel, d, position, key);
  kernel->loops->store_token(head_pages(kernel, layer, kvHead), kernel->step->pageTable + sequence[2], position, key, values + (size_t)kvHead * d->headSize);
}

/** Position in the sequences: `*sequence` is the one that has a row, and its rows begin at `firstRow`. Rows rise. */
typedef struct {
  const int32_t *sequence;
  int firstRow;
} Cursor;

static void move_to(Cursor *cursor, int row) {
  while (row >= cursor->firstRow + cursor->sequence[0]) {
    cursor->firstRow += cursor->sequence[0];
    cursor->sequence += SEQUENCE_FIELDS;
  }
}

/** Rows `[row, row + numRows)` of one sequence that attend in one call; their outputs are rows from `out` on. */
typedef struct {
  const Cursor *at;
  int row, numRows, out;
} Piece;

/** Attends with `numHeads` query heads from `head` on, all of one key head. */
static void attend_once(Kernel *kernel, const Layer *layer, Member *member, Piece piece, int head, int numHeads) {
  const LayerDescription *d = &layer->description;
  const float *queries[ATTEND_MOST];
  float *outputs[ATTEND_MOST];
  int32_t positions[ATTEND_MOST];
  float *room = kernel->outputs + (size_t)member->thread * ATTEND_MOST * (size_t)kernel->maxPaddedHead;
  int count = 0;
  for (int r = piece.row; r < piece.row + piece.numRows; r++)
    for (int h = head; h < head + numHeads; h++, count++) {
      queries[count] = kernel->queries + ((size_t)r * (size_t)d->numHeads + (size_t)h) * (size_t)layer->paddedHead;
      outputs[count] = room + (size_t)count * (size_t)layer->paddedHead;
      positions[count] = piece.at->sequence[1] + r - piece.at->firstRow;
    }
  Attention attention = {
      .pages = head_pages(kernel, layer, head / (d->numHeads / d->numKvHeads)),
      .pageTable = kernel->step->pageTable + piece.at->sequence[2],
      .numQueries = count,
      .queries = queries,
      .outputs = outputs,
      .positions = positions,
      .window = d->window,
      .scale = d->attentionScale,
      .scores = kernel->scores + (size_t)member->thread * ATTEND_MOST * (size_t)kernel->scoresStride,
      .scoresStride = kernel->scoresStride,
  };
  kernel->loops->attend(&attention);
  for (int r = piece.out, i = 0; r < piece.out + piece.numRows; r++)
    for (int h = head; h < head + numHeads; h++, i++)
      memcpy(kernel->attended.floats + (size_t)r * kernel->attended.width + (size_t)h * d->headSize, outputs[i], (size_t)d->headSize * 4);
}

/** Attends with all query heads of one key head, in calls of as many queries as fit. */
static void attend_key_head(Kernel *kernel, const Layer *layer, Member *member, Piece piece, int kvHead) {
  const LayerDescription *d = &layer->description;
  int perKey = d->numHeads / d->numKvHeads, most = kernel->loops->attendQueries;
  int headsAtOnce = least(perKey, most), rowsAtOnce = headsAtOnce < perKey ? 1 : most / perKey;
  for (int r = 0; r < piece.numRows; r += rowsAtOnce) {
    Piece part = {piece.at, piece.row + r, least(rowsAtOnce, piece.numRows - r), piece.out + r};
    for (int h = 0; h < perKey; h += headsAtOnce) attend_once(kernel, layer, member, part, kvHead * perKey + h, least(headsAtOnce, perKey - h));
  }
  if (kernel->rounds && layer->roundsHeads)
    for (int r = piece.out; r < piece.out + piece.numRows; r++)
      kernel->loops->round_row(&kernel->attended, r, kvHead * perKey * d->headSize, (kvHead + 1) * perKey * d->headSize);
}

void place_rows(Kernel *kernel, Member *member, const Layer *layer) {
  Cursor at = {kernel->step->sequences, 0};
  EACH_TASK(member, row, kernel->step->numRows) {
    move_to(&at, row);
    norm_all_heads(kernel, layer, kernel->projected + (size_t)row * kernel->projectedWidth);
    for (int h = 0; h < layer->description.numKvHeads; h++)
      place_head(kernel, layer, row, h, at.sequence, at.sequence[1] + row - at.firstRow);
  }
}

/** Number of rows of a sequence in one task of attention. */
enum { ATTEND_ROWS = 16 };

/** Runs a phase in which all rows attend. Tasks are pieces of ATTEND_ROWS rows of each sequence, by key head. */
static void attend_all(Kernel *kernel, Member *member, const Layer *layer, int placesToo) {
  const Step *step = kernel->step;
  int numTasks = 0, before = 0, numKvHeads = layer->description.numKvHeads;
  for (int s = 0; s < step->numSequences; s++)
    numTasks += (step->sequences[s * SEQUENCE_FIELDS] + ATTEND_ROWS - 1) / ATTEND_ROWS * numKvHeads;
  Cursor at = {step->sequences, 0};
  EACH_TASK(member, task, numTasks) {
    int pieces;
    while (task >= before + (pieces = (at.sequence[0] + ATTEND_ROWS - 1) / ATTEND_ROWS) * numKvHeads) {
      before += pieces * numKvHeads;
      at.firstRow += at.sequence[0];
      at.sequence += SEQUENCE_FIELDS;
    }
    int kvHead = (task - before) % numKvHeads, row = at.firstRow + (task - before) / numKvHeads * ATTEND_ROWS;
    if (placesToo) place_head(kernel, layer, row, kvHead, at.sequence, at.sequence[1]);
    attend_key_head(kernel, layer, member, (Piece){&at, row, least(ATTEND_ROWS, at.firstRow + at.sequence[0] - row), row}, kvHead);
  }
}

/** Runs a phase in which the rows with wanted logits attend. */
static void attend_active(Kernel *kernel, Member *member, const Layer *layer) {
  int numKvHeads = layer->description.numKvHeads;
  Cursor at = {kernel->step->sequences, 0};
  EACH_TASK(member, task, kernel->numActive * numKvHeads) {
    int out = task / numKvHeads, row = kernel->active[out];
    move_to(&at, row);
    attend_key_head(kernel, layer, member, (Piece){&at, row, 1, out}, task % numKvHeads);
  }
}

void attend_rows(Kernel *kernel, Member *member, const Layer *layer, int numRows) {
  const Step *step = kernel->step;
  int isPartial = numRows < step->numRows;
  // Sequences of one row need no other keys of this step, so the attending task also prepares the queries.
  int placesToo = step->numRows == step->numSequences && !layer->description.normsAllHeads && !isPartial;
  if (!placesToo) {
    place_rows(kernel, member, layer);
    team_next_phase(member);
  }
  if (isPartial) attend_active(kernel, member, layer);
  else attend_all(kernel, member, layer, placesToo);
  if (!kernel->rounds || layer->roundsHeads) return;
  team_next_phase(member);
  int32_t size = layer->attentionOutput->numIn, whole = (size + GROUP - 1) / GROUP * GROUP;
  EACH_TASK(member, row, numRows) {
    // Numbers that a layer with more heads left here would change the last group's scale.
    memset(kernel->attended.floats + (size_t)row * kernel->attended.width + size, 0, (size_t)(whole - size) * 4);
    kernel->loops->round_row(&kernel->attended, row, 0, whole);
  }
}
