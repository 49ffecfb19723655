// Built graphs on disk, so that a model opens without its checkpoint being read and converted again.
//
//   <cache>/graphs/<key>/graph.onnx    the graph
//                        weights.bin   its weights, in the layout that the runtime maps into memory
//                        entry.json    length and checksum of both
//
// The key is a hash of the encoded graph and of the checkpoint's contents: a change of either, or of the code that
// builds graphs, is another entry. An entry appears whole, by a rename; one that is damaged later is built again.

import { createHash, randomUUID } from "node:crypto";
import { mkdir, readdir, readFile, rename, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { crc32 } from "node:zlib";
import { writeFileAtomically } from "../files/atomic-write.ts";
import { encodeGraph, type EncodedGraph } from "../onnx/encode.ts";
import type { Graph } from "../onnx/graph-builder.ts";
import { fileCrc32 } from "./checksum.ts";

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

/** How much of an entry's weights is written. */
export interface BuildProgress {
  readonly doneBytes: number;
  readonly ofBytes: number;
}

// Changes when constants are computed differently while the graph's nodes stay the same.
const WEIGHTS_VERSION = 1;
const [GRAPH_FILE, DATA_FILE, ENTRY_FILE] = ["graph.onnx", "weights.bin", "entry.json"] as const;
const ABANDONED_AFTER_MS = 3_600_000;

/**
 * The graph from the cache, built into it when it is not there, or not whole.
 *
 * @param sourceFingerprint - of everything that the constants' bytes are made from
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
  if (await isWhole(entry)) return cached;
  try {
    await build(encoded, folder, entry, onProgress);
    return cached;
  } catch (reason) {
    const data = await dataInMemory(encoded);
    return { kind: "memory", name: graph.name, model: encoded.model, data, dataName: DATA_FILE, reason };
  }
}

interface FileState {
  readonly bytes: number;
  readonly crc32: number;
}

async function isWhole(entry: string): Promise<boolean> {
  try {
    const states = JSON.parse(await readFile(join(entry, ENTRY_FILE), "utf8")) as Record<string, FileState>;
    for (const name of [GRAPH_FILE, DATA_FILE]) {
      const path = join(entry, name);
      if ((await stat(path)).size !== states[name]?.bytes) return false;
      if ((await fileCrc32(path)) !== states[name].crc32) return false;
    }
    return true;
  } catch {
    return false;
  }
}

async function build(
  encoded: EncodedGraph,
  folder: string,
  entry: string,
  onProgress: (progress: BuildProgress) => void,
): Promise<void> {
  await mkdir(folder, { recursive: true });
  await removeAbandoned(folder);
  const temporary = join(folder, `.building-${randomUUID()}`);
  try {
    await mkdir(temporary);
    const states = {
      [DATA_FILE]: await writeSummed(join(temporary, DATA_FILE), dataChunks(encoded, onProgress)),
      [GRAPH_FILE]: await writeSummed(join(temporary, GRAPH_FILE), [encoded.model]),
    };
    await writeFileAtomically(join(temporary, ENTRY_FILE), JSON.stringify(states));
    await moveInto(temporary, entry);
  } finally {
    await rm(temporary, { recursive: true, force: true });
  }
}

/** Another process may have built the same entry meanwhile; whoever comes second uses the first one's. */
async function moveInto(temporary: string, entry: string): Promise<void> {
  try {
    await rename(temporary, entry);
  } catch (error) {
    if (await isWhole(entry)) return;
    // Under another name first: removing takes time, in which a third process could see half an entry.
    const damaged = `${temporary}-damaged`;
    await rename(entry, damaged).catch(() => {
      throw error;
    });
    await rm(damaged, { recursive: true, force: true });
    await rename(temporary, entry);
  }
}

async function removeAbandoned(folder: string): Promise<void> {
  for (const name of await readdir(folder)) {
    if (!name.startsWith(".building-")) continue;
    const path = join(folder, name);
    const state = await stat(path).catch(() => undefined); // its builder may just have finished
    if (state && Date.now() - state.mtimeMs > ABANDONED_AFTER_MS) await rm(path, { recursive: true, force: true });
  }
}

async function writeSummed(path: string, chunks: Iterable<Uint8Array> | AsyncIterable<Uint8Array>): Promise<FileState> {
  let bytes = 0;
  let sum = 0;
  async function* summed(): AsyncGenerator<Uint8Array> {
    for await (const chunk of chunks) {
      bytes += chunk.byteLength;
      sum = crc32(chunk, sum);
      yield chunk;
    }
  }
  await writeFileAtomically(path, summed());
  return { bytes, crc32: sum };
}

/** The data file's contents, one constant at a time, with zeros up to each one's offset. */
async function* dataChunks(
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

async function dataInMemory(encoded: EncodedGraph): Promise<Uint8Array> {
  const data = new Uint8Array(encoded.dataBytes);
  for (const constant of encoded.external) data.set(await readConstant(constant), constant.offset);
  return data;
}

async function readConstant(constant: EncodedGraph["external"][number]): Promise<Uint8Array> {
  const bytes = await constant.bytes();
  if (bytes.byteLength !== constant.byteLength) {
    throw new RangeError(`The constant ${constant.name} has ${bytes.byteLength} bytes, not ${constant.byteLength}`);
  }
  return bytes;
}
