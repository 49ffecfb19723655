// Writes the fitted layers as a Read-ME model folder.

import {
  baseFiles,
  encodeFloats,
  isStoredFloat,
  readMeTensors,
  writeReadMeFolder,
  type Model,
  type ReadMeContent,
  type SafetensorsInput,
  type StoredFloat,
  type TensorRef,
} from "@readme-moe/model";
import type { Part } from "../experts/layer-experts.ts";
import { layerSource, pickRows, type LayerSource } from "../layers/layer-source.ts";
import type { ModelRouter } from "./train-model-router.ts";

export interface ModelContent {
  readonly model: Model;
  readonly expertNames: readonly string[];
  /** Neurons of an expert in each layer. */
  readonly expertSizes: readonly number[];
  readonly sharedSizes: readonly number[];
  /** Reads a part; one part at a time is in memory. */
  readonly part: (layer: number, which: number | "shared") => Promise<Part>;
  readonly router: Pick<ModelRouter, "section" | "tensors">;
  readonly provenance: Readonly<Record<string, unknown>>;
}

/**
 * Writes the folder, whole or not at all. Weights keep the checkpoint's type; weights of quantized files are written in
 * half precision.
 *
 * @throws {ReadMeError} `ERR_WRITE_FAILED`
 */
export async function writeModel(path: string, content: ModelContent): Promise<void> {
  const { model, expertNames, expertSizes, sharedSizes, router, provenance } = content;
  const { config, texts } = await baseFiles(model);
  const parts = new PartReader(content.part);
  const tensorsOf = (sizes: readonly number[], which: number | "shared"): readonly SafetensorsInput[] =>
    sizes.flatMap((size, layer) => (size === 0 ? [] : partTensors(model, layer, size, () => parts.read(layer, which))));
  const tensors = {
    backbone: [...readMeTensors(model.weights, undefined).backbone, ...tensorsOf(sharedSizes, "shared")],
    experts: expertNames.map((_, expert) => tensorsOf(expertSizes, expert)),
    router: router.tensors,
  };
  const readme: ReadMeContent["readme"] = {
    version: 1,
    num_experts: expertNames.length,
    expert_names: expertNames,
    expert_size: oneOrMany(expertSizes),
    shared_size: oneOrMany(sharedSizes),
    ...(router.section ? { router: router.section } : {}),
    provenance,
  };
  await writeReadMeFolder(path, { config, readme, tensors, documents: texts });
}

/** Caches the last part: the tensors of a part are written one after the other. */
class PartReader {
  readonly #read: ModelContent["part"];
  #last: { readonly key: string; readonly part: Promise<Part> } | undefined;

  constructor(read: ModelContent["part"]) {
    this.#read = read;
  }

  read(layer: number, which: number | "shared"): Promise<Part> {
    const key = `${layer} ${which}`;
    if (this.#last?.key !== key) this.#last = { key, part: this.#read(layer, which) };
    return this.#last.part;
  }
}

function partTensors(
  model: Model,
  index: number,
  size: number,
  read: () => Promise<Part>,
): readonly SafetensorsInput[] {
  const source = layerSource(model, index);
  const { hiddenSize } = source.config;
  const type = floatTypeOf(source);
  const prefix = `model.layers.${index}.mlp`;
  const tensor = (name: string, shape: readonly number[], values: () => Promise<Float32Array>): SafetensorsInput => ({
    name: `${prefix}.${name}`,
    type,
    shape,
    bytes: async () => encodeFloats(await values(), type),
  });
  const rows = (name: string, ref: TensorRef, width: number, shape: readonly number[]): SafetensorsInput =>
    tensor(name, shape, async () => pickRows(await ref.store.readFloats(ref.name), (await read()).neurons, width));
  const { gate, up } = source.ffn;
  return [
    rows("gate_proj.weight", gate.weight, hiddenSize, [size, hiddenSize]),
    ...(gate.bias ? [rows("gate_proj.bias", gate.bias, 1, [size])] : []),
    rows("up_proj.weight", up.weight, hiddenSize, [size, hiddenSize]),
    ...(up.bias ? [rows("up_proj.bias", up.bias, 1, [size])] : []),
    tensor("down_proj.weight", [hiddenSize, size], async () => (await read()).down),
    tensor("down_proj.bias", [hiddenSize], async () => (await read()).bias),
  ];
}

function floatTypeOf({ ffn }: LayerSource): StoredFloat {
  const { type } = ffn.gate.weight.store.info(ffn.gate.weight.name);
  return isStoredFloat(type) ? type : "F16";
}

/** Returns one number when all layers have the same size, as in config.json and report.json. */
export function oneOrMany(sizes: readonly number[]): number | readonly number[] {
  const [first = 0] = sizes;
  return sizes.every((size) => size === first) ? first : sizes;
}
