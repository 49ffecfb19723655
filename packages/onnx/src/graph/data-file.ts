// The bytes of the file beside a graph, which holds its large constants.

import type { EncodedGraph } from "./encode.ts";
import type { Constant } from "./graph-builder.ts";

/** How much of a graph's weights is written. */
export interface BuildProgress {
  readonly doneBytes: number;
  readonly ofBytes: number;
}

/** The data file's contents, one constant at a time, with zeros up to each one's offset. */
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

/** Writes all of the data file's constants into `data`, which has its length. */
export async function fillData(encoded: EncodedGraph, data: Uint8Array): Promise<void> {
  for (const constant of encoded.external) data.set(await readConstant(constant), constant.offset);
}

/** @throws {RangeError} when a constant's bytes are more or fewer than its shape says */
export async function readConstant(constant: Constant): Promise<Uint8Array> {
  const bytes = await constant.bytes();
  if (bytes.byteLength !== constant.byteLength) {
    throw new RangeError(`The constant ${constant.name} has ${bytes.byteLength} bytes, not ${constant.byteLength}`);
  }
  return bytes;
}
