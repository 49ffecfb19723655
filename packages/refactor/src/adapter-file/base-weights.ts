// The dense model that an adapter file changes, as what a Read-ME folder's tensors are compared with.

import { readMeTensors, type Model, type SafetensorsInput } from "@readme-moe/model";
import { pickRows } from "../layers/layer-source.ts";
import { floatsOf } from "./tensor-bytes.ts";

// Every expert asks for the same dense tensors. A small model's fit; of a large one, each is read again.
const MAX_KEPT_BYTES = 512 << 20;

export class BaseWeights {
  readonly model: Model;
  readonly tensors: readonly SafetensorsInput[];
  readonly #byName: ReadonlyMap<string, SafetensorsInput>;
  readonly #kept = new Map<string, Float32Array>();
  #keptBytes = 0;

  /** @param model - dense */
  constructor(model: Model) {
    const { backbone, experts } = readMeTensors(model.weights, undefined);
    this.model = model;
    this.tensors = [...backbone, ...(experts[0] ?? [])];
    this.#byName = new Map(this.tensors.map((tensor) => [tensor.name, tensor]));
  }

  shapeOf(name: string): readonly number[] | undefined {
    return this.#byName.get(name)?.shape;
  }

  /** @returns a whole tensor, which nobody may write to; `undefined` where there is none */
  async read(name: string): Promise<Float32Array | undefined> {
    const kept = this.#kept.get(name);
    if (kept) return kept;
    const tensor = this.#byName.get(name);
    const values = tensor && (await floatsOf(tensor));
    if (values && name.includes(".mlp.") && this.#keptBytes + values.byteLength <= MAX_KEPT_BYTES) {
      this.#kept.set(name, values);
      this.#keptBytes += values.byteLength;
    }
    return values;
  }

  /**
   * What the dense model has in place of a Read-ME model's tensor.
   * @param neurons - of the part that the tensor belongs to, for tensors of an FFN
   * @returns `undefined` where it has nothing
   */
  async inPlaceOf(name: string, neurons: Int32Array | undefined): Promise<Float32Array | undefined> {
    const values = await this.read(name);
    if (!values || !neurons || name.endsWith("down_proj.bias")) return values;
    const [rows = 1, columns = 1] = this.shapeOf(name) ?? [];
    return name.endsWith("down_proj.weight") ? pickColumns(values, neurons, rows) : pickRows(values, neurons, columns);
  }
}

export function pickColumns(values: Float32Array, columns: Int32Array, rows: number): Float32Array {
  const width = values.length / rows;
  const result = new Float32Array(rows * columns.length);
  for (let row = 0, at = 0; row < rows; row++) {
    for (let i = 0; i < columns.length; i++) result[at++] = values[row * width + (columns[i] as number)] as number;
  }
  return result;
}

/** The layer of an FFN's tensor; `undefined` for others. */
export function ffnLayerOf(name: string): number | undefined {
  const layer = /^model\.layers\.(\d+)\.mlp\./.exec(name)?.[1];
  return layer === undefined ? undefined : Number(layer);
}
