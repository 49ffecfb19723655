import type { LayerRefs, Model, ModelConfig } from "@readme-moe/model";
import type { DenseDown } from "../experts/layer-experts.ts";
import { matrix } from "../linear-algebra/matrix.ts";

/** One layer of a dense model. */
export interface LayerSource {
  readonly index: number;
  readonly config: ModelConfig;
  readonly refs: LayerRefs;
  readonly ffn: LayerRefs["experts"][number];
}

/** Finds a layer of a dense model. */
export function layerSource({ config, weights }: Pick<Model, "config" | "weights">, index: number): LayerSource {
  const refs = weights.layers[index];
  const ffn = refs?.experts[0];
  if (!refs || !ffn) throw new RangeError(`Expected a layer of a dense model, got layer ${index}`);
  return { index, config, refs, ffn };
}

/** Reads a layer's down-projection. */
export async function readDense({ ffn: { down } }: LayerSource): Promise<DenseDown> {
  const { store, name, shape } = down.weight;
  const [rows = 0, columns = 0] = shape;
  const bias = down.bias && (await down.bias.store.readFloats(down.bias.name));
  return { weight: matrix(rows, columns, await store.readFloats(name)), bias };
}

/** Copies some rows of a table `[rows, width]`, in the order in which they are named. */
export function pickRows(table: Float32Array, rows: ArrayLike<number>, width: number): Float32Array {
  const picked = new Float32Array(rows.length * width);
  for (let index = 0; index < rows.length; index++) {
    const row = rows[index]!;
    picked.set(table.subarray(row * width, (row + 1) * width), index * width);
  }
  return picked;
}
