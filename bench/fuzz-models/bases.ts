// Small valid models, one folder for each kind of case. Cases are these with some files damaged.

import { cp, mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { join, relative } from "node:path";
import { openModel, writeExpertSet, writeSafetensors } from "@readme-moe/model";
import { fixture } from "../../test/support/fixtures.ts";
import { writeHybridGguf } from "../../test/support/gguf/convert-hybrid.ts";
import { writeModelGguf } from "../../test/support/gguf/convert-model.ts";
import { addNextLayer } from "../../test/support/next-layer.ts";
import { writeOnnxFixtures } from "../../test/support/onnx-fixtures.ts";
import { TINY_MIXTURE, writeRandomMixture } from "../../test/support/random-mixture.ts";
import { writeTinyAdapter } from "../../test/support/tiny-adapter.ts";
import { ROUTER_SECTION, tinyContent, writeTinyReadMe } from "../../test/support/tiny-read-me.ts";
import { byteLevelJson, ggufTokenizer, sentencePieceJson, TEMPLATE, TOKENIZER_CONFIG } from "./base-texts.ts";

/** How a case is opened, and which model it damages. */
export const KINDS = [
  "dense",
  "sharded",
  "mixture",
  "convolution",
  "layers",
  "delta",
  "space",
  "latent",
  "hybrid-gguf",
  "read-me",
  "pooling",
  "gguf",
  "gguf-text",
  "onnx",
  "tokenizer",
  "template",
  "adapter",
  "set",
  "cache",
] as const;
export type Kind = (typeof KINDS)[number];

/** The files of a base by their names, with slashes. */
export type Files = ReadonlyMap<string, Buffer>;

const SIZES = { numExperts: 1, expertSizes: [64, 64], sharedSizes: [0, 0], hasRouter: false, vocabSize: 300 };
const GENERATION = { do_sample: true, temperature: 0.7, top_k: 20, eos_token_id: [0, 1], max_new_tokens: 64 };

async function writeDense(folder: string): Promise<void> {
  const { config, tensors } = tinyContent({ ...SIZES, seed: 1 });
  await mkdir(folder, { recursive: true });
  await writeSafetensors(join(folder, "model.safetensors"), [...tensors.backbone, ...(tensors.experts[0] ?? [])]);
  await writeJson(join(folder, "config.json"), config);
  await writeTexts(folder);
}

async function writeTexts(folder: string): Promise<void> {
  await writeJson(join(folder, "generation_config.json"), GENERATION);
  await writeJson(join(folder, "tokenizer.json"), byteLevelJson());
  await writeJson(join(folder, "tokenizer_config.json"), TOKENIZER_CONFIG);
  await writeFile(join(folder, "chat_template.jinja"), TEMPLATE);
}

async function writeJson(path: string, value: unknown): Promise<void> {
  await writeFile(path, JSON.stringify(value));
}

const MIXTURE = { ...TINY_MIXTURE, vocabSize: 300, numExperts: 4, expertsPerToken: 2 };

/** Ways to write the base of a kind into its folder. `dense` is the folder of the dense model. */
const WRITERS: Readonly<Record<Kind, (folder: string, dense: string) => Promise<void>>> = {
  dense: writeDense,
  sharded: async (folder) => {
    await writeRandomMixture(folder, MIXTURE, { numShards: 3, naming: "w1, w2, w3" });
    await writeTexts(folder);
  },
  mixture: async (folder) => {
    await writeRandomMixture(folder, { ...MIXTURE, modelType: "qwen3_moe" }, { naming: "gate_up_proj" });
    await writeTexts(folder);
  },
  convolution: (folder) => writeFixture("hybrids/lfm2-moe", folder),
  delta: async (folder) => {
    await writeFixture("hybrids/qwen3-5", folder);
    await addNextLayer(folder);
  },
  space: (folder) => writeFixture("hybrids/granite4-h", folder),
  latent: (folder) => writeFixture("latent/deepseek-v2-low", folder),
  layers: (folder) => writeFixture("layers/gemma4-sizes", folder),
  "hybrid-gguf": async (folder) => {
    await mkdir(folder, { recursive: true });
    await writeHybridGguf(fixture("hybrids/qwen3-5-moe"), join(folder, "model.gguf"), ggufTokenizer());
  },
  "read-me": async (folder) => {
    await writeTinyReadMe(folder, { vocabSize: 300 });
    await writeTexts(folder);
  },
  pooling: (folder) => cp(fixture("pooling/embedding"), folder, { recursive: true }),
  gguf: async (folder, dense) => writeGguf(folder, dense),
  // The text of a file is damaged far more often when the file has little else.
  "gguf-text": async (folder, dense) => writeGguf(folder, dense),
  onnx: async (folder) => {
    const all = `${folder}-all`;
    await writeOnnxFixtures(all);
    await cp(join(all, "llama-optimum"), folder, { recursive: true });
    const onnx = join(folder, "onnx");
    for (const name of await readdir(onnx)) if (!/^model(_q8|_quantized)?\.onnx/.test(name)) await rm(join(onnx, name));
    await writeTexts(folder);
    await rm(all, { recursive: true });
  },
  tokenizer: async (folder) => {
    await mkdir(folder, { recursive: true });
    await writeTexts(folder);
    await writeJson(join(folder, "sentencepiece.json"), sentencePieceJson());
    await writeJson(join(folder, "special_tokens_map.json"), { bos_token: "<s>", eos_token: { content: "</s>" } });
  },
  template: async (folder) => {
    await mkdir(folder, { recursive: true });
    await writeTexts(folder);
  },
  adapter: async (folder, dense) => {
    await using model = await closing(dense);
    await writeTinyAdapter(folder, model.value.config, { modules: ["self_attn.q_proj", "mlp.up_proj", "lm_head"] });
  },
  set: async (folder, dense) => {
    await writeSet(`${folder}-set`, dense);
    await cp(dense, folder, { recursive: true });
    await cp(`${folder}-set`, folder, { recursive: true });
    await rm(`${folder}-set`, { recursive: true });
  },
  // Filled by the worker, since marks name its process.
  cache: async (folder) => void (await mkdir(folder, { recursive: true })),
};

async function writeFixture(name: string, folder: string): Promise<void> {
  await cp(fixture(name), folder, { recursive: true });
  await rm(join(folder, "golden.json"));
  await writeTexts(folder);
}

async function writeGguf(folder: string, dense: string): Promise<void> {
  await mkdir(folder, { recursive: true });
  await using model = await closing(dense);
  await writeModelGguf(model.value, join(folder, "model.gguf"), "F32", ggufTokenizer());
}

async function writeSet(folder: string, dense: string): Promise<void> {
  await using model = await closing(dense);
  const { config } = model.value;
  const experts = [];
  for (const name of ["one", "two"]) {
    const adapter = await writeTinyAdapter(`${folder}-${name}`, config, { modules: ["self_attn.v_proj"] });
    const json = JSON.parse(await readFile(join(adapter, "adapter_config.json"), "utf8")) as Record<string, unknown>;
    await rm(adapter, { recursive: true });
    experts.push({ name, config: json, tensors: [zeros("lora_A", [4, config.hiddenSize]), zeros("lora_B", [16, 4])] });
  }
  const { router: tensors = [] } = tinyContent({ numExperts: 3, vocabSize: 300 }).tensors;
  await writeExpertSet(folder, { experts, router: { config: { ...ROUTER_SECTION }, tensors } });
}

function zeros(name: string, shape: readonly [number, number]) {
  const bytes = new Uint8Array(4 * shape[0] * shape[1]);
  return {
    name: `base_model.model.model.layers.0.self_attn.v_proj.${name}.weight`,
    type: "F32" as const,
    shape,
    bytes: async () => bytes,
  };
}

async function closing(folder: string) {
  const value = await openModel(folder);
  return { value, [Symbol.asyncDispose]: () => value.close() };
}

/** Writes all bases into folders of `root` that have the names of kinds. */
export async function writeBases(root: string): Promise<void> {
  for (const kind of KINDS) await WRITERS[kind](join(root, kind), join(root, "dense"));
}

/** Reads all bases that `writeBases` has written. */
export async function readBases(root: string): Promise<ReadonlyMap<Kind, Files>> {
  const bases = new Map<Kind, Files>();
  for (const kind of KINDS) bases.set(kind, await readFiles(join(root, kind)));
  return bases;
}

async function readFiles(folder: string): Promise<Files> {
  const files = new Map<string, Buffer>();
  for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue;
    const path = join(entry.parentPath, entry.name);
    files.set(relative(folder, path).replaceAll("\\", "/"), await readFile(path));
  }
  return files;
}
