// Units of experts that are packed from the model's own file when they are read.

import type { FilePlace } from "@readme-moe/model";
import { expertsOf, type DecoderDescription } from "../description.ts";
import type { KernelKind } from "../kernel.ts";
import { loadAddon, type Addon } from "../native-kernel.ts";
import { kernelInfo, type KernelChoice } from "../open-kernel.ts";
import { formatNumber, type PackedTensor } from "./block-types.ts";
import { aligned, packRows } from "./packed-file.ts";

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
  return tensor && rows ? [{ rows, tensor }] : [];
}

/** Units whose weights are all rows of a file, in the bits that it has. */
export class StoredUnits {
  /** The file. */
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
