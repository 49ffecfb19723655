// Measures the scheduling of a step without the step itself: admission, the choice of sequences, and the forecast for
// streamed experts.

import {
  costAware,
  everythingResident,
  fcfs,
  readMe,
  type Residency,
  resolveSamplingParams,
  type Scheduler,
  seededRandom,
  StopAutomaton,
} from "@readme-moe/core";
import { type KvSlot, PagePool, wholeBlocks } from "@readme-moe/kernel";
import type { Model, Tokenizer } from "@readme-moe/model";
import { fixedRouter } from "@readme-moe/router";
import { median } from "../kit/statistics.ts";
import { KvAdmission } from "../../packages/engine/src/kv-admission.ts";
import { PrefixCache } from "../../packages/engine/src/prefix-cache.ts";
import { Sequence } from "../../packages/engine/src/sequence.ts";
import { StepPlanner } from "../../packages/engine/src/batch.ts";

export const SCHEDULERS: Readonly<Record<string, () => Scheduler>> = {
  "cost-aware": () => costAware(),
  "read-me": () => readMe(),
  fcfs: () => fcfs(),
};

export interface Queue {
  /** Sequences that hold KV memory. */
  readonly numRunning: number;
  /** Maximum of these in one step. */
  readonly numBatched: number;
  /** Sequences that wait for KV memory. */
  readonly numWaiting: number;
  readonly numExperts: number;
  /** Whether half of the experts are in memory and the others are streamed. */
  readonly isStreamed: boolean;
}

const PROMPT_TOKENS = 64;
const BYTES_PER_TOKEN = 64;
const UNIT_BYTES = 1 << 20;
const WARM_UP = 50;

/**
 * Returns the median over `rounds` decisions on the same queue. A quarter of the running sequences still reads its
 * prompt. Each token's expert is drawn, and equals that of the token before in nine of ten cases.
 */
export function schedulingMs(
  scheduler: Scheduler,
  { config }: Model,
  tokenizer: Tokenizer,
  queue: Queue & { readonly rounds: number; readonly seed: number },
): number {
  const { numRunning, numBatched, numWaiting, numExperts, rounds, seed } = queue;
  const random = seededRandom(seed);
  const router = fixedRouter(numExperts, 0);
  const params = resolveSamplingParams({ maxTokens: 1000, ignoreEos: true }, config);
  const limits = { maxNumBatchedSeqs: numBatched, maxNumBatchedTokens: 512, chunkTokens: 128 };
  const room = wholeBlocks(2 * PROMPT_TOKENS + 64);
  const pool = new PagePool({ capacityTokens: numRunning * room, bytesPerToken: BYTES_PER_TOKEN });
  const prefixes = new PrefixCache(pool, { chunkTokens: 128, maxBytes: 0 });
  const { contextTokens } = config;
  const admission = new KvAdmission(pool, prefixes, { maxNumSeqs: numRunning, contextTokens });
  const planner = new StepPlanner(scheduler, limits, queue.isStreamed ? streamed(numExperts) : everythingResident);
  for (let index = 0; index < numRunning + numWaiting; index++) {
    const promptIds = Array.from({ length: PROMPT_TOKENS }, (_, position) => position + 1);
    const id = `${index}`;
    const start = { id, requestId: id, choice: 0, arrival: index, arrivalMs: 0, priority: 0, promptIds, params };
    const rest = { processesLogits: false, seed, stops: new StopAutomaton([]) };
    const sequence = new Sequence({ ...start, ...rest }, tokenizer, router);
    const decodes = index < numRunning && index % 4 !== 0;
    if (decodes) sequence.tokenIds.push(1);
    let expert = Math.floor(random() * numExperts);
    for (let token = 0; token < sequence.numTokens; token++) {
      if (random() < 0.1) expert = Math.floor(random() * numExperts);
      sequence.experts.push(expert);
    }
    admission.enqueue(sequence);
    admission.admit(() => undefined);
    if (decodes) pool.advance(sequence.slot as KvSlot, PROMPT_TOKENS);
  }
  const times: number[] = [];
  for (let round = 0; round < WARM_UP + rounds; round++) {
    const startMs = performance.now();
    admission.admit(() => undefined);
    const batch = planner.select(admission.running, Array.from(admission.running.values()), 1);
    planner.begin(
      admission.reserve(batch, () => undefined),
      admission.waiting,
    );
    times.push(performance.now() - startMs);
  }
  return median(times.slice(WARM_UP));
}

/** Makes experts as the planner sees them; nothing is read. */
function streamed(numExperts: number): Residency {
  const stats = { policy: "belady", budgetBytes: 0, residentBytes: 0, usedBytes: 0, hits: 0, uses: 0 };
  return {
    missingBytes: Array.from({ length: numExperts }, (_, expert) => (expert % 2 === 0 ? 0 : UNIT_BYTES)),
    streamed: {
      numExperts,
      stats: stats as never,
      prefetchedExperts: Array.from({ length: numExperts }, (_, expert) => expert),
      prepare: () => undefined,
      rehearse: (work) => work(),
      takeRuns: () => [],
      setBudget: () => Promise.resolve(),
    },
  };
}
