// Contents of the file beside a graph, which holds its large constants.

import type { EncodedGraph } from "./encode.ts";
import type { Constant } from "./graph-builder.ts";

/** Progress of writing a graph's weights. */
export interface BuildProgress {
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
export async function readConstant(constant: Constant): Promise<Uint8Array> {
  const bytes = await constant.bytes();
  if (bytes.byteLength !== constant.byteLength) {
    throw new RangeError(`The constant ${constant.name} has ${bytes.byteLength} bytes, not ${constant.byteLength}`);
  }
  return bytes;
}
