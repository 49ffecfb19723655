// Tiny models with ONNX files that other tools made: see tools/onnx. They are one compressed file.

import { mkdir, readFile, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { brotliDecompressSync } from "node:zlib";
import type { ModelConfig } from "@readme-moe/model";
import { GraphSession, type GraphTensor } from "@readme-moe/refactor/graphs";
import { fixture } from "./fixtures.ts";
import { POCKET } from "./pocket.ts";

/** Writes all fixtures into a folder, with a tokenizer for each model; any will do. */
export async function writeOnnxFixtures(folder: string): Promise<void> {
  const packed = brotliDecompressSync(await readFile(join(fixture("onnx"), "files.br")));
  const tokenizer = await readFile(join(POCKET, "tokenizer.json"));
  for (let at = 0; at < packed.byteLength;) {
    const [nameBytes, bytes] = [packed.readUInt32LE(at), packed.readUInt32LE(at + 4)];
    const name = packed.toString("utf8", at + 8, at + 8 + nameBytes);
    const start = at + 8 + nameBytes;
    const parts = name.split("/");
    const [model = "", maker = ""] = parts;
    // A file of an exporter belongs to `<model>-<exporter>/onnx`, config and safetensors to `<model>`.
    const home = parts.length > 2 ? `${model}-${maker}` : model;
    const inHome = parts.length > 2 ? ["onnx", ...parts.slice(2)] : parts.slice(1);
    await write(join(folder, home, ...inHome), packed.subarray(start, start + bytes));
    await write(join(folder, home, "tokenizer.json"), tokenizer);
    at = start + bytes;
  }
  for (const home of [
    "llama-optimum",
    "llama-builder-int4",
    "qwen2-optimum",
    "qwen2-builder-fp32",
    "qwen2-builder-fp16",
  ]) {
    const config = await readFile(join(folder, home.split("-")[0] ?? "", "config.json"));
    await write(join(folder, home, "config.json"), config);
  }
}

async function write(path: string, content: Uint8Array): Promise<void> {
  await mkdir(dirname(path), { recursive: true });
  await writeFile(path, content);
}

/** Computes the logits of a prompt's last token with onnxruntime. @param inputs - names that the graph has */
export async function runtimeLogits(
  path: string,
  { numLayers, numKvHeads, headSize, vocabSize }: ModelConfig,
  tokenIds: readonly number[],
  inputs: { readonly position_ids: boolean },
): Promise<Float32Array> {
  const session = await GraphSession.openFile(path, { threads: 1 });
  try {
    const feeds: Record<string, GraphTensor> = {
      input_ids: integers(tokenIds),
      attention_mask: integers(tokenIds.map(() => 1)),
      ...(inputs.position_ids ? { position_ids: integers(tokenIds.map((_, i) => i)) } : {}),
    };
    for (let layer = 0; layer < numLayers; layer++) {
      for (const part of ["key", "value"]) {
        feeds[`past_key_values.${layer}.${part}`] = { data: new Float32Array(), dims: [1, numKvHeads, 0, headSize] };
      }
    }
    const { logits } = await session.run(feeds);
    if (logits === undefined) throw new Error(`${path} has no logits`);
    return (logits.data as Float32Array).slice(-vocabSize);
  } finally {
    await session.dispose();
  }
}

function integers(values: readonly number[]): GraphTensor {
  return { data: BigInt64Array.from(values, BigInt), dims: [1, values.length] };
}
