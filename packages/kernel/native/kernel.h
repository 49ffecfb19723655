// Input of the kernel: models and steps. Every model is a description in data; see `kernel/src/description.ts`.

#pragma once
#include <stddef.h>
#include <stdint.h>
#include "loops.h"
#include "team.h"
#include "tensor.h"

enum { KERNEL_MAGIC = 0x4b4d5252, KERNEL_VERSION = 11 };

/** Header of the packed file, before layers and tensors. All fields have 32 bits. */
typedef struct {
  int32_t magic, version;
  int32_t numLayers, numTensors;
  int32_t vocabSize, hiddenSize;
  /** Tensors: a table or, for a tied head, packed weights; a norm; packed weights, -1 for a model that gives states. */
  int32_t embedding, finalNorm, head;
  float embeddingScale, logitScale, normEpsilon;
  /** Bounds of scores of attention and of logits: `x` becomes `cap * tanh(x / cap)`; 0 for none. */
  float scoreCap, logitCap;
  /** Number of sets of rotary angles that layers choose from. */
  int32_t numRotaries;
  /** Number of experts in layers with experts; 1 when no layer has them. */
  int32_t numExperts;
  /** Number of outputs of the head: `vocabSize` in a language model, the experts in a router, else `hiddenSize`. */
  int32_t numLogits;
  /** Whether a query sees later positions too. A sequence then is in one step, and pages hold one layer at a time. */
  int32_t isEncoder;
  /**
   * Tables that are added to embeddings, `[positions][hiddenSize]` and `[segments][hiddenSize]`, or -1: token `t` of
   * segment `s` is `s * vocabSize + t`. Then an addend of attention scores by distance, `[heads][2 * reach]`, or -1: the
   * entry at `reach + d` is for a key `d` positions behind its query.
   */
  int32_t positions, segments, distances;
  /**
   * Inputs of layers beside the stream, or -1: a table `[vocabSize][numLayers * layerInputSize]`, a product of the first
   * layer's stream as wide as its rows, and a norm of each layer's part of that, of `normEpsilon * hiddenSize`. A row's
   * inputs are that norm's results plus its token's row of the table times the factor (Gemma 4).
   */
  int32_t layerTable, layerProjection, layerInputNorm, layerInputSize;
  float layerTableScale;
  /**
   * Norm of a token's embedding, whose results stand in front of the normed stream in the inputs of the first layer's
   * attention, which are `2 * hiddenSize` then, a multiple of 128. A product of what `kernel_write_stream` takes, whose
   * outputs are the stream. -1 for none (draft heads). With a norm of rows of the stream, the product takes the normed
   * embedding and the normed row instead, and attention's inputs are those of other layers (layers of checkpoints that
   * predict a further token).
   */
  int32_t tokenNorm, fusion, stateNorm;
} ModelDescription;

/**
 * How a layer mixes the rows of a sequence: by attention, or by a recurrence whose state has a fixed size. Its rows run in
 * their order, whatever the steps, so that the bits do not depend on these.
 *
 * - MIX_CONVOLUTION: `query * convolution(key * value)` (LFM2).
 * - MIX_DELTA: the gated delta rule. Queries, keys and values are convolved, and SiLU is applied; heads of queries and keys
 *   are divided by their lengths, and queries by `sqrt(headSize)` too. A head's state S `[headSize][valueSize]` becomes
 *   `d S + key (strength (value - d key S))`, its output is `query S`, normed and times `SiLU(outputGate)`. The strength is
 *   the sigmoid of its product, and `d = exp(rate * softplus(decay + bias))` (Qwen 3.5).
 * - MIX_SPACE: Mamba-2. S becomes `d S + key (strength value)`, with `strength = softplus(decay + bias)`, and the output
 *   `query S + skip value`, times `SiLU(outputGate)`, is normed over the heads that share a key: 16 numbers or a multiple.
 */
enum { MIX_ATTENTION, MIX_CONVOLUTION, MIX_DELTA, MIX_SPACE, NUM_MIXINGS };

/** Rows of the table `rates`: of each head the decay's rate, its bias, and the skip. */
enum { RATE_ROW, RATE_BIAS_ROW, SKIP_ROW, RATE_ROWS };

/** Bits of `normsStream`: the norm in front of attention, or of the FFN, replaces the stream. */
enum { NORMS_AT_ATTENTION = 1, NORMS_AT_FFN = 2 };

/**
 * A layer. Tensors are indices, -1 for none. A norm is a table of one row, its scales; a layer norm has a second one, its
 * biases.
 */
typedef struct {
  int32_t attentionNorm, query, key, value, queryNorm, keyNorm, attentionOutput, attentionOutputNorm;
  /** `gate`, `up` and `down` are the weights that all rows use. */
  int32_t ffnNorm, gate, up, down, ffnOutputNorm;
  int32_t numHeads, numKvHeads, headSize;
  /** Sets of angles of keys and of queries, -1 for none; number of dimensions that rotate, from a head's first on, in halves. */
  int32_t rotary, queryRotary, rotarySize;
  /** Number of positions that a query sees up to its own, and in an encoder from its own on; 0 is all. */
  int32_t window;
  int32_t activation, normsStream;
  /** Whether query and key norms are over all heads together. */
  int32_t normsAllHeads;
  float attentionScale, residualScale;
  /** First of `[experts][3]` tensors: gate, up and down of each expert. */
  int32_t firstExpert;
  /**
   * Weights `[numRouted][hiddenSize]` by which the layer chooses experts of a row; -1 when steps name the expert. With a
   * row more, the sigmoid of its output multiplies the outputs of `gate`, `up` and `down`.
   */
  int32_t router;
  /** With a router: number of experts, of those that a row uses, and whether the softmax is over these alone. */
  int32_t numRouted, expertsPerToken, normalizesWeights;
  /**
   * With a table of one row, biases by expert: a row's weights are sigmoids of its logits, and sigmoids with biases choose
   * its experts. Else the weights are a softmax. They are multiplied by `routedScale` at last.
   */
  int32_t routerBias;
  float routedScale;
  /** With a recurrence `numKvHeads` are those of keys and queries, `numHeads` those of values, of size `valueSize`. */
  int32_t mixing, valueSize;
  /** Whether heads of values with the same keys lie `numKvHeads` apart, not side by side. */
  int32_t isTiled;
  /** Number of positions that a convolution sees, 1 to MOST_TAPS, the oldest first: rows of its table, a row of biases more. */
  int32_t numTaps;
  /** A table as wide as the products that are convolved, side by side in whole panels; `rates` as the heads of values. */
  int32_t convolution, rates;
  /** Products `[heads * valueSize]`, of attention `[heads * headSize]`, whose sigmoid multiplies outputs; and `[heads]`. */
  int32_t outputGate, strength, decay;
  /** Norm of a recurrence's outputs, with MIX_DELTA of each head's. */
  int32_t outputNorm;
  /** Scores of attention's heads, a table of one row, that count in the sums of weights beside those of positions. */
  int32_t sinks;
  /** Norm of each head's values. */
  int32_t valueNorm;
  /** An earlier layer whose keys and values attention reads, in place of products of its own; -1 for none. */
  int32_t keysOf;
  /**
   * Products behind the FFN, `[layerInputSize]` and `[hiddenSize]`: the first one of the stream, whose activation is
   * multiplied by the row's layer inputs, is the second one's input. Its outputs, normed, are added to the stream.
   */
  int32_t inputGate, inputOutput, inputOutputNorm;
  /** Factors of the stream behind the layer, a table of one row. */
  int32_t streamScale;
  /**
   * First of `[2 * numHeads]` products of latent attention, which has one key head and no `value`: of each head the product
   * of its queries' first part, whose outputs take that part's place in front of the key's latent rows; then that of its
   * outputs, which are latent rows. Keys are latent rows, normed, then `rotarySize` numbers; queries are `plain` numbers and
   * as many; what rotates has its pairs side by side.
   */
  int32_t firstHead;
  /** Product in front of `query` and the norm of its outputs, with latent attention. */
  int32_t queryLow, queryLowNorm;
  /**
   * With a router and weights that all rows use: norms of the rows that the router and experts read in place of `ffnNorm`'s,
   * of the outputs that all rows use, and of those of experts; and factors of experts' weights, a table of one row.
   */
  int32_t expertNorm, sharedOutputNorm, expertOutputNorm, expertScales;
} LayerDescription;

/** A tensor. Offsets are from the file's beginning, in units of 64 bytes; -1 for none. */
typedef struct {
  int32_t format, numOut, numIn, weights, scales, bias;
} TensorDescription;

/**
 * Header of a lora, a low-rank expert. `LoraEntry [numLayers * LORA_PRODUCTS + 1]` follows: the products of each layer, then
 * the head.
 */
typedef struct {
  int32_t magic, version, numLayers, format;
} LoraDescription;

/** A product that a lora changes. Offsets are from the lora's beginning, in units of 64 bytes. */
typedef struct {
  /** Rank in whole vectors of 16; 0 when the product does not change. */
  int32_t rank, lower, raise, scales;
} LoraEntry;

enum { LORA_MAGIC = 0x4352524d, LORA_VERSION = 1, MOST_LORAS = 1 << 16 };

/** Products of a layer, in the order of a lora's entries. */
enum { LORA_QUERY, LORA_KEY, LORA_VALUE, LORA_ATTENTION_OUTPUT, LORA_GATE, LORA_UP, LORA_DOWN, LORA_PRODUCTS };

typedef struct {
  int32_t numThreads;
  /** Largest number of rows of a step. */
  int32_t maxRows;
  /** Largest number of positions of a sequence. */
  int32_t maxPositions;
  /** Whether experts are not in the file's memory; `kernel_place` then gives the address of each. */
  int32_t streamsExperts;
} KernelOptions;

/** Largest number of experts of a layer with a router, and of those that a row uses. */
enum { MOST_ROUTED = 1024, MOST_CHOSEN = 64 };

enum { SEQUENCE_FIELDS = 4, MOST_WANTED = 1 << 20, MOST_TAPS = 8 };

/**
 * Memory for keys and values of `numPages` pages of 16 tokens, by layer that keeps them, page, key head; and for
 * `numStates` states of sequences in the layers with a recurrence.
 */
typedef struct {
  int32_t numPages, numLayers, numStates;
  KvType type;
  uint8_t *memory;
  /** Bytes of a page in the layers before each layer, and in all, `[numLayers + 1]`. */
  size_t *starts;
  /** `[numStates][stateFloats]`. */
  float *states;
  size_t stateFloats;
} Pages;

/** One step: rows of sequences, side by side. Every row's token is appended at its position. */
typedef struct {
  const Pages *pages;
  int32_t numRows, numSequences, numWanted, numCandidates, numTableEntries, numFullRows, numSaves;
  /** Token and expert of each row, and the slot of its lora, -1 for none. */
  const int32_t *tokens, *experts, *loras;
  /**
   * Number of rows, position of the first row, first entry in `pageTable`, and state in front of the rows of each sequence:
   * -1 at position 0, and without recurrences. Rows and entries are in the order of the sequences.
   */
  const int32_t *sequences;
  const int32_t *pageTable;
  /**
   * `[numSaves]`, with recurrences alone: rows behind which the state is saved, in rising order, and where. The state behind
   * a sequence's last row may take the place of that in front of its rows, no other may.
   */
  const int32_t *savedRows, *savedStates;
  /**
   * For each wanted row of logits, in rising order and perhaps repeated: the row, an output whose logit is wanted, and
   * the place in `fullLogits` or -1. A model without a head writes to `fullLogits` alone: the mean of the states of
   * successive rows with one place. No row is repeated there.
   */
  const int32_t *wanted, *targets, *fullPlaces;
  /** `[numWanted][numCandidates]`, best first; lower ids first among equals. */
  int32_t *candidateIds;
  float *candidateLogits;
  /** `[numWanted][2]`: the largest logit, and the sum of `exp(logit - largest)`. */
  double *logSumExp;
  /** `[numWanted]`. */
  float *targetLogits;
  /** `[numFullRows][numLogits]`. */
  float *fullLogits;
  /** Sums over all rows of the squares of each input (see `observe`), or NULL. */
  float *inputSquares;
} Step;

typedef struct Kernel Kernel;

/** Rows inside a step: the residual stream; of its last layer's FFN the outputs, and the inputs of its last product. */
typedef enum { STATES_STREAM, STATES_UPDATE, STATES_GATED } States;

/** Memory that a host lends: the unit of an expert, by the index of its first tensor; the lora of a slot. */
typedef enum { LENT_UNIT, LENT_LORA } Lent;

/** A host whose memory may go away while it is placed, as a script's may. */
typedef struct {
  void *context;
  /** Checks that memory is still where it was placed. NULL: all memory stays. */
  int (*isThere)(void *context, Lent lent, size_t index);
} Lender;

/**
 * Opens a kernel.
 * @param file - packed weights, 64-byte aligned, which keep their address until `kernel_close`
 * @returns NULL with a reason in `error` when the file is invalid or there is no memory
 */
Kernel *kernel_open(const void *file, size_t bytes, const KernelOptions *options, const Loops *loops, const char **error);
/**
 * Sets the angles of successive positions from `position` on: `[rotarySize / 2]` cosines of each, then as many sines.
 * @returns NULL, or the part of the arguments that does not fit
 */
const char *kernel_set_rotary(Kernel *kernel, int32_t rotary, int32_t position, const float *angles, size_t length);
/** Allocates pages and states. @param type - a `KvType` @returns 0, or -1 when there is no memory, or no such type */
int kernel_open_pages(const Kernel *kernel, int32_t numPages, int32_t numStates, int32_t type, Pages *pages);
void kernel_close_pages(Pages *pages);
/**
 * Copies a page of all layers, one after another; states `[stateFloats]` have the numbers behind those of pages. No
 * step may run meanwhile.
 * @returns NULL, or the part of the arguments that does not fit; nothing was copied then
 */
const char *kernel_read_page(const Pages *pages, int32_t page, uint8_t *bytes, size_t length);
/** Writes what `kernel_read_page` has copied, from any kernel of the same model and precision. @returns as it does */
const char *kernel_write_page(const Pages *pages, int32_t page, const uint8_t *bytes, size_t length);
Team *kernel_team(Kernel *kernel);
/** Names the host that is asked, before each step or part of one, for the memory that it reads. */
void kernel_lend(Kernel *kernel, Lender lender);
/** Runs a step. @returns NULL, or the reason why the step cannot run; nothing has run then */
const char *kernel_step(Kernel *kernel, const Step *step);
/**
 * Begins a step that runs some layers at a time. Its arrays and the description of its pages keep their addresses until
 * the step has ended; the pages' memory may be closed, and then nothing more of the step runs.
 * @returns as `kernel_step`
 */
const char *kernel_begin(Kernel *kernel, const Step *step);
/** Runs the next layers `[from, to)`. @returns NULL, or the missing part; nothing has run then */
const char *kernel_run_layers(Kernel *kernel, int32_t from, int32_t to);
/**
 * Runs the next layer up to its router, whose choice is in `kernel_chosen`.
 * @returns NULL, or the part of the arguments that does not fit; nothing has run then
 */
const char *kernel_route(Kernel *kernel, int32_t layer);
/**
 * Returns the experts that the last call of `kernel_route` chose, `[rows][expertsPerToken]`, the most probable first.
 * Rows are in the step's order, in the last layer those with wanted logits.
 */
const int32_t *kernel_chosen(const Kernel *kernel, size_t *length);
/** Runs the rest of the layer whose router has run. @returns NULL, or the missing part; nothing has run then */
const char *kernel_feed(Kernel *kernel, int32_t layer);
/** Computes the results of a step whose layers have all run. @returns NULL, or the missing part */
const char *kernel_end(Kernel *kernel);
/**
 * Sets the rows of the stream `[numRows][hiddenSize]` that a step begins with in place of its tokens' embeddings; or, of
 * a model with a fusion, the inputs `[numRows][numIn]` of that product. Each row stands behind an embedding
 * `[hiddenSize]` in a model with a norm of these.
 * @returns NULL, or the part of the arguments that does not fit
 */
const char *kernel_write_stream(Kernel *kernel, const float *rows, size_t length);
/**
 * Copies rows of the last step, `[numRows][width]`, in the step's order: as they are behind the layers that have run, or
 * behind the step's end. Until that end the stream lacks the last FFN's outputs. Outputs and inputs are those of an FFN
 * without experts. The model's last layer computes only rows with wanted logits; other rows are left as they are.
 * @returns NULL, or the part of the arguments that does not fit
 */
const char *kernel_read_states(const Kernel *kernel, States states, float *rows, size_t length);
/**
 * Names layers, in rising order from 1 on, in front of which later steps keep all rows of the stream. The number of
 * layers stands for the stream behind the last one, which then computes all rows, also for sums of squares. Once for a
 * kernel.
 * @returns NULL, or the part of the arguments that does not fit
 */
const char *kernel_tap(Kernel *kernel, const int32_t *layers, size_t count);
/** Reads embeddings `[count][hiddenSize]` of tokens, with the model's factor. @returns NULL, or the part that does not fit */
const char *kernel_read_embeddings(const Kernel *kernel, const int32_t *tokens, size_t count, float *rows, size_t length);
/** Copies the last step's rows of these layers, `[numRows][layers][hiddenSize]`. @returns as `kernel_read_states` */
const char *kernel_read_taps(const Kernel *kernel, float *rows, size_t length);
/**
 * Sets the weights of one layer of one expert: its range of the file, anywhere in memory at a multiple of 64 bytes.
 * @param unit - NULL removes the weights @returns NULL, or the part of the arguments that does not fit
 */
const char *kernel_place(Kernel *kernel, int32_t layer, int32_t expert, const uint8_t *unit, size_t bytes);
/** Returns the index of the first tensor of an expert that `kernel_place` takes. */
size_t kernel_unit_index(const Kernel *kernel, int32_t layer, int32_t expert);
/**
 * Sets the lora of a slot, at a multiple of 64 bytes, which keeps its address until another one is placed.
 *
 * @param bytes - NULL removes the lora @returns NULL, or the part of the arguments that does not fit
 */
const char *kernel_place_lora(Kernel *kernel, int32_t slot, const uint8_t *bytes, size_t length);
/** Checks that all logits of a wanted row of the last step are kept: those of up to LOGIT_ROWS of its last rows are. */
int kernel_keeps_logits(const Kernel *kernel, int32_t wanted);
/** Copies all logits of a wanted row of the last step. @returns NULL, or the reason why it cannot */
const char *kernel_read_logits(const Kernel *kernel, int32_t wanted, float *logits, size_t length);
void kernel_close(Kernel *kernel);
