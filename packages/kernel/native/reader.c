// Tensors of a packed file. Every size and offset is checked before a read depends on it.

#include "reader.h"
#include "blocks.h"

int fail(Reader *reader, const char *error) {
  if (!reader->error) reader->error = error;
  return 0;
}

const uint8_t *bytes_at(Reader *reader, int32_t offset, uint64_t bytes) {
  // Counted in 64 bits, since the sizes could exceed WebAssembly's 32.
  uint64_t from = (uint64_t)(uint32_t)offset * 64;
  if (offset < 0 || from > reader->bytes || bytes > reader->bytes - from) {
    fail(reader, "a tensor leaves the file");
    return NULL;
  }
  return reader->file + from;
}

int read_tensor(Reader *reader, const TensorDescription *from, Tensor *tensor) {
  enum { MOST_SIZE = 1 << 24 };
  if (from->numOut < 1 || from->numOut > MOST_SIZE || from->numIn < 1 || from->numIn > MOST_SIZE) return fail(reader, "a tensor's shape");
  int64_t blocks = (int64_t)from->format - FORMAT_BLOCKS;
  int isPlain = from->format >= FORMAT_FLOAT_TABLE && from->format <= FORMAT_BFLOAT && from->format != FORMAT_ROUTER;
  if (!isPlain && (blocks < 0 || blocks >= NUM_BLOCK_TYPES)) return fail(reader, "a tensor's format");
  *tensor = (Tensor){
      .format = (Format)from->format,
      .numOut = from->numOut,
      .numIn = from->numIn,
      .numPanels = whole(from->numOut, PANEL) / PANEL,
      .numGroups = whole(from->numIn, GROUP) / GROUP,
  };
  uint64_t panelBytes = 0, total = 0;
  switch (from->format) {
    case FORMAT_FLOAT_TABLE: total = (uint64_t)from->numOut * (uint64_t)from->numIn * 4; break;
    case FORMAT_HALF_TABLE: total = (uint64_t)from->numOut * (uint64_t)from->numIn * 2; break;
    case FORMAT_FLOAT: panelBytes = (uint64_t)from->numIn * PANEL * 4; break;
    case FORMAT_HALF:
    case FORMAT_BFLOAT: panelBytes = (uint64_t)from->numIn * PANEL * 2; break;
    case FORMAT_INT8: panelBytes = (uint64_t)tensor->numGroups * GROUP * PANEL; break;
    default: panelBytes = panel_bytes(BLOCK_TYPES[blocks], from->numIn); break;
  }
  if (!isPlain && panelBytes == 0) return fail(reader, "a tensor's shape");
  if (panelBytes > 0) total = (uint64_t)tensor->numPanels * panelBytes;
  tensor->panelBytes = (size_t)panelBytes;
  tensor->weights = bytes_at(reader, from->weights, total);
  size_t outputBytes = (size_t)tensor->numPanels * PANEL * 4;
  if (tensor->format == FORMAT_INT8) tensor->scales = (const float *)bytes_at(reader, from->scales, outputBytes);
  if (from->bias >= 0) tensor->bias = (const float *)bytes_at(reader, from->bias, outputBytes);
  return reader->error == NULL;
}

const Tensor *tensor_at(Reader *reader, const Kernel *kernel, int32_t index, int isNeeded) {
  if (index == -1 && !isNeeded) return NULL;
  if (index < 0 || index >= kernel->model.numTensors) {
    fail(reader, "a tensor's index");
    return NULL;
  }
  return &kernel->tensors[index];
}

const Tensor *weights_at(Reader *reader, const Kernel *kernel, int32_t index, int32_t numOut, int32_t numIn, int isNeeded) {
  const Tensor *tensor = tensor_at(reader, kernel, index, isNeeded);
  if (!tensor) return NULL;
  if (tensor->format < FORMAT_FLOAT || tensor->numOut != numOut || tensor->numIn != numIn) {
    fail(reader, "the shape of a product's weights");
    return NULL;
  }
  return tensor;
}

const Tensor *table_at(Reader *reader, const Kernel *kernel, int32_t index, int32_t numIn) {
  const Tensor *tensor = tensor_at(reader, kernel, index, 0);
  if (!tensor) return NULL;
  if (tensor->format > FORMAT_HALF_TABLE || tensor->numIn != numIn) {
    fail(reader, "the shape of a table");
    return NULL;
  }
  return tensor;
}

Norm norm_at(Reader *reader, const Kernel *kernel, int32_t index, int32_t size) {
  const Tensor *tensor = tensor_at(reader, kernel, index, 0);
  if (!tensor) return (Norm){NULL, NULL};
  int32_t width = whole(size, PANEL);
  if (tensor->format != FORMAT_FLOAT_TABLE || tensor->numOut > 2 || tensor->numIn != width) {
    fail(reader, "the shape of a norm");
    return (Norm){NULL, NULL};
  }
  const float *scales = (const float *)tensor->weights;
  return (Norm){scales, scales && tensor->numOut == 2 ? scales + width : NULL};
}
