// Files of what a model computes for texts: the residual stream in front of some layers, and the best next tokens.

import { existsSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import {
  describeModel,
  encodeStep,
  GrowingAngles,
  KV_PAGE_TOKENS,
  kernelThreads,
  openCachedKernel,
  precisionOf,
  type StepResults,
} from "@readme-moe/kernel";
import { decodeFloats, encodeFloats, type Model, resolveCacheFolder, writeSafetensors } from "@readme-moe/model";
import { withFile } from "../job/work-folder.ts";
import type { TextSequence } from "../tuning/tuning-data.ts";

/** Candidates that are kept for a row. */
const CANDIDATES = 32;

/** A sequence, and the file of its rows. */
export interface RowSequence extends TextSequence {
  readonly file: string;
}

/** Rows of a sequence. */
export interface ModelRows {
  /** `[tokens, taps * hiddenSize]`, the layers side by side. */
  readonly states: Float32Array;
  /** Most probable next tokens, `[tokens, candidates]`, best first. */
  readonly candidates: Int32Array;
  /** Their logits. */
  readonly logits: Float32Array;
}

interface RowsOptions {
  /** Layers in front of which the stream is kept, rising. */
  readonly layers: readonly number[];
  readonly threads: number | undefined;
  readonly signal: AbortSignal | undefined;
  readonly onFile: (done: number, of: number) => void;
}

/** Names the files of sequences in a folder. */
export function inFiles(folder: string, sequences: readonly TextSequence[]): readonly RowSequence[] {
  return sequences.map((sequence, index) => ({ ...sequence, file: join(folder, `${index}.safetensors`) }));
}

/**
 * Runs a model, as engines do by default, on the sequences whose files do not exist yet, and writes them.
 *
 * @param sequences - of equal length
 */
export async function writeRows(
  model: Model,
  sequences: readonly RowSequence[],
  { layers, threads, signal, onFile }: RowsOptions,
): Promise<void> {
  const missing = sequences.filter(({ file }) => !existsSync(file));
  const [first] = missing;
  if (!first) return;
  const { config } = model;
  const numTokens = first.tokenIds.length;
  const sizes = { threads: kernelThreads(threads), maxRows: numTokens, maxPositions: numTokens };
  const cache = { key: await model.fingerprint(resolveCacheFolder()), cacheFolder: resolveCacheFolder() };
  const description = describeModel(model, precisionOf(model));
  const { kernel } = await openCachedKernel(description, sizes, { ...cache, inMemory: true });
  const pages = kernel.openPages(Math.ceil(numTokens / KV_PAGE_TOKENS), "fp16");
  try {
    kernel.tapLayers(layers);
    new GrowingAngles(kernel, { ...config, contextTokens: numTokens }).reach(numTokens);
    const count = Math.min(CANDIDATES, config.vocabSize);
    for (const [index, { tokenIds, file }] of missing.entries()) {
      signal?.throwIfAborted();
      const all = Array.from(tokenIds.keys());
      const rows = { tokenIds, position: 0, pages: Array.from({ length: pages.numPages }, (_, i) => i), logitsOf: all };
      const results = emptyResults(all.length, count);
      const states = new Float32Array(all.length * layers.length * config.hiddenSize);
      kernel.step(pages, encodeStep([rows], count), results);
      kernel.readTaps(states);
      const written = { states, candidates: results.candidateIds, logits: results.logits.slice(0, all.length * count) };
      await writeModelRows(file, written, all.length);
      onFile(sequences.length - missing.length + index + 1, sequences.length);
    }
  } finally {
    pages.close();
    await kernel.close();
  }
}

function emptyResults(numRows: number, count: number): StepResults {
  return {
    candidateIds: new Int32Array(numRows * count),
    logits: new Float32Array(numRows * (count + 1)),
    sums: new Float64Array(2 * numRows),
    fullLogits: new Float32Array(0),
  };
}

async function writeModelRows(path: string, { states, candidates, logits }: ModelRows, numRows: number): Promise<void> {
  await mkdir(join(path, ".."), { recursive: true });
  const tensor = (name: string, type: "BF16" | "I32" | "F32", bytes: Uint8Array, count: number) => ({
    name,
    type,
    shape: [numRows, count / numRows],
    bytes: async () => bytes,
  });
  // The range of bfloat16 holds the streams of all models.
  await writeSafetensors(path, [
    tensor("states", "BF16", encodeFloats(states, "BF16"), states.length),
    tensor("candidates", "I32", new Uint8Array(candidates.buffer), candidates.length),
    tensor("logits", "F32", new Uint8Array(logits.buffer), logits.length),
  ]);
}

export function readModelRows(path: string): Promise<ModelRows> {
  return withFile(path, async (file) => {
    const [candidates, logits] = [await file.readBytes("candidates"), await file.readBytes("logits")];
    return {
      states: decodeFloats(await file.readBytes("states"), "BF16"),
      candidates: new Int32Array(candidates.buffer, candidates.byteOffset, candidates.length / 4),
      logits: new Float32Array(logits.buffer, logits.byteOffset, logits.length / 4),
    };
  });
}
