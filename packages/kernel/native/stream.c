// The residual stream. Rows begin as embeddings, blocks add to them, norms read them.

#include "blocks.h"
#include "memory.h"
#include "numbers.h"
#include "phases.h"

/** Returns a byte of a group's line: inputs are by four. */
static int byte_at(const uint8_t *group, int line, int column, int input) { return group[LINE_BYTES * line + 4 * column + input % 4]; }

/** Returns a weight in blocks. */
static float block_weight(BlockType t, const uint8_t *panel, int column, int i) {
  const uint8_t *factors, *more = group_at(t, panel, i / GROUP, &factors), *group = more + t.moreBits * LINE_BYTES, *scales = more + plane_bytes(t);
  int input = i % GROUP, k = input / 4, at = input / t.block * PANEL + column, code = 0;
  if (t.bits == 8) code = byte_at(group, k, column, input);
  if (t.bits == 4) code = byte_at(group, k % 4, column, input) >> (k < 4 ? 0 : 4) & 15;
  if (t.bits == 2) code = byte_at(group, k / 4, column, input) >> 2 * (k % 4) & 3;
  if (t.moreBits == 1) code |= (byte_at(more, 0, column, input) >> k & 1) << t.bits;
  if (t.moreBits == 2) code |= (byte_at(more, k / 4, column, input) >> 2 * (k % 4) & 3) << 4;
  if (t.codes != CODES_PLAIN) code = BLOCK_CODES[t.codes][code];
  const uint16_t *factor = (const uint16_t *)factors + column;
  scales += at * scale_size(t);
  float weight = scale_value(t, scales, has_factors(t) ? float_of(*factor) : 1, 0) * (float)(code - t.zero);
  if (!t.hasMinimums) return weight;
  const uint8_t *minimums = t.scale == SCALE_NIBBLE ? scales : scales + scale_bytes(t);
  return weight + scale_value(t, minimums, has_factors(t) ? float_of(factor[PANEL]) : 1, 1);
}

/** Returns input `i` of an embedding. */
static float embedded(const Tensor *t, int32_t token, int i) {
  int column = token % PANEL;
  const uint8_t *panel = t->weights + (size_t)(token / PANEL) * t->panelBytes;
  switch (t->format) {
    case FORMAT_FLOAT_TABLE: return ((const float *)t->weights)[(size_t)token * t->numIn + i];
    case FORMAT_HALF_TABLE: return float_of(((const uint16_t *)t->weights)[(size_t)token * t->numIn + i]);
    case FORMAT_FLOAT: return ((const float *)panel)[(size_t)i * PANEL + column];
    case FORMAT_HALF: return float_of(((const uint16_t *)panel)[(size_t)i * PANEL + column]);
    case FORMAT_BFLOAT: return bfloat_of(((const uint16_t *)panel)[(size_t)i * PANEL + column]);
    case FORMAT_INT8: return (float)(byte_at(panel, i / 4, column, i) - 128) * t->scales[token];
    default: return block_weight(BLOCK_TYPES[t->format - FORMAT_BLOCKS], panel, column, i);
  }
}

void look_up(const Kernel *kernel, int32_t token, int32_t position, float *out) {
  int32_t word = token % kernel->model.vocabSize, segment = token / kernel->model.vocabSize, size = kernel->embedding->numIn;
  for (int i = 0; i < size; i++) out[i] = embedded(kernel->embedding, word, i) * kernel->model.embeddingScale;
  // In the order in which transformers adds them.
  for (int i = 0; kernel->segments && i < size; i++) out[i] += embedded(kernel->segments, segment, i);
  for (int i = 0; kernel->positions && i < size; i++) out[i] += embedded(kernel->positions, position, i);
}

void add_update(Kernel *kernel, int streamRow, int row, Norm outputNorm, float scale) {
  float *stream = kernel->stream + (size_t)streamRow * kernel->hiddenWidth, *update = kernel->update + (size_t)row * kernel->hiddenWidth;
  if (outputNorm.scales)
    kernel->loops->norm(update, outputNorm, kernel->model.normEpsilon, kernel->model.hiddenSize, kernel->hiddenWidth, update);
  kernel->loops->add_scaled(stream, update, scale, kernel->hiddenWidth);
}

void join_updates(Kernel *kernel, const Layer *layer, int row) {
  if (!layer->up || !layer->experts) return;
  size_t at = (size_t)row * kernel->hiddenWidth;
  kernel->loops->add_scaled(kernel->update + at, kernel->routed + at, 1, kernel->hiddenWidth);
}

void norm_row(Kernel *kernel, int streamRow, int row, Norm norm, int replaces) {
  float *stream = kernel->stream + (size_t)streamRow * kernel->hiddenWidth;
  float *inputs = kernel->normed.floats + (size_t)row * kernel->normed.width;
  if (norm.scales) kernel->loops->norm(stream, norm, kernel->model.normEpsilon, kernel->model.hiddenSize, kernel->hiddenWidth, inputs);
  else memcpy(inputs, stream, (size_t)kernel->hiddenWidth * 4);
  if (replaces) memcpy(stream, inputs, (size_t)kernel->hiddenWidth * 4);
  if (kernel->rounds) kernel->loops->round_row(&kernel->normed, row, 0, (kernel->model.hiddenSize + GROUP - 1) / GROUP * GROUP);
}
