// Ways in which a model says that it gives embeddings or scores, and those that are refused by name.

import { cp, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { ReadMeError } from "@readme-moe/core";
import { describeMixture, type Model, openModel } from "@readme-moe/model";
import { beforeAll, describe, expect, test } from "vitest";
import { writePoolingGguf } from "../support/gguf/convert-model.ts";
import { fixture } from "../support/fixtures.ts";
import { copyWith, EMBEDDING_MODEL, writeReranker } from "../support/pooling-models.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

let reranker: string;
beforeAll(async () => {
  reranker = await writeReranker();
});

async function opened<Result>(path: string, use: (model: Model) => Result | Promise<Result>): Promise<Result> {
  const model = await openModel(path);
  try {
    return await use(model);
  } finally {
    await model.close();
  }
}

/** Expects a refusal with the code, whose message has all parts. */
async function expectRefusal(path: string, code: string, ...parts: readonly string[]): Promise<void> {
  const error: unknown = await openModel(path).then(
    () => undefined,
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(ReadMeError);
  expect(error).toMatchObject({ code });
  for (const part of parts) expect((error as Error).message).toContain(part);
}

const module = (type: string, path = ""): object => ({ path, type: `sentence_transformers.models.${type}` });

const pooled = (config: object): Readonly<Record<string, unknown>> => ({ "1_Pooling/config.json": config });
const listed = (...modules: readonly object[]): Readonly<Record<string, unknown>> => ({
  "modules.json": [module("Transformer"), ...modules],
});
const scored = (config: object) => copyWith(reranker, { "1_LogitScore/config.json": config });

describe("modules of sentence-transformers", () => {
  test("say that a model gives embeddings, and which texts go before inputs", async () => {
    await opened(EMBEDDING_MODEL, ({ kind, config, weights }) => {
      expect(kind).toBe("pooling");
      expect(config.pooling).toMatchObject({ kind: "embedding", isNormalized: true });
      expect(config.pooling).toHaveProperty("prompts.query", expect.stringMatching(/^Instruct: .*\nQuery:$/s));
      expect(weights.embedding.shape).toEqual([config.vocabSize, config.hiddenSize]);
    });
  });

  test("say that a model gives scores, whose head is two rows of the language model's", async () => {
    const rows = await opened(reranker, async ({ config, weights: { head, embedding } }) => {
      const { pooling } = config;
      if (pooling?.kind !== "score" || !("tokenIds" in pooling.head)) throw new Error("Expected token ids");
      expect(head.shape).toEqual([2, config.hiddenSize]);
      const own = await head.store.readFloats(head.name);
      const ofTokens = pooling.head.tokenIds.map((id) =>
        embedding.store.readFloats(embedding.name, { from: id, to: id + 1 }),
      );
      return [own, (await Promise.all(ofTokens)).flatMap((row) => Array.from(row))] as const;
    });
    expect(Array.from(rows[0])).toEqual(rows[1]);
  });

  test("without the last one give embeddings of any length", async () => {
    const modules = [module("Transformer"), module("Pooling", "1_Pooling")];
    await opened(await copyWith(EMBEDDING_MODEL, { "modules.json": modules }), ({ config }) => {
      expect(config.pooling).toMatchObject({ kind: "embedding", isNormalized: false });
    });
  });

  test("may name the mode in the new form", async () => {
    const files = { "1_Pooling/config.json": { embedding_dimension: 48, pooling_mode: "lasttoken" } };
    await opened(await copyWith(EMBEDDING_MODEL, files), ({ config }) => expect(config.pooling).toBeDefined());
  });

  test.each([
    [pooled({ pooling_mode_mean_tokens: true }), "ERR_MODEL_UNSUPPORTED", "mean_tokens"],
    [pooled({ pooling_mode: ["lasttoken", "mean"] }), "ERR_MODEL_UNSUPPORTED", "pools by"],
    [pooled({}), "ERR_MODEL_UNSUPPORTED", "pools by"],
    [listed(module("Pooling", "1_Pooling"), module("LayerNorm", "2_LayerNorm")), "ERR_MODEL_UNSUPPORTED", "LayerNorm"],
    [listed(module("Pooling", "1_Pooling"), module("Normalize"), module("Dense")), "ERR_MODEL_UNSUPPORTED", "Dense"],
    [listed(module("Pooling", "1_Pooling"), module("Dense", "2_Dense")), "ERR_MODEL_INVALID", "in_features"],
    [listed(module("Normalize")), "ERR_MODEL_UNSUPPORTED", "Normalize"],
    [listed(module("Pooling", "../embedding/1_Pooling")), "ERR_FILE_CORRUPT", "path"],
    [{ "modules.json": [module("Transformer", "0_Transformer")] }, "ERR_MODEL_UNSUPPORTED", "Transformer"],
    [{ "modules.json": [] }, "ERR_MODEL_UNSUPPORTED", "first module"],
    [{ "modules.json": { a: 1 } }, "ERR_FILE_CORRUPT", "list"],
    [{ "modules.json": [3] }, "ERR_MODEL_INVALID", "object"],
    [{ "modules.json": "{" }, "ERR_FILE_CORRUPT", "JSON"],
    [{ "config_sentence_transformers.json": { prompts: { query: 3 } } }, "ERR_MODEL_INVALID", "prompts.query"],
  ] as const)("that are not served are refused: %j", async (files, code, part) => {
    await expectRefusal(await copyWith(EMBEDDING_MODEL, files), code, part);
  });

  test("of scores need ids of tokens that the model has", async () => {
    await expectRefusal(await scored({ false_token_id: 3 }), "ERR_MODEL_INVALID", "true_token_id");
    await expectRefusal(await scored({ true_token_id: 1e6 }), "ERR_MODEL_INVALID", "1000000");
  });
});

describe("modules Dense", () => {
  const embedder = fixture("encoders/embeddinggemma");
  const size = { in_features: 64, out_features: 96 };

  test("make embeddings of states, with the weights in their folders", async () => {
    await opened(embedder, ({ config, weights, files }) => {
      expect(config.pooling).toMatchObject({
        mode: "mean",
        isNormalized: true,
        dense: [{ outSize: 96 }, { outSize: 48 }],
      });
      expect(weights.dense).toMatchObject([{ activation: "tanh", weight: { shape: [96, 64] } }, { bias: undefined }]);
      expect(files).toContain(join(embedder, "3_Dense", "model.safetensors"));
    });
  });

  test.each([
    [
      { ...size, activation_function: "torch.nn.modules.activation.GELU" },
      "ERR_MODEL_UNSUPPORTED",
      "activation_function",
    ],
    [{ ...size, module_input_name: "token_embeddings" }, "ERR_MODEL_UNSUPPORTED", "module_input_name"],
    [{ in_features: 63, out_features: 96 }, "ERR_MODEL_INVALID", "2_Dense takes 63 numbers, those before it give 64"],
    [{ in_features: 64, out_features: 97 }, "ERR_MODEL_INVALID", "[96, 64], the config promises [97, 64]"],
    [{ in_features: 64, out_features: -1 }, "ERR_MODEL_INVALID", "out_features"],
  ] as const)("that are not served are refused: %j", async (config, code, part) => {
    await expectRefusal(await copyWith(embedder, { "2_Dense/config.json": config }), code, part);
  });

  test("in PyTorch's pickled form are refused, by their folder", async () => {
    const folder = await copyWith(embedder, { "3_Dense/pytorch_model.bin": "" });
    await rm(join(folder, "3_Dense", "model.safetensors"));
    await expectRefusal(folder, "ERR_MODEL_UNSUPPORTED", "3_Dense", "pickled");
    await rm(join(folder, "3_Dense", "pytorch_model.bin"));
    await expectRefusal(folder, "ERR_FILE_NOT_FOUND", "3_Dense", "model.safetensors");
  });
});

test("a decoder in both directions gives embeddings alone, from safetensors and GGUF files", async () => {
  const embedder = fixture("encoders/embeddinggemma");
  const config = JSON.parse(await readFile(join(embedder, "config.json"), "utf8"));
  await opened(embedder, ({ config: { encoder, layers } }) => {
    expect(encoder).toBeDefined();
    expect(layers.map(({ slidingWindow }) => slidingWindow)).toEqual([9, 9, undefined, 9]);
  });
  const ranker = await copyWith(embedder, {
    "config.json": { ...config, architectures: ["Gemma3TextForSequenceClassification"], id2label: { 0: "a" } },
  });
  await rm(join(ranker, "modules.json"));
  await expectRefusal(ranker, "ERR_MODEL_UNSUPPORTED", "both directions");
  const folder = await copyWith(embedder, { "model.onnx": "" });
  await rm(join(folder, "model.safetensors"));
  await expectRefusal(folder, "ERR_MODEL_UNSUPPORTED", "not read from ONNX");
});

describe("classes", () => {
  test("with several labels are refused", async () => {
    const folder = await copyWith(fixture("families/qwen3"), {});
    const config = {
      ...JSON.parse(await readFile(join(folder, "config.json"), "utf8")),
      architectures: ["Qwen3ForSequenceClassification"],
      id2label: { 0: "a", 1: "b" },
    };
    await writeFile(join(folder, "config.json"), JSON.stringify(config));
    await expectRefusal(folder, "ERR_MODEL_UNSUPPORTED", "Qwen3ForSequenceClassification", "2 labels");
  });

  test("that generate have no pooling", async () => {
    await opened(fixture("families/qwen3"), ({ config }) => expect(config.pooling).toBeUndefined());
  });
});

test("scores of a family whose text is not known need a template of pairs", async () => {
  const folder = join(await temporaryFolder(), "model");
  await cp(fixture("families/llama-tied"), folder, { recursive: true });
  await cp(join(EMBEDDING_MODEL, "tokenizer.json"), join(folder, "tokenizer.json"));
  await writeFile(
    join(folder, "modules.json"),
    JSON.stringify([module("Transformer"), module("LogitScore", "1_LogitScore")]),
  );
  await cp(join(reranker, "1_LogitScore"), join(folder, "1_LogitScore"), { recursive: true });
  await writeFile(join(folder, "1_LogitScore", "config.json"), JSON.stringify({ true_token_id: 3, false_token_id: 4 }));
  await opened(folder, async (model) => {
    expect(describeMixture(model)).toBe("a model that gives scores (llama)");
    await expect(model.loadText()).rejects.toMatchObject({ code: "ERR_MODEL_UNSUPPORTED" });
    await cp(join(reranker, "chat_template.jinja"), join(folder, "chat_template.jinja"));
  });
  await opened(folder, async (model) => expect((await model.loadText()).chatTemplate?.knowsPairs).toBe(true));
  await rm(folder, { recursive: true });
});

describe("GGUF files", () => {
  test.each([
    [{ "qwen3.pooling_type": 1 }, "mean"],
    [{ "qwen3.pooling_type": 2 }, "first token"],
    [{ "qwen3.pooling_type": 9 }, "type `9`"],
    [{ "qwen3.pooling_type": 4, "qwen3.classifier.output_labels": ["a", "b"] }, "a, b"],
  ] as const)("that pool otherwise are refused: %j", async (own, part) => {
    await opened(EMBEDDING_MODEL, async (model) => {
      const path = join(await temporaryFolder(), "model.gguf");
      const rows = [new Float32Array(48), new Float32Array(48)];
      await writePoolingGguf(model, path, own, rows);
      await expectRefusal(path, "ERR_MODEL_UNSUPPORTED", part);
    });
  });

  test("that rank need a classifier", async () => {
    await opened(EMBEDDING_MODEL, async (model) => {
      const path = join(await temporaryFolder(), "model.gguf");
      await writePoolingGguf(model, path, { "qwen3.pooling_type": 4 });
      await expectRefusal(path, "ERR_MODEL_INVALID", "cls.output.weight");
    });
  });
});
