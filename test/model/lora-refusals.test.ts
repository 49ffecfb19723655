// Adapters that cannot be taken: each is refused by name, with the file and what is wrong in it.

import { mkdir, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { ReadMeErrorCode } from "@readme-moe/core";
import { type Model, openLora, openModel, SafetensorsFile, writeSafetensors } from "@readme-moe/model";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { fixture } from "../support/fixtures.ts";
import { mixtureFolder, withModel } from "../support/mixture-folder.ts";
import { expectReadMeError } from "../support/rejection.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { type TinyAdapter, writeTinyAdapter } from "../support/tiny-adapter.ts";
import { writeTinyReadMe } from "../support/tiny-read-me.ts";

let model: Model;
beforeAll(async () => {
  model = await openModel(fixture("families/llama-tied"));
});
afterAll(() => model.close());

const TENSORS = "adapter_model.safetensors";
const CONFIG = "adapter_config.json";

function named(...names: readonly string[]): readonly { readonly name: string }[] {
  return names.map((name) => ({ name }));
}

async function tinyAdapter(adapter: TinyAdapter = {}): Promise<string> {
  return writeTinyAdapter(join(await temporaryFolder(), "legal"), model.config, adapter);
}

/** Opens and closes an adapter. */
async function open(folder: string, base: Pick<Model, "config" | "experts"> = model): Promise<void> {
  await (await openLora(folder, "legal", base)).close();
}

/** Opens and closes an adapter. @returns what it changes */
async function changesOf(folder: string, base: Pick<Model, "config" | "experts"> = model): Promise<object> {
  const expert = await openLora(folder, "legal", base);
  await expert.close();
  const { layers, head, numParameters, maxRank } = expert;
  const products = layers.map((layer) =>
    Object.fromEntries(Object.entries(layer).map(([name, { rank, scale }]) => [name, [rank, scale]])),
  );
  return { products, head: head?.scale, numParameters, maxRank };
}

/** Writes an adapter's tensors anew, with other names or shapes. */
async function rewrite(
  folder: string,
  change: (name: string, shape: readonly number[]) => readonly { name: string; shape?: readonly number[] }[],
): Promise<void> {
  const file = await SafetensorsFile.open(join(folder, TENSORS));
  const tensors = file.names.flatMap((name) =>
    change(name, file.info(name).shape).map((other) => {
      const shape = other.shape ?? file.info(name).shape;
      const bytes = new Uint8Array(4 * shape.reduce((size, axis) => size * axis, 1));
      return { name: other.name, type: "F32" as const, shape, bytes: async () => bytes };
    }),
  );
  await file.close();
  await rm(join(folder, TENSORS));
  await writeSafetensors(join(folder, TENSORS), tensors);
}

describe("a config is refused that", () => {
  type Case = readonly [fields: Record<string, unknown>, code: ReadMeErrorCode, ...parts: readonly string[]];
  const cases: readonly Case[] = [
    [{ peft_type: "IA3" }, "ERR_MODEL_UNSUPPORTED", "`peft_type`", "IA3", "supported is LORA"],
    [{ peft_type: null }, "ERR_MODEL_INVALID", "`peft_type`"],
    [{ use_dora: true }, "ERR_MODEL_UNSUPPORTED", "`use_dora`", "plain LoRA"],
    [{ use_qalora: true }, "ERR_MODEL_UNSUPPORTED", "`use_qalora`"],
    [{ use_bdlora: { nblocks: 2 } }, "ERR_MODEL_UNSUPPORTED", "`use_bdlora`"],
    [{ arrow_config: { top_k: 3 } }, "ERR_MODEL_UNSUPPORTED", "`arrow_config`"],
    [{ kasa_config: { beta: 1 } }, "ERR_MODEL_UNSUPPORTED", "`kasa_config`"],
    [{ alora_invocation_tokens: [1, 2] }, "ERR_MODEL_UNSUPPORTED", "`alora_invocation_tokens`"],
    [{ bias: "lora_only" }, "ERR_MODEL_UNSUPPORTED", "`bias`", "lora_only"],
    [{ lora_bias: true }, "ERR_MODEL_UNSUPPORTED", "`lora_bias`"],
    [{ modules_to_save: ["lm_head"] }, "ERR_MODEL_UNSUPPORTED", "`modules_to_save`"],
    [{ trainable_token_indices: [5] }, "ERR_MODEL_UNSUPPORTED", "`trainable_token_indices`"],
    [{ target_parameters: ["mlp.experts.gate_up_proj"] }, "ERR_MODEL_UNSUPPORTED", "`target_parameters`"],
    [{ layer_replication: [[0, 2]] }, "ERR_MODEL_UNSUPPORTED", "`layer_replication`"],
    [{ init_lora_weights: "pissa_niter_4" }, "ERR_MODEL_UNSUPPORTED", "`init_lora_weights`", "pissa_niter_4"],
    [{ init_lora_weights: "olora" }, "ERR_MODEL_UNSUPPORTED", "path_initial_model_for_weight_conversion"],
    [{ init_lora_weights: "OLoRA" }, "ERR_MODEL_UNSUPPORTED", "`init_lora_weights`"],
    [{ init_lora_weights: "loftq" }, "ERR_MODEL_UNSUPPORTED", "`init_lora_weights`"],
    [{ lora_alpha: "16" }, "ERR_MODEL_INVALID", "`lora_alpha`"],
    [{ alpha_pattern: { q_proj: "2" } }, "ERR_MODEL_INVALID", "`alpha_pattern.q_proj`"],
    [{ alpha_pattern: ["q_proj"] }, "ERR_MODEL_INVALID", "`alpha_pattern`"],
    [
      { alpha_pattern: { "(q_proj": 2 } },
      "ERR_MODEL_UNSUPPORTED",
      "`alpha_pattern`",
      '"(q_proj"',
      "has a group without an end",
    ],
  ];
  test.each(cases.map(([config, code, ...parts]) => ({ config, code, parts })))(
    "says $config",
    async ({ config, code, parts }) => {
      const folder = await tinyAdapter({ config });
      await expectReadMeError(open(folder), code, folder, ...parts);
    },
  );
});

test("fields that tensors state as well, or that matter for training alone, change nothing", async () => {
  const config = {
    r: 5,
    rank_pattern: { q_proj: 2 },
    target_modules: "(",
    exclude_modules: ["up_proj"],
    layers_to_transform: [0],
    lora_dropout: 0.1,
    inference_mode: true,
    base_model_name_or_path: "/somewhere/else",
    init_lora_weights: "gaussian",
    fan_in_fan_out: true, // for layers of GPT-2; PEFT ignores it for linear ones
    loftq_config: {},
    megatron_core: "megatron.core",
    qalora_group_size: 16,
    velora_config: { num_groups: 4 },
    modules_to_save: [],
    unheard_of: { a: 1 },
  };
  expect(await changesOf(await tinyAdapter({ config }))).toStrictEqual(await changesOf(await tinyAdapter()));
});

describe("a folder is refused that", () => {
  test("does not exist, is a file, or has no config", async () => {
    const folder = await temporaryFolder();
    await expectReadMeError(open(join(folder, "missing")), "ERR_FILE_NOT_FOUND", "missing");
    await writeFile(join(folder, "file"), "");
    await expectReadMeError(open(join(folder, "file")), "ERR_MODEL_INVALID", "is a file", CONFIG);
    await expectReadMeError(open(folder), "ERR_FILE_NOT_FOUND", folder, `has no ${CONFIG}`);
  });

  test("has no tensors, or pickled ones", async () => {
    const folder = await tinyAdapter();
    await rename(join(folder, TENSORS), join(folder, "adapter_model.bin"));
    await expectReadMeError(open(folder), "ERR_MODEL_UNSUPPORTED", folder, "pickled adapter_model.bin");
    await rm(join(folder, "adapter_model.bin"));
    await expectReadMeError(open(folder), "ERR_FILE_NOT_FOUND", folder, TENSORS);
    await mkdir(join(folder, TENSORS));
    await expectReadMeError(open(folder), "ERR_FILE_UNREADABLE", TENSORS, "is a folder");
  });

  test("is over a model that has experts already", async () => {
    const folder = join(await temporaryFolder(), "read-me");
    await writeTinyReadMe(folder);
    const readMe = await openModel(folder);
    await expectReadMeError(open(await tinyAdapter(), readMe), "ERR_MODEL_UNSUPPORTED", "3 experts in its FFNs");
    await readMe.close();
    const { config, experts } = model;
    const cut = { ...experts, expertSizes: experts.expertSizes.with(1, config.intermediateSize - 1) };
    const shared = { ...experts, sharedSizes: experts.sharedSizes.with(1, 1) };
    for (const other of [cut, shared]) {
      const opening = open(await tinyAdapter(), { config, experts: other });
      await expectReadMeError(opening, "ERR_MODEL_UNSUPPORTED", "dense model");
    }
  });

  test("was made for another model", async () => {
    const other = await openModel(fixture("families/qwen3"));
    await expectReadMeError(open(await tinyAdapter(), other), "ERR_MODEL_INVALID", "has shape", "another model");
    await other.close();
  });
});

describe("tensors are refused that", () => {
  const prefix = "base_model.model.model.layers.0.mlp.up_proj";
  const adding = (tensor: string) => (name: string) =>
    name === `${prefix}.lora_A.weight` ? named(name, tensor) : named(name);
  const instead = (tensor: string) => (name: string) => named(name === `${prefix}.lora_A.weight` ? tensor : name);
  type Change = Parameters<typeof rewrite>[1];
  const cases: readonly (readonly [string, Change, ReadMeErrorCode, ...string[]])[] = [
    ["are none", () => [], "ERR_MODEL_INVALID", "holds no tensor"],
    ["are DoRA's", adding(`${prefix}.lora_magnitude_vector`), "ERR_MODEL_UNSUPPORTED", "belongs to DoRA"],
    [
      "are DoRA's of newer versions",
      adding(`${prefix}.lora_magnitude_vector.weight`),
      "ERR_MODEL_UNSUPPORTED",
      "belongs to DoRA",
    ],
    ["are biases", adding(`${prefix}.lora_B.bias`), "ERR_MODEL_UNSUPPORTED", "`lora_bias`"],
    [
      "change the embedding",
      adding("base_model.model.model.embed_tokens.lora_embedding_A"),
      "ERR_MODEL_UNSUPPORTED",
      "embed_tokens",
      "changes the embedding",
    ],
    [
      "are whole modules",
      adding("base_model.model.lm_head.weight"),
      "ERR_MODEL_UNSUPPORTED",
      "base_model.model.lm_head.weight",
      "none of LoRA's",
    ],
    ["have no prefix", instead("model.layers.0.mlp.up_proj.lora_A.weight"), "ERR_MODEL_UNSUPPORTED", "none of LoRA's"],
    [
      "belong to modules that no family has",
      adding("base_model.model.model.layers.0.mlp.c_fc.lora_A.weight"),
      "ERR_MODEL_UNSUPPORTED",
      "model.layers.0.mlp.c_fc",
      "q_proj",
    ],
    [
      "belong to norms",
      adding("base_model.model.model.layers.0.input_layernorm.lora_A.weight"),
      "ERR_MODEL_UNSUPPORTED",
      "input_layernorm",
    ],
    [
      "belong to layers that the model does not have",
      instead("base_model.model.model.layers.3.mlp.up_proj.lora_A.weight"),
      "ERR_MODEL_INVALID",
      "model.layers.3.mlp.up_proj",
      "0 to 2",
    ],
    ["lack A", (name) => (name === `${prefix}.lora_A.weight` ? [] : named(name)), "ERR_MODEL_INVALID", "no lora_A"],
    ["lack B", (name) => (name === `${prefix}.lora_B.weight` ? [] : named(name)), "ERR_MODEL_INVALID", "no lora_B"],
    [
      "are two adapters",
      adding(`${prefix}.lora_A.other.weight`),
      "ERR_MODEL_UNSUPPORTED",
      "lora_A.other.weight",
      "two adapters",
    ],
    [
      "are transposed",
      (name, shape) => [{ name, shape: shape.toReversed() }],
      "ERR_MODEL_INVALID",
      'lora_A.weight" has shape [64, 4]',
    ],
    ["are vectors", (name) => [{ name, shape: [4] }], "ERR_MODEL_INVALID", "has shape [4]"],
    ["are empty", (name) => [{ name, shape: [0, 64] }], "ERR_MODEL_UNSUPPORTED", "by rank 0"],
    ["have a large rank", (name) => [{ name, shape: [257, 64] }], "ERR_MODEL_UNSUPPORTED", "by rank 257", "up to 256"],
    [
      "have two ranks",
      (name, shape) => [{ name, shape: name.endsWith("lora_B.weight") ? [shape[0] ?? 0, 5] : shape }],
      "ERR_MODEL_INVALID",
      "lora_B.weight",
      "5], where",
    ],
  ];
  test.each(cases.map(([what, change, code, ...parts]) => ({ what, change, code, parts })))(
    "$what",
    async ({ change, code, parts }) => {
      const folder = await tinyAdapter();
      await rewrite(folder, change);
      await expectReadMeError(open(folder), code, join(folder, TENSORS), ...parts);
    },
  );

  test("are no floats", async () => {
    const folder = await tinyAdapter({ modules: ["mlp.up_proj"], layers: [0] });
    const name = `${prefix}.lora_A.weight`;
    await rm(join(folder, TENSORS));
    const tensor = { name, type: "I8" as const, shape: [4, 64], bytes: async () => new Uint8Array(256) };
    const other = { name: `${prefix}.lora_B.weight`, type: "I8" as const, shape: [160, 4] };
    await writeSafetensors(join(folder, TENSORS), [tensor, { ...other, bytes: async () => new Uint8Array(640) }]);
    await expectReadMeError(open(folder), "ERR_MODEL_UNSUPPORTED", name, "I8", "BF16");
  });
});

test("a wrong name or path is the caller's mistake", async () => {
  const folder = await tinyAdapter();
  for (const name of ["", "none", "router", ".hidden", "a/b", "a b", "x".repeat(65), "ü"]) {
    await expect(openLora(folder, name, model)).rejects.toThrow(TypeError);
  }
  await expect(openLora("", "legal", model)).rejects.toThrow(/Expected `path`/);
  await (await openLora(folder, `a${"._-9".repeat(15)}xyz`, model)).close();
});

const adapterOf = async (base: Model, adapter: TinyAdapter): Promise<string> =>
  writeTinyAdapter(join(await temporaryFolder(), "legal"), base.config, adapter);

describe("over a mixture, an adapter", () => {
  const ATTENTION = ["self_attn.q_proj", "self_attn.o_proj", "lm_head"];
  test("of attention and head is taken", async () => {
    await withModel(await mixtureFolder(), async (base) => {
      const changes = await changesOf(await adapterOf(base, { modules: ATTENTION }), base);
      const products = { attentionOutput: [4, 2], query: [4, 2] };
      const layers = Array.from({ length: base.config.numLayers }, () => products);
      expect(changes).toMatchObject({ products: layers, head: 2, maxRank: 4 });
    });
  });

  test("of the FFN is taken in dense layers, and refused in layers with experts", async () => {
    const folder = await mixtureFolder({ modelType: "qwen3_moe", denseLayers: [1] });
    await withModel(folder, async (base) => {
      const modules = ["mlp.up_proj"];
      await open(await adapterOf(base, { modules, layers: [1] }), base);
      const message = ['"model.layers.2.mlp.up_proj"', "chooses among experts", "attention and lm_head"];
      const refused = open(await adapterOf(base, { modules, layers: [1, 2] }), base);
      await expectReadMeError(refused, "ERR_MODEL_UNSUPPORTED", ...message);
    });
  });

  test("of single experts is refused", async () => {
    await withModel(await mixtureFolder(), async (base) => {
      const folder = await adapterOf(base, { modules: ["self_attn.q_proj"], config: { target_modules: ["w1"] } });
      await rewrite(folder, (name) => named(name.replace("self_attn.q_proj", "block_sparse_moe.experts.0.w1")));
      const message = ['"model.layers.0.block_sparse_moe.experts.0.w1"', "chooses among experts"];
      await expectReadMeError(open(folder, base), "ERR_MODEL_UNSUPPORTED", ...message);
    });
  });

  test("of latent attention is refused, of its head taken", async () => {
    await withModel(fixture("latent/deepseek-v2-low"), async (base) => {
      await open(await adapterOf(base, { modules: ["lm_head"] }), base);
      const refused = open(await adapterOf(base, { modules: ["self_attn.o_proj"] }), base);
      await expectReadMeError(refused, "ERR_MODEL_UNSUPPORTED", "self_attn.o_proj", "latent attention");
    });
  });
});
