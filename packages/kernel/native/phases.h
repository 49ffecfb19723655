// Parts of a step that all threads run together. A function whose last task is a phase of its own leaves the phase's end to its caller.

#pragma once
#include "state.h"

static inline int least(int a, int b) { return a < b ? a : b; }

/** Reads a token's embedding into its row of the stream. */
void look_up(const Kernel *kernel, int32_t token, float *out);
/** Adds row `row` of a block's outputs to a row of the stream, normed first where the model does so. */
void add_update(Kernel *kernel, int streamRow, int row, const float *outputNorm, float scale);
/** Norms a row of the stream into row `row` of the next product's inputs. */
void norm_row(Kernel *kernel, int streamRow, int row, const float *scales);

/** A phase: outputs of tensors side by side, `[row][…]` in `out`. */
void multiply(Kernel *kernel, Member *member, int numRows, const Tensor *const tensors[], int numTensors, const Rows *rows, float *out,
              int outStride);
/** A phase: gates, and what they multiply, which become inputs of an FFN's last product. */
void gate_rows(Kernel *kernel, Member *member, int numRows, const Layer *layer);
/** A phase: keys and values of all rows are stored, and their queries made ready. */
void place_rows(Kernel *kernel, Member *member, const Layer *layer);
/** Phases: `place_rows`, then all rows attend; where `numRows` are fewer, those whose logits are wanted, one after the other. */
void attend_rows(Kernel *kernel, Member *member, const Layer *layer, int numRows);
/** Phases: logits of wanted rows `[from, to)`, and what is told of them. */
void conclude_rows(Kernel *kernel, Member *member, int from, int to);

/** Gives the inputs of every layer's products their places in `Step.inputSquares`. */
void place_inputs(Kernel *kernel);
/**
 * A phase of its own, in steps whose inputs' squares are wanted: sums them over rows of a product's inputs, `[numIn]` from `place` on.
 * In the last layer behind attention only wanted rows count.
 */
void observe(Kernel *kernel, Member *member, const Rows *rows, int numRows, int numIn, size_t place);

/** @returns NULL, or what of a step cannot be */
const char *check_step(const Kernel *kernel, const Step *step);
