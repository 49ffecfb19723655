// What experts cost that a step does not use: a mixture of SmolLM2's shape with seven experts of half its width, random
// weights, beside a model that is one of those experts alone. Steps of one sequence, and of 16 whose tokens go to
// 1, 2, 4 and 7 experts. Each model and repetition in a process of its own, in turns; medians.
//
//   pnpm bench:experts [--precision int8] [--threads 2] [--past 120] [--rounds 60] [--repetitions 3]

import { spawnSync } from "node:child_process";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { ModelRunner } from "@readme-moe/engine";
import { type KvSlot, KvPool, type Model, type ModelConfig, type Precision, type TensorStore } from "@readme-moe/model";

const { values } = parseArgs({
  options: {
    precision: { type: "string", default: "int8" },
    threads: { type: "string", default: "2" },
    past: { type: "string", default: "120" },
    rounds: { type: "string", default: "60" },
    repetitions: { type: "string", default: "3" },
    experts: { type: "string" },
  },
});
const precision = values.precision as Precision;
const past = Number(values.past);
const rounds = Number(values.rounds);

// Of SmolLM2-135M.
const [HIDDEN, HALF_WIDTH, LAYERS, HEADS, KV_HEADS, HEAD_SIZE, VOCAB] = [576, 768, 30, 9, 3, 64, 49_152];
const config = {
  modelType: "llama",
  vocabSize: VOCAB,
  hiddenSize: HIDDEN,
  intermediateSize: 2 * HALF_WIDTH,
  numLayers: LAYERS,
  numHeads: HEADS,
  numKvHeads: KV_HEADS,
  headSize: HEAD_SIZE,
  rmsNormEpsilon: 1e-5,
  rope: { type: "default", theta: 100_000 },
  contextTokens: 2048,
  slidingWindows: Array.from({ length: LAYERS }, () => undefined),
  hasQkvBias: false,
  hasOutputBias: false,
  hasMlpBias: false,
  hasQkNorm: false,
  hasTiedEmbeddings: true,
  bosTokenId: 0,
  eosTokenIds: [0],
} as unknown as ModelConfig;

if (values.experts === undefined) compare();
else console.log(JSON.stringify(await measure(Number(values.experts))));

function compare(): void {
  const samples = { alone: [] as Record<string, number>[], mixture: [] as Record<string, number>[] };
  for (let repetition = 0; repetition < Number(values.repetitions); repetition++) {
    samples.alone.push(inProcess(1));
    samples.mixture.push(inProcess(7));
  }
  console.log(`SmolLM2's shape, experts of half width, ${precision}, past of ${past} tokens; milliseconds a step`);
  const alone = median(samples.alone.map((times) => times["1 sequence"] as number));
  for (const name of Object.keys(samples.mixture[0] ?? {})) {
    const mixture = median(samples.mixture.map((times) => times[name] as number));
    const more = name === "1 sequence" ? `, ${(((mixture - alone) / alone) * 100).toFixed(1)} % more` : "";
    const one = samples.alone.map((times) => times[name] as number);
    const beside = Number.isFinite(one[0]) ? `; the expert alone ${median(one).toFixed(2)}${more}` : "";
    console.log(`${name}: ${mixture.toFixed(2)}${beside}`);
  }
}

function inProcess(numExperts: number): Record<string, number> {
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    [...process.execArgv, ...process.argv.slice(1), "--experts", String(numExperts)],
    { encoding: "utf8" },
  );
  if (status !== 0) throw new Error(stderr);
  return JSON.parse(stdout) as Record<string, number>;
}

async function measure(numExperts: number): Promise<Record<string, number>> {
  const cacheFolder = join(tmpdir(), "readme-moe-bench-experts");
  const runner = await ModelRunner.open(randomModel(numExperts), {
    precision,
    threads: Number(values.threads),
    cacheFolder,
  });
  const times: Record<string, number> = { "1 sequence": await stepMs(runner, 1, 1) };
  for (const active of [1, 2, 4, 7].filter((count) => count <= numExperts)) {
    times[`16 sequences on ${active} expert${active > 1 ? "s" : ""}`] = await stepMs(runner, 16, active);
  }
  await runner.dispose();
  return times;
}

async function stepMs(runner: ModelRunner, numSeqs: number, numActive: number): Promise<number> {
  const pool = new KvPool({ shape: config, capacityTokens: numSeqs * 256 });
  const slots = Array.from({ length: numSeqs }, () => pool.admit(past + rounds + 8) as KvSlot);
  for (const slot of slots) {
    pool.append(slot, new Float32Array((past * pool.bytesPerToken) / 4).fill(0.01), 0, past);
  }
  const samples: number[] = [];
  for (let round = 0; round < rounds; round++) {
    const sequences = slots.map((slot, index) => ({
      slot,
      tokenIds: [100 + ((index * 31 + round * 7) % 900)],
      experts: [index % numActive],
      logitsOf: [0],
    }));
    const start = performance.now();
    await runner.forward(pool, sequences);
    samples.push(performance.now() - start);
  }
  return median(samples.slice(5));
}

/** Weights come out of a short list of random numbers, again and again. */
function randomModel(numExperts: number): Model {
  const noise = Float32Array.from({ length: 65_521 }, (_, i) => 0.05 * Math.sin(i * i * 12.9898));
  const shapes = new Map<string, readonly number[]>();
  const store: TensorStore = {
    path: "random",
    names: [],
    has: () => true,
    info: (name) => ({ name, type: "F32", shape: shapes.get(name) ?? [], byteLength: 0 }),
    readBytes: () => Promise.reject(new Error("Random weights are no bytes")),
    readFloats: async (name, rows) => {
      const [numRows = 1, ...rest] = shapes.get(name) ?? [];
      const size = rest.reduce((product, length) => product * length, 1);
      const { from, to } = rows ?? { from: 0, to: numRows };
      return Float32Array.from(
        { length: (to - from) * size },
        (_, i) => noise[(from * size + i) % noise.length] as number,
      );
    },
    close: async () => undefined,
  };
  const tensor = (
    name: string,
    ...shape: readonly number[]
  ): { store: TensorStore; name: string; shape: readonly number[] } => {
    shapes.set(name, shape);
    return { store, name, shape };
  };
  const linear = (name: string, numOut: number, numIn: number) => ({
    weight: tensor(name, numOut, numIn),
    bias: undefined,
  });
  const embedding = tensor("embedding", VOCAB, HIDDEN);
  const layers = Array.from({ length: LAYERS }, (_, layer) => ({
    inputNorm: tensor(`${layer}.norm1`, HIDDEN),
    attention: {
      query: linear(`${layer}.q`, HEADS * HEAD_SIZE, HIDDEN),
      key: linear(`${layer}.k`, KV_HEADS * HEAD_SIZE, HIDDEN),
      value: linear(`${layer}.v`, KV_HEADS * HEAD_SIZE, HIDDEN),
      output: linear(`${layer}.o`, HIDDEN, HEADS * HEAD_SIZE),
      queryNorm: undefined,
      keyNorm: undefined,
    },
    postAttentionNorm: tensor(`${layer}.norm2`, HIDDEN),
    shared: undefined,
    experts: Array.from({ length: numExperts }, (__, expert) => ({
      gate: linear(`${layer}.${expert}.gate`, HALF_WIDTH, HIDDEN),
      up: linear(`${layer}.${expert}.up`, HALF_WIDTH, HIDDEN),
      down: linear(`${layer}.${expert}.down`, HIDDEN, HALF_WIDTH),
    })),
  }));
  const sizes = (size: number): readonly number[] => Array.from({ length: LAYERS }, () => size);
  return {
    path: "random",
    kind: "read-me",
    config,
    experts: {
      names: Array.from({ length: numExperts }, (_, expert) => `expert-${expert}`),
      expertSizes: sizes(HALF_WIDTH),
      sharedSizes: sizes(0),
    },
    weights: { embedding, layers, finalNorm: tensor("norm", HIDDEN), head: embedding },
    router: undefined,
    files: [],
    fingerprint: async () => "random",
    loadText: () => Promise.reject(new Error("Random weights have no text")),
    close: async () => undefined,
  };
}

function median(samples: readonly number[]): number {
  return samples.toSorted((a, b) => a - b)[Math.floor(samples.length / 2)] ?? 0;
}
