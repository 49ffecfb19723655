// A kernel's memory: what is read from the packed file, and buffers that every step uses again.

#pragma once
#include "kernel.h"

/** Wanted rows of logits that are computed together: a panel of the head is read once for all of them. */
enum { LOGIT_ROWS = 32 };

/** An expert's products, as they lie in the table of tensors. */
typedef struct {
  Tensor gate, up, down;
} Expert;

typedef struct {
  LayerDescription description;
  const float *attentionNorm, *queryNorm, *keyNorm, *attentionOutputNorm, *ffnNorm, *ffnOutputNorm;
  const Tensor *query, *key, *value, *attentionOutput, *gate, *up, *down;
  /** `[numExperts]`, or NULL. */
  const Expert *experts;
  /** Columns of gated rows that `down` takes; an expert's follow. */
  int32_t sharedWidth;
  int32_t paddedHead;
  /** Whether a key head's outputs are whole groups, which the thread that attends rounds at once. */
  int32_t roundsHeads;
  /** Places in `Step.inputSquares`: inputs of attention, of its output's product, of the FFN, of `down`, of the experts. */
  size_t attentionSquares, attendedSquares, ffnSquares, gatedSquares, expertSquares;
} Layer;

typedef struct {
  /** `[position][2][size / 2]`: cosines, then sines. */
  float *angles;
  int32_t size;
} Rotary;

/** Rows in the order of their experts, and the experts that have any. */
typedef struct {
  int32_t numRows, numExperts;
  /** `[numRows]`: the row at each place. */
  int32_t *rows;
  /** `[numExperts]`, rising; `[numExperts + 1]`: the first place of each, and the end. */
  int32_t *experts, *starts;
} Groups;

enum { MOST_BLOCKS = 64, MOST_ROTARIES = 4 };

struct Kernel {
  ModelDescription model;
  KernelOptions options;
  const Loops *loops;
  Team team;
  Layer *layers;
  /** As they are in memory, and, where experts are streamed, as they lie in the file. */
  Tensor *tensors, *filed;
  const float *finalNorm;
  const Tensor *embedding, *head;
  Rotary rotaries[MOST_ROTARIES];
  /** Widths up to whole panels. */
  int32_t hiddenWidth, logitsWidth, projectedWidth;
  /** Whether products read rounded rows; float32 products do not. */
  int32_t rounds;
  /** Length of `Step.inputSquares`. */
  size_t numInputs;
  /** `[maxRows][hiddenWidth]`: the residual stream, what a block adds to it, and what experts add beside a shared part. */
  float *stream, *update, *routed;
  /** `[maxRows][projectedWidth]`: queries, keys and values. */
  float *projected;
  /** `[maxRows][numHeads * paddedHead]`: queries after norm and rotation. */
  float *queries;
  /** Inputs of products: normed rows, attention's outputs, gated rows. Rows of an FFN lie in the order of their groups. */
  Rows normed, attended, gated;
  /** By thread: gates and values of a tile of an FFN; scores; a query's output. */
  float *gates, *scores, *outputs;
  int32_t scoresStride, maxPaddedHead;
  /** `[LOGIT_ROWS][logitsWidth]`, `[LOGIT_ROWS][logitsWidth / 64]` twice. */
  float *logits, *largest, *sums;
  void *blocks[MOST_BLOCKS];
  int32_t numBlocks;
  /** Rows whose logits are wanted, each once: `[maxRows]`. */
  int32_t *active, numActive;
  /** All rows by expert, and places in `active`; `[numExperts]` for counting. */
  Groups all, wanted;
  int32_t *counts;
  /** Wanted rows of the last step whose logits are in `logits`. */
  int32_t firstKept, endKept;
  /** The step under way, and the layers of it that run now. */
  const Step *step;
  Step begun;
  int32_t fromLayer, toLayer;
  /** Whether the step's results are computed behind them. */
  int32_t concludes;
};

/** Rows that go through a product together, and columns of an FFN that one task gates. */
enum { TASK_ROWS = 48, GATE_COLUMNS = 64 };
