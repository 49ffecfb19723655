// LoRA adapters of random numbers for `writeTinyDense`, in the layout of PEFT.

import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { writeSafetensors, type SafetensorsInput } from "@readme-moe/model";
import { randomNormal, seededRandom } from "./random.ts";

/** Rows and columns of the products that are changed. */
const SHAPES = {
  "self_attn.q_proj": [32, 32],
  "self_attn.v_proj": [16, 32],
  "mlp.gate_proj": [64, 32],
  "mlp.up_proj": [64, 32],
  "mlp.down_proj": [32, 64],
} as const;
const NUM_LAYERS = 2;

interface TinyAdapterOptions {
  readonly seed: number;
  readonly rank?: number;
  /** Fields of `adapter_config.json` that differ. */
  readonly config?: Readonly<Record<string, unknown>>;
}

export async function writeTinyAdapter(
  path: string,
  { seed, rank = 4, config = {} }: TinyAdapterOptions,
): Promise<void> {
  const random = seededRandom(seed);
  const tensor = (name: string, shape: readonly [number, number]): SafetensorsInput => {
    const values = Float32Array.from({ length: shape[0] * shape[1] }, () => 0.4 * randomNormal(random));
    return { name, type: "F32", shape, bytes: async () => new Uint8Array(values.buffer) };
  };
  const tensors = Array.from({ length: NUM_LAYERS }, (_, layer) =>
    Object.entries(SHAPES).flatMap(([module, [out, input]]) => {
      const prefix = `base_model.model.model.layers.${layer}.${module}`;
      return [tensor(`${prefix}.lora_A.weight`, [rank, input]), tensor(`${prefix}.lora_B.weight`, [out, rank])];
    }),
  );
  await mkdir(path, { recursive: true });
  await writeSafetensors(join(path, "adapter_model.safetensors"), tensors.flat(), { format: "pt" });
  const targets = Object.keys(SHAPES).map((module) => module.split(".")[1]);
  const whole = {
    peft_type: "LORA",
    task_type: "CAUSAL_LM",
    r: rank,
    lora_alpha: 2 * rank,
    target_modules: targets,
    bias: "none",
  };
  await writeFile(join(path, "adapter_config.json"), JSON.stringify({ ...whole, ...config }));
}
