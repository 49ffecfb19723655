// Parts of a step that all threads run together. A function whose last task is a phase of its own leaves the phase's end to its caller.

#pragma once
#include "state.h"

static inline int least(int a, int b) { return a < b ? a : b; }

/** Sorts a step's rows, and those whose logits are wanted, by expert. */
void group_rows(Kernel *kernel);

/** Reads a token's embedding into its row of the stream. */
void look_up(const Kernel *kernel, int32_t token, float *out);
/** Adds row `row` of a block's outputs to a row of the stream, normed first where the model does so. */
void add_update(Kernel *kernel, int streamRow, int row, const float *outputNorm, float scale);
/** Adds up what the shared part and the expert give one row. */
void join_updates(Kernel *kernel, const Layer *layer, int row);
/** Norms a row of the stream into row `row` of the next product's inputs. */
void norm_row(Kernel *kernel, int streamRow, int row, const float *scales);

/** Groups of TASK_ROWS rows, the last one of fewer. */
static inline int row_tasks(int numRows) { return (numRows + TASK_ROWS - 1) / TASK_ROWS; }
/** Vectors of 16 outputs that a task of a phase computes, so that every thread has several of its tasks, of at least `unit` vectors. */
int vectors_of_task(const Kernel *kernel, int allVectors, int unit);

/** A phase: outputs of tensors side by side, `[row][…]` in `out`. */
void multiply(Kernel *kernel, Member *member, int numRows, const Tensor *const tensors[], int numTensors, const Rows *rows, float *out,
              int outStride);
/** A phase: gates, and what they multiply, which become inputs of an FFN's last products: the shared one's and the experts'. */
void gate_rows(Kernel *kernel, Member *member, const Layer *layer, const Groups *groups);
/** A phase: an FFN's last products, into `update`; the experts' into `routed` where there is a shared one. */
void contract_rows(Kernel *kernel, Member *member, const Layer *layer, const Groups *groups);
/** A phase: keys and values of all rows are stored, and their queries made ready. */
void place_rows(Kernel *kernel, Member *member, const Layer *layer);
/** Phases: `place_rows`, then all rows attend; where `numRows` are fewer, those whose logits are wanted, one after the other. */
void attend_rows(Kernel *kernel, Member *member, const Layer *layer, int numRows);
/** Phases: logits of wanted rows `[from, to)`, and what is told of them. */
void conclude_rows(Kernel *kernel, Member *member, int from, int to);

/** Inputs `[column, …)` of rows. */
Rows rows_at(const Rows *rows, int column);

/** Keeps where experts lie in the file, and forgets where they are in memory. @returns 0 where that takes away what all rows use */
int stream_experts(Kernel *kernel);

/** Gives the inputs of every layer's products their places in `Step.inputSquares`. */
void place_inputs(Kernel *kernel);
/**
 * A phase of its own, in steps whose inputs' squares are wanted: sums them over rows `[rowFrom, rowTo)` of a product's inputs, `[numIn]`
 * from `place` on. In the last layer behind attention only wanted rows count.
 */
void observe(Kernel *kernel, Member *member, const Rows *rows, int rowFrom, int rowTo, int numIn, size_t place);
/** The same of what experts take in and of what their last products take in, one expert after the other. */
void observe_experts(Kernel *kernel, Member *member, const Layer *layer, const Groups *groups);

/** @returns NULL, or what of a step cannot be */
const char *check_step(const Kernel *kernel, const Step *step);
