// Experts of a model in blocks: rows of its file as they are, and down-projections in blocks of the same types.

import { createHash } from "node:crypto";
import { join } from "node:path";
import { KernelRunner, type KernelRunnerOptions } from "@readme-moe/engine";
import { describeModel, expertUnits, precisionOf } from "@readme-moe/kernel";
import {
  type BlockType,
  GgufTensorStore,
  isBlockType,
  type Model,
  openModel,
  type TensorRef,
  verifyModel,
} from "@readme-moe/model";
import { exportGguf, refactor, tune } from "@readme-moe/refactor";
import { expect, onTestFinished, test } from "vitest";
import { sizeUnit } from "../../packages/refactor/src/experts/budget.ts";
import { writeFirstLayers } from "../support/first-layers.ts";
import { madeTokenizer, writeModelGguf } from "../support/gguf/convert-model.ts";
import { inRandomSteps } from "../support/in-random-steps.ts";
import { withModel } from "../support/mixture-folder.ts";
import { POCKET } from "../support/pocket.ts";
import { LITTLE, pocketTexts } from "../support/pocket-texts.ts";
import { randomInteger, seededRandom } from "../support/random.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

/** Writes two layers of the pocket model as a GGUF file in q4_k_m. @returns its path */
async function blocksOfPocket(): Promise<string> {
  const folder = await temporaryFolder();
  const [dense, half, path] = ["dense", "half.gguf", "blocks.gguf"].map((name) => join(folder, name)) as [
    string,
    string,
    string,
  ];
  await writeFirstLayers(POCKET, dense, 2, { vocab_size: 4096 });
  await withModel(dense, async (model) =>
    writeModelGguf(model, half, "F16", await madeTokenizer({ path: POCKET, config: model.config })),
  );
  await withModel(half, (model) => exportGguf(model, path, { mix: "q4_k_m" }));
  return path;
}

/** Refactors a file into two experts with a shared part. */
async function refactored(path: string, expertSize: number): Promise<Model> {
  const out = join(await temporaryFolder(), "experts");
  const options = { ...LITTLE, baselines: false, routerSteps: 1, expertSize, sharedSize: expertSize / 2, threads: 1 };
  const texts = await pocketTexts(["book", "github"]);
  await withModel(path, (model) => refactor(model, texts, out, options));
  const model = await openModel(out);
  onTestFinished(() => model.close());
  return model;
}

/** Lists the rows of a matrix as text. */
function rowsOf(bytes: Uint8Array, numRows: number): readonly string[] {
  const size = bytes.byteLength / numRows;
  return Array.from({ length: numRows }, (_, row) =>
    Buffer.from(bytes.subarray(row * size, (row + 1) * size)).toString("hex"),
  );
}

test("experts have the rows of the file byte for byte, and the backbone has its blocks", async () => {
  const path = await blocksOfPocket();
  const file = await GgufTensorStore.open(path);
  onTestFinished(() => file.close());
  const model = await refactored(path, 512);
  await verifyModel(model);
  expect(precisionOf(model)).toBe("file");
  const { weights } = model;
  for (const [layer, { shared, experts, attention }] of weights.layers.entries()) {
    for (const { weight } of [attention.query, attention.key, attention.value, attention.output]) {
      expect(weight.store.info(weight.name).type).toBe(file.info(weight.name).type);
      expect(await weight.store.readBytes(weight.name)).toEqual(await file.readBytes(weight.name));
    }
    const used: number[] = [];
    for (const part of [...(shared ? [shared] : []), ...experts]) {
      const places = await Promise.all(
        (["gate", "up"] as const).map(async (product) => {
          const { store, name } = part[product].weight;
          const all = rowsOf(await file.readBytes(`model.layers.${layer}.mlp.${product}_proj.weight`), 1024);
          expect(store.info(name).type).toBe("Q4_K");
          return rowsOf(await store.readBytes(name), 256).map((row) => all.indexOf(row));
        }),
      );
      expect(places[0]).toEqual(places[1]);
      expect(places[0]).not.toContain(-1);
      used.push(...new Set(places[0]));
      const { store, name } = part.down.weight;
      expect(store.info(name).type).toBe(layer === 1 ? "Q6_K" : "Q4_K");
      const norm = (await store.readFloats(name)).reduce((sum, value) => sum + value * value, 0);
      expect(norm).toBeGreaterThan(0);
    }
    expect(used).toHaveLength(3 * 256);
  }
  expect(weights.embedding.store.info(weights.embedding.name).type).toBe("Q6_K");
});

test("a down-projection whose rows are no whole blocks of 256 has blocks of 32", async () => {
  const model = await refactored(await blocksOfPocket(), 448);
  const types = model.weights.layers.map(({ shared, experts }) =>
    [...experts, shared].map((part) => part && part.down.weight.store.info(part.down.weight.name).type),
  );
  expect(types).toEqual([Array(3).fill("Q5_0"), Array(3).fill("Q8_0")]);
});

/** Lists matrices of a model: its embedding, then those of each layer. */
function refsOf({ weights }: Model): readonly TensorRef[] {
  return [
    weights.embedding,
    ...weights.layers.flatMap((layer) => {
      const { query, key, value, output } = layer.attention;
      const parts = [...(layer.shared ? [layer.shared] : []), ...layer.experts];
      const products = parts.flatMap(({ gate, up, down }) => [gate, up, down]);
      return [query, key, value, output, ...products].map(({ weight }) => weight);
    }),
  ];
}

function sizeOf(values: Float32Array): number {
  return Math.sqrt(values.reduce((sum, value) => sum + value * value, 0));
}

test("tuned experts have the same types of blocks, and other weights the same bytes", async () => {
  const path = await blocksOfPocket();
  const student = await refactored(path, 512);
  const out = join(await temporaryFolder(), "tuned");
  const options = { tokens: 512, sequenceTokens: 32, batchSequences: 4, rank: 2, evaluations: 2, threads: 2 };
  const texts = await pocketTexts(["book", "github"]);
  const report = await withModel(path, (teacher) => tune({ student, teacher }, texts, out, options));
  expect(report.options.frozen).toBe("int8");
  const tuned = await openModel(out);
  onTestFinished(() => tuned.close());
  await verifyModel(tuned);
  const [before, after] = [refsOf(student), refsOf(tuned)];
  expect(after).toHaveLength(before.length);
  let numChanged = 0;
  for (const [place, ref] of after.entries()) {
    const old = before[place]!;
    const name = `${place} ${ref.name}`;
    expect(ref.store.info(ref.name).type, name).toBe(old.store.info(old.name).type);
    const isSame = Buffer.compare(await ref.store.readBytes(ref.name), await old.store.readBytes(old.name)) === 0;
    expect(isSame, name).toBe(!ref.name.includes("mlp"));
    if (isSame) continue;
    numChanged++;
    const [values, start] = [await ref.store.readFloats(ref.name), await old.store.readFloats(old.name)];
    expect(sizeOf(values.map((value, i) => value - start[i]!)) / sizeOf(start), name).toBeLessThan(0.2);
  }
  expect(numChanged).toBe(2 * 3 * 3);
});

test("streamed experts in blocks give the same bits as those in memory", async () => {
  const model = await refactored(await blocksOfPocket(), 512);
  const random = seededRandom(5);
  const sequences = [1, 23, 40].map((length) => {
    const ids = Array.from({ length }, () => randomInteger(random, 4096));
    return { ids, experts: ids.map(() => randomInteger(random, 2)) };
  });
  const cacheFolder = await temporaryFolder();
  const digests = async (options: Partial<KernelRunnerOptions>): Promise<readonly string[]> => {
    const runner = await KernelRunner.open(model, { precision: "file", cacheFolder, threads: 1, ...options });
    try {
      const rows = await inRandomSteps(runner, sequences, seededRandom(2));
      if ("expertCacheBytes" in options) expect(runner.memory?.stats.loads).toBeGreaterThan(0);
      return rows.flat().map((row) => createHash("sha256").update(row).digest("hex"));
    } finally {
      await runner.dispose();
    }
  };
  const formats = describeModel(model, "file").layers.flatMap(({ experts = [] }) =>
    experts.map(({ down }) => down.format),
  );
  expect(formats.every((format) => isBlockType(format as BlockType))).toBe(true);
  const unitBytes = Math.max(...expertUnits(describeModel(model, "file")).layerBytes);
  expect(await digests({ expertCacheBytes: 2 * unitBytes })).toEqual(await digests({}));
});

test("sizes of wide layers are whole blocks of 256", () => {
  expect([1024, 4096, 4864, 5000, 8960].map(sizeUnit)).toEqual([1, 256, 256, 1, 256]);
});
