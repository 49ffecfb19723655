// Sizes in model files that no model has: refused by name before anything is made from them.

import { join } from "node:path";
import { openModel, openPromptModel } from "@readme-moe/model";
import { readFile, writeFile } from "node:fs/promises";
import { describe, expect, test } from "vitest";
import { Fields } from "../../packages/model/src/config/fields.ts";
import { parseConfig } from "../../packages/model/src/config/parse-config.ts";
import { parseReadMe } from "../../packages/model/src/folder/read-me-folder.ts";
import { parseOfficialRouterConfig, parseRouterConfig } from "../../packages/model/src/weights/locate-router.ts";
import { writeModelGguf } from "../support/gguf/convert-model.ts";
import { expectReadMeError } from "../support/rejection.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { writeTinyDense } from "../support/tiny-dense.ts";
import { ROUTER_SECTION } from "../support/tiny-read-me.ts";

const LLAMA = {
  model_type: "llama",
  vocab_size: 128,
  hidden_size: 64,
  intermediate_size: 160,
  num_hidden_layers: 2,
  num_attention_heads: 4,
};
const MIXTURE = { ...LLAMA, model_type: "mixtral", num_local_experts: 4, num_experts_per_tok: 2 };
const ROUTED = { vocabSize: 128, contextTokens: 64, ropes: [] };
const OFFICIAL = { embedding_dim: 16, inter_dim: 16, n_head: 2, n_layer: 1 };

type Json = Readonly<Record<string, unknown>>;
const config = (json: Json): unknown => parseConfig("config.json", json);

/** Sizes that a process of 512 MB cannot count through, up to those that no integer type has. */
const HUGE = [1e8, 2e9, 2 ** 31 - 1, 2 ** 53, 1e300];

describe.each([
  [LLAMA, config, "vocab_size", 2 ** 21],
  [LLAMA, config, "hidden_size", 2 ** 18],
  [LLAMA, config, "intermediate_size", 2 ** 18],
  [LLAMA, config, "num_hidden_layers", 4096],
  [{ ...LLAMA, num_key_value_heads: 1, head_dim: 2 }, config, "num_attention_heads", 4096],
  [LLAMA, config, "num_key_value_heads", 4096],
  [LLAMA, config, "head_dim", 4096],
  [LLAMA, config, "max_position_embeddings", 2 ** 24],
  [MIXTURE, config, "num_local_experts", 1024],
  [MIXTURE, config, "num_experts_per_tok", 64],
  [ROUTER_SECTION, (json: Json) => parseRouterConfig(new Fields("x", json), ROUTED, 3), "embedding_size", 2 ** 18],
  [ROUTER_SECTION, (json: Json) => parseRouterConfig(new Fields("x", json), ROUTED, 3), "inner_size", 2 ** 18],
  [ROUTER_SECTION, (json: Json) => parseRouterConfig(new Fields("x", json), ROUTED, 3), "num_heads", 4096],
  [ROUTER_SECTION, (json: Json) => parseRouterConfig(new Fields("x", json), ROUTED, 3), "num_layers", 4096],
  [ROUTER_SECTION, (json: Json) => parseRouterConfig(new Fields("x", json), ROUTED, 3), "context_tokens", 2 ** 24],
  [OFFICIAL, (json: Json) => parseOfficialRouterConfig(new Fields("x", json), ROUTED, 3), "embedding_dim", 2 ** 18],
  [OFFICIAL, (json: Json) => parseOfficialRouterConfig(new Fields("x", json), ROUTED, 3), "inter_dim", 2 ** 18],
  [OFFICIAL, (json: Json) => parseOfficialRouterConfig(new Fields("x", json), ROUTED, 3), "n_head", 4096],
  [OFFICIAL, (json: Json) => parseOfficialRouterConfig(new Fields("x", json), ROUTED, 3), "n_layer", 4096],
  [
    { version: 1, expert_size: 8 },
    (json: Json) => parseReadMe(new Fields("x", json), parseConfig("config.json", LLAMA)),
    "num_experts",
    2 ** 16,
  ],
] as const)("%#: the size", (valid, read, name, most) => {
  test.each([most + 1, ...HUGE])(`${name} of %d is refused by name`, (value) => {
    expect(() => read({ ...valid, [name]: value })).toThrow(
      expect.objectContaining({
        code: "ERR_MODEL_UNSUPPORTED",
        message: expect.stringContaining(`${name}\` \`${value}\``) as string,
      }) as Error,
    );
  });

  test.each([0, -1, 1.5, NaN, "4", [4], true])(`${name} of %s is refused as no size`, (value) => {
    expect(() => read({ ...valid, [name]: value })).toThrow(
      expect.objectContaining({ code: "ERR_MODEL_INVALID", message: expect.stringContaining(name) as string }) as Error,
    );
  });
});

test("the largest sizes are read one by one", () => {
  const sizes = { vocab_size: 2 ** 21, intermediate_size: 2 ** 18, max_position_embeddings: 2 ** 24 };
  for (const [name, value] of Object.entries(sizes)) expect(() => config({ ...LLAMA, [name]: value })).not.toThrow();
  expect(parseConfig("x", { ...LLAMA, num_hidden_layers: 4096 }).layers).toHaveLength(4096);
});

function refused(json: Json, part: string): void {
  expect(() => config(json)).toThrow(
    expect.objectContaining({
      code: "ERR_MODEL_UNSUPPORTED",
      message: expect.stringContaining(part) as string,
    }) as Error,
  );
}

test("sizes whose product is too large are refused although each is allowed", () => {
  refused({ ...LLAMA, num_hidden_layers: 4096, head_dim: 4096 }, "4096 layers of 4 key/value heads of size 4096");
  refused({ ...MIXTURE, num_hidden_layers: 4096, num_local_experts: 1024 }, "`num_local_experts`");
  expect(() => config({ ...MIXTURE, num_hidden_layers: 61, num_local_experts: 384 })).not.toThrow();
});

test("a list of layers without an FFN of experts takes no time for each pair of layers", () => {
  // 4,096 layers times a million entries would take minutes.
  const names = Array.from({ length: 1_000_000 }, (_, index) => index + 2);
  const moe = { ...LLAMA, model_type: "qwen3_moe", num_hidden_layers: 4096, mlp_only_layers: names, head_dim: 16 };
  const { layers } = parseConfig("x", {
    ...moe,
    num_experts: 4,
    num_experts_per_tok: 1,
    moe_intermediate_size: 8,
  });
  expect(layers.filter(({ isMixture }) => isMixture)).toHaveLength(2);
});

test("angles of many layers are compared once, not once a layer", () => {
  // 4,096 layers times two lists of 2,048 factors are a gigabyte of text.
  const factors = Array.from({ length: 2048 }, (_, index) => 1 + index / 3);
  const rope_scaling = { type: "longrope", long_factor: factors, short_factor: factors };
  const sizes = { num_hidden_layers: 1024, num_attention_heads: 1, head_dim: 4096, rope_scaling };
  expect(parseConfig("x", { ...LLAMA, ...sizes }).ropes).toHaveLength(1);
});

test("the name of a field that a file has chosen is cut in messages", () => {
  const name = "x".repeat(10_000);
  const fields = new Fields("x", { [name]: 1 }, "prompts.");
  expect(() => fields.text(name)).toThrow(/^x: expected `prompts\.x{192}` to be a string, got `1` \(number\)$/);
});

test("a list of end tokens is bounded", () => {
  expect(() => config({ ...LLAMA, eos_token_id: Array(1024).fill(1) })).not.toThrow();
  expect(() => config({ ...LLAMA, eos_token_id: Array(1025).fill(1) })).toThrow(/eos_token_id/);
});

test.each(["num_hidden_layers", "num_attention_heads", "vocab_size", "max_position_embeddings"])(
  "a folder whose %s is two billion is refused by both ways of opening it",
  async (name) => {
    const folder = join(await temporaryFolder(), "model");
    await writeTinyDense(folder, 1);
    const path = join(folder, "config.json");
    const json = JSON.parse(await readFile(path, "utf8")) as Json;
    await writeFile(path, JSON.stringify({ ...json, [name]: 2e9 }));
    for (const open of [openModel, openPromptModel])
      await expectReadMeError(open(folder), "ERR_MODEL_UNSUPPORTED", path, name);
  },
);

test("more layers, and a larger vocabulary, than the file has are refused by the tensor that is missing", async () => {
  const folder = join(await temporaryFolder(), "model");
  await writeTinyDense(folder, 1);
  const path = join(folder, "config.json");
  const json = JSON.parse(await readFile(path, "utf8")) as Json;
  const changed = (changes: Json): Promise<void> => writeFile(path, JSON.stringify({ ...json, ...changes }));
  await changed({ num_hidden_layers: 4096 });
  await expectReadMeError(openModel(folder), "ERR_MODEL_INVALID", "model.layers.2.input_layernorm.weight");
  await changed({ vocab_size: 2 ** 21 });
  await expectReadMeError(openModel(folder), "ERR_MODEL_INVALID", "model.embed_tokens.weight", "2097152");
});

test("a GGUF file with two billion layers, heads or positions is refused by name", async () => {
  const folder = join(await temporaryFolder(), "model");
  await writeTinyDense(folder, 1);
  await using model = await closing(folder);
  for (const [key, field] of [
    ["block_count", "num_hidden_layers"],
    ["attention.head_count", "num_attention_heads"],
    ["attention.head_count_kv", "num_key_value_heads"],
    ["attention.key_length", "head_dim"],
    ["context_length", "max_position_embeddings"],
    ["feed_forward_length", "intermediate_size"],
  ] as const) {
    const path = join(await temporaryFolder(), "model.gguf");
    await writeModelGguf(model.value, path, "F32", new Map([[`llama.${key}`, { type: "uint32", value: 2e9 }]]));
    for (const open of [openModel, openPromptModel])
      await expectReadMeError(open(path), "ERR_MODEL_UNSUPPORTED", path, field);
  }
});

async function closing(
  folder: string,
): Promise<AsyncDisposable & { readonly value: Awaited<ReturnType<typeof openModel>> }> {
  const value = await openModel(folder);
  return { value, [Symbol.asyncDispose]: () => value.close() };
}
