// The same function with other weights. A checkpoint converted from 4 bits lies on 16 even levels, which a fit finds again;
// to see what fitting costs, its channels are made larger or smaller where what follows undoes it: behind norms, between
// values and the output projection, between up and down. Llama's tensor names; a tied head stays tied.

import { copyFile, mkdir } from "node:fs/promises";
import { join } from "node:path";
import { openModel, writeSafetensors, type SafetensorsInput } from "@readme-moe/model";
import { randomNormal, seededRandom } from "./random.ts";

const COPIED = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"];

/** Writes a folder with `path`'s model, channels multiplied by up to about 2 or a half. */
export async function writeRescaledModel(path: string, folder: string, seed = 1): Promise<void> {
  const random = seededRandom(seed);
  const model = await openModel(path);
  const { config, weights } = model;
  const { hiddenSize, intermediateSize, numHeads, numKvHeads, headSize } = config;
  const factors = (size: number): Float32Array =>
    Float32Array.from({ length: size }, () => 2 ** (randomNormal(random) / 3));
  const tensors: SafetensorsInput[] = [];
  const add = (name: string, multiply?: (row: number, column: number) => number): void => {
    const { store } = weights.embedding;
    const { shape } = store.info(name);
    tensors.push({
      name,
      type: "F32",
      shape,
      bytes: async () => {
        const values = await store.readFloats(name);
        const width = shape.at(-1) as number;
        if (multiply) values.forEach((value, i) => (values[i] = value * multiply(Math.floor(i / width), i % width)));
        return new Uint8Array(values.buffer);
      },
    });
  };
  add("model.embed_tokens.weight");
  add("model.norm.weight");
  for (let layer = 0; layer < config.numLayers; layer++) {
    const prefix = `model.layers.${layer}`;
    const [attentionIn, ffnIn, ups] = [factors(hiddenSize), factors(hiddenSize), factors(intermediateSize)];
    const values = factors(numKvHeads * headSize);
    const valueOf = (column: number): number =>
      Math.floor(column / headSize / (numHeads / numKvHeads)) * headSize + (column % headSize);
    add(`${prefix}.input_layernorm.weight`, (_, column) => attentionIn[column] as number);
    for (const part of ["q_proj", "k_proj"])
      add(`${prefix}.self_attn.${part}.weight`, (_, column) => over(attentionIn, column));
    add(`${prefix}.self_attn.v_proj.weight`, (row, column) => over(attentionIn, column) * (values[row] as number));
    add(`${prefix}.self_attn.o_proj.weight`, (_, column) => over(values, valueOf(column)));
    add(`${prefix}.post_attention_layernorm.weight`, (_, column) => ffnIn[column] as number);
    add(`${prefix}.mlp.gate_proj.weight`, (_, column) => over(ffnIn, column));
    add(`${prefix}.mlp.up_proj.weight`, (row, column) => over(ffnIn, column) * (ups[row] as number));
    add(`${prefix}.mlp.down_proj.weight`, (_, column) => over(ups, column));
  }
  await mkdir(folder, { recursive: true });
  await writeSafetensors(join(folder, "model.safetensors"), tensors);
  for (const file of COPIED) await copyFile(join(path, file), join(folder, file));
  await model.close();
}

function over(all: Float32Array, index: number): number {
  return 1 / (all[index] as number);
}
