// Measures one mixture layer of OLMoE's shape beside a dense layer with the same active width, by turns in one process.
// Weights are random, so rows choose experts about evenly. Eight dense layers take turns, since a single one could stay in
// a processor's cache; together they are as large as the mixture. Prints medians, less the time of layers with a narrow
// FFN.
//
//   npm run bench:mixture -- [--threads 2] [--rounds 9] [--precision int8] [--rows 1,4,16,64]

import { parseArgs } from "node:util";
import {
  encodeStep,
  openKernel,
  type DecoderDescription,
  type ExpertDescription,
  type Kernel,
  type LayerDescription,
  type PackedTensor,
} from "@readme-moe/kernel";
import { packFloat, packInt8 } from "../packages/kernel/src/pack/pack-product.ts";
import { packNorm, packTable } from "../packages/kernel/src/pack/pack-tables.ts";
import { memoryTensor } from "../test/support/kernel/memory-store.ts";
import { packedBytes } from "../test/support/kernel/packed-bytes.ts";
import { seededRandom } from "../test/support/random.ts";
import { median } from "./kit/statistics.ts";
import { turnsOf } from "./kit/turns.ts";

const { values } = parseArgs({
  options: {
    threads: { type: "string", default: "2" },
    rounds: { type: "string", default: "9" },
    precision: { type: "string", default: "int8" },
    rows: { type: "string", default: "1,4,16,64" },
  },
});
const [threads, rounds] = [Number(values.threads), Number(values.rounds)];
const numRows = values.rows.split(",").map(Number);

// OLMoE 1B-7B.
const [HIDDEN, EXPERT, NUM_EXPERTS, CHOSEN] = [2048, 1024, 64, 8] as const;
const [NUM_HEADS, HEAD] = [16, 128] as const;
const VOCAB = 4096;
/** Number of dense layers that are as large as the mixture. */
const NUM_DENSE = NUM_EXPERTS / CHOSEN;
/** Width of the FFN in layers whose time is subtracted. */
const NARROW = 64;

const noise = Float32Array.from({ length: 1_048_573 }, seededRandom(1)).map((x) => 0.08 * (x - 0.5));
let taken = 0;

function weights(numOut: number, numIn: number): { readonly floats: Float32Array; readonly shape: readonly number[] } {
  const floats = new Float32Array(numOut * numIn);
  // Tensors begin at other places of the noise, so that experts differ.
  for (let end = 0, at = (taken += 7919) % noise.length; end < floats.length; at = 0) {
    const piece = noise.subarray(at, at + floats.length - end);
    floats.set(piece, end);
    end += piece.length;
  }
  return { floats, shape: [numOut, numIn] };
}

function product(numOut: number, numIn: number): PackedTensor {
  const { floats, shape } = weights(numOut, numIn);
  const refs = { weight: memoryTensor(floats, shape), bias: undefined };
  return values.precision === "fp32" ? packFloat(refs) : packInt8(refs);
}

function feedForward(size: number): ExpertDescription {
  return { gate: product(size, HIDDEN), up: product(size, HIDDEN), down: product(HIDDEN, size) };
}

function mixture(): LayerDescription["mixture"] {
  const { floats, shape } = weights(NUM_EXPERTS, HIDDEN);
  return {
    router: packFloat({ weight: memoryTensor(floats, shape), bias: undefined }),
    experts: Array.from({ length: NUM_EXPERTS }, () => feedForward(EXPERT)),
    expertsPerToken: CHOSEN,
    normalizesWeights: false,
  };
}

type Ffn = Pick<LayerDescription, "shared" | "mixture">;

function describe(ffns: readonly Ffn[]): DecoderDescription {
  const norm = packNorm(memoryTensor(new Float32Array(HIDDEN).fill(1), [HIDDEN]));
  const table = weights(VOCAB, HIDDEN);
  return {
    vocabSize: VOCAB,
    numLogits: 64,
    hiddenSize: HIDDEN,
    normEpsilon: 1e-5,
    embeddingScale: 1,
    logitScale: 1,
    embedding: packTable(memoryTensor(table.floats, table.shape), "half-table"),
    layers: ffns.map((ffn) => ({
      numHeads: NUM_HEADS,
      numKvHeads: NUM_HEADS,
      headSize: HEAD,
      angleSet: undefined,
      rotatedSize: HEAD,
      slidingWindow: undefined,
      attentionScale: HEAD ** -0.5,
      residualScale: 1,
      activation: "silu",
      attentionNorm: norm,
      query: product(HIDDEN, HIDDEN),
      key: product(HIDDEN, HIDDEN),
      value: product(HIDDEN, HIDDEN),
      queryNorm: undefined,
      keyNorm: undefined,
      attentionOutput: product(HIDDEN, HIDDEN),
      attentionOutputNorm: undefined,
      ffnNorm: norm,
      ffnOutputNorm: undefined,
      ...ffn,
    })),
    finalNorm: norm,
    head: product(64, HIDDEN),
  };
}

const maxRows = Math.max(...numRows);

async function open(ffns: readonly Ffn[]): Promise<Kernel> {
  return openKernel(await packedBytes(describe(ffns)), { threads, maxRows, maxPositions: 16 });
}

/** Makes a step of sequences that each decode their first token; tokens differ from step to step. */
function requestOf(rows: number, step: number): Int32Array {
  const sequences = Array.from({ length: rows }, (_, row) => ({
    tokenIds: [(step * rows + row) % VOCAB],
    position: 0,
    pages: [row],
    logitsOf: [0],
  }));
  return encodeStep(sequences, 1);
}

function resultsOf(rows: number) {
  return {
    candidateIds: new Int32Array(rows),
    logits: new Float32Array(2 * rows),
    sums: new Float64Array(2 * rows),
    fullLogits: new Float32Array(0),
  };
}

const STEPS = 8;
const kernels = [
  await open([{ shared: undefined, mixture: mixture() }]),
  await open([{ shared: feedForward(NARROW) }]),
  await open(Array.from({ length: NUM_DENSE }, () => ({ shared: feedForward(CHOSEN * EXPERT) }))),
  await open(Array.from({ length: NUM_DENSE }, () => ({ shared: feedForward(NARROW) }))),
] as const;
const pages = kernels.map((kernel) => kernel.openPages(maxRows, "fp16"));

/** Returns milliseconds of one step. */
function timeMs(variant: number, rows: number, round: number): number {
  const requests = Array.from({ length: STEPS }, (_, step) => requestOf(rows, round * STEPS + step));
  const results = resultsOf(rows);
  const startMs = performance.now();
  for (const request of requests) kernels[variant]?.step(pages[variant]!, request, results);
  return (performance.now() - startMs) / STEPS;
}

/** Counts the experts that rows of a step use. */
function countExperts(rows: number): number {
  const [kernel] = kernels;
  kernel.beginStep(pages[0]!, requestOf(rows, 0), resultsOf(rows));
  const experts = new Set(kernel.routeLayer(0));
  kernel.feedLayer(0);
  kernel.endStep();
  return experts.size;
}

const { instructions } = kernels[0].info;
console.log(
  `${values.precision}, ${threads} threads, ${instructions}; milliseconds of one layer's FFN, median of ${rounds}`,
);
for (const rows of numRows) {
  const times: number[][] = [[], [], [], []];
  for (const { variant, round } of turnsOf(times.length, rounds)) times[variant]?.push(timeMs(variant, rows, round));
  const [own = NaN, narrow = NaN, dense = NaN, allNarrow = NaN] = times.map(median);
  const [mixed, even] = [own - narrow, (dense - allNarrow) / NUM_DENSE];
  console.log(
    `${String(rows).padStart(3)} rows: mixture ${mixed.toFixed(2)} (${countExperts(rows)} experts), ` +
      `dense ${even.toFixed(2)}, ${(mixed / even).toFixed(2)} times as long`,
  );
}
await Promise.all(kernels.map((kernel) => kernel.close()));
