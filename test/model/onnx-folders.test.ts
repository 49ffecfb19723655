// Folders with ONNX files of other tools and of our own export: weights and logits beside those of the checkpoints that
// they were made of, and beside onnxruntime's.

import { copyFile, mkdir, readdir } from "node:fs/promises";
import { join } from "node:path";
import { OnnxTensorStore, openModel, storedBlocks, type TensorStore, verifyModel } from "@readme-moe/model";
import { exportTransformersJs } from "@readme-moe/refactor";
import { beforeAll, describe, expect, test } from "vitest";
import { fixture, fixtureNames } from "../support/fixtures.ts";
import { runtimeLogits, writeOnnxFixtures } from "../support/onnx-fixtures.ts";
import { POCKET } from "../support/pocket.ts";
import { expectReadMeError } from "../support/rejection.ts";
import { largestDifference, promptLogits, runningModel } from "../support/running-model.ts";
import { persistentFolder, temporaryFolder } from "../support/temporary-folder.ts";

let root: string;
beforeAll(async () => {
  root = await persistentFolder();
  await writeOnnxFixtures(root);
});

const PROMPT = [3, 14, 15, 9, 26, 5, 35, 8, 58, 9, 7, 61];

async function ourLogits(path: string, precision: "fp32" | "int8" | "int4" = "fp32"): Promise<Float32Array> {
  await using running = await runningModel(path, undefined, precision, await temporaryFolder());
  return (await promptLogits(running, PROMPT)).fullLogits;
}

function storeOf({ weights }: { readonly weights: { readonly embedding: { readonly store: TensorStore } } }) {
  return weights.embedding.store;
}

/** The largest difference of a tensor's values from those of the checkpoint, relative to the largest magnitude. */
async function relativeErrors(path: string, dense: string): Promise<ReadonlyMap<string, number>> {
  const [model, reference] = [await openModel(path), await openModel(dense)];
  const [store, own] = [storeOf(model), storeOf(reference)];
  const errors = new Map<string, number>();
  for (const name of store.names) {
    const expected = await own.readFloats(own.has(name) ? name : "model.embed_tokens.weight");
    const largest = expected.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    errors.set(name, largestDifference(await store.readFloats(name), expected) / largest);
    expect(store.info(name).shape).toEqual(own.info(own.has(name) ? name : "model.embed_tokens.weight").shape);
  }
  expect(own.names.filter((name) => !store.has(name))).toEqual([]);
  await Promise.all([model.close(), reference.close()]);
  return errors;
}

/** Files of the fixtures, with the largest error of weights that their rounding makes. */
const FILES: readonly (readonly [folder: string, file: string, error: number])[] = [
  ["llama-optimum", "model.onnx", 0],
  ["llama-optimum", "model_fp16.onnx", 0],
  ["llama-optimum", "model_quantized.onnx", 1 / 200],
  ["llama-optimum", "decoder_model_merged_quantized.onnx", 1 / 200],
  ["llama-optimum", "model_int8.onnx", 1 / 200],
  ["llama-optimum", "model_q4.onnx", 1 / 8],
  ["llama-optimum", "model_q4_asymmetric.onnx", 1 / 14],
  ["llama-optimum", "model_q4f16.onnx", 1 / 8],
  ["llama-optimum", "model_q4_gather.onnx", 1 / 8],
  ["llama-optimum", "model_q4_qdq.onnx", 1 / 8],
  ["llama-builder-int4", "model.onnx", 1 / 8],
  ["qwen2-optimum", "model_uint8.onnx", 1 / 200],
  ["qwen2-optimum", "model_b8.onnx", 1 / 200],
  ["qwen2-builder-fp32", "model.onnx", 0],
  ["qwen2-builder-fp16", "model.onnx", 0],
];

describe.each(FILES)("%s/%s", (folder, file, error) => {
  const path = (): string => join(root, folder, "onnx", file);
  const dense = (): string => join(root, folder.split("-")[0] ?? "");

  test("has the checkpoint's weights, as exactly as its type allows", async () => {
    for (const [name, found] of await relativeErrors(path(), dense())) {
      expect(found, name).toBeLessThanOrEqual(error);
    }
  });

  test("gives the same rows however they are read", async () => {
    const model = await openModel(path());
    const store = storeOf(model);
    for (const name of store.names) {
      const [numRows = 0, numColumns = 1] = store.info(name).shape;
      const whole = await store.readFloats(name);
      for (let from = 0; from < numRows; from += 13) {
        const rows = { from, to: Math.min(numRows, from + 13) };
        const part = await store.readFloats(name, rows);
        expect(part).toEqual(whole.slice(rows.from * numColumns, rows.to * numColumns));
      }
      expect((await store.readBytes(name)).byteLength).toBe(store.info(name).byteLength);
      expect(() => store.info(`${name}.`)).toThrow(/has no tensor/);
      await expect(store.readFloats(name, { from: 0, to: numRows + 1 })).rejects.toThrow(RangeError);
    }
    await verifyModel(model);
    await model.close();
  });

  test("gives its blocks, if it has some, as the numbers that they stand for", async () => {
    const model = await openModel(path());
    const store = storeOf(model);
    const names = store.names.filter((name) => store.blocks?.(name) !== undefined);
    expect(names.length > 0).toBe(/q4|int4|b8/.test(path()) && !file.includes("b8"));
    for (const name of names) {
      const source = storedBlocks({ store, name, shape: store.info(name).shape });
      const { bits, blockSize, hasOffsets, quants, scales, offsets } = await source!.read();
      const values = Float32Array.from(quants, (quant, i) => {
        const block = Math.floor(i / blockSize);
        return scales[block]! * (quant - 2 ** (bits - 1)) + (hasOffsets ? offsets[block]! : 0);
      });
      expect(largestDifference(values, await store.readFloats(name))).toBeLessThan(1e-6);
    }
    await model.close();
  });
});

describe("logits", () => {
  test.each([
    ["llama", "llama-optimum", "model.onnx"],
    // All weights of the fixtures are exact in half precision.
    ["llama", "llama-optimum", "model_fp16.onnx"],
    ["qwen2", "qwen2-builder-fp32", "model.onnx"],
    ["qwen2", "qwen2-builder-fp16", "model.onnx"],
  ])("of the checkpoint %s are those of %s/%s, bit for bit", async (dense, folder, file) => {
    expect(await ourLogits(join(root, folder, "onnx", file))).toEqual(await ourLogits(join(root, dense)));
  });

  // Weights are the same. In 8 bits, and in blocks of a `DequantizeLinear`, the runtime also rounds the inputs of products
  // to 8 bits, in q8 with one scale for all of them: up to 22 % of the largest logit with these random weights.
  test.each([
    ["llama-optimum", "model.onnx", 1e-4],
    ["llama-optimum", "model_q4.onnx", 1e-4],
    ["llama-optimum", "model_q4_asymmetric.onnx", 1e-4],
    ["llama-optimum", "model_q4_gather.onnx", 1e-4],
    ["llama-optimum", "model_q4_qdq.onnx", 0.1],
    ["llama-optimum", "model_quantized.onnx", 0.25],
    ["llama-optimum", "model_int8.onnx", 0.25],
    ["llama-optimum", "model_q4f16.onnx", 0.02],
    ["qwen2-optimum", "model_uint8.onnx", 0.15],
    ["qwen2-optimum", "model_b8.onnx", 1e-4],
    ["llama-builder-int4", "model.onnx", 0.05],
    ["qwen2-builder-fp32", "model.onnx", 1e-4],
  ])("of %s/%s in float32 are onnxruntime's within %f of the largest", async (folder, file, bound) => {
    const path = join(root, folder, "onnx", file);
    const model = await openModel(path);
    const expected = await runtimeLogits(path, model.config, PROMPT, { position_ids: !folder.includes("builder") });
    await model.close();
    const largest = expected.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    expect(largestDifference(await ourLogits(path), expected)).toBeLessThan(bound * largest);
  });

  // As the adapter runs q4: the blocks of the file, and inputs of products rounded to 8 bits, a scale for each row.
  test("of q4 in int4 are onnxruntime's within 10 % of the largest, and 2.5 % in the mean", async () => {
    const path = join(root, "llama-optimum", "onnx", "model_q4.onnx");
    const model = await openModel(path);
    const expected = await runtimeLogits(path, model.config, PROMPT, { position_ids: true });
    await model.close();
    const ours = await ourLogits(path, "int4");
    const largest = expected.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    const mean = ours.reduce((sum, value, i) => sum + Math.abs(value - expected[i]!), 0) / ours.length;
    expect(largestDifference(ours, expected)).toBeLessThan(0.1 * largest);
    expect(mean).toBeLessThan(0.025 * largest);
  });

  test.each([
    ["model_q4_asymmetric.onnx", "int4"],
    ["model_q4_gather.onnx", "int4"],
    ["model_q4_qdq.onnx", "int4"],
    ["model_quantized.onnx", "int8"],
  ] as const)("of %s in %s are near those in float32: only inputs are rounded", async (file, precision) => {
    const path = join(root, "llama-optimum", "onnx", file);
    const expected = await ourLogits(path);
    const largest = expected.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    expect(largestDifference(await ourLogits(path, precision), expected)).toBeLessThan(0.15 * largest);
  });
});

describe("a folder", () => {
  test("opens by its most exact file, a path to a file opens that one, and the head is the file's", async () => {
    const folder = join(root, "llama-optimum");
    const model = await openModel(folder);
    expect(storeOf(model).path).toBe(join(folder, "onnx", "model.onnx"));
    expect(model.path).toBe(folder);
    expect(model.config.hasTiedEmbeddings).toBe(true);
    expect((await model.loadText()).tokenizer.encode("The ship").length).toBeGreaterThan(0);
    await model.close();
    const separate = await openModel(join(folder, "onnx", "model_q4_gather.onnx"));
    expect(separate.config.hasTiedEmbeddings).toBe(false);
    await separate.close();
  });

  test("has files with weights beside the graph among its files", async () => {
    const folder = join(root, "qwen2-builder-fp32");
    const model = await openModel(folder);
    const files = model.files.map((path) => path.slice(folder.length + 1).replaceAll("\\", "/"));
    expect(files).toEqual(["config.json", "onnx/model.onnx", "onnx/model.onnx.data"]);
    expect(await model.fingerprint(await temporaryFolder())).toMatch(/^[0-9a-f]{64}$/);
    await model.close();
  });

  test("is refused by name when its file has bitsandbytes' 4 bits", async () => {
    const path = join(root, "llama-optimum", "onnx", "model_bnb4.onnx");
    await expectReadMeError(openModel(path), "ERR_MODEL_UNSUPPORTED", path, "use q4");
    const renamed = join(await temporaryFolder(), "model.onnx");
    await copyFile(path, renamed);
    await copyFile(join(root, "llama", "config.json"), join(renamed, "..", "config.json"));
    await expectReadMeError(openModel(renamed), "ERR_MODEL_UNSUPPORTED", renamed, "MatMulBnb4");
  });

  test("with several files of unusual names asks for one", async () => {
    const folder = await temporaryFolder();
    await mkdir(join(folder, "onnx"));
    await copyFile(join(root, "llama", "config.json"), join(folder, "config.json"));
    const source = join(root, "llama-optimum", "onnx", "model_q4.onnx");
    await copyFile(source, join(folder, "onnx", "one.onnx"));
    await (await openModel(folder)).close();
    await copyFile(source, join(folder, "onnx", "two.onnx"));
    await expectReadMeError(openModel(folder), "ERR_MODEL_INVALID", "2 ONNX files");
  });
});

const readFamilies = fixtureNames("families").filter((name) => !/gemma|phi3/.test(name));

describe.each(readFamilies)("our export of %s", (name) => {
  test("has the checkpoint's weights in all data types, and its logits in float32 bit for bit", async () => {
    const dense = join(await temporaryFolder(), "dense");
    await mkdir(dense);
    for (const file of await readdir(fixture(name))) await copyFile(join(fixture(name), file), join(dense, file));
    await copyFile(join(POCKET, "tokenizer.json"), join(dense, "tokenizer.json"));
    const folder = join(await temporaryFolder(), "exported");
    const model = await openModel(dense);
    await exportTransformersJs(model, folder);
    await model.close();
    for (const [file, most] of [
      ["model.onnx", 0],
      ["model_quantized.onnx", 1 / 200],
      ["model_q4.onnx", 1 / 8],
    ] as const) {
      const errors = await relativeErrors(join(folder, "onnx", file), dense);
      expect(Math.max(...errors.values()), file).toBeLessThanOrEqual(most);
    }
    expect(await ourLogits(folder)).toEqual(await ourLogits(dense));
  });
});

test("a store refuses families whose exports were not compared", async () => {
  const model = await openModel(join(root, "llama"));
  const other = { ...model.config, modelType: "gemma3_text" };
  await model.close();
  const path = join(root, "llama-optimum", "onnx", "model.onnx");
  await expectReadMeError(OnnxTensorStore.open(path, other), "ERR_MODEL_UNSUPPORTED", "gemma3_text");
});
