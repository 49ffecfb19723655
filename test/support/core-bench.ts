// The engine's core in the thread of a test, without a worker around it.

import {
  everythingResident,
  fcfs,
  resolveSamplingParams,
  StopAutomaton,
  type GenerateChunk,
  type PreGatingRouter,
  type Residency,
  type SamplingParams,
  type Scheduler,
} from "@readme-moe/core";
import type { KernelRunner } from "@readme-moe/engine";
import type { KernelKv } from "@readme-moe/kernel";
import type { Tokenizer } from "@readme-moe/model";
import { EngineCore } from "../../packages/engine/src/engine-core.ts";
import type { EngineOutput } from "../../packages/engine/src/engine-parts.ts";
import { KvAdmission } from "../../packages/engine/src/kv-admission.ts";
import { PrefixCache } from "../../packages/engine/src/prefix-cache.ts";
import { SavedPrefixes } from "../../packages/engine/src/saved-prefixes.ts";
import type { SavedPrompts } from "../../packages/engine/src/saved-prompts.ts";
import type { Drafter, DraftingHead } from "../../packages/engine/src/speculation/drafter.ts";
import { Speculation } from "../../packages/engine/src/speculation/speculation.ts";
import type { Sequence, SequenceStart } from "../../packages/engine/src/sequence.ts";
import type { StepRunner } from "../../packages/engine/src/step-runner.ts";
import { randomInteger, seededRandom } from "./random.ts";

const CHUNK = 64;

export interface Limits {
  readonly capacityTokens: number;
  readonly maxNumSeqs?: number;
  readonly maxNumBatchedSeqs?: number;
  readonly maxNumBatchedTokens?: number;
  readonly prefixCacheBytes?: number;
  /** @default `fcfs()` */
  readonly scheduler?: Scheduler;
  /** @default all experts are in memory */
  readonly residency?: Residency;
  /** @default nothing is drafted */
  readonly drafter?: Drafter;
  /** Chunks of prompts of at least 100 tokens on disk. @default none */
  readonly disk?: {
    readonly files: SavedPrompts;
    readonly scope?: string;
    readonly onSaveFailed?: (reason: string) => void;
  };
  /** @default a clock that stands still */
  readonly now?: () => number;
}

/** What runs steps, and what routes. */
export interface BenchModel {
  readonly runner: StepRunner;
  readonly router: PreGatingRouter;
}

/** A core with its outcomes: tokens and log-probabilities of each sequence, by id; and the rows that it gave away. */
export class CoreBench {
  readonly core: EngineCore;
  readonly admission: KvAdmission;
  readonly prefixes: PrefixCache;
  readonly saved: SavedPrefixes | undefined;
  readonly outcomes = new Map<
    string,
    { tokens: number[]; logprobs: number[]; finishReason?: string; error?: unknown }
  >();
  readonly rows: { readonly id: string; readonly rowId: number; readonly logits: Float32Array }[] = [];
  readonly questions: {
    readonly id: string;
    readonly questionId: number;
    readonly tokenIds: readonly number[];
    readonly draft: Int32Array;
  }[] = [];
  readonly readings: { readonly id: string; readonly numComputedTokens: number }[] = [];
  readonly events: { readonly name: string; readonly payload: unknown }[] = [];
  readonly #running: BenchModel;
  #arrivals = 0;

  constructor(running: BenchModel, tokenizer: Tokenizer, limits: Limits) {
    this.#running = running;
    const { runner } = running;
    const { maxNumSeqs = 8, maxNumBatchedSeqs = maxNumSeqs, maxNumBatchedTokens = 256 } = limits;
    const output: EngineOutput = {
      accepted: () => undefined,
      reading: ({ id, numComputedTokens }) => this.readings.push({ id, numComputedTokens }),
      chunk: ({ id }: Sequence, { tokens, finishReason }: GenerateChunk) => {
        const outcome = this.#outcome(id);
        outcome.tokens.push(...tokens.map((token) => token.id));
        outcome.logprobs.push(...tokens.flatMap(({ topLogprobs = [] }) => topLogprobs.map(({ logprob }) => logprob)));
        if (finishReason) outcome.finishReason = finishReason;
      },
      ask: ({ id, tokenIds }, questionId, question) => {
        if ("logits" in question) this.rows.push({ id, rowId: questionId, logits: question.logits });
        else this.questions.push({ id, questionId, tokenIds: tokenIds.slice(), draft: question.draft });
      },
      failed: ({ id }, error) => {
        this.#outcome(id).error = error;
      },
      event: (name, payload) => this.events.push({ name, payload }),
    };
    const { capacityTokens, prefixCacheBytes: maxBytes = 0 } = limits;
    const kv = runner.openKv({ capacityTokens, prefixBytes: maxBytes });
    this.prefixes = new PrefixCache(kv, { chunkTokens: CHUNK, maxBytes });
    const contextTokens = Math.min(256, capacityTokens);
    this.admission = new KvAdmission(kv, this.prefixes, { maxNumSeqs, contextTokens });
    const residency = limits.residency ?? everythingResident;
    const { drafter, disk, now = () => 0 } = limits;
    const own = { runner: runner as KernelRunner, kv: kv as KernelKv, prefixes: this.prefixes, leastPromptTokens: 100 };
    this.saved = disk && new SavedPrefixes({ ...own, scope: "", now, ...disk });
    const onRouted = (sequence: Sequence, position: number, experts: Uint16Array): void =>
      output.event("router:routed", { sequenceId: sequence.id, position, experts, durationMs: 0 });
    this.core = new EngineCore({
      runner,
      tokenizer,
      admission: this.admission,
      saved: this.saved,
      scheduler: limits.scheduler ?? fcfs(),
      residency,
      speculation: drafter && new Speculation({ drafter, kv, residency, maxNumBatchedTokens, contextTokens, onRouted }),
      limits: { maxNumBatchedSeqs, maxNumBatchedTokens, chunkTokens: CHUNK },
      contextTokens,
      output,
      now,
    });
  }

  add(id: string, promptIds: readonly number[], params: SamplingParams, priority = 0, processesLogits = false): void {
    this.#add(id, promptIds, params, { priority, processesLogits, isBound: false });
  }

  /** Adds a sequence that is bound: its questions are in `questions`, for `core.answer`. */
  addBound(id: string, promptIds: readonly number[], params: SamplingParams): void {
    this.#add(id, promptIds, params, { priority: 0, processesLogits: false, isBound: true });
  }

  /** Adds a sequence with what a start may have besides. */
  addWith({ id, promptIds, params }: Job, more: Partial<SequenceStart>): void {
    this.#add(id, promptIds, params, { priority: 0, processesLogits: false, ...more });
  }

  #add(
    id: string,
    promptIds: readonly number[],
    params: SamplingParams,
    how: Pick<SequenceStart, "priority" | "processesLogits"> & Partial<SequenceStart>,
  ): void {
    const resolved = resolveSamplingParams(
      { logprobs: 3, ignoreEos: true, ...params },
      { vocabSize: 4096, eosTokenIds: [0] },
    );
    const arrival = this.#arrivals++;
    const start = { id, requestId: id, choice: 0, arrival, arrivalMs: 0, promptIds, params: resolved };
    const rest = { seed: resolved.seed ?? 1, stops: new StopAutomaton([]), ...how };
    this.core.add({ ...start, ...rest }, this.#running.router);
  }

  async finish(): Promise<void> {
    while (this.core.hasWork) {
      await this.core.step();
      this.core.checkIntegrity();
    }
  }

  /** How a sequence ended. */
  ending(id: string): { readonly reason: string; readonly cachedTokens: number } {
    const ends = this.events.flatMap(({ name, payload }) =>
      name === "sequence:finished" ? [payload as { sequenceId: string; reason: string; cachedTokens: number }] : [],
    );
    return ends.find(({ sequenceId }) => sequenceId === id) ?? { reason: "none", cachedTokens: 0 };
  }

  count(name: string): number {
    return this.events.filter((event) => event.name === name).length;
  }

  #outcome(id: string) {
    const outcome = this.outcomes.get(id) ?? { tokens: [], logprobs: [] };
    this.outcomes.set(id, outcome);
    return outcome;
  }
}

export interface Job {
  readonly id: string;
  readonly promptIds: readonly number[];
  readonly params: SamplingParams;
}

export function randomJobs(count: number, seed: number, longest = 150): readonly Job[] {
  const random = seededRandom(seed);
  return Array.from({ length: count }, (_, index) => {
    const length = 1 + randomInteger(random, longest);
    const promptIds = Array.from({ length }, () => randomInteger(random, 4096));
    const temperature = index % 2 === 0 ? 0 : 0.8;
    const params = { maxTokens: 1 + randomInteger(random, 30), temperature, topK: 40, seed: index };
    return { id: `job-${index}`, promptIds, params };
  });
}

/** What each job gives alone, in a core of its own. */
export async function outcomesAlone(
  jobs: readonly Job[],
  model: BenchModel,
  tokenizer: Tokenizer,
): Promise<CoreBench["outcomes"]> {
  const outcomes: CoreBench["outcomes"] = new Map();
  for (const { id, promptIds, params } of jobs) {
    const bench = new CoreBench(model, tokenizer, { capacityTokens: 256 });
    bench.add(id, promptIds, params);
    await bench.finish();
    outcomes.set(id, bench.outcomes.get(id) as never);
  }
  return outcomes;
}

/** A step so slow that every draft pays. */
export const SLOW_STEP = { tokens: 1, ms: 1e6, msPerRow: 0 };

/** Makes a drafter whose head drafts for all sequences, whatever its runs cost. */
export function eagerDrafter(head: DraftingHead): Drafter {
  return {
    propose: async (questions) => {
      const asked = questions.map(({ sequence: { id, tokenIds }, mostTokens }) => ({ id, tokenIds, mostTokens }));
      return head.propose(asked, SLOW_STEP).map((draft) => ({ draft, drafterMs: 0 }));
    },
    follow: (rows) => head.follow(rows),
    isPromising: () => true,
    suggest: () => undefined,
    observe: () => undefined,
    forget: ({ id }) => head.forget(id),
  };
}
