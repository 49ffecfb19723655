// Pieces of an ONNX ModelProto. Field numbers are those of onnx.proto3 (ONNX 1.17).

import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import type { Attribute, Constant, Dimension, ElementType, Graph, Node, Port } from "./graph-builder.ts";

/** Version of the file format; an older runtime reads only older versions. */
export interface OnnxVersion {
  readonly ir: number;
  readonly opset: number;
}

const DATA_TYPES: Readonly<Record<ElementType, number>> = {
  float64: 11,
  float32: 1,
  uint8: 2,
  int8: 3,
  int32: 6,
  int64: 7,
  bool: 9,
  float16: 10,
};
const ATTRIBUTE_TYPES = { float: 1, int: 2, string: 3, ints: 7 } as const;

/** Field of a ModelProto that holds its graph. */
export const GRAPH_FIELD = 7;

/** Writes a ModelProto without its graph. */
export function writeHeader(writer: BinaryWriter, version: OnnxVersion): void {
  integer(writer, 1, version.ir); // ir_version
  string(writer, 2, "readme-moe"); // producer_name
  writeOpset(writer, "", version.opset);
  writeOpset(writer, "com.microsoft", 1);
}

/** Writes a GraphProto without its constants. */
export function writeSkeleton(body: BinaryWriter, graph: Graph): void {
  for (const node of graph.nodes) writeNode(body, node);
  string(body, 2, graph.name);
  for (const input of graph.inputs) writePort(body, 11, input);
  for (const output of graph.outputs) writePort(body, 12, output);
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
  } else {
    for (const value of attribute) integer(body, 8, value);
    integer(body, 20, ATTRIBUTE_TYPES.ints);
  }
  body.join();
}

/** Writes a constant with its values, as part of a GraphProto. */
export function writeInline(writer: BinaryWriter, constant: Constant, bytes: Uint8Array): void {
  const body = message(writer, TENSOR_FIELD);
  writeTensorFields(body, constant);
  body.tag(VALUES_FIELD, WireType.LengthDelimited).bytes(bytes);
  body.join();
}

/** Field of a GraphProto that holds a constant, and field of a TensorProto that holds its values. */
export const TENSOR_FIELD = 5;
export const VALUES_FIELD = 9;

/** Writes a TensorProto without its values. */
export function writeTensorFields(body: BinaryWriter, constant: Constant): void {
  for (const size of constant.shape) integer(body, 1, size);
  integer(body, 2, DATA_TYPES[constant.type]);
  string(body, 8, constant.name);
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

export function message(writer: BinaryWriter, field: number): BinaryWriter {
  return writer.tag(field, WireType.LengthDelimited).fork();
}

export function string(writer: BinaryWriter, field: number, value: string): void {
  writer.tag(field, WireType.LengthDelimited).string(value);
}

export function integer(writer: BinaryWriter, field: number, value: number): void {
  writer.tag(field, WireType.Varint).int64(value);
}
