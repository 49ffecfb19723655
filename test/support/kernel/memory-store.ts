// Tensors in memory where a checkpoint's file is expected.

import {
  decodeFloats,
  encodeFloats,
  type LinearRefs,
  type StoredFloat,
  type TensorRef,
  type TensorStore,
} from "@readme-moe/model";

/** A tensor that is read from memory, where it has a number type. */
export function memoryTensor(values: Float32Array, shape: readonly number[], type: StoredFloat = "F32"): TensorRef {
  const bytes = encodeFloats(values.slice(), type);
  const rowBytes = bytes.length / (shape[0] ?? 1);
  const readBytes: TensorStore["readBytes"] = async (_, { from, to } = { from: 0, to: shape[0] ?? 1 }) =>
    bytes.slice(from * rowBytes, to * rowBytes);
  const store: TensorStore = {
    path: "memory",
    names: ["tensor"],
    has: () => true,
    info: (name) => ({ name, type, shape, byteLength: bytes.length }),
    readBytes,
    readFloats: async (name, rows) => decodeFloats(await readBytes(name, rows), type),
    close: async () => undefined,
  };
  return { store, name: "tensor", shape };
}

export function memoryLinear(
  values: Float32Array,
  numIn: number,
  bias: Float32Array | undefined,
  type: StoredFloat = "F32",
): LinearRefs {
  const numOut = values.length / numIn;
  return { weight: memoryTensor(values, [numOut, numIn], type), bias: bias && memoryTensor(bias, [numOut]) };
}
