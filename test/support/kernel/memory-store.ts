// Tensors in memory where a checkpoint's file is expected.

import type { LinearRefs, TensorRef, TensorStore } from "@readme-moe/model";

/** A tensor that is read from memory. */
export function memoryTensor(values: Float32Array, shape: readonly number[]): TensorRef {
  const rowLength = values.length / (shape[0] ?? 1);
  const store: TensorStore = {
    path: "memory",
    names: ["tensor"],
    has: () => true,
    info: (name) => ({ name, type: "F32", shape, byteLength: values.byteLength }),
    readBytes: async () => new Uint8Array(values.slice().buffer),
    readFloats: async (_, { from, to } = { from: 0, to: shape[0] ?? 1 }) =>
      values.slice(from * rowLength, to * rowLength),
    close: async () => undefined,
  };
  return { store, name: "tensor", shape };
}

export function memoryLinear(values: Float32Array, numIn: number, bias: Float32Array | undefined): LinearRefs {
  const numOut = values.length / numIn;
  return { weight: memoryTensor(values, [numOut, numIn]), bias: bias && memoryTensor(bias, [numOut]) };
}
