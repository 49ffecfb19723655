// Built graphs on disk, so that a model opens without its checkpoint being read and converted again.
//
//   <cache>/graphs/<key>/graph.onnx    the graph
//                        weights.bin   its weights, in the layout that the runtime maps into memory
//                        entry.json    length and checksum of both
//
// The key is a hash of the encoded graph and of the checkpoint's contents: a change of either, or of the code that
// builds graphs, is another entry. An entry appears whole, by a rename; one that is damaged later is built again.

import { createHash } from "node:crypto";
import { join } from "node:path";
import { ReadMeError } from "@readme-moe/core";
import { encodeGraph, type EncodedGraph } from "../onnx/encode.ts";
import { type BuildProgress, dataChunks, fillData } from "../onnx/data-file.ts";
import type { Graph } from "../onnx/graph-builder.ts";
import { removeAbandoned } from "./abandoned.ts";
import { BUILDING, buildEntry, DATA_FILE, GRAPH_FILE, isWholeEntry } from "./cache-entry.ts";

/** A graph that a session can be made of: files of the cache, or memory where the cache cannot be written. */
export type CachedGraph =
  | { readonly kind: "file"; readonly name: string; readonly path: string }
  | {
      readonly kind: "memory";
      readonly name: string;
      readonly model: Uint8Array;
      readonly data: Uint8Array;
      readonly dataName: string;
      /** Why the cache was not used. */
      readonly reason: unknown;
    };

// Changes when constants are computed differently while the graph's nodes stay the same.
const WEIGHTS_VERSION = 1;

/**
 * The graph from the cache, built into it when it is not there, or not whole.
 *
 * @param sourceFingerprint - of everything that the constants' bytes are made from
 * @throws {ReadMeError} `ERR_WRITE_FAILED` when the cache cannot be written and memory does not hold the weights
 */
export async function cachedGraph(
  graph: Graph,
  sourceFingerprint: string,
  cacheFolder: string,
  onProgress: (progress: BuildProgress) => void = () => undefined,
): Promise<CachedGraph> {
  const encoded = await encodeGraph(graph, DATA_FILE);
  const key = createHash("sha256")
    .update(`${WEIGHTS_VERSION} ${sourceFingerprint}\n`)
    .update(encoded.model)
    .digest("hex")
    .slice(0, 40);
  const folder = join(cacheFolder, "graphs");
  const entry = join(folder, key);
  const cached = { kind: "file", name: graph.name, path: join(entry, GRAPH_FILE) } as const;
  // Also where nothing is built: what a killed builder left may be as large as the model.
  await removeAbandoned(folder, BUILDING);
  if (await isWholeEntry(entry)) return cached;
  try {
    await buildEntry(folder, entry, encoded.model, dataChunks(encoded, onProgress));
    return cached;
  } catch (reason) {
    // A disk that is full for two builders may have had room for the other one's.
    if (await isWholeEntry(entry)) return cached;
    const data = await dataInMemory(encoded, graph.name, reason);
    return { kind: "memory", name: graph.name, model: encoded.model, data, dataName: DATA_FILE, reason };
  }
}

async function dataInMemory(encoded: EncodedGraph, name: string, reason: unknown): Promise<Uint8Array> {
  const data = allocate(encoded.dataBytes, name, reason);
  await fillData(encoded, data);
  return data;
}

function allocate(byteLength: number, name: string, reason: unknown): Uint8Array {
  try {
    return new Uint8Array(byteLength);
  } catch (cause) {
    const why = reason instanceof Error ? reason.message : String(reason);
    const message = `The graph ${name} cannot be cached (${why}), and memory does not hold its ${byteLength} bytes`;
    throw new ReadMeError("ERR_WRITE_FAILED", message, { cause });
  }
}
