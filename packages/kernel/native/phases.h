// Parts of a step that all threads run together. The caller of a function ends the function's last phase.

#pragma once
#include "state.h"

static inline int least(int a, int b) { return a < b ? a : b; }

/** Position in the sequences: `*sequence` is the one that has a row, and its rows begin at `firstRow`. Rows rise. */
typedef struct {
  const int32_t *sequence;
  int firstRow;
} Cursor;

static inline void move_to(Cursor *cursor, int row) {
  while (row >= cursor->firstRow + cursor->sequence[0]) {
    cursor->firstRow += cursor->sequence[0];
    cursor->sequence += SEQUENCE_FIELDS;
  }
}

/** Returns the number of rows of a task that works on each row by itself: one, or more if every thread has many tasks. */
static inline int rows_of_task(const Team *team, int numRows) {
  int size = numRows / (8 * team->numThreads);
  return size < 1 ? 1 : least(size, 16);
}
/** Runs the following statement for each row of a phase that this member takes. */
#define EACH_ROW(member, row, numRows) \
  for (int all_ = (numRows), size_ = rows_of_task((member)->team, all_), tasks_ = (all_ + size_ - 1) / size_, task_; \
       (task_ = team_take(member, tasks_)) >= 0; team_done(member, tasks_)) \
    for (int row = task_ * size_, end_ = least(row + size_, all_); row < end_; row++)

/** Sorts a step's rows, and its rows with wanted logits, by expert. */
void group_rows(Kernel *kernel);
/** Sorts the pairs of rows `[from, to)` of a mixture by expert. */
void group_pairs(Kernel *kernel, const Layer *layer, int from, int to);

/** Reads a token's embedding, with those of its segment and position if there are any, into its row of the stream. */
void look_up(const Kernel *kernel, int32_t token, int32_t position, float *out);
/** Adds the token's row of the table of layers' inputs to the projected ones, which are normed layer by layer. */
void look_up_inputs(const Kernel *kernel, int32_t token, float *inputs);
/** Adds row `row` of a block's outputs to a row of the stream, normed first if the model has such a norm. */
void add_update(Kernel *kernel, int streamRow, int row, Norm outputNorm, float scale);
/** Adds the outputs of the shared part and of the expert, or experts, for one row, both normed first if the layer does. */
void join_updates(Kernel *kernel, const Layer *layer, int row);
/** Norms a row of the stream into row `row` of the next product's inputs; in the stream itself too when `replaces`. */
void norm_row(Kernel *kernel, int streamRow, int row, Norm norm, int replaces);

/** Does so into row `row` of `into`, without a change of the stream. */
void norm_into(Kernel *kernel, const Rows *into, int streamRow, int row, Norm norm);
/** Norms the token's embedding and, behind it, row `row` of the stream into row `row` of `into`. */
void norm_with_token(Kernel *kernel, Rows *into, int row, Norm norm);

/** Counts the groups of up to TASK_ROWS rows. */
static inline int row_tasks(int numRows) { return (numRows + TASK_ROWS - 1) / TASK_ROWS; }
/**
 * Chooses the vectors of 16 outputs per task, at least `unit` if possible, so that every thread has several tasks of a
 * phase.
 */
int vectors_of_task(const Kernel *kernel, int allVectors, int unit);

/** Products with the same inputs, and the loras of these inputs' rows. */
typedef struct {
  int numRows;
  const Lora *const *loras;
  /** First of the products in `Lora.products`, and their number. */
  int first, numProducts;
  /** Number of parts in which inputs were lowered; 0 when no row changes these products. */
  int numParts;
} LoraRows;

/** Finds the loras of a step's rows. */
void find_loras(Kernel *kernel);
/** Runs a phase, if rows have loras of these products, that multiplies their inputs with the loras' first factors. */
LoraRows lower_rows(Kernel *kernel, Member *member, LoraRows loraRows, const Rows *inputs, int numIn);
/**
 * Adds the loras of rows `[rowFrom, rowTo)` to outputs `[16 * from, 16 * to)` of the product with this index; `out` is
 * the first row's first output.
 */
void raise_rows(const Kernel *kernel, const LoraRows *loraRows, int product, int rowFrom, int rowTo, int from, int to, float *out, int outStride);
/** Prefetches the factors that `raise_rows` reads with these arguments. */
void prefetch_raise(const LoraRows *loraRows, int product, int rowFrom, int rowTo, int from, int to);
/** Frees all loras. */
void close_loras(Kernel *kernel);

/** Runs a phase that computes the outputs of tensors side by side, `[row][…]` in `out`, with their loras. */
void multiply(Kernel *kernel, Member *member, const LoraRows *loraRows, const Tensor *const tensors[], int numTensors, const Rows *rows, float *out,
              int outStride);
/** Parts of an FFN that run together: the shared weights for all rows, and experts for their rows. */
typedef struct {
  const Layer *layer;
  /** Number of rows of the FFN, their loras, and the layer's first product of a lora. */
  int numRows;
  const Lora *const *loras;
  int firstProduct;
  /** Whether the shared weights are among the parts. */
  int hasShared;
  /** Whether other rows of the same experts ran before. */
  int isLater;
  /** Rows by expert; their inputs, their gated rows from a column on, and their outputs `[hiddenWidth]`. */
  const Groups *groups;
  const Rows *inputs, *gated;
  int column;
  float *out;
} Feed;

/** Runs the phases of an FFN's products. Shared weights have `normed` as inputs and `update` as outputs. */
void feed_parts(Kernel *kernel, Member *member, const Feed *feed);
/** Returns the number of rows of a mixture whose pairs run together. */
static inline int rows_of_pairs(int expertsPerToken) { return MOST_PAIRS < expertsPerToken ? 1 : MOST_PAIRS / expertsPerToken; }
/** Runs phases that choose experts of the normed rows. */
void route_rows(Kernel *kernel, Member *member, const Layer *layer, int numRows);
/** Runs the chosen experts and adds up their outputs into `feed.out`, `rows_of_pairs` rows at a time. */
void feed_mixture(Kernel *kernel, Member *member, const Feed *feed);
/** Rotates pairs `(i, i + half)` of a head by the angles of its position, if the set is one. */
void rotate(const Kernel *kernel, int32_t set, int32_t position, float *head);
/** Finds the keys and values of a key head. */
HeadPages head_pages(const Kernel *kernel, const Layer *layer, int kvHead);
/** Runs the phases that `place_rows` is with latent attention. */
void place_latent(Kernel *kernel, Member *member, const Layer *layer);
/** Ends a phase, and runs those that make inputs of the last product from latent outputs. */
void leave_latent(Kernel *kernel, Member *member, const Layer *layer, int numRows);
/** Runs a phase that stores keys and values of all rows, and prepares their queries. */
void place_rows(Kernel *kernel, Member *member, const Layer *layer);
/** Number of floats that a thread needs to attend. */
size_t attend_floats(const Kernel *kernel);
/** Number of floats of the tiles of long rows that several threads attend to. */
size_t tile_floats(const Kernel *kernel, int numHeads);
/** Runs `place_rows`, then attention of all rows, or of those with wanted logits when `numRows` are fewer. */
void attend_rows(Kernel *kernel, Member *member, const Layer *layer, int numRows);
/** Norms rows of attention's or a recurrence's outputs if the layer does, and rounds them. */
void finish_attended(Kernel *kernel, Member *member, const Layer *layer, int numRows);
/** Number of floats that a thread needs for a recurrence. */
size_t recurrence_floats(const Kernel *kernel);
/** Runs the phases of a recurrence: the states of all rows, and outputs as `attend_rows`. */
void recur_rows(Kernel *kernel, Member *member, const Layer *layer, int numRows);
/** Runs phases that compute the logits of wanted rows `[from, to)`, and their results. */
void compute_results(Kernel *kernel, Member *member, int from, int to);

/** Returns inputs `[column, …)` of rows. */
Rows rows_at(const Rows *rows, int column);

/**
 * Stores the experts' offsets in the file, and removes their addresses in memory.
 * @returns 0 when that removes weights that all rows use
 */
int stream_experts(Kernel *kernel);

/** Assigns offsets in `Step.inputSquares` to the inputs of every layer's products. */
void place_inputs(Kernel *kernel);
/**
 * Runs a phase, in steps whose input squares are wanted, that sums them over rows `[rowFrom, rowTo)` of a product's
 * inputs, `[numIn]` from `place` on. In the last layer after attention, only wanted rows count.
 */
void observe(Kernel *kernel, Member *member, const Rows *rows, int rowFrom, int rowTo, int numIn, size_t place);
/** Does the same for the inputs of experts and of their last products, one expert after another. */
void observe_experts(Kernel *kernel, Member *member, const Feed *feed);

/** @returns NULL, or the part of the step that is invalid */
const char *check_step(const Kernel *kernel, const Step *step);
/** Checks that pages are open, and of a kernel with the same layers and heads. */
int are_pages_of(const Kernel *kernel, const Pages *pages);

static inline int is_lent(const Kernel *kernel, Lent lent, size_t index) {
  return !kernel->lender.isThere || kernel->lender.isThere(kernel->lender.context, lent, index);
}
