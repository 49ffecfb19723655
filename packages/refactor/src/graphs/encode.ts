// Encodes a graph as an ONNX ModelProto: with large constants in a file beside it, or whole, for runtimes that read a
// model from memory. A whole file is written in pieces: its lengths follow from the shapes without reading a weight.

import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import type { Constant, Graph, Node, Value, Attribute, Dimension, ElementType, Port } from "./graph-builder.ts";

/** Place of a constant in the file beside the graph. */
interface Placement {
  readonly offset: number;
  readonly byteLength: number;
}

interface EncodedGraph {
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
const LARGE_CONSTANT_BYTES = 1024;
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

/** ModelProto that is not in memory as a whole. */
interface WholeFile {
  readonly byteLength: number;
  /** Yields the file's contents, one large constant at a time. */
  chunks(onProgress: (progress: BuildProgress) => void): AsyncGenerator<Uint8Array>;
}

/** Lays out a ModelProto. `chunks` reads large constants, in the graph's order. */
export async function encodeWhole(graph: Graph, version: OnnxVersion): Promise<WholeFile> {
  const skeleton = new BinaryWriter();
  writeSkeleton(skeleton, graph);
  for (const constant of graph.constants) {
    if (!isLarge(constant)) writeInline(skeleton, constant, await readConstant(constant));
  }
  const small = skeleton.finish();
  const large = graph.constants.filter(isLarge).map((constant) => ({ constant, prefix: tensorPrefix(constant) }));
  const graphBytes = large.reduce(
    (sum, { constant, prefix }) => sum + prefix.byteLength + constant.byteLength,
    small.byteLength,
  );
  const header = new BinaryWriter();
  writeHeader(header, version);
  const prefix = header.tag(GRAPH_FIELD, WireType.LengthDelimited).int64(graphBytes).finish();
  const byteLength = prefix.byteLength + graphBytes;

  async function* chunks(onProgress: (progress: BuildProgress) => void): AsyncGenerator<Uint8Array> {
    yield prefix;
    yield small;
    let doneBytes = prefix.byteLength + small.byteLength;
    for (const { constant, prefix: tensor } of large) {
      yield tensor;
      yield await readConstant(constant);
      doneBytes += tensor.byteLength + constant.byteLength;
      onProgress({ doneBytes, ofBytes: byteLength });
    }
  }
  return { byteLength, chunks };
}

function isLarge(constant: Constant): boolean {
  return constant.byteLength >= LARGE_CONSTANT_BYTES;
}

/** Encodes the part of a constant in front of its values, which are its last field. */
function tensorPrefix(constant: Constant): Uint8Array {
  const fields = new BinaryWriter();
  writeTensorFields(fields, constant);
  const inner = fields.tag(VALUES_FIELD, WireType.LengthDelimited).int64(constant.byteLength).finish();
  const outer = new BinaryWriter().tag(TENSOR_FIELD, WireType.LengthDelimited);
  return outer
    .int64(inner.byteLength + constant.byteLength)
    .raw(inner)
    .finish();
}

/** Progress of writing a graph's weights. */
interface BuildProgress {
  readonly doneBytes: number;
  readonly ofBytes: number;
}

/** Yields the data file's contents, one constant at a time, with zeros up to each one's offset. */
export async function* dataChunks(
  encoded: EncodedGraph,
  onProgress: (progress: BuildProgress) => void,
): AsyncGenerator<Uint8Array> {
  let end = 0;
  for (const constant of encoded.external) {
    if (constant.offset > end) yield new Uint8Array(constant.offset - end);
    yield await readConstant(constant);
    end = constant.offset + constant.byteLength;
    onProgress({ doneBytes: end, ofBytes: encoded.dataBytes });
  }
}

/** Copies the data file's contents into `data`, which has its length. */
export async function fillData(encoded: EncodedGraph, data: Uint8Array): Promise<void> {
  for (const constant of encoded.external) data.set(await readConstant(constant), constant.offset);
}

/** Reads a constant. @throws {RangeError} when its size is not that of its shape */
async function readConstant(constant: Constant): Promise<Uint8Array> {
  const bytes = await constant.bytes();
  if (bytes.byteLength !== constant.byteLength) {
    throw new RangeError(`The constant ${constant.name} has ${bytes.byteLength} bytes, not ${constant.byteLength}`);
  }
  return bytes;
}

/**
 * Removes the copies that `GraphBuilder.output` adds to name outputs: the nodes that compute them use the names
 * directly. Runtimes do not always remove a copy of a cache, which grows with every token.
 *
 * Outputs that no node computes, and further outputs of the same value, keep their copies.
 */
export function nameOutputs(graph: Graph): Graph {
  const made = new Set(graph.nodes.flatMap((node) => node.outputs));
  const outputs = new Set(graph.outputs.map((output) => output.name));
  const names = new Map<Value, Value>();
  const copies = new Set<Node>();
  for (const node of graph.nodes) {
    const [source] = node.inputs;
    const [target] = node.outputs;
    if (node.type !== "Identity" || !source || !target || !outputs.has(target)) continue;
    if (!made.has(source) || names.has(source) || outputs.has(source)) continue;
    names.set(source, target);
    copies.add(node);
  }
  const rename = (value: Value | undefined): Value | undefined => (value && names.get(value)) ?? value;
  const nodes = graph.nodes
    .filter((node) => !copies.has(node))
    .map((node) => ({ ...node, inputs: node.inputs.map(rename), outputs: node.outputs.map(rename) }));
  return { ...graph, nodes };
}

// Pieces of an ONNX ModelProto. Field numbers are those of onnx.proto3 (ONNX 1.17).

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
const GRAPH_FIELD = 7;

/** Writes a ModelProto without its graph. */
function writeHeader(writer: BinaryWriter, version: OnnxVersion): void {
  integer(writer, 1, version.ir); // ir_version
  string(writer, 2, "readme-moe"); // producer_name
  writeOpset(writer, "", version.opset);
  writeOpset(writer, "com.microsoft", 1);
}

/** Writes a GraphProto without its constants. */
function writeSkeleton(body: BinaryWriter, graph: Graph): void {
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
function writeInline(writer: BinaryWriter, constant: Constant, bytes: Uint8Array): void {
  const body = message(writer, TENSOR_FIELD);
  writeTensorFields(body, constant);
  body.tag(VALUES_FIELD, WireType.LengthDelimited).bytes(bytes);
  body.join();
}

/** Field of a GraphProto that holds a constant, and field of a TensorProto that holds its values. */
const TENSOR_FIELD = 5;
const VALUES_FIELD = 9;

/** Writes a TensorProto without its values. */
function writeTensorFields(body: BinaryWriter, constant: Constant): void {
  for (const size of constant.shape) integer(body, 1, size);
  integer(body, 2, DATA_TYPES[constant.type]);
  string(body, 8, constant.name);
}

function writePort(writer: BinaryWriter, field: number, port: Port): void {
  const body = message(writer, field);
  string(body, 1, port.name);
  const tensor = message(message(body, 2), 1);
  integer(tensor, 1, DATA_TYPES[port.type]);
  if (port.shape) {
    const shape = message(tensor, 2);
    for (const dimension of port.shape) writeDimension(shape, dimension);
    shape.join();
  }
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
