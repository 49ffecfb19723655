// Encodes a graph as an ONNX ModelProto, with large constants in a file beside it.

import { BinaryWriter } from "@bufbuild/protobuf/wire";
import type { Constant, Graph } from "./graph-builder.ts";
import {
  GRAPH_FIELD,
  integer,
  message,
  type OnnxVersion,
  string,
  TENSOR_FIELD,
  writeHeader,
  writeInline,
  writeSkeleton,
  writeTensorFields,
} from "./model-proto.ts";

/** Place of a constant in the file beside the graph. */
interface Placement {
  readonly offset: number;
  readonly byteLength: number;
}

export interface EncodedGraph {
  /** The ModelProto. */
  readonly model: Uint8Array;
  /** Constants that are not in `model`, in the order of the data file. */
  readonly external: readonly (Constant & Placement)[];
  /** Length of the data file. */
  readonly dataBytes: number;
}

/**
 * Least size of constants in the data file: a ModelProto must stay under 2 GB, and the runtime maps the data file
 * instead of copying it.
 */
export const LARGE_CONSTANT_BYTES = 1024;
/** Version that our own runtime reads. */
const NEWEST: OnnxVersion = { ir: 10, opset: 21 };
// The runtime maps data at page borders.
const ALIGNMENT_BYTES = 4096;

/**
 * Encodes a graph. Constants of 1 KiB and more are only assigned a place: the caller writes their bytes at
 * `external[i].offset` into the file `dataFile` beside the model, or passes them to the runtime under that name.
 */
export async function encodeGraph(
  graph: Graph,
  dataFile: string,
  version: OnnxVersion = NEWEST,
): Promise<EncodedGraph> {
  const external: (Constant & Placement)[] = [];
  let dataBytes = 0;
  const writer = new BinaryWriter();
  writeHeader(writer, version);
  const body = message(writer, GRAPH_FIELD);
  writeSkeleton(body, graph);
  for (const constant of graph.constants) {
    if (constant.byteLength >= LARGE_CONSTANT_BYTES) {
      const offset = Math.ceil(dataBytes / ALIGNMENT_BYTES) * ALIGNMENT_BYTES;
      external.push({ ...constant, offset });
      dataBytes = offset + constant.byteLength;
      writeExternal(body, constant, offset, dataFile);
    } else {
      writeInline(body, constant, await constant.bytes());
    }
  }
  body.join();
  return { model: writer.finish(), external, dataBytes };
}

function writeExternal(writer: BinaryWriter, constant: Constant, offset: number, dataFile: string): void {
  const body = message(writer, TENSOR_FIELD);
  writeTensorFields(body, constant);
  const entries = { location: dataFile, offset: String(offset), length: String(constant.byteLength) };
  for (const [key, value] of Object.entries(entries)) {
    const entry = message(body, 13);
    string(entry, 1, key);
    string(entry, 2, value);
    entry.join();
  }
  integer(body, 14, 1); // data_location = EXTERNAL
  body.join();
}
