// Rows of fused tensors as tensors of their own, and adapters that change several products at once.

import { cp, writeFile } from "node:fs/promises";
import { join } from "node:path";
import {
  encodeFloats,
  forContext,
  type LinearRefs,
  openLora,
  openModel,
  SafetensorsFile,
  type SafetensorsInput,
  type TensorStore,
  writeSafetensors,
} from "@readme-moe/model";
import { beforeAll, describe, expect, test } from "vitest";
import { TensorParts } from "../../packages/model/src/weights/tensor-parts.ts";
import { fixture } from "../support/fixtures.ts";
import { randomInteger, randomNormal, seededRandom } from "../support/random.ts";
import { expectReadMeError } from "../support/rejection.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const PHI3 = fixture("families/phi3-longrope");
const CHECKPOINT = join(PHI3, "model.safetensors");
const ADAPTER_CONFIG = { peft_type: "LORA", r: 2, lora_alpha: 4, target_modules: "all-linear" };

describe("parts of a tensor", () => {
  const QKV = "model.layers.1.self_attn.qkv_proj.weight";
  let whole: TensorStore;
  let parts: TensorParts;
  beforeAll(async () => {
    whole = await SafetensorsFile.open(CHECKPOINT);
    parts = new TensorParts(
      whole,
      new Map([
        ["first", { of: QKV, rows: { from: 0, to: 50 } }],
        ["rest", { of: QKV, rows: { from: 50, to: 128 } }],
        ["all", { of: QKV }],
      ]),
    );
    return () => whole.close();
  });

  test("replace the tensor; others stay", () => {
    expect(parts.names).toEqual([...whole.names.filter((name) => name !== QKV), "first", "rest", "all"]);
    expect(parts.info("rest")).toEqual({ name: "rest", type: "F32", shape: [78, 64], byteLength: 78 * 64 * 4 });
    expect(parts.info("all")).toMatchObject({ name: "all", shape: [128, 64] });
    expect(parts.info("model.norm.weight")).toEqual(whole.info("model.norm.weight"));
    expect([parts.has("first"), parts.has("model.norm.weight"), parts.has("last")]).toEqual([true, true, false]);
  });

  test("have their rows, whole or in ranges", async () => {
    const floats = await whole.readFloats(QKV);
    expect(await parts.readFloats("first")).toEqual(floats.slice(0, 50 * 64));
    expect(await parts.readFloats("all")).toEqual(floats);
    const random = seededRandom(3);
    for (let round = 0; round < 50; round++) {
      const from = randomInteger(random, 79);
      const to = from + randomInteger(random, 79 - from);
      const expected = floats.slice((50 + from) * 64, (50 + to) * 64);
      expect(await parts.readFloats("rest", { from, to })).toEqual(expected);
      expect(await parts.readBytes("rest", { from, to })).toEqual(new Uint8Array(expected.buffer));
    }
  });

  test("do not reach beyond their rows", async () => {
    await expect(parts.readFloats("first", { from: 0, to: 51 })).rejects.toThrow(/`rows.to`.*`51`/);
    await expectReadMeError(parts.readFloats("last"), "ERR_MODEL_INVALID", CHECKPOINT, "last");
  });
});

async function joined(refs: readonly LinearRefs[]): Promise<readonly number[]> {
  const values = await Promise.all(refs.map(({ weight }) => weight.store.readFloats(weight.name)));
  return values.flatMap((floats) => Array.from(floats));
}

describe("a fused checkpoint", () => {
  test("has the products' rows one after the other: query, key, value, and gate, up", async () => {
    const model = await openModel(PHI3);
    const [{ attention, experts } = expect.fail()] = model.weights.layers;
    const store = await SafetensorsFile.open(CHECKPOINT);
    expect(await joined([attention.query, attention.key, attention.value])).toEqual(
      Array.from(await store.readFloats("model.layers.0.self_attn.qkv_proj.weight")),
    );
    const [{ gate, up } = expect.fail()] = experts;
    expect(await joined([gate, up])).toEqual(
      Array.from(await store.readFloats("model.layers.0.mlp.gate_up_proj.weight")),
    );
    await Promise.all([store.close(), model.close()]);
  });

  test("is refused by the fused tensor's name when it has another number of rows", async () => {
    const folder = join(await temporaryFolder(), "model");
    await cp(PHI3, folder, { recursive: true });
    const store = await SafetensorsFile.open(CHECKPOINT);
    const cut = "model.layers.2.mlp.gate_up_proj.weight";
    const tensors = store.names.map((name): SafetensorsInput => {
      const [rows = 0, ...columns] = store.info(name).shape;
      const to = name === cut ? rows - 2 : rows;
      return { name, type: "F32", shape: [to, ...columns], bytes: () => store.readBytes(name, { from: 0, to }) };
    });
    await writeSafetensors(join(folder, "model.safetensors"), tensors);
    await expectReadMeError(openModel(folder), "ERR_MODEL_INVALID", cut, "[318, 64]", "[320, 64]");
    await store.close();
  });
});

/** Writes an adapter with random matrices of rank 2. @param modules - inputs and outputs by the module's name */
async function writeAdapter(modules: Readonly<Record<string, readonly [inSize: number, outSize: number]>>) {
  const folder = await temporaryFolder();
  const random = seededRandom(8);
  const tensors = Object.entries(modules).flatMap(([module, [inSize, outSize]]): SafetensorsInput[] =>
    [["A", 2, inSize] as const, ["B", outSize, 2] as const].map(([matrix, rows, columns]) => ({
      name: `base_model.model.${module}.lora_${matrix}.weight`,
      type: "F32",
      shape: [rows, columns],
      bytes: async () =>
        encodeFloats(
          Float32Array.from({ length: rows * columns }, () => randomNormal(random)),
          "F32",
        ),
    })),
  );
  await writeSafetensors(join(folder, "adapter_model.safetensors"), tensors);
  await writeFile(join(folder, "adapter_config.json"), JSON.stringify(ADAPTER_CONFIG));
  return folder;
}

describe("an adapter of fused products", () => {
  const QKV = "model.layers.1.self_attn.qkv_proj";

  test("changes each product by its rows of B, and by the same A", async () => {
    const model = await openModel(PHI3);
    const folder = await writeAdapter({ [QKV]: [64, 128], "model.layers.1.mlp.gate_up_proj": [64, 320] });
    const expert = await openLora(folder, "fused", model);
    expect(Object.keys(expert.layers[1] ?? {}).toSorted()).toEqual(["gate", "key", "query", "up", "value"]);
    expect(expert.numParameters).toBe(2 * (64 + 128) + 2 * (64 + 320));
    const { query, key, value } = expert.layers[1] ?? expect.fail();
    const store = await SafetensorsFile.open(join(folder, "adapter_model.safetensors"));
    const b = await store.readFloats(`base_model.model.${QKV}.lora_B.weight`);
    for (const [refs, from, to] of [
      [query, 0, 64],
      [key, 64, 96],
      [value, 96, 128],
    ] as const) {
      expect(refs).toMatchObject({ rank: 2, scale: 2, a: query?.a });
      expect(await refs?.b.store.readFloats(refs.b.name)).toEqual(b.slice(2 * from, 2 * to));
    }
    await Promise.all([model.close(), expert.close(), store.close()]);
  });

  test("is refused when it changes a product twice, or the family has no such module", async () => {
    const model = await openModel(PHI3);
    const twice = await writeAdapter({ [QKV]: [64, 128], "model.layers.1.self_attn.k_proj": [64, 32] });
    await expectReadMeError(openLora(twice, "twice", model), "ERR_MODEL_INVALID", "k_proj", "twice");
    const short = await writeAdapter({ [QKV]: [64, 126] });
    await expectReadMeError(openLora(short, "short", model), "ERR_MODEL_INVALID", "[126, 2]", "[128, 2]");
    const llama = await openModel(fixture("families/llama-tied"));
    const fused = await writeAdapter({ [QKV]: [64, 128] });
    await expectReadMeError(openLora(fused, "fused", llama), "ERR_MODEL_UNSUPPORTED", "qkv_proj");
    await Promise.all([model.close(), llama.close()]);
  });
});

test("a context chooses LongRoPE's factors and a fingerprint of its own; other models stay", async () => {
  const model = await openModel(PHI3);
  const folder = await temporaryFolder();
  expect(model.config.ropes[0]).toMatchObject({ isLong: true });
  expect(forContext(model, 161)).toBe(model);
  const short = forContext(model, 160);
  expect(short.config.ropes[0]).toMatchObject({ isLong: false });
  expect(await short.fingerprint(folder)).not.toBe(await model.fingerprint(folder));
  expect(await short.fingerprint(folder)).toBe(await forContext(model, 7).fingerprint(folder));
  expect(await forContext(short, 512).fingerprint(folder)).not.toBe(await short.fingerprint(folder));
  expect(() => forContext(model, 513)).toThrow(/`contextTokens`.*512.*`513`/);
  const llama = await openModel(fixture("families/llama-tied"));
  expect(forContext(llama, 7)).toBe(llama);
  await Promise.all([model.close(), llama.close()]);
});
