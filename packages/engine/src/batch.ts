// A batch: which sequences run in the next step, their run through the model, and what the engine learns from it.

import {
  candidatesNeeded,
  chargeClients,
  type ClientTimes,
  type CostModel,
  DEFAULT_COST_MODEL,
  type ExpertRun,
  fairlyRunnable,
  forecastNextStep,
  includePrefetched,
  type LogitsRow,
  needsFullLogits,
  NO_TIMES,
  predictStepMs,
  ReadMeError,
  refineCostModel,
  type Residency,
  type ScheduledSequence,
  type Scheduler,
  type SchedulerLimits,
  type SchedulerState,
  type StepWork,
} from "@readme-moe/core";
import { KV_PAGE_TOKENS, type KvMemory, type KvSlot } from "@readme-moe/kernel";
import { poolingMode, type PoolingMode } from "@readme-moe/model";
import type { Sequence } from "./sequence.ts";
import { rewind, type StepLogits, type StepRunner } from "./step-runner.ts";

/** One sequence's part in a step. */
export interface BatchItem {
  readonly sequence: Sequence;
  /** Number of tokens that run, beginning with the first one that is not computed yet. */
  readonly numTokens: number;
  /** Whether these are the sequence's last known tokens, so that its next token is chosen after the step. */
  readonly isLast: boolean;
  /** Whether all logits are wanted, even if the sequence's parameters do not need them. @default false */
  readonly wantsFullLogits?: boolean;
  /** Tokens that run after the known ones, and are verified after the step; only where `isLast`. */
  readonly draft?: RoutedDraft | undefined;
}

/** Tokens that probably follow a sequence's known ones, with their experts. */
export interface RoutedDraft {
  readonly tokenIds: readonly number[];
  readonly experts: readonly number[];
}

/**
 * Converts a schedule to a batch.
 * @throws {RangeError} if the scheduler chose a sequence that does not run, or tokens that it does not have
 */
export function batchItems(
  scheduled: readonly ScheduledSequence[],
  running: ReadonlyMap<string, Sequence>,
): readonly BatchItem[] {
  return scheduled.map(({ id, numTokens }) => {
    const sequence = running.get(id);
    if (!sequence) throw new RangeError(`Expected the scheduler to choose from sequences that run, got \`${id}\``);
    const end = sequence.numComputedTokens + numTokens;
    if (numTokens < 1 || end > sequence.numTokens) {
      throw new RangeError(`Expected the scheduler to choose tokens that ${id} has, got ${numTokens}`);
    }
    return { sequence, numTokens, isLast: end === sequence.numTokens };
  });
}

/** Counts the tokens that an item runs, its draft included. */
function rowsOf({ numTokens, draft }: Pick<BatchItem, "numTokens" | "draft">): number {
  return numTokens + (draft?.tokenIds.length ?? 0);
}

/** Lists the draft tokens of each item, if there are any. */
export function draftCounts(batch: readonly BatchItem[]): { readonly draftTokens?: readonly number[] } {
  if (!batch.some(({ draft }) => draft)) return {};
  return { draftTokens: batch.map(({ draft }) => draft?.tokenIds.length ?? 0) };
}

/** Computes what the time of a step depends on. @param missingBytes - bytes of each expert that are not in memory */
export function workOf(batch: readonly BatchItem[], missingBytes: ArrayLike<number>): StepWork {
  const experts = Array.from(expertsOf(batch));
  return {
    tokens: batch.reduce((sum, item) => sum + rowsOf(item), 0),
    distinctExperts: experts.length,
    cachedTokens: batch.reduce((sum, { sequence }) => sum + sequence.numComputedTokens, 0),
    missingBytes: experts.reduce((sum, expert) => sum + (missingBytes[expert] ?? 0), 0),
  };
}

/** Finds the distinct experts of a step. Drafts need no others. */
export function expertsOf(batch: readonly BatchItem[]): ReadonlySet<number> {
  return new Set(
    batch.flatMap(({ sequence, numTokens }) => {
      const from = sequence.numComputedTokens;
      return sequence.experts.slice(from, from + numTokens);
    }),
  );
}

/** The logits from which a sequence's next tokens are chosen. */
export interface ItemLogits {
  readonly item: BatchItem;
  /** Row of the last known token, then one for each token of the draft. */
  readonly rows: readonly LogitsRow[];
  /** Reads all logits of a row until the next step; absent, or returns `undefined`, if the runner has not kept them. */
  readonly readAll?: ((row: number) => Float32Array | undefined) | undefined;
}

/** The model's states at the tokens of an item, drafts included. */
export interface ItemStates {
  readonly sequence: Sequence;
  /** Position of the first row. */
  readonly from: number;
  /** `[rows, layers * hiddenSize]` */
  readonly states: Float32Array;
}

interface ForwardResult {
  /** One for each item whose known tokens have all run. */
  readonly logits: readonly ItemLogits[];
  /** The items whose tokens have run; the others have failed. */
  readonly ran: readonly BatchItem[];
  /** States, if the runner keeps them. */
  readonly states: readonly ItemStates[];
}

/** Runs the last known tokens of sequences once more, for all logits of the very last. */
export function forwardAgain(
  runner: StepRunner,
  kv: KvMemory,
  sequences: readonly Sequence[],
  onFailed: (sequence: Sequence, error: unknown) => void,
): Promise<ForwardResult> {
  const again = sequences.map((sequence) => {
    // A page that the prefix cache keeps cannot be written to, so its tokens run again as a whole.
    const from = Math.floor((sequence.numTokens - 1) / KV_PAGE_TOKENS) * KV_PAGE_TOKENS;
    if (sequence.slot) rewind(kv, sequence.slot, from);
    return { sequence, numTokens: sequence.numTokens - from, isLast: true, wantsFullLogits: true };
  });
  return forwardBatch(runner, kv, again, onFailed);
}

/**
 * Runs one step of the model for a batch. If weights of an expert cannot be read, the batch's sequences run one by
 * one, so that only those fail that need the expert.
 */
export async function forwardBatch(
  runner: StepRunner,
  kv: KvMemory,
  batch: readonly BatchItem[],
  onFailed: (sequence: Sequence, error: unknown) => void,
): Promise<ForwardResult> {
  const before = batch.map(({ sequence }) => [sequence, sequence.numComputedTokens] as const);
  try {
    return { ...(await forwardTogether(runner, kv, batch)), ran: batch };
  } catch (error) {
    const isOfOneExpert = error instanceof ReadMeError && error.code === "ERR_FILE_UNREADABLE";
    if (batch.length === 1 || !isOfOneExpert) {
      for (const { sequence } of batch) onFailed(sequence, error);
      return { logits: [], ran: [], states: [] };
    }
  }
  for (const [{ slot }, numComputedTokens] of before) if (slot) rewind(kv, slot, numComputedTokens);
  const results: ForwardResult[] = [];
  for (const item of batch) results.push(await forwardBatch(runner, kv, [item], onFailed));
  return {
    logits: results.flatMap(({ logits }) => logits),
    ran: results.flatMap(({ ran }) => ran),
    states: results.flatMap(({ states }) => states),
  };
}

async function forwardTogether(
  runner: StepRunner,
  kv: KvMemory,
  batch: readonly BatchItem[],
): Promise<Pick<ForwardResult, "logits" | "states">> {
  const last = batch.filter(({ isLast }) => isLast);
  const numCandidates = Math.max(1, ...last.map(candidatesOf));
  const numRows = batch.reduce((sum, item) => sum + rowsOf(item), 0);
  const numWanted = last.reduce((sum, { draft }) => sum + 1 + (draft?.tokenIds.length ?? 0), 0);
  const canReadLater = runner.keepsLogits(numRows, numWanted);
  // Rows that run again begin with a page, where such a model has no state.
  const needsAtOnce = kv.states.stateBytes > 0 && !canReadLater;
  const { pooling } = runner.model.config;
  const mode = poolingMode(pooling);
  const sequences = batch.map(({ sequence, numTokens, isLast, wantsFullLogits = false, draft }) => {
    const { params, processesLogits, isBound, isPooled, givesStates, numComputedTokens: from } = sequence;
    const isWhole = wantsFullLogits || processesLogits || isPooled || needsAtOnce;
    const needsAll = isWhole || needsFullLogits(params, canReadLater, isBound);
    const known = sequence.tokenIds.slice(from, from + numTokens);
    const experts = sequence.experts.slice(from, from + numTokens);
    return {
      slot: slotOf(sequence),
      tokenIds: draft ? [...known, ...draft.tokenIds] : known,
      experts: draft ? [...experts, ...draft.experts] : experts,
      logitsOf: isLast
        ? isPooled
          ? pooledRows(givesStates ? "mean" : mode, numTokens)
          : Array.from({ length: 1 + (draft?.tokenIds.length ?? 0) }, (_, row) => numTokens - 1 + row)
        : [],
      wantsFullLogits: isLast && needsAll,
      savesBehind: savedRows(kv, { sequence, numTokens, draft }),
      isAveraged: isPooled && mode === "mean" && !givesStates,
    };
  });
  const froms = batch.map(({ sequence }) => sequence.numComputedTokens);
  const results = await runner.forward(kv, sequences, numCandidates);
  const logits = batch.flatMap((item, index) => {
    const result = results[index];
    if (!item.isLast || !result) return [];
    return { item, rows: rowsIn(result, numCandidates), readAll: result.readRow };
  });
  const states = batch.flatMap(({ sequence }, index) => {
    const own = results[index]?.states;
    return own && sequence.isSpeculated ? { sequence, from: froms[index] ?? 0, states: own } : [];
  });
  return { logits, states };
}

/**
 * Lists the tokens behind which the state of a model with recurrences is saved: those before each drafted one, and the
 * last but one of a prompt, with which the same prompt goes on, if there is room for it.
 */
function savedRows(kv: KvMemory, { sequence, numTokens, draft }: Pick<BatchItem, "sequence" | "numTokens" | "draft">) {
  if (draft) return draft.tokenIds.map((_, row) => numTokens - 1 + row);
  const isPromptsEnd = sequence.numComputedTokens + numTokens === sequence.promptTokens;
  if (!sequence.slot || !isPromptsEnd || numTokens === 1 || sequence.isPooled) return undefined;
  return kv.states.reserve(sequence.slot, 1) ? [numTokens - 2] : undefined;
}

/** Lists the tokens of a text whose states are its result, or of which the mean is. */
function pooledRows(mode: PoolingMode, numTokens: number): readonly number[] {
  if (mode === "mean") return Array.from({ length: numTokens }, (_, row) => row);
  return [mode === "first" ? 0 : numTokens - 1];
}

// Best candidates of each row are what later drafts are made of.
const SPECULATIVE_CANDIDATES = 4;

/** Counts the candidates that an item needs of each row. */
function candidatesOf({ sequence: { params, isSpeculated, isBound, isPooled } }: BatchItem): number {
  if (isPooled) return 1;
  const needed = candidatesNeeded(params, isBound);
  return isSpeculated ? Math.max(Math.min(params.vocabSize, SPECULATIVE_CANDIDATES), needed) : needed;
}

function rowsIn(
  { candidateIds, candidateLogits, logSumExp, fullLogits }: StepLogits,
  numCandidates: number,
): readonly LogitsRow[] {
  const vocabSize = fullLogits.length / logSumExp.length;
  return Array.from(logSumExp, (sum, row) => ({
    candidateIds: candidateIds.subarray(row * numCandidates, (row + 1) * numCandidates),
    candidateLogits: candidateLogits.subarray(row * numCandidates, (row + 1) * numCandidates),
    logSumExp: sum,
    fullLogits: vocabSize > 0 ? fullLogits.subarray(row * vocabSize, (row + 1) * vocabSize) : undefined,
  }));
}

function slotOf({ id, slot }: Sequence): KvSlot {
  if (slot) return slot;
  throw new Error(`The sequence ${id} is in a batch and has no KV memory`);
}

/** Measurements of a step that has run. */
interface CompletedStep {
  readonly tokens: number;
  readonly prefillTokens: number;
  readonly durationMs: number;
  /** Prediction of `durationMs`. */
  readonly predictedMs: number;
  /** Runs through all layers, if experts are streamed. */
  readonly expertRuns?: readonly ExpertRun[];
}

/** Expert uses after a step, as the expert cache is told; empty if all experts are in memory. */
export interface ForecastUses {
  readonly plannedExperts?: readonly number[];
  readonly laterSteps?: readonly number[];
}

// Waiting sequences behind this many say little about when an expert is needed, and cost time in each step.
const MAX_WAITING = 32;

/** Asks the scheduler, with everything that it depends on, and learns the costs of steps from those that have run. */
export class StepPlanner {
  #scheduler: Scheduler;
  readonly #limits: SchedulerLimits;
  readonly #residency: Residency;
  #cost: CostModel;
  #ready: readonly Sequence[] = [];
  /** Ready sequences of clients whose turn it is; input of the scheduler. */
  #candidates: readonly Sequence[] = [];
  #state: SchedulerState | undefined;
  #batch: readonly BatchItem[] = [];
  #clientTimes: ClientTimes = NO_TIMES;
  /** Sequences of the forecast of the next step, which experts were read ahead for. */
  #forecastIds: readonly string[] = [];
  #work: StepWork = { tokens: 0, distinctExperts: 0, cachedTokens: 0, missingBytes: 0 };

  constructor(
    scheduler: Scheduler,
    limits: SchedulerLimits,
    residency: Residency,
    cost: CostModel = DEFAULT_COST_MODEL,
  ) {
    this.#scheduler = scheduler;
    this.#limits = limits;
    this.#residency = residency;
    this.#cost = cost;
  }

  /** Coefficients of a step's predicted time, as far as they are learned. */
  get cost(): CostModel {
    return this.#cost;
  }

  /** Replaces the scheduler, from the next step on. */
  set scheduler(scheduler: Scheduler) {
    this.#scheduler = scheduler;
  }

  /**
   * Selects the sequences that join the next step. If experts are streamed, the step uses those that were read ahead.
   *
   * @param running - sequences that hold KV memory, by id
   * @param ready - those of them that can run
   * @throws {RangeError} if the scheduler breaks its contract
   */
  select(running: ReadonlyMap<string, Sequence>, ready: readonly Sequence[], nowMs: number): readonly BatchItem[] {
    const { missingBytes, streamed } = this.#residency;
    this.#ready = ready;
    this.#candidates = fairlyRunnable(ready, this.#clientTimes, this.#cost);
    const sequences = this.#candidates;
    this.#state = { sequences, nowMs, limits: this.#limits, cost: this.#cost, missingBytes };
    const scheduled = this.#scheduler(this.#state);
    const batch = batchItems(scheduled, running);
    if (!streamed) return batch;
    const prefetched = { experts: streamed.prefetchedExperts, sequences: this.#forecastIds };
    const adjusted = includePrefetched(scheduled, this.#state, prefetched);
    return adjusted === scheduled ? batch : batchItems(adjusted, running);
  }

  /**
   * Begins a step: charges its clients, and tells streamed experts what follows.
   * @param waiting - sequences that wait for KV memory, in order
   */
  begin(batch: readonly BatchItem[], waiting: readonly Sequence[]): ForecastUses {
    const { missingBytes, streamed } = this.#residency;
    this.#batch = batch;
    this.#clientTimes = chargeClients(this.#clientTimes, this.#ready, batch, this.#cost);
    this.#work = workOf(batch, missingBytes);
    if (!streamed || !this.#state) return {};
    // Sequences that were preempted for this step wait now.
    const sequences = this.#candidates.filter(({ slot, nextExperts }) => slot && nextExperts.length > 0);
    const next = forecastNextStep({
      state: { ...this.#state, sequences },
      runningTokens: new Map(batch.map(({ sequence, numTokens }) => [sequence.id, numTokens])),
      stepMs: predictStepMs(this.#cost, this.#work),
      scheduler: this.#scheduler,
      waiting: waiting.slice(0, MAX_WAITING),
      numExperts: streamed.numExperts,
    });
    this.#forecastIds = next.sequences;
    streamed.prepare(next);
    return { plannedExperts: next.planned, laterSteps: Array.from(next.laterSteps) };
  }

  /** Ends the step that was begun: refines the predicted costs. Its sequences wait from now on. */
  complete(startMs: number, nowMs: number): CompletedStep {
    const durationMs = nowMs - startMs;
    const predictedMs = predictStepMs(this.#cost, this.#work);
    this.#cost = refineCostModel(this.#cost, { work: this.#work, durationMs });
    for (const { sequence } of this.#batch) sequence.waitingSinceMs = nowMs;
    const prefillTokens = this.#batch.reduce((sum, { numTokens }) => sum + (numTokens > 1 ? numTokens : 0), 0);
    const step = { tokens: this.#work.tokens, prefillTokens, durationMs, predictedMs };
    const { streamed } = this.#residency;
    return streamed ? { ...step, expertRuns: streamed.takeRuns() } : step;
  }
}
