// Memory of a kernel: the contents of the packed file, and buffers that every step uses again.

#pragma once
#include "kernel.h"

/** Number of rows whose experts of a mixture are computed together, counted by expert, which bounds memory. */
#ifndef MOST_PAIRS
enum { MOST_PAIRS = 4096 };
#endif

/** Number of wanted rows whose logits are computed together: a panel of the head is read once for all of them. */
enum { LOGIT_ROWS = 32 };

/** Products of an expert, in the order of the table of tensors. */
typedef struct {
  Tensor gate, up, down;
} Expert;

typedef struct {
  LayerDescription description;
  Norm attentionNorm, queryNorm, keyNorm, valueNorm, attentionOutputNorm, ffnNorm, ffnOutputNorm, outputNorm, inputOutputNorm;
  /** See `LayerDescription`. */
  Norm expertNorm, sharedOutputNorm, expertOutputNorm;
  /** Factors of the stream behind the layer; NULL for none. */
  const float *streamScale;
  /** Number of inputs of attention; place among the layers whose stream is kept, from 1 on, or 0. */
  int32_t mixedSize, tap;
  const Tensor *query, *key, *value, *attentionOutput, *gate, *up, *down;
  /** See `LayerDescription`; NULL for none. */
  const Tensor *inputGate, *inputOutput;
  /** `[numExperts]`, or NULL. */
  const Expert *experts;
  int32_t numExperts;
  /** Router of a mixture, which chooses the experts of each row; NULL when steps name the rows' expert. */
  const Tensor *router;
  /** Whether the router has an output more, whose sigmoid multiplies the outputs of the part that all rows use. */
  int32_t gatesShared;
  /** Whether experts of a mixture multiply floats, and rounded rows. */
  int32_t readsFloats, readsRounded;
  /** Number of columns of gated rows that `down` reads; an expert's columns follow. */
  int32_t sharedWidth;
  int32_t paddedHead;
  /** Products of latent attention by head, or NULL; sizes of latent rows and of the part of a query that does not rotate. */
  const Tensor *heads, *queryLow;
  Norm queryLowNorm;
  int32_t latentSize, plainSize;
  /** First column of queries in `projected`; number of columns of a head in `attended`, and of its numbers that are left out. */
  int32_t queryColumn, outputColumns, skippedOutputs;
  /** Place among the layers whose keys and values are kept; of a recurrence the offset of its part of a state. */
  int32_t page;
  size_t state;
  /** See `LayerDescription`; NULL for none. */
  const Tensor *convolution, *rates, *outputGate, *strength, *decay;
  const float *routerBias, *expertScales, *sinks;
  /** Columns of `projected` that are convolved, or multiplied and convolved, and the first columns of products behind them. */
  int32_t convolvedWidth, gateColumn, strengthColumn, decayColumn;
  /** Whether a key head's outputs are whole groups, so that the attending thread rounds them at once. */
  int32_t roundsHeads;
  /** Offsets in `Step.inputSquares`: inputs of attention, its output's product, the FFN, `down`, and the experts. */
  size_t attentionSquares, attendedSquares, ffnSquares, gatedSquares, expertSquares;
} Layer;

typedef struct {
  /** `[position][2][size / 2]`: cosines, then sines. */
  float *angles;
  int32_t size;
} Rotary;

/** Rows in the order of their experts, and the experts that have rows. */
typedef struct {
  int32_t numRows, numExperts;
  /** Row at each place, `[numRows]`. */
  int32_t *rows;
  /** Experts `[numExperts]`, rising; first place of each, and the end, `[numExperts + 1]`. */
  int32_t *experts, *starts;
  /** Number of groups of up to TASK_ROWS rows before each expert's, and of all, `[numExperts + 1]`. */
  int32_t *tasks;
  /** Number of all. Threads that missed a phase read it while others sort the next rows, and then take no task. */
  atomic_int numTasks;
} Groups;

/** A lora, a low-rank change of the model: `[numLayers][LORA_PRODUCTS]`, then the head. */
typedef struct {
  int32_t slot, maxRank;
  LoraFormat format;
  LoraFactors products[];
} Lora;

enum { MOST_BLOCKS = 128, MOST_ROTARIES = 4 };

/** Parts of layers that run together: all, or of a mixture all up to the choice of experts, or the rest. */
typedef enum { PART_WHOLE, PART_ROUTE, PART_FEED } LayerPart;

struct Kernel {
  ModelDescription model;
  KernelOptions options;
  const Loops *loops;
  Team team;
  Layer *layers;
  /** Tensors with their addresses in memory, and, when experts are streamed, with those in the file. */
  Tensor *tensors, *filed;
  Norm finalNorm;
  /** The last four may be NULL; see `ModelDescription`. */
  const Tensor *embedding, *head, *positions, *segments, *distances;
  Rotary rotaries[MOST_ROTARIES];
  /** Widths, rounded up to whole panels. */
  int32_t hiddenWidth, logitsWidth, projectedWidth;
  /** Whether products read rounded rows, which float32 products do not. */
  int32_t rounds;
  /** Length of `Step.inputSquares`. */
  size_t numInputs;
  /** Tables and products of the inputs of layers, NULL for none; inputs of rows `[maxRows][layerInputsWidth]`. */
  const Tensor *layerTable, *layerProjection;
  Norm layerInputNorm;
  int32_t layerInputsWidth;
  float *layerInputs;
  /** See `ModelDescription`; NULL for none. Rows of embeddings `[maxRows][hiddenSize]`, and inputs of the fusion. */
  Norm tokenNorm, stateNorm;
  const Tensor *fusion;
  float *tokenRows;
  Rows fused;
  /** Rows of the stream in front of some layers, `[maxRows][numTaps][hiddenSize]`; the last of these layers. */
  float *taps;
  int32_t numTaps, lastTap, tapsEnd;
  /** `[maxRows][hiddenWidth]`: the residual stream; outputs of a block; outputs of experts beside a shared part. */
  float *stream, *update, *routed;
  /** Queries, keys, values, gates, strengths and decays, `[maxRows][projectedWidth]`. */
  float *projected;
  /** Of recurrences, by row: what was convolved `[convolvedWidth]`, decays and strengths `[2][ratesWidth]`; zeros. */
  float *convolved, *gains, *zeros;
  int32_t convolvedWidth, ratesWidth;
  /** Per thread: memory for a recurrence, `recurrence_floats`. */
  float *recurrenceRooms;
  /** Layers that keep keys and values, their number, and length of a sequence's state. */
  const Layer **paged;
  int32_t numPaged;
  size_t stateFloats;
  /** Queries after norm and rotation, `[maxRows][numHeads * paddedHead]`. */
  float *queries;
  /** Inputs of products: normed rows, attention's outputs, gated rows. Rows of an FFN are in its groups' order. */
  Rows normed, attended, gated;
  /** Inputs of routers and experts in layers with a norm of these. */
  Rows expertInputs;
  /** With latent attention: inputs of products by head, then of the product of attention's outputs. */
  Rows byHead;
  /** Per thread: gates and values of a tile of an FFN; memory for attention, `attend_floats`. */
  float *gates, *attendRooms;
  /** Largest padded head, and number of queries that attend in one call. */
  int32_t maxPaddedHead, attendMost;
  /** Numbers of the tiles of rows whose positions several threads attend to; room for `tileRoom` floats. */
  float *tileResults;
  size_t tileRoom;
  /** `[LOGIT_ROWS][logitsWidth]`, and `[LOGIT_ROWS][logitsWidth / 64]` twice. */
  float *logits, *largest, *sums;
  void *blocks[MOST_BLOCKS];
  int32_t numBlocks;
  /** Rows whose logits are wanted, without repetition, `[maxRows]`. */
  int32_t *active, numActive;
  /** All rows by expert, and places in `active`; counters of the experts of a layer. */
  Groups all, wanted;
  int32_t *counts;
  /** Logits of routers, `[maxRows][routerWidth]`. */
  float *routerLogits;
  int32_t routerWidth;
  /** Experts that rows of a mixture use, and their weights, `[row][rank]` in the order of normed rows. */
  int32_t *choices;
  float *choiceWeights;
  /** Weights of the part that all rows use, by normed row. */
  float *sharedWeights;
  /** The last choice, in the order of the step's rows. */
  int32_t *chosen;
  size_t numChosen;
  /** Pairs of a row and its expert of one rank, up to MOST_PAIRS, by expert; place of each pair, `[row][rank]`. */
  Groups pairs;
  int32_t *pairPlaces;
  /** By place: inputs and gated rows of pairs, and outputs `[hiddenWidth]`. */
  Rows pairInputs, pairGated;
  float *pairOutputs;
  /** Loras by slot, NULL for none. */
  Lora **loras;
  int32_t numLoras;
  /** Lora of each row, NULL for none: by row, by place in `active`, and by place in `all` and in `wanted`. */
  const Lora **rowLoras, **activeLoras, **placeLoras, **wantedLoras;
  /** Distinct loras of the step. */
  const Lora **used;
  int32_t numUsed;
  /** Lowered inputs of a phase's rows, with room for loras of rank `loweredRank`. */
  float *lowered;
  int32_t loweredRank;
  /** Range of the last step's wanted rows whose logits are in `logits`. */
  int32_t firstKept, endKept;
  /** The running step, and its layers that run now. */
  const Step *step;
  Step begun;
  /** Copy of its request, with room for so many numbers. */
  int32_t *request;
  size_t requestRoom;
  Lender lender;
  int32_t fromLayer, toLayer;
  LayerPart part;
  /** Whether the experts of the next layer are chosen. */
  int32_t isRouted;
  /** Whether the step began with rows of the stream, or of its fusion's inputs, not with tokens. */
  int32_t hasStream, hasFused;
  /** Whether the step's results are computed after these layers. */
  int32_t computesResults;
};

/** Number of rows that a product computes together, and of columns of an FFN that one task gates. */
enum { TASK_ROWS = 48, GATE_COLUMNS = 64 };

/** Number of products whose inputs are those of attention. */
enum { MIXED_PRODUCTS = 6 };

/** Lists the products whose inputs are those of attention, as they lie in `projected`. @returns their number */
static inline int mixed_products(const Layer *layer, const Tensor *products[MIXED_PRODUCTS]) {
  const Tensor *all[] = {layer->queryLow ? layer->queryLow : layer->query, layer->key, layer->value, layer->outputGate, layer->strength, layer->decay};
  int count = 0;
  for (int i = 0; i < MIXED_PRODUCTS; i++)
    if (all[i]) products[count++] = all[i];
  return count;
}

/** Whether the first layer's attention reads a token's embedding beside the stream. */
static inline int joins_token(const Kernel *kernel) { return kernel->tokenNorm.scales && !kernel->stateNorm.scales; }
