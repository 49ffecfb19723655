// Measures low-rank experts of a dense model: speed beside the model without experts, by turns in one run; a budget that
// holds a fifth of them; memory; and the time of adding one. The adapters have rank 16 and random numbers.
//
//   npm run bench:low-rank -- <dense model> [--threads 2] [--rounds 5] [--tokens 96] [--precision int8] [--all-modules]

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { seededRandom } from "@readme-moe/core";
import { ReadMeEngine } from "@readme-moe/engine";
import { openModel, type Precision } from "@readme-moe/model";
import { LAYER_MODULES, writeTinyAdapter } from "../test/support/tiny-adapter.ts";
import { median, percentile } from "./kit/statistics.ts";
import { turnsOf } from "./kit/turns.ts";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    threads: { type: "string", default: "2" },
    rounds: { type: "string", default: "5" },
    tokens: { type: "string", default: "96" },
    precision: { type: "string", default: "int8" },
    "all-modules": { type: "boolean", default: false },
  },
});
const [path = "models/pocket"] = positionals;
const [threads, rounds, maxTokens] = [values.threads, values.rounds, values.tokens].map(Number) as [
  number,
  number,
  number,
];
const RANK = 16;
const NUM_EXPERTS = 100;
const ZIPF_EXPONENT = 1;
const modules = values["all-modules"] ? LAYER_MODULES : LAYER_MODULES.filter((name) => name.startsWith("mlp."));
const options = { threads, precision: values.precision as Precision, prefixCacheBytes: 0 };

const folder = await mkdtemp(join(tmpdir(), "low-rank-"));
try {
  const loras = await writeAdapters();
  await compareWithDense(loras);
  await compareBudgets(loras);
  await addWhileRunning(loras);
} finally {
  await rm(folder, { recursive: true, force: true });
}

/** Writes a few adapters, which a hundred experts share. */
async function writeAdapters(): Promise<Readonly<Record<string, string>>> {
  const model = await openModel(path);
  const paths: string[] = [];
  for (let seed = 0; seed < 20; seed++) {
    const adapter = { seed, modules, size: 0.02, rankOf: () => RANK, type: "F16", config: { r: RANK } } as const;
    paths.push(await writeTinyAdapter(join(folder, String(seed)), model.config, adapter));
  }
  await model.close();
  return Object.fromEntries(
    Array.from({ length: NUM_EXPERTS }, (_, index) => [`expert-${index}`, paths[index % paths.length] ?? ""]),
  );
}

/** Runs requests at once, one for each expert. @returns tokens per second */
async function throughput(engine: ReadMeEngine, experts: readonly (string | undefined)[]): Promise<number> {
  const startMs = performance.now();
  const counts = await Promise.all(
    experts.map(async (expert, index) => {
      let tokens = 0;
      const prompt = Array.from({ length: 16 }, (_, i) => 100 + 7 * index + i);
      const params = { maxTokens, temperature: 0, ignoreEos: true };
      for await (const chunk of engine.generate({ prompt, params, expert })) tokens += chunk.tokens.length;
      return tokens;
    }),
  );
  return (1000 * counts.reduce((sum, count) => sum + count, 0)) / (performance.now() - startMs);
}

async function compareWithDense(loras: Readonly<Record<string, string>>): Promise<void> {
  const some = Object.fromEntries(Object.entries(loras).slice(0, 16));
  await using dense = await ReadMeEngine.open(path, options);
  await using engine = await ReadMeEngine.open(path, { ...options, loras: some });
  const cases = [
    { name: "1 request", experts: [1] },
    { name: "4 requests over 4 experts", experts: Array.from({ length: 4 }, (_, i) => 1 + i) },
    { name: "16 requests over 1 expert", experts: Array.from({ length: 16 }, () => 1) },
    { name: "16 requests over 7 experts", experts: Array.from({ length: 16 }, (_, i) => 1 + (i % 7)) },
    { name: "16 requests over 16 experts", experts: Array.from({ length: 16 }, (_, i) => 1 + i) },
    { name: "16 requests without an expert", experts: Array.from({ length: 16 }, () => 0) },
  ];
  for (const { name, experts } of cases) {
    const named = experts.map((expert) => engine.info.experts[expert]);
    const figures: [number[], number[]] = [[], []];
    await throughput(engine, named);
    await throughput(
      dense,
      experts.map(() => undefined),
    );
    for (const { variant } of turnsOf(2, rounds)) {
      const isDense = variant === 0;
      figures[isDense ? 0 : 1].push(
        await throughput(isDense ? dense : engine, isDense ? experts.map(() => undefined) : named),
      );
    }
    const [without, own] = [median(figures[0]), median(figures[1])];
    console.log(
      `${name.padEnd(30)} ${own.toFixed(0)} tok/s, dense ${without.toFixed(0)}: ${(own / without).toFixed(3)}`,
    );
  }
}

/** Draws experts by Zipf's law. */
function zipfNames(random: () => number, count: number): readonly string[] {
  const weights = Array.from({ length: NUM_EXPERTS }, (_, rank) => (rank + 1) ** -ZIPF_EXPONENT);
  const sum = weights.reduce((total, weight) => total + weight, 0);
  return Array.from({ length: count }, () => {
    let left = random() * sum;
    const expert = weights.findIndex((weight) => (left -= weight) <= 0);
    return `expert-${expert < 0 ? 0 : expert}`;
  });
}

async function compareBudgets(loras: Readonly<Record<string, string>>): Promise<void> {
  await using all = await ReadMeEngine.open(path, { ...options, loras });
  const { expertBytes } = await memoryOf(all, loras);
  const expertCacheBytes = (NUM_EXPERTS / 5) * expertBytes;
  await using streamed = await ReadMeEngine.open(path, { ...options, loras, expertCacheBytes });
  const figures: [number[], number[]] = [[], []];
  for (const { variant, round } of turnsOf(2, rounds)) {
    // New requests begin while others run, as in a service.
    const random = seededRandom(round);
    const queue = [...zipfNames(random, 96)];
    const engine = variant === 0 ? all : streamed;
    const startMs = performance.now();
    const clients = Array.from({ length: 16 }, async () => {
      for (let expert = queue.pop(); expert !== undefined; expert = queue.pop()) await throughput(engine, [expert]);
    });
    await Promise.all(clients);
    figures[variant === 0 ? 0 : 1].push((96 * maxTokens * 1000) / (performance.now() - startMs));
  }
  const [resident, limited] = [median(figures[0]), median(figures[1])];
  const { expertCache } = await streamed.stats();
  console.log(
    `Zipf over ${NUM_EXPERTS} experts, a budget of ${NUM_EXPERTS / 5}: ${limited.toFixed(0)} tok/s, ` +
      `all in memory ${resident.toFixed(0)}: ${(limited / resident).toFixed(3)}; ` +
      `${expertCache?.hits} hits of ${expertCache?.uses} uses, ${expertCache?.stallMs.toFixed(0)} ms of stalls`,
  );
}

async function memoryOf(engine: ReadMeEngine, loras: Readonly<Record<string, string>>) {
  const { residentBytes } = await engine.stats();
  await using dense = await ReadMeEngine.open(path, options);
  await throughput(dense, [undefined]);
  const { residentBytes: without } = await dense.stats();
  const sizes: number[] = [];
  dense.events.on("expert:added", ({ bytes }) => sizes.push(bytes));
  await dense.addExpert("measured", Object.values(loras)[0] ?? "");
  await dense.stats();
  const expertBytes = sizes[0] ?? 0;
  const perExpert = (residentBytes - without) / Object.keys(loras).length;
  console.log(
    `memory: ${(expertBytes / 1e6).toFixed(2)} MB an expert packed, ${(perExpert / 1e6).toFixed(2)} MB in the process`,
  );
  return { expertBytes };
}

/** Adds experts while 8 streams run, and compares the streams' gaps with those of undisturbed streams. */
async function addWhileRunning(loras: Readonly<Record<string, string>>): Promise<void> {
  const fresh = await mkdtemp(join(tmpdir(), "low-rank-cache-"));
  await using engine = await ReadMeEngine.open(path, { ...options, cacheFolder: fresh });
  const times: number[] = [];
  for (const isAdding of [false, true, false, true]) {
    const gaps: number[] = [];
    let isRunning = true;
    const streams = Array.from({ length: 8 }, async (_, index) => {
      let lastMs = 0;
      const params = { maxTokens: 200, temperature: 0, ignoreEos: true };
      for await (const chunk of engine.generate({ prompt: [50 + index, 3, 4], params })) {
        if (lastMs > 0 && chunk.tokens.length > 0) gaps.push(performance.now() - lastMs);
        lastMs = performance.now();
      }
    });
    const all = Promise.all(streams).then(() => (isRunning = false));
    for (const [name, adapter] of Object.entries(loras).slice(0, 20)) {
      if (!isAdding || !isRunning || engine.info.experts.includes(name)) continue;
      const startMs = performance.now();
      await engine.addExpert(name, adapter);
      times.push(performance.now() - startMs);
    }
    await all;
    const [middle, high, most] = [median(gaps), percentile(gaps, 99), Math.max(...gaps)];
    const what = isAdding ? "adding experts" : "undisturbed";
    console.log(
      `gaps of 8 streams, ${what}: p50 ${middle.toFixed(1)} ms, p99 ${high.toFixed(1)}, most ${most.toFixed(1)}`,
    );
  }
  const idle: number[] = [];
  for (const [name, adapter] of Object.entries(loras).slice(20, 24)) {
    const startMs = performance.now();
    await engine.addExpert(name, adapter);
    idle.push(performance.now() - startMs);
  }
  console.log(
    `adding under load: median ${median(times).toFixed(0)} ms of ${times.length}; idle, packed before: ${median(idle).toFixed(0)} ms`,
  );
  await rm(fresh, { recursive: true, force: true });
}
