// Experts of every kind over the blocks of files: the same bits alone and in any batch, in memory and streamed.

import { createHash } from "node:crypto";
import { open, readdir, readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import {
  KernelRunner,
  openExperts,
  ReadMeEngine,
  type KernelRunnerOptions,
  type OpenOptions,
} from "@readme-moe/engine";
import { describeModel, expertUnits } from "@readme-moe/kernel";
import { encodeFloats, openModel, type Model, type SafetensorsInput, writeReadMeFolder } from "@readme-moe/model";
import { expect, onTestFinished, test } from "vitest";
import { plainLogits } from "../oracles/plain-decoder.ts";
import { complete } from "../support/complete.ts";
import { writeFirstLayers } from "../support/first-layers.ts";
import { writeModelGguf, writeQ8Gguf } from "../support/gguf/convert-model.ts";
import type { MatrixType } from "../support/gguf/convert-mixture.ts";
import { inRandomSteps } from "../support/in-random-steps.ts";
import { mixtureFolder, withModel } from "../support/mixture-folder.ts";
import { POCKET } from "../support/pocket.ts";
import { randomInteger, seededRandom } from "../support/random.ts";
import type { MixtureShape } from "../support/random-mixture.ts";
import { expectReadMeError } from "../support/rejection.ts";
import { largestDifference } from "../support/running-model.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { writeTinyAdapter } from "../support/tiny-adapter.ts";
import { tinyContent } from "../support/tiny-read-me.ts";

/** Types of matrices in turn. Those with blocks of 256 do not fit the inputs of `down` of the smaller experts. */
const LONG_ROWS = ["Q4_K", "Q6_K", "Q2_K", "Q3_K", "Q5_K", "IQ4_XS", "TQ2_0"] as const;
const SHORT_ROWS = ["Q5_0", "Q8_0", "IQ4_NL", "MXFP4", "Q4_0", "Q4_1", "Q5_1"] as const;
const TYPES: readonly MatrixType[] = LONG_ROWS.flatMap((type, index) => [type, SHORT_ROWS[index]!]);

/** Writes a model as a GGUF file with blocks of many types, and opens it. */
async function blocksOf(folder: string): Promise<Model> {
  const path = join(await temporaryFolder(), "model.gguf");
  await withModel(folder, (model) => writeModelGguf(model, path, TYPES));
  return opened(path);
}

async function opened(path: string): Promise<Model> {
  const model = await openModel(path);
  onTestFinished(() => model.close());
  return model;
}

/** Sequences of tokens with experts that change at times. */
function randomSequences({ config }: Model, numExperts: number) {
  const random = seededRandom(9);
  return [1, 23, 40, 9, 31].map((length) => {
    let expert = 0;
    const ids = Array.from({ length }, () => randomInteger(random, config.vocabSize));
    const experts = ids.map(() => (expert = random() < 0.8 ? expert : randomInteger(random, numExperts)));
    return { ids, experts };
  });
}

interface Compared {
  readonly numExperts?: number;
  /** Adapters by name. */
  readonly loras?: Readonly<Record<string, string>>;
  /** Options of runners that stream experts. */
  readonly streamed: readonly Partial<KernelRunnerOptions>[];
  readonly precision?: KernelRunnerOptions["precision"];
  /** Whether all weights are in blocks. @default true */
  readonly hasBlocks?: boolean;
}

function digestOf(rows: readonly Float32Array[]): string {
  const hash = createHash("sha256");
  for (const row of rows) hash.update(row);
  return hash.digest("hex");
}

/** Compares sequences alone with random steps of all, in memory and streamed. @returns the logits of each alone */
async function compareBits(model: Model, compared: Compared) {
  const { numExperts = 1, loras, streamed, precision = "file", hasBlocks = true } = compared;
  const sequences = randomSequences(model, numExperts);
  const random = seededRandom(4);
  const cacheFolder = await temporaryFolder();
  const withRunner = async <Result>(options: object, use: (runner: KernelRunner) => Promise<Result>) => {
    const runner = await KernelRunner.open(model, { precision, cacheFolder, threads: 1, ...options });
    const set = await openExperts(runner, model, loras);
    try {
      return await use(runner);
    } finally {
      await runner.dispose();
      await set.close();
    }
  };
  const alone = await withRunner({}, async (runner) => {
    const rows: (readonly Float32Array[])[] = [];
    for (const one of sequences) rows.push(...(await inRandomSteps(runner, [one], () => 0.999)));
    return rows;
  });
  // Weights of 16 bits are multiplied in float32, which rounds once in an addon and twice in WebAssembly.
  const inWasm = hasBlocks ? [{ ...streamed[1], kernel: "wasm" }] : [];
  for (const options of [{ threads: 3 }, ...streamed, ...inWasm]) {
    await withRunner(options, async (runner) => {
      for (let time = 0; time < 2; time++) {
        const together = await inRandomSteps(runner, sequences, random);
        expect(together.map(digestOf), JSON.stringify(options)).toStrictEqual(alone.map(digestOf));
      }
      const { memory } = runner;
      expect(memory !== undefined).toBe("expertCacheBytes" in options);
      memory?.cache.checkIntegrity();
      if (!memory) return;
      expect(memory.stats.usedBytes).toBeLessThanOrEqual(memory.stats.budgetBytes);
      expect(memory.stats.loads).toBeGreaterThan(0);
    });
  }
  return { sequences, alone, cacheFolder };
}

const MIXTURES: readonly (Pick<MixtureShape, "modelType" | "seed" | "expertSize"> & Partial<MixtureShape>)[] = [
  { modelType: "qwen3_moe", seed: 2, expertSize: 256, normalizesWeights: true },
  { modelType: "olmoe", seed: 3, expertSize: 96 },
  { modelType: "granitemoe", seed: 4, expertSize: 64 },
  { modelType: "mixtral", seed: 5, expertSize: 256 },
];

test.each(MIXTURES)("a mixture of $modelType with experts of $expertSize", async (own) => {
  const shape = { hiddenSize: 256, headSize: 64, numHeads: 4, numLayers: 3, numExperts: 6, expertsPerToken: 2 };
  const model = await blocksOf(await mixtureFolder({ ...shape, ...own }));
  const { layers } = describeModel(model, "file");
  const experts = layers.flatMap(({ mixture }) => mixture?.experts ?? []);
  const formats = new Set(experts.flatMap(({ gate, up, down }) => [gate?.format, up.format, down.format]));
  expect(formats.size).toBeGreaterThan(5);
  const unitBytes = Math.max(...expertUnits(describeModel(model, "file")).layerBytes);
  const streamed = [2, 5, 18].map((count) => ({ expertCacheBytes: count * unitBytes }));
  const { sequences, alone, cacheFolder } = await compareBits(model, { streamed });
  // Units come from the model's own file: nothing but records of it is in the cache folder.
  const cached = await readdir(cacheFolder, { recursive: true, withFileTypes: true });
  const sizes = await Promise.all(
    cached
      .filter((entry) => entry.isFile())
      .map(async ({ parentPath, name }) => (await stat(join(parentPath, name))).size),
  );
  expect(sizes.reduce((sum, size) => sum + size, 0)).toBeLessThan(4096);
  expect(cached.map(({ name }) => name)).not.toContain("kernels");
  // Inputs of products are rounded to 8 bits, after which some routers choose another expert.
  const { ids } = sequences[3]!;
  const expected = await plainLogits(model, ids, new Uint16Array(ids.length));
  const errors = expected.map((row, position) => {
    const size = Math.sqrt(row.reduce((sum, logit) => sum + logit * logit, 0) / row.length);
    return largestDifference(alone[3]![position]!, row) / size;
  });
  expect(errors.toSorted((a, b) => a - b)[errors.length >> 1]).toBeLessThan(0.2);
});

test("loras of a dense model, beside rows without one", async () => {
  const dense = join(await temporaryFolder(), "dense");
  await writeFirstLayers(POCKET, dense, 2, { vocab_size: 4096 });
  const model = await blocksOf(dense);
  const loras: Record<string, string> = {};
  for (const [index, name] of ["legal", "sales", "poetry"].entries()) {
    const rank = 4 + 9 * index;
    loras[name] = await writeTinyAdapter(join(await temporaryFolder(), name), model.config, {
      seed: index,
      rankOf: () => rank,
      config: { r: rank },
    });
  }
  const bytes = await largestExpert(model, loras);
  const streamed = [1, 2].map((count) => ({ expertCacheBytes: count * bytes }));
  const { alone, sequences } = await compareBits(model, { numExperts: 4, loras, streamed });
  // The experts matter.
  const plain = sequences.map(({ ids }) => ({ ids }));
  await using runner = await KernelRunner.open(model, { precision: "file", threads: 1 }).then((one) =>
    Object.assign(one, { [Symbol.asyncDispose]: () => one.dispose() }),
  );
  const without = await inRandomSteps(runner, plain, seededRandom(1));
  expect(without.map(digestOf)).not.toContain(digestOf(alone[2]!));
});

test.each(["native", "wasm"] as const)(
  "a file that is cut or changed while a %s kernel streams from it fails what needs it, naming the unit",
  async (kernel) => {
    const model = await blocksOf(await mixtureFolder({ modelType: "olmoe", hiddenSize: 256, expertSize: 64 }));
    const unitBytes = Math.max(...expertUnits(describeModel(model, "file")).layerBytes);
    const options = { precision: "file", threads: 1, kernel, expertCacheBytes: 2 * unitBytes } as const;
    const runner = await KernelRunner.open(model, {
      ...options,
      readAhead: false,
      cacheFolder: await temporaryFolder(),
    });
    onTestFinished(() => runner.dispose());
    const ids = [5, 61, 33, 8, 90, 2];
    const run = () => inRandomSteps(runner, [{ ids }], () => 0.999);
    const expected = (await run()).map(digestOf);
    const file = await open(model.path, "r+");
    onTestFinished(() => file.close());
    const { size, atime, mtime } = await file.stat();
    const whole = await readFile(model.path);
    await file.truncate(size - unitBytes);
    await file.utimes(atime, mtime);
    await expectReadMeError(run(), "ERR_FILE_UNREADABLE", "was changed since it was opened");
    // A write of the same length.
    await file.write(whole, 0, size, 0);
    await file.utimes(atime, new Date(mtime.getTime() + 1000));
    const message = /layer \d of expert \d cannot be read: .* was changed since it was opened/;
    await expect(run()).rejects.toThrow(message);
    expect((await withModel(model.path, (again) => logitsOf(again, ids))).map(digestOf)).toStrictEqual(expected);
    runner.memory?.cache.checkIntegrity();
    expect(runner.memory?.stats.failedReads).toBeGreaterThan(0);
  },
);

const request = (id: number) => ({
  prompt: [id, 7, 900 + id],
  params: { maxTokens: 20, temperature: 0, ignoreEos: true },
});

function answers(engine: ReadMeEngine): Promise<readonly (readonly number[])[]> {
  return Promise.all([1, 2, 3, 4].map(async (id) => (await complete(engine, request(id))).ids));
}

test.each(["thread", "process"] as const)(
  "an engine in a %s streams a mixture from its file where the cache folder cannot be written, also when it ends meanwhile",
  async (isolation) => {
    const folder = await mixtureFolder({ modelType: "olmoe", vocabSize: 4096, expertSize: 32 }, { hasTokenizer: true });
    const path = join(await temporaryFolder(), "model.gguf");
    await withModel(folder, (model) => writeQ8Gguf(model, path));
    const unitBytes = await withModel(path, async (model) => expertUnits(describeModel(model, "file")).layerBytes[0]!);
    const notFolder = join(path, "cache");
    const openEngine = (options: OpenOptions) =>
      ReadMeEngine.open(path, { isolation, threads: 1, cacheFolder: notFolder, prefixCacheBytes: 0, ...options });
    const whole = await openEngine({});
    const expected = await answers(whole);
    await whole.dispose();
    const engine = await openEngine({ expertCacheBytes: 3 * unitBytes });
    expect(engine.info.precision).toBe("file");
    expect(await answers(engine)).toStrictEqual(expected);
    expect((await engine.stats()).expertCache?.loads).toBeGreaterThan(0);
    const started = new Promise<void>((resolve) => void engine.events.on("token:generated", () => resolve()));
    const running = Promise.allSettled([1, 2].map((id) => complete(engine, { ...request(id), expert: 0 })));
    await started;
    await engine.dispose();
    for (const { status } of await running) expect(status).toBe("rejected");
  },
);

async function logitsOf(model: Model, ids: readonly number[]) {
  const runner = await KernelRunner.open(model, { precision: "file", threads: 1 });
  const logits = await inRandomSteps(runner, [{ ids }], () => 0.999);
  await runner.dispose();
  return logits;
}

async function largestExpert(model: Model, loras: Readonly<Record<string, string>>): Promise<number> {
  const runner = await KernelRunner.open(model, { precision: "file", threads: 1 });
  let bytes = 0;
  const set = await openExperts(runner, model, loras, (event) => (bytes = Math.max(bytes, event.bytes)));
  await set.close();
  await runner.dispose();
  return bytes;
}

// Read-ME folders have safetensors files, which have no blocks: "file" keeps 16 bits of a weight, "int4" fits blocks.
test.each(["file", "int4"] as const)("Read-ME experts with shared rows in %s", async (precision) => {
  const path = join(await temporaryFolder(), "model");
  const content = tinyContent({ numExperts: 4, expertSizes: [32, 64], sharedSizes: [32, 0], hasBias: true });
  const { backbone, experts, router } = content.tensors;
  const halved = experts.map((own) => own.map((input) => inType(input, "F16")));
  await writeReadMeFolder(path, {
    ...content,
    tensors: { backbone: backbone.map((input) => inType(input, "BF16")), experts: halved, router },
  });
  const model = await opened(path);
  const { layers } = describeModel(model, precision);
  const formats = new Set(layers.flatMap(({ experts: own = [] }) => own.map(({ up }) => up.format)));
  if (precision === "file") expect(formats).toStrictEqual(new Set(["F16"]));
  const unitBytes = Math.max(...expertUnits(describeModel(model, precision)).layerBytes);
  // Blocks are fitted with statistics, and have other sizes than those without.
  const streamed = [4, 5, 8].map((count) => ({ expertCacheBytes: count * 2 * unitBytes }));
  await compareBits(model, { numExperts: 4, streamed, precision, hasBlocks: precision !== "file" });
});

/** Rounds a tensor of float32 to 16 bits. */
function inType(input: SafetensorsInput, type: "F16" | "BF16"): SafetensorsInput {
  const bytes = async () => encodeFloats(new Float32Array((await input.bytes()).buffer as ArrayBuffer), type);
  return { ...input, type, bytes };
}
