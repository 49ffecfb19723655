// Checkpoints with weights in MXFP4, as compressed-tensors writes them.

import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { KernelRunner, type KernelRunnerOptions } from "@readme-moe/engine";
import { type KvSlot, precisionOf } from "@readme-moe/kernel";
import {
  baseFiles,
  exportedConfig,
  type Model,
  openModel,
  readMeTensors,
  SafetensorsFile,
  type SafetensorsInput,
  verifyModel,
  writeSafetensors,
} from "@readme-moe/model";
import { describe, expect, onTestFinished, test } from "vitest";
import { mxfp4Tensors } from "../../packages/model/src/weights/tensor-parts.ts";
import { ShardedSafetensors } from "../../packages/model/src/safetensors/safetensors-file.ts";
import type { TensorStore } from "../../packages/model/src/tensor-store.ts";
import type { JsonObject } from "../../packages/model/src/files/read-file.ts";
import { readAllWith, readDamaged, withByte, wrongValues } from "../support/damage.ts";
import * as fc from "../support/fast-check.ts";
import { fixture } from "../support/fixtures.ts";
import { writeModelGguf } from "../support/gguf/convert-model.ts";
import { kvFor } from "../support/greedy.ts";
import { RUNS_LONG_TESTS } from "../support/long-tests.ts";
import { mixtureFolder } from "../support/mixture-folder.ts";
import { ggufMxfp4, mxfp4Value, packedMxfp4, writeMxfp4Folders } from "../support/mxfp4.ts";
import { expectReadMeError } from "../support/rejection.ts";
import { promptLogits, runningModel } from "../support/running-model.ts";
import { safetensorsBytes } from "../support/safetensors-bytes.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const NAME = "model.layers.0.mlp.up_proj.weight";
const IDS = [3, 17, 9, 4, 8, 2, 60, 64, 55];

function bytesInput(name: string, shape: readonly number[], type: SafetensorsInput["type"] = "U8"): SafetensorsInput {
  const length = shape.reduce((product, size) => product * size, type === "U8" ? 1 : 4);
  return { name, type, shape, bytes: async () => new Uint8Array(length) };
}

const numbers = (length: number, max: number): fc.Arbitrary<Uint8Array> =>
  fc.uint8Array({ minLength: length, maxLength: length, max });

const backboneOf = ({ weights }: Model): Promise<readonly Uint8Array[]> =>
  Promise.all(readMeTensors(weights, undefined).backbone.map(({ bytes }) => bytes()));

async function storeOf(inputs: readonly SafetensorsInput[]): Promise<TensorStore> {
  const path = join(await temporaryFolder(), "model.safetensors");
  await writeSafetensors(path, inputs);
  const file = await SafetensorsFile.open(path);
  onTestFinished(() => file.close());
  return mxfp4Tensors(file);
}

describe("a weight in MXFP4", () => {
  const weights = fc
    .record({ rows: fc.integer({ min: 1, max: 5 }), groups: fc.integer({ min: 1, max: 4 }) })
    .chain(({ rows, groups }) => {
      return fc.record({
        shape: fc.constant([rows, 32 * groups] as const),
        // The largest exponent stands for no number.
        own: fc.record({ codes: numbers(32 * rows * groups, 15), exponents: numbers(rows * groups, 254) }),
        rows: fc.uniqueArray(fc.integer({ min: 0, max: rows }), { minLength: 2, maxLength: 2 }),
      });
    });

  test("has the values of its codes and exponents, in GGUF's blocks, in any range of rows", async () => {
    await fc.assert(
      fc.asyncProperty(weights, async ({ shape, own, rows }) => {
        const store = await storeOf([...packedMxfp4(NAME, shape, own), bytesInput("other", [2])]);
        // GGUF's table of levels has no -0.
        const values = Float32Array.from(own.codes, (_, index) => mxfp4Value(own, index) + 0);
        const blocks = ggufMxfp4(own);
        const [numRows, columns] = shape;
        const rowBytes = (17 * columns) / 32;
        expect(store.names).toStrictEqual(["other", NAME]);
        expect(store.info(NAME)).toStrictEqual({ name: NAME, type: "MXFP4", shape, byteLength: numRows * rowBytes });
        expect(await store.readBytes(NAME)).toStrictEqual(blocks);
        expect(await store.readFloats(NAME)).toStrictEqual(values);
        const [from, to] = [Math.min(...rows), Math.max(...rows)];
        expect(await store.readBytes(NAME, { from, to })).toStrictEqual(blocks.slice(from * rowBytes, to * rowBytes));
        expect(await store.readFloats(NAME, { from, to })).toStrictEqual(values.slice(from * columns, to * columns));
        expect(await store.readBytes("other", { from: 1, to: 2 })).toStrictEqual(new Uint8Array(1));
        await expect(store.readBytes(NAME, { from, to: numRows + 1 })).rejects.toThrow(RangeError);
      }),
      { numRuns: 30 },
    );
  });

  test("has the even column in the low half of a byte, and the power of two of its exponent", async () => {
    const store = await storeOf([
      {
        name: `${NAME}_packed`,
        type: "U8",
        shape: [1, 16],
        bytes: async () => Uint8Array.of(0x71, 0x2f, ...Array(14).fill(0)),
      },
      { name: `${NAME}_scale`, type: "U8", shape: [1, 1], bytes: async () => Uint8Array.of(129) },
    ]);
    // 0.5, 6, -6 and 1, each times 4.
    expect(await store.readFloats(NAME)).toStrictEqual(Float32Array.of(2, 24, -24, 4, ...Array(28).fill(0)));
  });

  test("may have its codes and its exponents in different files", async () => {
    const own = { codes: Uint8Array.from({ length: 64 }, (_, i) => i % 16), exponents: Uint8Array.of(120, 130) };
    const folder = await temporaryFolder();
    const [packed, scale] = packedMxfp4(NAME, [2, 32], own);
    await writeSafetensors(join(folder, "0.safetensors"), [packed!]);
    await writeSafetensors(join(folder, "1.safetensors"), [scale!]);
    const weight_map = { [packed!.name]: "0.safetensors", [scale!.name]: "1.safetensors" };
    await writeFile(join(folder, "model.safetensors.index.json"), JSON.stringify({ weight_map }));
    const store = mxfp4Tensors(await ShardedSafetensors.open(join(folder, "model.safetensors.index.json")));
    expect(await store.readBytes(NAME)).toStrictEqual(ggufMxfp4(own));
    await store.close();
  });

  const codes = bytesInput(`${NAME}_packed`, [4, 32]);
  const scales = bytesInput(`${NAME}_scale`, [4, 2]);

  test.each<[string, readonly SafetensorsInput[], "ERR_FILE_CORRUPT" | "ERR_MODEL_UNSUPPORTED", string]>([
    ["without scales", [codes], "ERR_FILE_CORRUPT", `${NAME}_scale`],
    ["with scales of other rows", [codes, bytesInput(`${NAME}_scale`, [2, 4])], "ERR_FILE_CORRUPT", `${NAME}_packed`],
    ["with scales of 16 values", [codes, bytesInput(`${NAME}_scale`, [4, 4])], "ERR_FILE_CORRUPT", `${NAME}_packed`],
    ["with one list of scales", [codes, bytesInput(`${NAME}_scale`, [8])], "ERR_FILE_CORRUPT", `${NAME}_packed`],
    ["with stacked codes", [bytesInput(`${NAME}_packed`, [4, 2, 16]), scales], "ERR_FILE_CORRUPT", `${NAME}_packed`],
    ["with codes of 32 bits", [bytesInput(`${NAME}_packed`, [4, 8], "I32"), scales], "ERR_FILE_CORRUPT", "holds I32"],
    ["with scales of 32 bits", [codes, bytesInput(`${NAME}_scale`, [4, 2], "F32")], "ERR_FILE_CORRUPT", "holds F32"],
    ["beside its values", [codes, scales, bytesInput(NAME, [4, 64], "F32")], "ERR_FILE_CORRUPT", NAME],
    [
      "with a scale of all",
      [codes, scales, bytesInput(`${NAME}_global_scale`, [1], "F32")],
      "ERR_MODEL_UNSUPPORTED",
      "_global_scale",
    ],
    [
      "with zero points",
      [codes, scales, bytesInput(`${NAME}_zero_point`, [4, 2])],
      "ERR_MODEL_UNSUPPORTED",
      "_zero_point",
    ],
    [
      "with an order of groups",
      [codes, scales, bytesInput(`${NAME}_g_idx`, [64], "I32")],
      "ERR_MODEL_UNSUPPORTED",
      "_g_idx",
    ],
  ])("is refused by name %s", async (_, inputs, code, part) => {
    await expectReadMeError(storeOf(inputs), code, "model.safetensors", part);
  });

  test("is refused by name, or harmless, when any byte of the file's header is wrong", async () => {
    const read = readAllWith(async (path) => {
      const file = await SafetensorsFile.open(path);
      try {
        return mxfp4Tensors(file);
      } catch (error) {
        await file.close();
        throw error;
      }
    });
    const header = {
      "a.weight_packed": { dtype: "U8", shape: [2, 16], data_offsets: [0, 32] },
      "a.weight_scale": { dtype: "U8", shape: [2, 1], data_offsets: [32, 34] },
      "b.weight_packed": { dtype: "U8", shape: [0, 16], data_offsets: [34, 34] },
      "b.weight_scale": { dtype: "U8", shape: [0, 1], data_offsets: [34, 34] },
    };
    const whole = safetensorsBytes(header, new Uint8Array(34));
    const path = join(await temporaryFolder(), "x.safetensors");
    expect(await readDamaged(path, whole, read)).toStrictEqual([]);
    let numRefused = 0;
    for (let at = 8; at < whole.byteLength - 34; at++) {
      for (const wrong of wrongValues(whole[at]!).filter((_, index) => RUNS_LONG_TESTS || (index + at) % 5 === 0)) {
        if ((await readDamaged(path, withByte(whole, at, wrong), read)).length > 0) numRefused++;
      }
    }
    expect(numRefused).toBeGreaterThan(RUNS_LONG_TESTS ? 1500 : 300);
  });
});

/** Opens a model, and gives the logits behind a prompt. */
async function logitsOf(path: string, precision: "file" | "fp32" | "int8" | "int4"): Promise<Float32Array> {
  await using running = await runningModel(path, undefined, precision, await temporaryFolder());
  return (await promptLogits(running, IDS)).fullLogits;
}

async function opened(path: string): Promise<Model> {
  const model = await openModel(path);
  onTestFinished(() => model.close());
  return model;
}

const mixture = (): Promise<string> =>
  mixtureFolder({ modelType: "qwen3_moe", normalizesWeights: true, expertSize: 64 });

test.each<[string, () => Promise<string>]>([
  ["Llama", async () => fixture("families/llama-tied")],
  ["Qwen 2, with biases", async () => fixture("families/qwen2")],
  ["Phi-3, with fused tensors", async () => fixture("families/phi3")],
  ["a mixture of single experts", mixture],
])("a checkpoint in MXFP4 has the bits of a GGUF file in MXFP4, and of its values: %s", async (_, write) => {
  const home = await temporaryFolder();
  const { packed, floats } = await writeMxfp4Folders(await write(), home, /\.gate\.weight$/);
  const file = join(home, "model.gguf");
  await writeModelGguf(await opened(floats), file, "MXFP4");
  await verifyModel(await opened(packed));
  for (const precision of ["file", "int4", "int8"] as const) {
    expect(await logitsOf(packed, precision), precision).toStrictEqual(await logitsOf(file, precision));
  }
  expect(await logitsOf(packed, "fp32")).toStrictEqual(await logitsOf(floats, "fp32"));
});

test("a checkpoint in MXFP4 runs as it is by default, also with a head and a table that are not quantised", async () => {
  const { packed, floats } = await writeMxfp4Folders(fixture("families/qwen3"), await temporaryFolder(), /embed|head/);
  const model = await opened(packed);
  expect([precisionOf(model), precisionOf(await opened(floats))]).toStrictEqual(["file", "int8"]);
  expect(model.weights.embedding.store.info("model.embed_tokens.weight").type).toBe("F32");
  expect(await logitsOf(packed, "fp32")).toStrictEqual(await logitsOf(floats, "fp32"));
});

test("experts in MXFP4 that are streamed have the bits of those in memory", async () => {
  const { packed } = await writeMxfp4Folders(await mixture(), await temporaryFolder(), /\.gate\.weight$/);
  const model = await opened(packed);
  const run = async (options: KernelRunnerOptions): Promise<Float32Array> => {
    const cacheFolder = await temporaryFolder();
    const runner = await KernelRunner.open(model, {
      threads: 1,
      precision: "file",
      kvPrecision: "fp16",
      cacheFolder,
      ...options,
    });
    const kv = kvFor(runner, IDS.length);
    const sequence = { slot: kv.admit(IDS.length) as KvSlot, tokenIds: IDS, experts: IDS.map(() => 0) };
    const [result] = await runner.forward(kv, [{ ...sequence, logitsOf: [IDS.length - 1], wantsFullLogits: true }]);
    const logits = result!.fullLogits.slice();
    kv.dispose();
    await runner.dispose();
    return logits;
  };
  // Room for 3 of 15 experts.
  expect(await run({ expertCacheBytes: 16_000 })).toStrictEqual(await run({}));
});

test("files that are written from a checkpoint in MXFP4 do not say that they are quantised", async () => {
  const { packed, floats } = await writeMxfp4Folders(fixture("families/llama-tied"), await temporaryFolder(), /embed/);
  const [model, plain] = [await opened(packed), await opened(floats)];
  const files = await baseFiles(model);
  expect(files).toStrictEqual(await baseFiles(plain));
  const own: JsonObject = JSON.parse(await readFile(join(packed, "config.json"), "utf8"));
  const json = JSON.stringify(exportedConfig(model.config, own, { dtypes: ["fp32"], withDataFile: [] }));
  expect(json).not.toContain("quantization");
  expect(await backboneOf(model)).toStrictEqual(await backboneOf(plain));
});
