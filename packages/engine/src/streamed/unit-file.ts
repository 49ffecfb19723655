// All units of a model in one file of the cache: quantised, in the layout that the runtime reads, each one contiguous, so
// that loading a unit is one read and nothing else.

import { open, type FileHandle } from "node:fs/promises";
import { ReadMeError } from "@readme-moe/core";
import {
  cachedData,
  ffnChannelScales,
  type Arithmetic,
  type Constant,
  type GraphTensor,
  type Model,
  readConstant,
} from "@readme-moe/model";
import { unitOf, type Unit } from "./unit-graph.ts";
import type { UnitReader } from "./unit-memory.ts";

const [PART_ALIGNMENT, UNIT_ALIGNMENT] = [64, 4096];

/** One weight of a unit. */
interface Part {
  readonly constant: Constant;
  /** From the unit's beginning. */
  readonly offset: number;
}

/** What the units of one layer have in common: all experts of a layer are of one size. */
interface LayerUnits {
  readonly parts: readonly Part[];
  /** Of each unit. */
  readonly bytes: number;
  /** Of the first expert's, in the file. */
  readonly start: number;
}

/** Reads units. */
export class UnitFile implements UnitReader {
  readonly numExperts: number;
  /** One per size of units; sessions of the same graph serve them all. */
  readonly graphs: readonly Unit["graph"][];
  /** Which of `graphs` a layer's units take. */
  readonly graphOf: readonly number[];
  readonly #path: string;
  readonly #handle: FileHandle;
  readonly #layers: readonly LayerUnits[];

  private constructor(path: string, handle: FileHandle, plan: FilePlan, numExperts: number) {
    this.numExperts = numExperts;
    this.#path = path;
    this.#handle = handle;
    this.#layers = plan.layers;
    this.graphs = plan.graphs;
    this.graphOf = plan.graphOf;
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
  ): Promise<UnitFile> {
    const plan = planFile(model, arithmetic);
    const note = JSON.stringify(plan.layers.map(({ parts, bytes, start }) => ({ bytes, start, parts: parts.length })));
    const path = await cachedData(cacheFolder, "experts", fingerprint, note, () =>
      contents(model, arithmetic, plan, onProgress),
    );
    return new UnitFile(path, await open(path), plan, model.experts.names.length);
  }

  get numLayers(): number {
    return this.#layers.length;
  }

  /** Of one unit of a layer, in memory and in the file. */
  unitBytes(layer: number): number {
    return this.#layer(layer).bytes;
  }

  /**
   * Reads a unit to the beginning of `into`. A read that fails, or comes short, is tried once more.
   * @throws {ReadMeError} `ERR_FILE_UNREADABLE`, naming the file, layer and expert
   */
  async read(layer: number, expert: number, into: Uint8Array): Promise<void> {
    const { bytes, start } = this.#layer(layer);
    for (let isLast = false; ; isLast = true) {
      try {
        const { bytesRead } = await this.#handle.read(into, 0, bytes, start + expert * bytes);
        if (bytesRead === bytes) return;
        if (isLast) throw new Error(`${bytesRead} of ${bytes} bytes are there`);
      } catch (cause) {
        if (!isLast) continue;
        const reason = cause instanceof Error ? cause.message : String(cause);
        const message = `${this.#path}: layer ${layer} of expert ${expert} cannot be read: ${reason}`;
        throw new ReadMeError("ERR_FILE_UNREADABLE", message, { cause });
      }
    }
  }

  /** A unit's weights as inputs of its graph, views of `memory`. */
  feeds(layer: number, memory: Uint8Array): Readonly<Record<string, GraphTensor>> {
    return Object.fromEntries(
      this.#layer(layer).parts.map(({ constant: { name, type, shape, byteLength }, offset }) => {
        const [buffer, at] = [memory.buffer as ArrayBuffer, memory.byteOffset + offset];
        const data =
          type === "float32" ? new Float32Array(buffer, at, byteLength / 4) : new Int8Array(buffer, at, byteLength);
        return [name, { data, dims: shape }];
      }),
    );
  }

  async close(): Promise<void> {
    await this.#handle.close();
  }

  #layer(layer: number): LayerUnits {
    return this.#layers[layer] as LayerUnits;
  }
}

interface FilePlan {
  readonly layers: readonly LayerUnits[];
  readonly graphs: readonly Unit["graph"][];
  readonly graphOf: readonly number[];
}

function planFile({ config, experts, weights }: Model, arithmetic: Arithmetic): FilePlan {
  const layers: LayerUnits[] = [];
  const graphs = new Map<string, Unit["graph"]>();
  const graphOf: number[] = [];
  let start = 0;
  for (const layer of weights.layers) {
    const unit = unitOf(layer, 0, config.hiddenSize, arithmetic, undefined);
    const parts: Part[] = [];
    let offset = 0;
    for (const constant of unit.weights) {
      parts.push({ constant, offset });
      offset = aligned(offset + constant.byteLength, PART_ALIGNMENT);
    }
    const bytes = aligned(offset, UNIT_ALIGNMENT);
    layers.push({ parts, bytes, start });
    start += bytes * experts.names.length;
    const key = JSON.stringify(unit.weights.map(({ name, shape }) => [name, shape]));
    if (!graphs.has(key)) graphs.set(key, unit.graph);
    graphOf.push([...graphs.keys()].indexOf(key));
  }
  return { layers, graphs: [...graphs.values()], graphOf };
}

async function* contents(
  { config, experts, weights }: Model,
  arithmetic: Arithmetic,
  { layers }: FilePlan,
  onProgress: (doneBytes: number, ofBytes: number) => void,
): AsyncGenerator<Uint8Array> {
  const ofBytes = layers.reduce((sum, { bytes }) => sum + bytes * experts.names.length, 0);
  let doneBytes = 0;
  for (const [index, layer] of weights.layers.entries()) {
    const { parts, bytes } = layers[index] as LayerUnits;
    const scales = ffnChannelScales(arithmetic, `layers.${index}`, layer);
    for (const expert of layer.experts.keys()) {
      const unit = unitOf(layer, expert, config.hiddenSize, arithmetic, scales);
      const memory = new Uint8Array(bytes);
      for (const [place, constant] of unit.weights.entries()) {
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
