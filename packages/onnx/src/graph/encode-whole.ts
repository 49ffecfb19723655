// Encodes a graph as one file with its weights inside, for runtimes that read a model from memory. The file is written
// in pieces: lengths, which precede contents, follow from the constants' shapes without reading a weight.

import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import { type BuildProgress, readConstant } from "./data-file.ts";
import { LARGE_CONSTANT_BYTES } from "./encode.ts";
import type { Constant, Graph } from "./graph-builder.ts";
import {
  GRAPH_FIELD,
  type OnnxVersion,
  TENSOR_FIELD,
  VALUES_FIELD,
  writeHeader,
  writeInline,
  writeSkeleton,
  writeTensorFields,
} from "./model-proto.ts";

/** ModelProto that is not in memory as a whole. */
export interface WholeFile {
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
