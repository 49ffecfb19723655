// LoRA adapters of random numbers for dense models in the naming of Llama, in the layout of PEFT.

import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { writeSafetensors, type SafetensorsInput } from "@readme-moe/model";
import type { Shape } from "../../bench/random-model.ts";
import { randomNormal, seededRandom } from "./random.ts";

/** Shape of `writeTinyDense`. */
export const TINY_DENSE_SHAPE: Shape = {
  hiddenSize: 32,
  ffnSize: 64,
  numLayers: 2,
  numHeads: 4,
  numKvHeads: 2,
  headSize: 8,
  vocabSize: 4096,
};

/** Shape of `models/pocket`. */
export const POCKET_SHAPE: Shape = {
  hiddenSize: 256,
  ffnSize: 1024,
  numLayers: 6,
  numHeads: 4,
  numKvHeads: 2,
  headSize: 64,
  vocabSize: 4096,
};

interface RandomAdapterOptions {
  readonly seed: number;
  readonly shape: Shape;
  readonly rank?: number;
  /** Standard deviation of both factors. */
  readonly size?: number;
  /** Fields of `adapter_config.json` that differ. */
  readonly config?: Readonly<Record<string, unknown>>;
}

export async function writeRandomAdapter(path: string, options: RandomAdapterOptions): Promise<void> {
  const { seed, shape, rank = 4, size = 0.4, config = {} } = options;
  const random = seededRandom(seed);
  const tensor = (name: string, dimensions: readonly [number, number]): SafetensorsInput => {
    const values = Float32Array.from({ length: dimensions[0] * dimensions[1] }, () => size * randomNormal(random));
    return { name, type: "F32", shape: dimensions, bytes: async () => new Uint8Array(values.buffer) };
  };
  const products = productsOf(shape);
  const tensors = Array.from({ length: shape.numLayers }, (_, layer) =>
    products.flatMap(({ module, out, input }) => {
      const prefix = `base_model.model.model.layers.${layer}.${module}`;
      return [tensor(`${prefix}.lora_A.weight`, [rank, input]), tensor(`${prefix}.lora_B.weight`, [out, rank])];
    }),
  );
  await mkdir(path, { recursive: true });
  await writeSafetensors(join(path, "adapter_model.safetensors"), tensors.flat(), { format: "pt" });
  const targets = products.map(({ module }) => module.split(".")[1]);
  const required = { peft_type: "LORA", task_type: "CAUSAL_LM", bias: "none" };
  const whole = { ...required, r: rank, lora_alpha: 2 * rank, target_modules: targets, ...config };
  await writeFile(join(path, "adapter_config.json"), JSON.stringify(whole));
}

/** Lists the products that are changed, with their sizes. */
function productsOf({ hiddenSize, ffnSize, numHeads, numKvHeads, headSize }: Shape) {
  return [
    { module: "self_attn.q_proj", out: numHeads * headSize, input: hiddenSize },
    { module: "self_attn.v_proj", out: numKvHeads * headSize, input: hiddenSize },
    { module: "mlp.gate_proj", out: ffnSize, input: hiddenSize },
    { module: "mlp.up_proj", out: ffnSize, input: hiddenSize },
    { module: "mlp.down_proj", out: hiddenSize, input: ffnSize },
  ] as const;
}
