// Adapters with random numbers in PEFT's layout, for any dense model.

import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { encodeFloats, type ModelConfig, type StoredFloat, writeSafetensors } from "@readme-moe/model";
import { randomNormal, seededRandom } from "./random.ts";

/** Config of an adapter, with the fields of PEFT that its readers look at. */
type AdapterJson = Record<string, unknown>;

export interface TinyAdapter {
  /** Names of modules behind `model.layers.N.`, and `lm_head`. @default all linear modules of layers */
  readonly modules?: readonly string[];
  /** Rank of a module. @default 4 */
  readonly rankOf?: (module: string) => number;
  /** Fields of adapter_config.json besides those of plain LoRA. */
  readonly config?: AdapterJson;
  readonly type?: StoredFloat;
  readonly seed?: number;
  /** Standard deviation of a change's numbers in `a` and `b`. @default 0.1 */
  readonly size?: number;
  /** Adapter's name between matrix and `weight`, as older versions of PEFT wrote it. */
  readonly adapterName?: string;
  /** Layers with changes. @default all */
  readonly layers?: readonly number[];
}

/** Modules of a layer behind `model.layers.N.`. */
export const LAYER_MODULES: readonly string[] = [
  ...["q_proj", "k_proj", "v_proj", "o_proj"].map((name) => `self_attn.${name}`),
  ...["gate_proj", "up_proj", "down_proj"].map((name) => `mlp.${name}`),
];

/** Finds a module's shape `[out, in]`. */
export function moduleShape(config: ModelConfig, module: string): readonly [outSize: number, inSize: number] {
  const { hiddenSize, intermediateSize, vocabSize, numHeads, numKvHeads, headSize } = config;
  const shapes: Readonly<Record<string, readonly [number, number]>> = {
    q_proj: [numHeads * headSize, hiddenSize],
    k_proj: [numKvHeads * headSize, hiddenSize],
    v_proj: [numKvHeads * headSize, hiddenSize],
    o_proj: [hiddenSize, numHeads * headSize],
    gate_proj: [intermediateSize, hiddenSize],
    up_proj: [intermediateSize, hiddenSize],
    down_proj: [hiddenSize, intermediateSize],
    lm_head: [vocabSize, hiddenSize],
  };
  const shape = shapes[module.split(".").at(-1) ?? ""];
  if (shape === undefined) throw new TypeError(`Expected a linear module, got ${module}`);
  return shape;
}

/** Lists the full names of an adapter's modules. */
export function moduleNames(config: ModelConfig, adapter: TinyAdapter = {}): readonly string[] {
  const { modules = LAYER_MODULES, layers = Array.from({ length: config.numLayers }, (_, layer) => layer) } = adapter;
  const inLayers = modules.filter((module) => module !== "lm_head");
  return [
    ...layers.flatMap((layer) => inLayers.map((module) => `model.layers.${layer}.${module}`)),
    ...modules.filter((module) => module === "lm_head"),
  ];
}

/** Writes an adapter's folder for a model. @returns `folder` */
export async function writeTinyAdapter(
  folder: string,
  config: ModelConfig,
  adapter: TinyAdapter = {},
): Promise<string> {
  const { rankOf = () => 4, type = "F32", seed = 1, size = 0.1, adapterName } = adapter;
  const random = seededRandom(seed);
  const matrix = (name: string, rows: number, columns: number) => {
    const values = Float32Array.from({ length: rows * columns }, () => size * randomNormal(random));
    return { name, type, shape: [rows, columns], bytes: async () => encodeFloats(values, type) };
  };
  const infix = adapterName === undefined ? "" : `.${adapterName}`;
  const names = moduleNames(config, adapter);
  const tensors = names.flatMap((module) => {
    const [outSize, inSize] = moduleShape(config, module);
    const prefix = `base_model.model.${module}`;
    return [
      matrix(`${prefix}.lora_A${infix}.weight`, rankOf(module), inSize),
      matrix(`${prefix}.lora_B${infix}.weight`, outSize, rankOf(module)),
    ];
  });
  await mkdir(folder, { recursive: true });
  await writeSafetensors(join(folder, "adapter_model.safetensors"), tensors, { format: "pt" });
  const targets = [...new Set(names.map((module) => module.split(".").at(-1)))];
  const json = { peft_type: "LORA", task_type: "CAUSAL_LM", r: 4, lora_alpha: 8, target_modules: targets };
  await writeFile(join(folder, "adapter_config.json"), JSON.stringify({ ...json, ...adapter.config }));
  return folder;
}
