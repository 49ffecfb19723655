// Units of experts: one layer of one expert, a range of bytes of the packed file, or rows of the model's own file
// that are packed when they are read.

import type { FilePlace } from "@readme-moe/model";
import { type DecoderDescription, type ExpertDescription, expertsOf } from "../description.ts";
import type { KernelKind } from "../kernel.ts";
import { type Addon, loadAddon } from "../native-kernel.ts";
import { type KernelChoice, kernelInfo } from "../open-kernel.ts";
import { formatNumber, type PackedTensor } from "./block-types.ts";
import { aligned, layOut, packRows, UNIT_BYTES } from "./packed-file.ts";

/** A range of the packed file. */
export interface ByteRange {
  readonly start: number;
  readonly bytes: number;
}

/** All experts of a packed file. */
export interface ExpertUnits {
  /** Number of experts of each layer that has any. */
  readonly numExperts: number;
  /** Size of one unit, by layer, 0 in dense layers of a mixture; experts of a layer have the same size. */
  readonly layerBytes: readonly number[];
  /** Offset of the first unit, after the weights that all tokens share. */
  readonly fromByte: number;
  /** Returns the range of a unit. */
  rangeOf(layer: number, expert: number): ByteRange;
}

/**
 * Finds the units of a description whose layers all have experts that steps name, or of which some are mixtures and the
 * others dense.
 *
 * @throws {TypeError} for other descriptions
 */
export function expertUnits(description: DecoderDescription): ExpertUnits {
  const { layers } = description;
  const { places } = layOut(description);
  const mixtures = layers.flatMap(({ mixture }) => mixture ?? []);
  const counts = new Set(layers.map((layer) => expertsOf(layer).length).filter((count) => count > 0));
  const isEven =
    counts.size === 1 && layers.every(({ experts = [] }) => experts.length > 0 === (mixtures.length === 0));
  const [numExperts] = counts;
  if (!isEven || numExperts === undefined) {
    throw new TypeError("Expected a model with experts in every layer, or with mixtures of as many experts each");
  }
  const layerBytes = layers.map((layer) => {
    const [first] = expertsOf(layer);
    return first ? bytesOf(first) : 0;
  });
  const rangeOf = (layer: number, expert: number): ByteRange => {
    const experts = layers[layer] ? expertsOf(layers[layer]) : [];
    const place = experts[expert] && places.get(experts[expert].gate);
    if (!place) throw new RangeError(`Expected a layer and an expert that are there, got ${layer} and ${expert}`);
    return { start: place.weights * UNIT_BYTES, bytes: layerBytes[layer] ?? 0 };
  };
  const firstLayer = layers.findIndex((layer) => expertsOf(layer).length > 0);
  return { numExperts, layerBytes, fromByte: rangeOf(firstLayer, 0).start, rangeOf };
}

function bytesOf({ gate, up, down }: ExpertDescription): number {
  return [gate, up, down].reduce((sum, tensor) => sum + wholeBytes(tensor), 0);
}

function wholeBytes({ weightBytes, scaleBytes, biasBytes }: PackedTensor): number {
  return [weightBytes, scaleBytes, biasBytes].reduce((sum, bytes) => sum + aligned(bytes), 0);
}

/** Rows of a file. */
interface UnitPart {
  readonly rows: FilePlace;
  readonly tensor: PackedTensor;
}

/** Parts by layer and expert. */
type PartsOfUnits = readonly (readonly (readonly UnitPart[])[])[];

const NONE = new Float32Array(0);

function partOf(tensor: PackedTensor | undefined): readonly UnitPart[] {
  const rows = tensor?.stored?.store.placeOf?.(tensor.stored.name);
  // Biases are not rows of blocks.
  return tensor?.biasBytes === 0 && rows ? [{ rows, tensor }] : [];
}

/** Units whose weights are all rows of a file, in the bits that it has. */
export class StoredUnits {
  readonly path: string;
  readonly #units: PartsOfUnits;
  /** Absent where this thread packs. */
  readonly #addon: Addon | undefined;

  private constructor(path: string, units: PartsOfUnits, kind: KernelKind) {
    this.path = path;
    this.#units = units;
    this.#addon = kind === "native" ? loadAddon() : undefined;
  }

  /** Finds the rows of all units of a description; `undefined` if some are made otherwise. */
  static of({ layers }: DecoderDescription, choice: KernelChoice): StoredUnits | undefined {
    const units = layers.map((layer) => expertsOf(layer).map(({ gate, up, down }) => [gate, up, down].flatMap(partOf)));
    const path = units.flat(2)[0]?.rows.file.path;
    const isWhole = units.flat().every(({ length }) => length === 3);
    return path === undefined || !isWhole ? undefined : new StoredUnits(path, units, kernelInfo(choice, 1).kind);
  }

  /**
   * Reads and packs a unit to the beginning of `into`, on threads of Node's pool. WebAssembly and Windows read there,
   * and pack on this thread.
   *
   * @throws {Error} when the file is another one or does not hold all bytes; nothing is written to `into` from then on
   */
  async read(layer: number, expert: number, into: Uint8Array): Promise<void> {
    let at = 0;
    const reads = (this.#units[layer]?.[expert] ?? []).map((part) => {
      const read = this.#readPart(part, into, at);
      at += aligned(part.tensor.weightBytes);
      return read;
    });
    const failed = (await Promise.allSettled(reads)).find(({ status }) => status === "rejected");
    if (failed?.status === "rejected") throw failed.reason;
  }

  async #readPart({ rows, tensor }: UnitPart, into: Uint8Array, at: number): Promise<void> {
    const { file, offset, byteLength } = rows;
    const { numOut, numIn, weightBytes } = tensor;
    const format = formatNumber(tensor.format);
    const addon = this.#addon;
    if (addon?.readRows) {
      const numbers = Int32Array.of(format, numIn, numOut);
      return file.lend(async (descriptor) => addon.readRows?.(descriptor, offset, into, at, numbers));
    }
    const bytes = await file.lend(() => file.read(offset, byteLength));
    const numbers = { format, source: format, numIn, inputs: NONE, scales: NONE };
    into.set(packRows({ ...numbers, rows: bytes, byteLength: weightBytes }), at);
  }
}
