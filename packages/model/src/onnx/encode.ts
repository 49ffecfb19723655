// Graph -> the bytes of an ONNX ModelProto. Field numbers are those of onnx.proto3 (ONNX 1.17).

import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import type { Attribute, Branch, Constant, Dimension, ElementType, Graph, Node, Port } from "./graph-builder.ts";

/** Where a constant lies in the file beside the graph. */
interface Placement {
  readonly offset: number;
  readonly byteLength: number;
}

export interface EncodedGraph {
  /** The ModelProto. */
  readonly model: Uint8Array;
  /** The constants that are not in `model`, in the order in which the data file has them. */
  readonly external: readonly (Constant & Placement)[];
  /** Length of the data file. */
  readonly dataBytes: number;
}

// Constants from this size on go to the data file: a ModelProto must stay under 2 GB, and the
// runtime maps the data file instead of copying it.
const EXTERNAL_FROM_BYTES = 1024;
// The runtime maps data at page borders.
const ALIGNMENT_BYTES = 4096;

const DATA_TYPES: Readonly<Record<ElementType, number>> = {
  float32: 1,
  uint8: 2,
  int8: 3,
  int32: 6,
  int64: 7,
  bool: 9,
  float16: 10,
};
const ATTRIBUTE_TYPES = { float: 1, int: 2, string: 3, graph: 5, ints: 7 } as const;

/**
 * Encodes a graph. Constants of 1 KiB and more are only placed: the caller writes their bytes at
 * `external[i].offset` into the file `dataFile` beside the model, or hands them to the runtime under that name.
 */
export async function encodeGraph(graph: Graph, dataFile: string): Promise<EncodedGraph> {
  const external: (Constant & Placement)[] = [];
  let dataBytes = 0;
  const writer = new BinaryWriter();
  integer(writer, 1, 10); // ir_version
  string(writer, 2, "readme-moe"); // producer_name
  const body = message(writer, 7); // graph
  for (const node of graph.nodes) writeNode(body, node);
  string(body, 2, graph.name);
  for (const constant of graph.constants) {
    if (constant.byteLength >= EXTERNAL_FROM_BYTES) {
      const offset = Math.ceil(dataBytes / ALIGNMENT_BYTES) * ALIGNMENT_BYTES;
      external.push({ ...constant, offset });
      dataBytes = offset + constant.byteLength;
      writeExternal(body, constant, offset, dataFile);
    } else {
      writeInline(body, constant, await constant.bytes());
    }
  }
  for (const input of graph.inputs) writePort(body, 11, input);
  for (const output of graph.outputs) writePort(body, 12, output);
  body.join();
  writeOpset(writer, "", 21);
  writeOpset(writer, "com.microsoft", 1);
  return { model: writer.finish(), external, dataBytes };
}

function writeOpset(writer: BinaryWriter, domain: string, version: number): void {
  const opset = message(writer, 8);
  string(opset, 1, domain);
  integer(opset, 2, version);
  opset.join();
}

function writeNode(writer: BinaryWriter, node: Node): void {
  const body = message(writer, 1);
  for (const input of node.inputs) string(body, 1, input ?? "");
  for (const output of node.outputs) string(body, 2, output ?? "");
  string(body, 3, node.outputs.find((output) => output !== undefined) ?? "");
  string(body, 4, node.type);
  for (const [name, attribute] of Object.entries(node.attributes)) writeAttribute(body, name, attribute);
  string(body, 7, node.domain);
  body.join();
}

function writeAttribute(writer: BinaryWriter, name: string, attribute: Attribute): void {
  const body = message(writer, 5);
  string(body, 1, name);
  if (typeof attribute === "number") {
    integer(body, 3, attribute);
    integer(body, 20, ATTRIBUTE_TYPES.int);
  } else if (typeof attribute === "string") {
    string(body, 4, attribute);
    integer(body, 20, ATTRIBUTE_TYPES.string);
  } else if ("float" in attribute) {
    body.tag(2, WireType.Bit32).float(attribute.float);
    integer(body, 20, ATTRIBUTE_TYPES.float);
  } else if ("nodes" in attribute) {
    writeBranch(body, attribute);
    integer(body, 20, ATTRIBUTE_TYPES.graph);
  } else {
    for (const value of attribute) integer(body, 8, value);
    integer(body, 20, ATTRIBUTE_TYPES.ints);
  }
  body.join();
}

function writeBranch(writer: BinaryWriter, branch: Branch): void {
  const body = message(writer, 6);
  for (const node of branch.nodes) writeNode(body, node);
  string(body, 2, branch.name);
  string(message(body, 12), 1, branch.output);
  body.join();
  body.join();
}

function writeInline(writer: BinaryWriter, constant: Constant, bytes: Uint8Array): void {
  const body = openTensor(writer, constant);
  body.tag(9, WireType.LengthDelimited).bytes(bytes);
  body.join();
}

function writeExternal(writer: BinaryWriter, constant: Constant, offset: number, dataFile: string): void {
  const body = openTensor(writer, constant);
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

function openTensor(writer: BinaryWriter, constant: Constant): BinaryWriter {
  const body = message(writer, 5);
  for (const size of constant.shape) integer(body, 1, size);
  integer(body, 2, DATA_TYPES[constant.type]);
  string(body, 8, constant.name);
  return body;
}

function writePort(writer: BinaryWriter, field: number, port: Port): void {
  const body = message(writer, field);
  string(body, 1, port.name);
  const tensor = message(message(body, 2), 1);
  integer(tensor, 1, DATA_TYPES[port.type]);
  const shape = message(tensor, 2);
  for (const dimension of port.shape) writeDimension(shape, dimension);
  shape.join();
  tensor.join();
  body.join();
  body.join();
}

function writeDimension(writer: BinaryWriter, dimension: Dimension): void {
  const body = message(writer, 1);
  if (typeof dimension === "number") integer(body, 1, dimension);
  else string(body, 2, dimension);
  body.join();
}

// --- Fields: `fork` and `join` nest on one writer, so a message is the same object as its parent ---

function message(writer: BinaryWriter, field: number): BinaryWriter {
  return writer.tag(field, WireType.LengthDelimited).fork();
}

function string(writer: BinaryWriter, field: number, value: string): void {
  writer.tag(field, WireType.LengthDelimited).string(value);
}

function integer(writer: BinaryWriter, field: number, value: number): void {
  writer.tag(field, WireType.Varint).int64(value);
}
