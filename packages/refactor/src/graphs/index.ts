// ONNX graphs: built in TypeScript, and run by onnxruntime.

export * as decoder from "./decoder-layer.ts";
export { GraphBuilder, type Constant, type Graph, type Value } from "./graph-builder.ts";
export * as operators from "./operators.ts";
export { floatOutput, GraphSession, type Feeds, type GraphTensor, type SessionOptions } from "./session.ts";
