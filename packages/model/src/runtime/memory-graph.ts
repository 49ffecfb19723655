import { fillData } from "../onnx/data-file.ts";
import { encodeGraph } from "../onnx/encode.ts";
import type { Graph } from "../onnx/graph-builder.ts";
import type { CachedGraph } from "./graph-cache.ts";

const DATA_NAME = "weights.bin";

/** A graph that is used once, and not worth being cached. */
export async function memoryGraph(graph: Graph): Promise<CachedGraph> {
  const encoded = await encodeGraph(graph, DATA_NAME);
  // The runtime refuses a file without bytes.
  const data = new Uint8Array(Math.max(1, encoded.dataBytes));
  await fillData(encoded, data);
  return { kind: "memory", name: graph.name, model: encoded.model, data, dataName: DATA_NAME, reason: undefined };
}
