// A draft head of the pocket model: its training, its files, and a training that is killed repeatedly.

import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { openDraftHead, openModel, SafetensorsFile } from "@readme-moe/model";
import { type HeadReport, trainDraftHead } from "@readme-moe/refactor";
import { afterAll, beforeAll, expect, test } from "vitest";
import { runWholeAndKilled } from "../support/killed-run.ts";
import { POCKET } from "../support/pocket.ts";
import { pocketTexts } from "../support/pocket-texts.ts";
import { persistentFolder } from "../support/temporary-folder.ts";
import { TINY_HEAD } from "../support/tiny-tuning.ts";

const PROGRAM = join(import.meta.dirname, "..", "support", "programs", "train-draft-head.ts");
const KILLS = Number(process.env["KILLS"] ?? 2);
const folder = await persistentFolder();
const model = await openModel(POCKET);
let paths: { readonly whole: string; readonly killed: string };

beforeAll(
  async () => {
    const seed = Number(process.env["SEED"] ?? 5);
    paths = await runWholeAndKilled(folder, { program: PROGRAM, args: [POCKET], kills: KILLS, seed });
  },
  120_000 * (2 + KILLS),
);
afterAll(() => model.close());

test("writes the same files when it is killed and resumed", async () => {
  const { whole, killed } = paths;
  expect((await readdir(whole)).toSorted()).toEqual(["config.json", "model.safetensors", "report.json"]);
  for (const name of ["config.json", "model.safetensors"]) {
    expect((await readFile(join(killed, name))).equals(await readFile(join(whole, name)))).toBe(true);
  }
  const { seconds: _, tokens_per_s: __, ...report } = await reportOf(whole);
  expect(await reportOf(killed)).toMatchObject(report);
  expect((await readdir(folder)).toSorted()).toEqual(["killed", "whole"]);
});

test("lowers the loss, and says how many drafts the model would accept", async () => {
  const report = await reportOf(paths.whole);
  const [first, ...later] = report.losses;
  expect(later).toHaveLength(2);
  expect(later.at(-1)!.mean).toBeLessThan(first!.mean - 0.3);
  expect(report.best_tokens).toBe(2048);
  for (const kind of ["book", "github"]) {
    const chains = report.accepted[kind]!;
    expect(chains).toHaveLength(4);
    expect(chains).toEqual(chains.toSorted((a, b) => a - b));
    expect(report.vocabulary_share[kind]).toBeGreaterThan(0.5);
  }
});

test("writes a head in the layout of EAGLE-3", async () => {
  expect(JSON.parse(await readFile(join(paths.whole, "config.json"), "utf8"))).toMatchObject({
    architectures: ["LlamaForCausalLMEagle3"],
    hidden_size: 256,
    intermediate_size: 64,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    vocab_size: 4096,
    draft_vocab_size: 512,
    rope_theta: 10_000,
    eagle_config: { eagle_aux_hidden_state_layer_ids: [1, 2, 3], use_aux_hidden_state: true },
  });
  const file = await SafetensorsFile.open(join(paths.whole, "model.safetensors"));
  const shapes = Object.fromEntries(file.names.map((name) => [name, [file.info(name).type, file.info(name).shape]]));
  expect(shapes).toEqual({
    "fc.weight": ["F16", [256, 768]],
    "midlayer.input_layernorm.weight": ["F16", [256]],
    "midlayer.hidden_norm.weight": ["F16", [256]],
    "midlayer.self_attn.q_proj.weight": ["F16", [256, 512]],
    "midlayer.self_attn.k_proj.weight": ["F16", [128, 512]],
    "midlayer.self_attn.v_proj.weight": ["F16", [128, 512]],
    "midlayer.self_attn.o_proj.weight": ["F16", [256, 256]],
    "midlayer.post_attention_layernorm.weight": ["F16", [256]],
    "midlayer.mlp.gate_proj.weight": ["F16", [64, 256]],
    "midlayer.mlp.up_proj.weight": ["F16", [64, 256]],
    "midlayer.mlp.down_proj.weight": ["F16", [256, 64]],
    "norm.weight": ["F16", [256]],
    d2t: ["I64", [512]],
  });
  const bytes = await file.readBytes("d2t");
  const ids = Array.from(new BigInt64Array(bytes.buffer, bytes.byteOffset, 512), (offset, i) => Number(offset) + i);
  expect(ids).toEqual([...new Set(ids)].toSorted((a, b) => a - b));
  expect(ids.every((id) => id >= 0 && id < 4096)).toBe(true);
  await file.close();
});

test("rounds products to blocks, and reports the head that is stored", async () => {
  const out = join(folder, "blocks");
  const texts = await pocketTexts(["book", "github"]);
  const report = await trainDraftHead(model, texts, out, { ...TINY_HEAD, threads: 1, source: "model", blocks: "Q2_K" });
  const whole = await reportOf(paths.whole);
  expect(report.losses).toEqual(whole.losses);
  expect(report.accepted).not.toEqual(whole.accepted);
  const [rounded, exact] = await Promise.all(
    [out, paths.whole].map((path) => SafetensorsFile.open(join(path, "model.safetensors"))),
  );
  const types = new Map(rounded!.names.map((name) => [name, rounded!.info(name).type]));
  // Rows of 64 weights are no whole blocks of Q2_K.
  expect(types.get("midlayer.mlp.down_proj.weight")).toBe("Q4_0");
  expect(types.get("norm.weight")).toBe("F16");
  for (const name of ["fc.weight", "midlayer.self_attn.q_proj.weight", "midlayer.mlp.gate_proj.weight"]) {
    expect(types.get(name)).toBe("Q2_K");
    const [a, b] = [await rounded!.readFloats(name), await exact!.readFloats(name)];
    const error = a.reduce((sum, value, at) => sum + (value - b[at]!) ** 2, 0);
    expect(error).toBeLessThan(0.15 * b.reduce((sum, value) => sum + value ** 2, 0));
  }
  const head = await openDraftHead(out, model);
  expect(head.tokenIds).toHaveLength(512);
  await Promise.all([head, rounded!, exact!].map((file) => file.close()));
});

test("refuses wrong options before any work", async () => {
  const texts = await pocketTexts(["book"]);
  const train = (options: object) => trainDraftHead(model, texts, join(folder, "none"), options);
  await expect(train({ vocabulary: 4097 })).rejects.toThrow(
    /`vocabulary` to be at most the model's 4096 tokens, got 4097/,
  );
  await expect(train({ blocks: "Q9_9" })).rejects.toThrow(/`blocks` to be .*"none".*"Q4_K"/);
  await expect(train({ drafts: 0 })).rejects.toThrow(/`drafts`/);
  await expect(train({ rank: 2 })).rejects.toThrow(/rank/);
  await expect(trainDraftHead(model, [], join(folder, "none"))).rejects.toThrow(RangeError);
  expect((await readdir(folder)).toSorted()).toEqual(["blocks", "killed", "whole"]);
});

async function reportOf(path: string): Promise<HeadReport> {
  return JSON.parse(await readFile(join(path, "report.json"), "utf8")) as HeadReport;
}
