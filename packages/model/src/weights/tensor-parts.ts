// Tensors that hold the rows of several products, one product after the other, as tensors of their own.

import { familyOf } from "../config/families.ts";
import type { ModelConfig } from "../config/model-config.ts";
import { rowBytes, checkRows, type RowRange, type TensorInfo, type TensorStore } from "../tensor-store.ts";
import { tensorRef } from "./tensor-ref.ts";

/** A tensor that is some rows of a stored one. */
export interface TensorPart {
  /** Name in the store. */
  readonly of: string;
  /** @default all rows */
  readonly rows?: RowRange | undefined;
}

/** A store in which parts of tensors replace the tensors that they are of. All others keep their names. */
export class TensorParts implements TensorStore {
  readonly path: string;
  readonly names: readonly string[];
  readonly #store: TensorStore;
  readonly #parts: ReadonlyMap<string, TensorPart>;
  readonly #replaced: ReadonlySet<string>;

  /** @param parts - by the name that a part gets; their rows are within the tensor */
  constructor(store: TensorStore, parts: ReadonlyMap<string, TensorPart>) {
    this.#replaced = new Set(Array.from(parts.values(), ({ of }) => of));
    this.path = store.path;
    this.names = [...store.names.filter((name) => !this.#replaced.has(name)), ...parts.keys()];
    this.#store = store;
    this.#parts = parts;
  }

  has(name: string): boolean {
    return this.#parts.has(name) || (this.#store.has(name) && !this.#replaced.has(name));
  }

  info(name: string): TensorInfo {
    const part = this.#parts.get(name);
    if (part === undefined) return this.#store.info(name);
    const whole = this.#store.info(part.of);
    const { rows } = part;
    if (rows === undefined) return { ...whole, name };
    const shape = [rows.to - rows.from, ...whole.shape.slice(1)];
    return { name, type: whole.type, shape, byteLength: rowBytes(whole, rows).byteLength };
  }

  async readBytes(name: string, rows?: RowRange): Promise<Uint8Array> {
    const place = this.#placeOf(name, rows);
    return this.#store.readBytes(place.name, place.rows);
  }

  async readFloats(name: string, rows?: RowRange): Promise<Float32Array> {
    const place = this.#placeOf(name, rows);
    return this.#store.readFloats(place.name, place.rows);
  }

  async close(): Promise<void> {
    await this.#store.close();
  }

  #placeOf(name: string, rows: RowRange | undefined): { readonly name: string; readonly rows: RowRange | undefined } {
    const part = this.#parts.get(name);
    if (part === undefined) return { name, rows };
    if (part.rows === undefined || rows === undefined) return { name: part.of, rows: rows ?? part.rows };
    const { from, to } = part.rows;
    checkRows([to - from], rows);
    return { name: part.of, rows: { from: from + rows.from, to: from + rows.to } };
  }
}

/** A product whose rows are in a fused tensor. */
export interface FusedRows {
  /** Name of the product's own tensors in other families, behind `model.layers.N.`. */
  readonly module: string;
  readonly rows: RowRange;
}

/** Lists the products in each fused tensor of a family, by the tensor's name behind `model.layers.N.`. */
export function fusedModules(config: ModelConfig): ReadonlyMap<string, readonly FusedRows[]> {
  const { fused } = familyOf(config.modelType);
  if (fused === undefined) return new Map();
  const { numHeads, numKvHeads, headSize, intermediateSize } = config;
  const keySize = numKvHeads * headSize;
  return new Map([
    [
      fused.qkv,
      successive([
        ["self_attn.q_proj", numHeads * headSize],
        ["self_attn.k_proj", keySize],
        ["self_attn.v_proj", keySize],
      ]),
    ],
    [
      fused.gateUp,
      successive([
        ["mlp.gate_proj", intermediateSize],
        ["mlp.up_proj", intermediateSize],
      ]),
    ],
  ]);
}

function successive(sizes: readonly (readonly [module: string, numRows: number])[]): readonly FusedRows[] {
  let from = 0;
  return sizes.map(([module, numRows]) => {
    const rows = { from, to: from + numRows };
    from = rows.to;
    return { module, rows };
  });
}

/**
 * Splits the fused tensors of a dense checkpoint. A tensor that is not there is not split, so that a checkpoint may
 * also have its parts.
 *
 * @throws {ReadMeError} `ERR_MODEL_INVALID` naming a fused tensor of another shape
 */
export function splitFused(store: TensorStore, config: ModelConfig): TensorStore {
  const parts = new Map<string, TensorPart>();
  for (const [fused, modules] of fusedModules(config)) {
    const numRows = modules.at(-1)?.rows.to ?? 0;
    for (let layer = 0; layer < config.numLayers; layer++) {
      const name = `model.layers.${layer}.${fused}.weight`;
      if (!store.has(name)) continue;
      tensorRef(store, name, [numRows, config.hiddenSize]);
      for (const { module, rows } of modules) parts.set(`model.layers.${layer}.${module}.weight`, { of: name, rows });
    }
  }
  return parts.size === 0 ? store : new TensorParts(store, parts);
}
