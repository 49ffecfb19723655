// Tasks of attention: rows of a sequence, and parts of the tiles that long rows see.

#pragma once
#include "phases.h"

/** Least numbers of rows and of queries of a key head in one task, and of tiles in one of several tasks of the same rows. */
enum { ATTEND_ROWS = 16, ATTEND_AT_ONCE = 48, LEAST_TILES = 2, TASKS_A_THREAD = 8 };

/** Rows of one sequence that attend in the same tasks, and the tiles that they see. */
typedef struct {
  const int32_t *sequence;
  /** The first row, its position and its row of outputs. */
  int row, position, out;
  int numRows, firstTile, numTiles;
  /** Number of tasks of each key head, and of tiles of each. */
  int numParts, partTiles;
  /** With several parts: place in `tileResults` of `[key head][tile][row][head][paddedHead + TILE_SUMS]`. */
  size_t results;
} Piece;

/** The pieces of a phase, one after another, and what those so far have. */
typedef struct {
  const Kernel *kernel;
  const Layer *layer;
  /** Whether only rows with wanted logits attend. */
  int isPartial;
  /** Number of tiles of all rows of a task, about; 0 for those of whole pieces. */
  int64_t taskTiles;
  Cursor at;
  int nextRow;
  Piece piece;
  /** Tiles of rows: of all and of the largest piece. */
  int64_t numTiles, mostTiles;
  /** Tasks, and rows to join, of each key head; floats in `tileResults`. */
  int numTasks, numJoins;
  size_t results;
} Pieces;

/** Returns the number of floats that a query has of one tile. */
static size_t floats_of_tile(const Layer *layer) { return (size_t)(layer->paddedHead + TILE_SUMS); }

/** Returns the number of later positions that a query sees. */
static int positions_ahead(const Kernel *kernel, const LayerDescription *d) {
  if (!kernel->model.isEncoder) return 0;
  return d->window > 0 ? d->window - 1 : kernel->options.maxPositions;
}

/** Moves to the next piece. @returns 0 when there is none */
static int next_piece(Pieces *all) {
  const Kernel *kernel = all->kernel;
  const LayerDescription *d = &all->layer->description;
  if (all->nextRow == (all->isPartial ? kernel->numActive : kernel->step->numRows)) return 0;
  int row = all->isPartial ? kernel->active[all->nextRow] : all->nextRow;
  move_to(&all->at, row);
  int position = all->at.sequence[1] + row - all->at.firstRow;
  int most = ATTEND_AT_ONCE / (d->numHeads / d->numKvHeads);
  int numRows = all->isPartial ? 1 : least(most > ATTEND_ROWS ? most : ATTEND_ROWS, all->at.firstRow + all->at.sequence[0] - row);
  int firstTile = d->window > 0 && position >= d->window ? (position - d->window + 1) / ATTEND_TILE : 0;
  int last = least(position + numRows - 1 + positions_ahead(kernel, d), all->at.sequence[0] + all->at.sequence[1] - 1);
  int numTiles = last / ATTEND_TILE + 1 - firstTile, partTiles = numTiles;
  if (all->taskTiles > 0 && all->taskTiles / numRows < numTiles) partTiles = (int)(all->taskTiles / numRows);
  if (partTiles < LEAST_TILES) partTiles = LEAST_TILES;
  all->piece = (Piece){
      .sequence = all->at.sequence,
      .row = row,
      .position = position,
      .out = all->nextRow,
      .numRows = numRows,
      .firstTile = firstTile,
      .numTiles = numTiles,
      .numParts = (numTiles + partTiles - 1) / partTiles,
      .partTiles = partTiles,
      .results = all->results,
  };
  int64_t tiles = (int64_t)numTiles * numRows;
  all->nextRow += numRows;
  all->numTiles += tiles;
  if (tiles > all->mostTiles) all->mostTiles = tiles;
  all->numTasks += all->piece.numParts;
  if (all->piece.numParts == 1) return 1;
  all->numJoins += numRows;
  all->results += (size_t)tiles * (size_t)d->numHeads * floats_of_tile(all->layer);
  return 1;
}

/**
 * Begins the pieces of a phase. Those that are large beside the whole have several parts, so that all threads have
 * tasks, if there is room for the numbers of their tiles.
 *
 * @param all - gets what all pieces have
 */
static Pieces begin_pieces(const Kernel *kernel, const Layer *layer, int isPartial, Pieces *all) {
  Pieces first = {.kernel = kernel, .layer = layer, .isPartial = isPartial, .at = {kernel->step->sequences, 0}};
  for (*all = first; next_piece(all);) {}
  int64_t taskTiles = all->numTiles * layer->description.numKvHeads / (TASKS_A_THREAD * kernel->options.numThreads) + 1;
  if (kernel->options.numThreads == 1 || all->mostTiles <= taskTiles) return first;
  Pieces cut = first, whole = *all;
  cut.taskTiles = taskTiles;
  for (*all = cut; next_piece(all);) {}
  if (all->results <= kernel->tileRoom) return cut;
  *all = whole;
  return first;
}
