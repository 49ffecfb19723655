// All experts of a model in one file of the cache: quantised, in the layout that the runtime reads, expert by expert and in
// each layer by layer, so that loading some layers of an expert is one read and nothing else.

import { open, type FileHandle } from "node:fs/promises";
import { ReadMeError } from "@readme-moe/core";
import { cachedData, readConstant, type Arithmetic, type Constant, type Model } from "@readme-moe/model";
import type { DecoderSource, LayerRange } from "../decoder-graph.ts";
import { expertWeights } from "./segment-graph.ts";

const [PART_ALIGNMENT, LAYER_ALIGNMENT] = [64, 4096];

/** One weight of an expert's layer. */
export interface ExpertPart {
  readonly type: Constant["type"];
  readonly shape: readonly number[];
  readonly byteLength: number;
  /** Its name in the graph, that of expert 0. */
  readonly name: string;
  /** From where its layer begins. */
  readonly offset: number;
}

/** What the layers of all experts have in common: experts are of one size. */
export interface ExpertLayer {
  readonly parts: readonly ExpertPart[];
  readonly bytes: number;
  /** In one expert. */
  readonly start: number;
}

/** Where each layer of an expert lies; nothing is read. */
export function planExpert(model: DecoderSource, arithmetic: Arithmetic): readonly ExpertLayer[] {
  let start = 0;
  return model.weights.layers.map((_, layer) => {
    const [weights = []] = expertWeights(model, layer, arithmetic);
    let offset = 0;
    const parts = weights.map(({ name, type, shape, byteLength }) => {
      const part = { name, type, shape, byteLength, offset };
      offset = aligned(offset + byteLength, PART_ALIGNMENT);
      return part;
    });
    const bytes = aligned(offset, LAYER_ALIGNMENT);
    start += bytes;
    return { parts, bytes, start: start - bytes };
  });
}

export class ExpertFile {
  readonly layers: readonly ExpertLayer[];
  readonly numExperts: number;
  readonly #path: string;
  readonly #handle: FileHandle;

  private constructor(path: string, handle: FileHandle, layers: readonly ExpertLayer[], numExperts: number) {
    this.#path = path;
    this.#handle = handle;
    this.layers = layers;
    this.numExperts = numExperts;
  }

  /**
   * @param fingerprint - of the model and of what weights were fitted to
   * @throws {ReadMeError} `ERR_WRITE_FAILED` when there is no room for it
   */
  static async open(
    model: Model,
    arithmetic: Arithmetic,
    fingerprint: string,
    cacheFolder: string,
    onProgress: (doneBytes: number, ofBytes: number) => void,
  ): Promise<ExpertFile> {
    const layers = planExpert(model, arithmetic);
    const path = await cachedData(
      cacheFolder,
      "experts",
      fingerprint,
      JSON.stringify({ order: "experts", layers }),
      () => contents(model, arithmetic, layers, onProgress),
    );
    return new ExpertFile(path, await open(path), layers, model.experts.names.length);
  }

  /** Of some layers of one expert. */
  bytesOf({ from, to }: LayerRange): number {
    return this.layers.slice(from, to).reduce((sum, { bytes }) => sum + bytes, 0);
  }

  /**
   * Reads some layers of an expert to the beginning of `into`. A read that fails, or comes short, is tried once more.
   * @throws {ReadMeError} `ERR_FILE_UNREADABLE`, naming the file, layers and expert
   */
  async read(range: LayerRange, expert: number, into: Uint8Array): Promise<void> {
    const bytes = this.bytesOf(range);
    const start = expert * this.bytesOf({ from: 0, to: this.layers.length }) + (this.layers[range.from]?.start ?? 0);
    for (let isLast = false; ; isLast = true) {
      try {
        const { bytesRead } = await this.#handle.read(into, 0, bytes, start);
        if (bytesRead === bytes) return;
        if (isLast) throw new Error(`${bytesRead} of ${bytes} bytes are there`);
      } catch (cause) {
        if (!isLast) continue;
        const reason = cause instanceof Error ? cause.message : String(cause);
        const { from, to } = range;
        const layers = to - from === 1 ? `layer ${from}` : `layers ${from} to ${to - 1}`;
        const message = `${this.#path}: ${layers} of expert ${expert} cannot be read: ${reason}`;
        throw new ReadMeError("ERR_FILE_UNREADABLE", message, { cause });
      }
    }
  }

  async close(): Promise<void> {
    await this.#handle.close();
  }
}

async function* contents(
  model: Model,
  arithmetic: Arithmetic,
  layers: readonly ExpertLayer[],
  onProgress: (doneBytes: number, ofBytes: number) => void,
): AsyncGenerator<Uint8Array> {
  const numExperts = model.experts.names.length;
  const ofBytes = numExperts * layers.reduce((sum, { bytes }) => sum + bytes, 0);
  // What experts of a layer have in common, such as the scales of its channels, is read once.
  const weights = layers.map((_, layer) => expertWeights(model, layer, arithmetic));
  let doneBytes = 0;
  for (let expert = 0; expert < numExperts; expert++) {
    for (const [index, { parts, bytes }] of layers.entries()) {
      const memory = new Uint8Array(bytes);
      for (const [place, constant] of (weights[index]?.[expert] ?? []).entries()) {
        memory.set(await readConstant(constant), parts[place]?.offset);
      }
      yield memory;
      doneBytes += bytes;
      onProgress(doneBytes, ofBytes);
    }
  }
}

function aligned(bytes: number, alignment: number): number {
  return Math.ceil(bytes / alignment) * alignment;
}
