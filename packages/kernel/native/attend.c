// Attention as phases: a token's key and value are stored in its sequence's pages, then its queries read all pages.

#include "memory.h"
#include "pieces.h"

void rotate(const Kernel *kernel, int32_t set, int32_t position, float *head) {
  if (set < 0) return;
  int half = kernel->rotaries[set].size / 2;
  const float *cosines = kernel->rotaries[set].angles + (size_t)position * 2 * (size_t)half, *sines = cosines + half;
  for (int i = 0; i < half; i++) {
    float first = head[i], second = head[i + half];
    head[i] = first * cosines[i] - second * sines[i];
    head[i + half] = second * cosines[i] + first * sines[i];
  }
}

/** Whether heads are used as they are projected. */
static int are_heads_placed(const Layer *layer) {
  const LayerDescription *d = &layer->description;
  return d->rotary < 0 && layer->paddedHead == d->headSize && !layer->queryNorm.scales && !layer->keyNorm.scales;
}

/** Copies one head to `out` `[paddedHead]`, and norms it. */
static void norm_head(const Kernel *kernel, const Layer *layer, const float *head, Norm norm, float *out) {
  int size = layer->description.headSize;
  memset(out + size, 0, (size_t)(layer->paddedHead - size) * 4);
  memcpy(out, head, (size_t)size * 4);
  if (norm.scales && !layer->description.normsAllHeads) kernel->loops->norm(out, norm, kernel->model.normEpsilon, size, layer->paddedHead, out);
}

/** Norms all heads of a row together, in place (OLMo 2). */
static void norm_all_heads(const Kernel *kernel, const Layer *layer, float *projected) {
  const LayerDescription *d = &layer->description;
  if (!d->normsAllHeads) return;
  float *keys = projected + layer->query->numPanels * PANEL, epsilon = kernel->model.normEpsilon;
  if (layer->queryNorm.scales) kernel->loops->norm(projected, layer->queryNorm, epsilon, layer->query->numOut, layer->query->numPanels * PANEL, projected);
  if (layer->key && layer->keyNorm.scales) kernel->loops->norm(keys, layer->keyNorm, epsilon, layer->key->numOut, layer->key->numPanels * PANEL, keys);
}

HeadPages head_pages(const Kernel *kernel, const Layer *layer, int kvHead) {
  const Pages *pages = kernel->step->pages;
  const size_t *start = pages->starts + (kernel->model.isEncoder ? 0 : layer->page);
  size_t pageBytes = start[1] - start[0];
  return (HeadPages){
      .base = pages->memory + start[0] * (size_t)pages->numPages + pageBytes / (size_t)layer->description.numKvHeads * (size_t)kvHead,
      .pageBytes = pageBytes,
      .type = pages->type,
      .headSize = layer->description.headSize,
      .paddedSize = layer->paddedHead,
  };
}

/** Norms and rotates a row's queries of one key head into `out` `[heads of the key head][paddedHead]`. */
static void place_queries(const Kernel *kernel, const Layer *layer, int row, int kvHead, int32_t position, float *out) {
  const LayerDescription *d = &layer->description;
  const float *projected = kernel->projected + (size_t)row * kernel->projectedWidth;
  int perKey = d->numHeads / d->numKvHeads;
  for (int h = 0; h < perKey; h++, out += layer->paddedHead) {
    norm_head(kernel, layer, projected + (size_t)(kvHead * perKey + h) * d->headSize, layer->queryNorm, out);
    rotate(kernel, d->queryRotary, position, out);
  }
}

/** Norms and rotates a row's key of one key head, and stores it with its value, unless the layer reads another one's. */
static void store_head(const Kernel *kernel, const Layer *layer, int row, int kvHead, const int32_t *sequence, int32_t position) {
  const LayerDescription *d = &layer->description;
  if (!layer->key) return;
  const float *projected = kernel->projected + (size_t)row * kernel->projectedWidth;
  const float *keys = projected + layer->query->numPanels * PANEL, *values = keys + layer->key->numPanels * PANEL;
  float placed[4096 + 16], normed[4096 + 16];
  const float *key = keys + (size_t)kvHead * d->headSize, *value = values + (size_t)kvHead * d->headSize;
  if (!are_heads_placed(layer)) {
    norm_head(kernel, layer, key, layer->keyNorm, placed);
    rotate(kernel, d->rotary, position, placed);
    key = placed;
  }
  if (layer->valueNorm.scales) {
    int size = d->headSize;
    memset(normed + size, 0, (size_t)(layer->paddedHead - size) * 4);
    memcpy(normed, value, (size_t)size * 4);
    kernel->loops->norm(normed, layer->valueNorm, kernel->model.normEpsilon, size, layer->paddedHead, normed);
    value = normed;
  }
  kernel->loops->store_token(head_pages(kernel, layer, kvHead), kernel->step->pageTable + sequence[2], position, key, value);
}

/** Distance from a row's queries to the next row's. */
static size_t queries_stride(const Kernel *kernel, const Layer *layer) {
  if (are_heads_placed(layer)) return (size_t)kernel->projectedWidth;
  return (size_t)layer->description.numHeads * (size_t)layer->paddedHead;
}

/** Queries of a row's first head. */
static float *row_queries(const Kernel *kernel, const Layer *layer, int row) {
  return (are_heads_placed(layer) ? kernel->projected : kernel->queries) + (size_t)row * queries_stride(kernel, layer);
}

void place_rows(Kernel *kernel, Member *member, const Layer *layer) {
  const LayerDescription *d = &layer->description;
  if (layer->heads) {
    place_latent(kernel, member, layer);
    return;
  }
  size_t queriesOfKey = (size_t)(d->numHeads / d->numKvHeads * layer->paddedHead);
  Cursor at = {kernel->step->sequences, 0};
  EACH_ROW(member, row, kernel->step->numRows) {
    move_to(&at, row);
    int32_t position = at.sequence[1] + row - at.firstRow;
    norm_all_heads(kernel, layer, kernel->projected + (size_t)row * kernel->projectedWidth);
    for (int h = 0; h < d->numKvHeads; h++) {
      if (!are_heads_placed(layer)) place_queries(kernel, layer, row, h, position, row_queries(kernel, layer, row) + (size_t)h * queriesOfKey);
      store_head(kernel, layer, row, h, at.sequence, position);
    }
  }
}

/** Thread's own memory: numbers of all tiles together, and a row's queries, beside what `attend` needs. */
typedef struct {
  float *totals, *rowQueries;
  AttendRoom room;
} Own;

static Own own_room(const Kernel *kernel, int thread) {
  size_t head = (size_t)kernel->maxPaddedHead, most = (size_t)kernel->attendMost;
  Own own = {.totals = kernel->attendRooms + (size_t)thread * attend_floats(kernel)};
  own.rowQueries = own.totals + most * (head + TILE_SUMS);
  own.room.queries = own.rowQueries + most * head;
  own.room.scores = own.room.queries + most * head;
  own.room.tile = own.room.scores + ATTEND_TOGETHER * ATTEND_TILE;
  own.room.pages = own.room.tile + ATTEND_TOGETHER * (head + TILE_SUMS);
  return own;
}

size_t attend_floats(const Kernel *kernel) {
  size_t head = (size_t)kernel->maxPaddedHead, most = (size_t)kernel->attendMost;
  return most * (3 * head + TILE_SUMS) + ATTEND_TOGETHER * (ATTEND_TILE + head + TILE_SUMS) + 2 * ATTEND_TILE * head;
}

/** Bounds of the memory for parts of rows; a step that needs more runs in whole pieces. */
enum { MOST_CUT_ROWS = 16, MOST_TILE_FLOATS = 1 << 24 };

size_t tile_floats(const Kernel *kernel, int numHeads) {
  uint64_t tiles = ((uint64_t)kernel->options.maxPositions + ATTEND_TILE - 1) / ATTEND_TILE;
  uint64_t rows = kernel->options.numThreads == 1 ? 0 : (uint64_t)least(2 * kernel->options.numThreads, MOST_CUT_ROWS);
  uint64_t floats = rows * tiles * (uint64_t)numHeads * (uint64_t)(kernel->maxPaddedHead + TILE_SUMS);
  return floats < MOST_TILE_FLOATS ? (size_t)floats : MOST_TILE_FLOATS;
}

/** Multiplies outputs `[from, to)` of a row by sigmoids, if the layer has such a gate. */
static void gate_outputs(const Kernel *kernel, const Layer *layer, int row, int from, int to, float *outputs) {
  if (!layer->outputGate) return;
  const float *gates = kernel->projected + (size_t)row * (size_t)kernel->projectedWidth + layer->gateColumn;
  for (int i = from; i < to; i += 16) {
    float away[16] = {0}, power[16];
    for (int j = 0; j < 16 && i + j < to; j++) away[j] = gates[i + j] < 0 ? gates[i + j] : -gates[i + j];
    kernel->loops->exponentials(away, 0, power, 16);
    for (int j = 0; j < 16 && i + j < to; j++) {
      float gate = gates[i + j];
      outputs[i + j] *= (gate < 0 ? power[j] : 1) / (1 + power[j]) + (gate - gate);
    }
  }
}

/** Joins a row's tiles, and writes the outputs of the query heads of one key head. */
static void join_row(Kernel *kernel, const Layer *layer, const Piece *piece, int row, int kvHead, float *results, size_t tileStride, int numTiles) {
  const LayerDescription *d = &layer->description;
  int perKey = d->numHeads / d->numKvHeads, columns = layer->outputColumns, from = kvHead * perKey * columns, out = piece->out + row;
  int size = d->headSize - layer->skippedOutputs;
  float *outputs = kernel->attended.floats + (size_t)out * kernel->attended.width;
  for (int h = 0; h < perKey; h++, results += floats_of_tile(layer)) {
    kernel->loops->join_tiles(results, tileStride, numTiles, layer->paddedHead, layer->sinks ? layer->sinks + kvHead * perKey + h : NULL);
    memcpy(outputs + from + h * columns, results + layer->skippedOutputs, (size_t)size * 4);
    if (size < columns) memset(outputs + from + h * columns + size, 0, (size_t)(columns - size) * 4);
  }
  gate_outputs(kernel, layer, piece->row + row, from, from + perKey * columns, outputs);
  if (kernel->rounds && layer->roundsHeads) kernel->loops->round_row(&kernel->attended, out, from, from + perKey * columns);
}

/** Place of the numbers of a piece's first tile in a key head, and the distance to the next tile's. */
static float *piece_results(const Kernel *kernel, const Layer *layer, const Piece *piece, int kvHead, size_t *tileStride) {
  const LayerDescription *d = &layer->description;
  *tileStride = (size_t)(piece->numRows * (d->numHeads / d->numKvHeads)) * floats_of_tile(layer);
  return kernel->tileResults + piece->results + (size_t)kvHead * (size_t)piece->numTiles * *tileStride;
}

/** Finds the addends of scores of a head, by the distance of the key behind its query. */
static const float *distances_of(const Kernel *kernel, int head) {
  const Tensor *table = kernel->distances;
  return (const float *)table->weights + (size_t)head * (size_t)table->numIn + table->numIn / 2;
}

/** Attends with all query heads of one key head over one part of the tiles. */
static void attend_part(Kernel *kernel, const Layer *layer, Own own, const Piece *piece, int kvHead, int part, const float *rowQueries) {
  const LayerDescription *d = &layer->description;
  int perKey = d->numHeads / d->numKvHeads, rowsAtOnce = kernel->attendMost / perKey, firstTile = piece->firstTile + part * piece->partTiles;
  size_t tileStride = 0, rowStride = queries_stride(kernel, layer);
  float *results = piece->numParts == 1 ? own.totals : piece_results(kernel, layer, piece, kvHead, &tileStride) + (size_t)(part * piece->partTiles) * tileStride;
  for (int r = 0; r < piece->numRows; r += rowsAtOnce) {
    size_t place = (size_t)(r * perKey) * floats_of_tile(layer);
    Attention attention = {
        .pages = head_pages(kernel, layer, kvHead),
        .pageTable = kernel->step->pageTable + piece->sequence[2],
        .numQueries = least(rowsAtOnce, piece->numRows - r) * perKey,
        .perRow = perKey,
        .queries = rowQueries + (size_t)r * rowStride,
        .rowStride = rowStride,
        .position = piece->position + r,
        .window = d->window,
        .ahead = positions_ahead(kernel, d),
        .end = piece->sequence[0] + piece->sequence[1],
        .scale = d->attentionScale,
        .cap = kernel->model.scoreCap,
        .distances = kernel->distances ? distances_of(kernel, kvHead * perKey) : NULL,
        .distancesStride = kernel->distances ? (size_t)kernel->distances->numIn : 0,
        .firstTile = firstTile,
        .endTile = least(firstTile + piece->partTiles, piece->firstTile + piece->numTiles),
        .results = tileStride > 0 ? results + place : results,
        .tileStride = tileStride,
        .room = own.room,
    };
    kernel->loops->attend(&attention);
    for (int i = 0; tileStride == 0 && i < attention.numQueries / perKey; i++)
      join_row(kernel, layer, piece, r + i, kvHead, results + (size_t)(i * perKey) * floats_of_tile(layer), 0, 1);
  }
}

/** Runs a phase in which rows attend, and one that joins the tiles of rows in several parts. */
static void attend_pieces(Kernel *kernel, Member *member, const Layer *layer, int isPartial, int placesToo) {
  const LayerDescription *d = &layer->description;
  Own own = own_room(kernel, member->thread);
  int perKey = d->numHeads / d->numKvHeads;
  Pieces all, first = begin_pieces(kernel, layer, isPartial, &all), pieces = first;
  EACH_TASK(member, task, all.numTasks * d->numKvHeads) {
    while (task >= pieces.numTasks * d->numKvHeads) next_piece(&pieces);
    const Piece *piece = &pieces.piece;
    int place = task - (pieces.numTasks - piece->numParts) * d->numKvHeads, kvHead = place / piece->numParts, part = place % piece->numParts;
    const float *queries = row_queries(kernel, layer, piece->row) + (size_t)(kvHead * perKey * layer->paddedHead);
    if (placesToo) {
      place_queries(kernel, layer, piece->row, kvHead, piece->position, own.rowQueries);
      if (part == piece->numParts - 1) store_head(kernel, layer, piece->row, kvHead, piece->sequence, piece->position);
      queries = own.rowQueries;
    }
    attend_part(kernel, layer, own, piece, kvHead, part, queries);
  }
  if (all.numJoins == 0) return;
  team_next_phase(member);
  pieces = first;
  EACH_TASK(member, task, all.numJoins * d->numKvHeads) {
    while (task >= pieces.numJoins * d->numKvHeads) next_piece(&pieces);
    const Piece *piece = &pieces.piece;
    int place = task - (pieces.numJoins - piece->numRows) * d->numKvHeads, kvHead = place / piece->numRows, row = place % piece->numRows;
    size_t tileStride;
    float *results = piece_results(kernel, layer, piece, kvHead, &tileStride) + (size_t)(row * perKey) * floats_of_tile(layer);
    join_row(kernel, layer, piece, row, kvHead, results, tileStride, piece->numTiles);
  }
}

void attend_rows(Kernel *kernel, Member *member, const Layer *layer, int numRows) {
  const Step *step = kernel->step;
  int isPartial = numRows < step->numRows;
  // Sequences of one row need no other keys of this step, so the attending task also prepares the queries.
  int placesToo = step->numRows == step->numSequences && !layer->description.normsAllHeads && !isPartial && !layer->heads;
  if (!placesToo) {
    place_rows(kernel, member, layer);
    team_next_phase(member);
  }
  attend_pieces(kernel, member, layer, isPartial, placesToo);
  if (layer->heads) leave_latent(kernel, member, layer, numRows);
  else if (kernel->rounds && !layer->roundsHeads) finish_attended(kernel, member, layer, numRows);
}

void finish_attended(Kernel *kernel, Member *member, const Layer *layer, int numRows) {
  int32_t size = layer->attentionOutput->numIn, end = whole(size, PANEL);
  int parts = layer->description.mixing == MIX_SPACE ? layer->description.numKvHeads : 0, part = parts > 0 ? size / parts : 0;
  team_next_phase(member);
  EACH_ROW(member, row, numRows) {
    float *outputs = kernel->attended.floats + (size_t)row * kernel->attended.width;
    // Numbers that a wider layer left here would change the last group's scale.
    memset(outputs + size, 0, (size_t)(end - size) * 4);
    for (int i = 0; i < parts; i++) {
      Norm norm = {layer->outputNorm.scales + i * part, layer->outputNorm.biases ? layer->outputNorm.biases + i * part : NULL};
      kernel->loops->norm(outputs + i * part, norm, kernel->model.normEpsilon, part, parts > 1 ? part : end, outputs + i * part);
    }
    if (kernel->rounds) kernel->loops->round_row(&kernel->attended, row, 0, whole(size, GROUP));
  }
}
