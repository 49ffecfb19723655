// Measures from which acceptance on a draft model pays: steps of a large model with several rows of each sequence, and
// runs of a small one, by turns in one process. Both have random weights: time does not depend on them.
//
//   npm run bench:draft-cost -- [--target 1b] [--draft 100m] [--precision int8] [--threads 2] [--rounds 20] [--past 256]
//     [--sequences 1,4] [--cache FOLDER]

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { KernelRunner } from "@readme-moe/engine";
import type { KvMemory, KvSlot } from "@readme-moe/kernel";
import type { Precision } from "@readme-moe/model";
import { rewind } from "../../packages/engine/src/step-runner.ts";
import { decodePast } from "../decode-steps.ts";
import { peakMemoryBytes } from "../engine/process-memory.ts";
import { parametersOf, SHAPES as GROWTH_SHAPES } from "../growth/shapes.ts";
import { median } from "../kit/statistics.ts";
import { randomModel, type Shape } from "../random-model.ts";
import { bestLength, breakEvenChance, type DraftTimes, timesOfRows } from "./draft-payoff.ts";

const { values } = parseArgs({
  options: {
    target: { type: "string", default: "1b" },
    draft: { type: "string", default: "100m" },
    precision: { type: "string", default: "int8" },
    threads: { type: "string", default: "2" },
    rounds: { type: "string", default: "20" },
    past: { type: "string", default: "256" },
    sequences: { type: "string", default: "1,4" },
    cache: { type: "string" },
  },
});

const SHAPES: Readonly<Record<string, Shape>> = {
  ...GROWTH_SHAPES,
  /** A draft model with the vocabulary of Llama 3, which is most of it. */
  "100m": {
    hiddenSize: 512,
    ffnSize: 2048,
    numLayers: 10,
    numHeads: 8,
    numKvHeads: 2,
    headSize: 64,
    vocabSize: 128_256,
  },
};
const ROWS = [1, 2, 4, 8] as const;
const CHANCES = [0.5, 0.6, 0.7, 0.8, 0.9] as const;
const [threads, rounds, past] = [values.threads, values.rounds, values.past].map(Number) as [number, number, number];
const precision = values.precision as Precision;

/** Sequences of an opened model. */
interface Sequences {
  readonly runner: KernelRunner;
  readonly kv: KvMemory;
  readonly slots: readonly KvSlot[];
}

/** Steps that take turns. */
interface Turn {
  readonly sequences: Sequences;
  /** New tokens of each sequence. */
  readonly numRows: number;
  /** Whether logits of all rows are wanted, or of the last one. */
  readonly wantsAll: boolean;
}

const temporary = values.cache === undefined ? await mkdtemp(join(tmpdir(), "draft-cost-")) : undefined;
const cacheFolder = values.cache ?? temporary;
try {
  const [target, draft] = [await open(values.target), await open(values.draft)];
  console.log(`${precision}, ${threads} threads, ${past} earlier tokens, medians of ${rounds} turns in ms`);
  for (const numSeqs of values.sequences.split(",").map(Number)) report(numSeqs, await measure(target, draft, numSeqs));
  console.log(`\npeak memory ${(peakMemoryBytes(process.pid) / 2 ** 30).toFixed(1)} GiB`);
  for (const runner of [target, draft]) await runner.dispose();
} finally {
  if (temporary !== undefined) await rm(temporary, { recursive: true, force: true });
}

async function open(name: string): Promise<KernelRunner> {
  const shape = SHAPES[name];
  if (!shape) throw new RangeError(`Expected a shape of ${Object.keys(SHAPES).join(", ")}, got \`${name}\``);
  console.log(`${name}: ${(parametersOf(shape) / 1e6).toFixed(0)} million weights`);
  return KernelRunner.open(randomModel(shape, 1, shape.ffnSize), { precision, threads, cacheFolder });
}

/** Measures all kinds of steps by turns, in rising and falling order. */
async function measure(target: KernelRunner, draft: KernelRunner, numSeqs: number): Promise<DraftTimes> {
  const sequencesOf = async (runner: KernelRunner): Promise<Sequences> => ({
    runner,
    ...(await decodePast(runner, { numSeqs, past }, Math.max(...ROWS))),
  });
  const [large, small] = [await sequencesOf(target), await sequencesOf(draft)];
  const turns: readonly Turn[] = [
    ...ROWS.map((numRows) => ({ sequences: large, numRows, wantsAll: true })),
    { sequences: small, numRows: 1, wantsAll: true },
    // After a step, the draft model reads the accepted tokens and the one after them.
    { sequences: small, numRows: 2, wantsAll: false },
  ];
  const times = turns.map((): number[] => []);
  const places = Array.from(turns.keys());
  // The first round allocates memory.
  for (let round = -1; round < rounds; round++) {
    for (const place of round % 2 === 0 ? places : places.toReversed()) {
      const ms = await stepMs(turns[place] as Turn, round);
      if (round >= 0) times[place]?.push(ms);
    }
  }
  for (const { kv } of [large, small]) kv.dispose();
  const medians = times.map(median);
  const [runMs = NaN, firstMs = NaN] = medians.slice(ROWS.length);
  return { verifyMs: timesOfRows(ROWS.map((numRows, index) => [numRows, medians[index] ?? NaN])), firstMs, runMs };
}

/** Runs one step, and rewinds it. */
async function stepMs({ sequences: { runner, kv, slots }, numRows, wantsAll }: Turn, round: number): Promise<number> {
  const rows = Array.from({ length: numRows }, (_, row) => row);
  const step = slots.map((slot, index) => ({
    slot,
    tokenIds: rows.map((row) => 100 + ((index * 31 + row * 17 + Math.abs(round) * 7) % 900)),
    experts: new Uint16Array(numRows),
    logitsOf: wantsAll ? rows : [numRows - 1],
  }));
  const startMs = performance.now();
  await runner.forward(kv, step);
  const durationMs = performance.now() - startMs;
  for (const slot of slots) rewind(kv, slot, past);
  return durationMs;
}

function report(numSeqs: number, times: DraftTimes): void {
  const { verifyMs, firstMs, runMs } = times;
  const ofRows = ROWS.map((numRows) => `${numRows}: ${(verifyMs[numRows - 1] ?? NaN).toFixed(2)}`);
  console.log(`\n${numSeqs} sequence${numSeqs === 1 ? "" : "s"}`);
  console.log(`  step of the large model, by rows of each sequence   ${ofRows.join("   ")}`);
  console.log(
    `  runs of the draft model                             first: ${firstMs.toFixed(2)}   further: ${runMs.toFixed(2)}`,
  );
  const breakEven = verifyMs.slice(1).map((_, index) => {
    const chance = breakEvenChance(times, index + 1);
    return `${index + 1}: ${chance === undefined ? "never" : chance.toFixed(2)}`;
  });
  console.log(`  pays from this chance on, by drafted tokens         ${breakEven.join("   ")}`);
  const best = CHANCES.map((chance) => {
    const [numDrafted, gain] = bestLength(times, chance);
    return `${chance}: ${gain.toFixed(2)} (${numDrafted})`;
  });
  console.log(`  speed with drafts of the best length, by chance     ${best.join("   ")}`);
}
