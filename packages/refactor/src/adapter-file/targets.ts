// The tensors of a Read-ME model, as an adapter file has to make them again.

import { encodeFloats, isStoredFloat, readMeTensors, type Model, type SafetensorsInput } from "@readme-moe/model";
import { pickRows } from "../layers/layer-source.ts";
import { ffnLayerOf, pickColumns } from "./base-weights.ts";
import type { LayerParts, PartId, PartNeurons } from "./part-neurons.ts";
import { floatsOf } from "./tensor-bytes.ts";

export interface Target {
  /** `backbone`, `experts/<i>` or `router`. */
  readonly file: string;
  readonly input: SafetensorsInput;
  /** Of a tensor of an FFN. */
  readonly part: PartNeurons | undefined;
}

/** In the order of the folder's files. */
export function targetsOf(model: Model, parts: readonly LayerParts[]): readonly Target[] {
  const { backbone, experts, router } = readMeTensors(model.weights, model.router);
  const of = (file: string, part: PartId, inputs: readonly SafetensorsInput[]): readonly Target[] =>
    inputs.map((input) => {
      const layer = ffnLayerOf(input.name);
      return { file, input, part: layer === undefined ? undefined : parts[layer]?.get(part) };
    });
  return [
    ...of("backbone", "shared", backbone),
    ...experts.flatMap((inputs, expert) => of(`experts/${expert}`, expert, inputs)),
    ...(router ?? []).map((input) => ({ file: "router", input, part: undefined })),
  ];
}

/** A tensor with an FFN's neurons in the dense model's order, whatever the folder's is: the layer does the same. */
export async function readTarget({ input, part }: Target): Promise<Float32Array> {
  const values = await floatsOf(input);
  if (!part || input.name.endsWith("down_proj.bias") || part.order.every((from, to) => from === to)) return values;
  const [rows = 1, columns = 1] = input.shape;
  return input.name.endsWith("down_proj.weight")
    ? pickColumns(values, part.order, rows)
    : pickRows(values, part.order, columns);
}

/** The same as bytes, of any type. */
export async function readTargetBytes(target: Target): Promise<Uint8Array> {
  const { type, bytes } = target.input;
  return isStoredFloat(type) ? encodeFloats(await readTarget(target), type) : bytes();
}

/** What a tensor does, for figures. */
export function kindOf({ file, input }: Target): string {
  if (file === "router") return "router";
  const [, kind] = /\.(gate|up|down|[qkvo])_proj\./.exec(input.name) ?? [];
  if (kind === undefined) return "others";
  return kind.length === 1 ? "attention" : kind;
}
