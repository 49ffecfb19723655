// Drafts of a small model with the same vocabulary, which runs in the engine's process between the engine's steps.

import { describeValue, type Draft, everythingResident, integerOption, numberOption } from "@readme-moe/core";
import {
  KV_BLOCK_TOKENS,
  kvBytesPerToken,
  type KvMemory,
  type KvPrecision,
  precisionOf,
  wholeBlocks,
} from "@readme-moe/kernel";
import {
  forContext,
  isPublished,
  type Model,
  openModel,
  type Precision,
  resolveCacheFolder,
  type Tokenizer,
} from "@readme-moe/model";
import { KernelRunner, type KernelRunnerOptions } from "../kernel-runner.ts";
import { cachedCost, measureCost } from "../measure-cost.ts";
import { kvPrecisionOf, totalBytes, weightSizes } from "../memory-sizes.ts";
import {
  type CachedSequence,
  catchUpRows,
  continuedDrafts,
  DraftChain,
  type DraftCosts,
  DraftModelMemory,
  DraftModelRuns,
  SequenceChances,
  startingDrafts,
} from "./draft-model-plan.ts";
import type { DraftedSequence, DraftingModel, VerifyingStep } from "./drafter.ts";

/** A sequence within a call. */
interface Drafting {
  readonly sequence: DraftedSequence;
  readonly cached: CachedSequence;
  readonly chain: DraftChain;
}

const NO_DRAFT: Draft = { source: "model", tokenIds: [], classes: [] };

/**
 * Drafts with a small dense model. It reads sequences as they grow, in chunks, and continues them greedily, all at
 * once. The tokens of a draft depend on the sequence alone; time decides only how far it goes.
 *
 * The kernel of the draft model has threads of its own. They sleep while the engine's threads run: the two never run
 * at the same time.
 */
export class ModelDrafter implements DraftingModel {
  readonly #runner: KernelRunner;
  readonly #kv: KvMemory;
  readonly #memory: DraftModelMemory;
  readonly #runs: DraftModelRuns;
  readonly #options: ResolvedDraftModelOptions;
  readonly #chances = new SequenceChances();
  #lastCall: Promise<unknown> = Promise.resolve();
  #closed: Promise<void> | undefined;

  private constructor(runner: KernelRunner, kv: KvMemory, runs: DraftModelRuns, options: ResolvedDraftModelOptions) {
    this.#runner = runner;
    this.#kv = kv;
    this.#runs = runs;
    this.#memory = new DraftModelMemory(kv);
    this.#options = options;
  }

  /**
   * Opens a dense model, and measures the time of its steps. The drafter owns the model: it is closed with the drafter,
   * and when opening fails.
   *
   * @throws {TypeError | RangeError} on wrong options
   */
  static async open(model: Model, options: DraftModelOptions = {}): Promise<ModelDrafter> {
    const closers: (() => Promise<void>)[] = [() => model.close()];
    try {
      const resolved = resolveDraftModelOptions(options, model);
      const { threads, kernel, cacheFolder, onProgress, onCacheFailure } = options;
      const { precision, kvPrecision, capacityTokens, now } = resolved;
      const building = { threads, kernel, cacheFolder, onProgress, onCacheFailure, precision, kvPrecision };
      const runner = await KernelRunner.open(model, building);
      closers.push(() => runner.dispose());
      const fingerprint = await model.fingerprint(resolveCacheFolder(cacheFolder));
      const measured = {
        fingerprint: `${fingerprint} ${precision} ${runner.info.instructions}`,
        threads: runner.info.threads,
        isStreamed: false,
      };
      const measure = () => measureCost(runner, { residency: everythingResident, now });
      const cost = await cachedCost(measured, cacheFolder, measure);
      const kv = runner.openKv({ capacityTokens });
      return new ModelDrafter(runner, kv, new DraftModelRuns(runner, kv, { cost, now }), resolved);
    } catch (error) {
      for (const close of closers.toReversed()) await close();
      throw error;
    }
  }

  /** Size of the keys and values of all sequences. */
  get bytes(): number {
    return this.#memory.bytes;
  }

  /** Time of all runs so far. */
  get spentMs(): number {
    return this.#runs.spentMs;
  }

  /** Predicts the time of each token of a run that gives each of `numRows` sequences one token. */
  msPerToken(numRows: number): number {
    return this.#runs.msPerRun(numRows) / numRows;
  }

  /**
   * Drafts for some sequences at once. A sequence gets an empty draft while the model has not read all of its tokens,
   * when it is longer than the model's context, when there is no memory for it beside the others, and when no draft
   * pays.
   *
   * @param sequences - with different ids
   * @param step - the step that will verify the drafts; without it, they end at `mostTokens` and `leastChance` alone
   * @returns one draft per sequence, in the same order
   */
  propose(sequences: readonly DraftedSequence[], step?: VerifyingStep): Promise<readonly Draft[]> {
    if (this.#closed) return Promise.reject(new TypeError("Expected the draft model to be open"));
    const result = this.#lastCall.then(() => this.#propose(sequences, step));
    this.#lastCall = result.catch(() => undefined);
    return result;
  }

  /** Frees what is kept of a sequence. */
  forget(id: string): void {
    this.#memory.release(id);
    this.#chances.forget(id);
  }

  /** Closes the model after the calls that are in progress. */
  dispose(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    await this.#lastCall;
    this.#memory.releaseAll();
    this.#chances.clear();
    this.#kv.dispose();
    await this.#runner.dispose();
    await this.#runner.model.close();
  }

  async #propose(sequences: readonly DraftedSequence[], step: VerifyingStep | undefined): Promise<readonly Draft[]> {
    const members = this.#hold(this.#chosen(sequences, step));
    try {
      const numRows = await this.#catchUp(members);
      await this.#continue(members, numRows, step);
    } catch (error) {
      // A run that failed may have filled some positions.
      for (const { cached } of members) this.#memory.release(cached.id);
      throw error;
    }
    const drafts = new Map(members.map(({ sequence, chain }) => [sequence.id, chain.draft]));
    return sequences.map(({ id }) => drafts.get(id) ?? NO_DRAFT);
  }

  /** Lists the sequences that fit the model, and of which drafts may pay or are not asked for yet. */
  #chosen(sequences: readonly DraftedSequence[], step: VerifyingStep | undefined): readonly DraftedSequence[] {
    const { contextTokens } = this.#runner.model.config;
    const fitting = sequences.filter(({ id, tokenIds: { length } }) => {
      if (length > contextTokens) this.#memory.release(id);
      return length > 0 && length <= contextTokens;
    });
    if (!step) return fitting;
    const prospects = fitting.map((one) => ({ chance: this.#chances.of(one.id), mostTokens: this.#mostTokens(one) }));
    const starting = new Set(startingDrafts(step, prospects, this.#costs(step)));
    return fitting.filter((one, index) => {
      if (one.mostTokens === 0 || starting.has(index)) return true;
      this.#chances.relax(one.id);
      return false;
    });
  }

  /** Begins the drafts of the sequences that there is memory for. */
  #hold(sequences: readonly DraftedSequence[]): readonly Drafting[] {
    const { leastChance, vocabSize } = this.#options;
    const { eosTokenIds, contextTokens } = this.#runner.model.config;
    const held = this.#memory.hold(
      sequences.map(({ id, tokenIds, mostTokens }) => ({
        id,
        tokenIds,
        // The last token runs again if that is the only way to the token after it.
        reusableTokens: mostTokens > 0 ? tokenIds.length - 1 : tokenIds.length,
        roomTokens: Math.min(contextTokens, tokenIds.length + Math.max(0, mostTokens - 1)),
      })),
    );
    return sequences.flatMap((sequence, index) => {
      const cached = held[index];
      if (!cached) return [];
      const mostTokens = this.#mostTokens(sequence);
      const limits = { mostTokens, leastChance, vocabSize, eosTokenIds, chancesOf: sequence.chancesOf };
      return [{ sequence, cached, chain: new DraftChain(limits) }];
    });
  }

  /** Runs what the sequences are behind, and begins the drafts of those that are not any more. @returns their number */
  async #catchUp(members: readonly Drafting[]): Promise<number> {
    const { vocabSize } = this.#runner.model.config;
    const missing = members.map(({ sequence, cached }) => sequence.tokenIds.length - cached.tokenIds.length);
    const numRows = catchUpRows(missing, this.#options.chunkTokens);
    const rows = members.flatMap((member, index) => {
      const { sequence, cached } = member;
      const from = cached.tokenIds.length;
      const tokenIds = sequence.tokenIds.slice(from, from + (numRows[index] ?? 0));
      // The other model may have tokens that this one does not know.
      if (tokenIds.some((tokenId) => tokenId >= vocabSize)) {
        this.#memory.release(cached.id);
        return [];
      }
      if (tokenIds.length === 0) return [];
      const isWanted = sequence.mostTokens > 0 && from + tokenIds.length === sequence.tokenIds.length;
      return [{ ...member, tokenIds, isWanted }];
    });
    for (const [index, best] of (await this.#runs.run(rows)).entries()) {
      if (best) rows[index]?.chain.add(best.tokenId, best.probability);
    }
    return rows.filter(({ isWanted }) => isWanted).reduce((sum, { tokenIds }) => sum + tokenIds.length, 0);
  }

  /** Runs one more token of each draft that goes on, until none does. @param firstRows - rows that began the drafts */
  async #continue(members: readonly Drafting[], firstRows: number, step: VerifyingStep | undefined): Promise<void> {
    let runsMs = this.#runs.msPerRun(firstRows);
    for (;;) {
      const live = members.filter(({ cached, chain }) => chain.growsFrom !== undefined && this.#memory.isHeld(cached));
      const going = step ? this.#going(live, { ...step, ms: step.ms + runsMs }, members) : live;
      for (const one of live) if (!going.includes(one)) one.chain.end();
      if (going.length === 0) break;
      runsMs += this.#runs.msPerRun(going.length);
      const rows = going.map(({ cached, chain: { growsFrom = 0 } }) => ({
        cached,
        tokenIds: [growsFrom],
        isWanted: true,
      }));
      for (const [index, best] of (await this.#runs.run(rows)).entries()) {
        if (best) going[index]?.chain.add(best.tokenId, best.probability);
      }
    }
    for (const { sequence, cached, chain } of members) {
      if (this.#memory.isHeld(cached)) this.#chances.include(sequence.id, chain.seenChances);
    }
  }

  /** Chooses the drafts that get one more token. @param step - the step and all runs so far */
  #going(live: readonly Drafting[], step: VerifyingStep, members: readonly Drafting[]): readonly Drafting[] {
    const tokens = members.reduce((sum, { chain }) => sum + chain.expectedTokens, step.tokens);
    const numRows = members.reduce((sum, { chain }) => sum + chain.length, 0);
    const soFar = { tokens, ms: step.ms + step.msPerRow * numRows };
    const gains = live.map(({ sequence, chain }) => chain.chance * this.#chances.of(sequence.id));
    return continuedDrafts(soFar, gains, this.#costs(step)).flatMap((index) => live[index] ?? []);
  }

  #costs({ msPerRow }: VerifyingStep): DraftCosts {
    return { runMs: (numRows) => this.#runs.msPerRun(numRows), rowMs: msPerRow };
  }

  /** Limits a draft to the context: all of its tokens but the last run. */
  #mostTokens({ tokenIds, mostTokens }: DraftedSequence): number {
    return Math.min(mostTokens, this.#runner.model.config.contextTokens - tokenIds.length + 1);
  }
}

/** Options of a draft model. Those that engines have, too, have the same names. */
export interface DraftModelOptions extends Pick<
  KernelRunnerOptions,
  "cacheFolder" | "threads" | "kernel" | "kvPrecision" | "onProgress" | "onCacheFailure"
> {
  /** The engine's precision; the draft model's is its own default unless this is fp32. @default "fp32" */
  readonly precision?: Precision | undefined;
  /** Largest number of sequences at a time, which bounds the memory that is of use. @default 32 */
  readonly maxNumSeqs?: number | undefined;
  /** Largest number of tokens of a sequence in the engine. @default the draft model's own */
  readonly contextTokens?: number | undefined;
  /** Memory for keys and values. @default 512 MiB, or what one sequence of 4,096 tokens needs */
  readonly kvBytes?: number | undefined;
  /** Number of prompt tokens that one call reads at most, of all sequences together. @default 128 */
  readonly chunkTokens?: number | undefined;
  /** Chance that a token is reached and accepted, below which a draft ends before it. @default 0.1 */
  readonly leastChance?: number | undefined;
  /** Number of tokens of the model that verifies; others are not drafted. @default the draft model's own */
  readonly vocabSize?: number | undefined;
  /** Clock in ms. @default performance.now */
  readonly now?: (() => number) | undefined;
}

interface ResolvedDraftModelOptions {
  readonly precision: Precision;
  readonly kvPrecision: KvPrecision;
  readonly capacityTokens: number;
  readonly chunkTokens: number;
  readonly leastChance: number;
  readonly vocabSize: number;
  readonly now: () => number;
}

const DEFAULT_KV_BYTES = 512 << 20;
const DEFAULT_KV_TOKENS = 4096;

/**
 * Checks the options that the kernel does not check, and fills in defaults.
 * @throws {TypeError | RangeError} with the option, expectation and value
 */
function resolveDraftModelOptions(
  options: DraftModelOptions,
  model: Pick<Model, "config" | "weights">,
): ResolvedDraftModelOptions {
  const { config } = model;
  const { vocabSize, contextTokens } = config;
  if (config.recurrence) throw new TypeError("Expected `draft` to be a model with attention in all its layers");
  const precision = (options.precision ?? "fp32") === "fp32" ? "fp32" : precisionOf(model);
  const kvPrecision = kvPrecisionOf(precision, options.kvPrecision);
  const bytesPerToken = kvBytesPerToken(config, kvPrecision);
  const fallback = Math.max(DEFAULT_KV_BYTES, bytesPerToken * Math.min(contextTokens, DEFAULT_KV_TOKENS));
  const kvBytes = integerOption("kvBytes", options.kvBytes ?? fallback, bytesPerToken * KV_BLOCK_TOKENS);
  const most = integerOption("maxNumSeqs", options.maxNumSeqs ?? 32, 1) * wholeBlocks(contextTokens);
  return {
    precision,
    kvPrecision,
    capacityTokens: Math.floor(Math.min(most, kvBytes / bytesPerToken) / KV_BLOCK_TOKENS) * KV_BLOCK_TOKENS,
    chunkTokens: integerOption("chunkTokens", options.chunkTokens ?? 128, 1),
    leastChance: numberOption("leastChance", options.leastChance ?? 0.1, 0, 1),
    vocabSize: Math.min(options.vocabSize ?? Infinity, vocabSize),
    now: options.now ?? (() => performance.now()),
  };
}

// Opens a draft model for another model, if both have the same tokens.

type DraftTarget = Pick<Model, "path" | "config" | "loadText">;

/**
 * Opens a dense model that drafts for another one.
 *
 * @param path - a folder or a GGUF file
 * @throws {TypeError | RangeError} naming the option `draft`, when the model does not fit the other one
 * @throws {ReadMeError} when the model cannot be opened
 */
export async function openDraftModel(
  path: string,
  options: DraftModelOptions,
  target: DraftTarget,
): Promise<ModelDrafter> {
  if (typeof path !== "string" || path === "") {
    throw new TypeError(`Expected \`draft\` to name a folder or a GGUF file, got ${describeValue(path)}`);
  }
  // The model is opened again for its weights, so that its tokenizer does not stay in memory.
  const checked = await openModel(path);
  try {
    const problem = await misfit(checked, target);
    if (problem !== undefined) throw new RangeError(`Expected \`draft\` to be ${problem}; got \`${path}\``);
  } finally {
    await checked.close();
  }
  const draft = await openModel(path);
  const contextTokens = Math.min(options.contextTokens ?? Infinity, draft.config.contextTokens);
  return ModelDrafter.open(forContext(draft, contextTokens), { vocabSize: target.config.vocabSize, ...options });
}

/** Counts the memory of a draft model: weights, keys and values. 0 without one. */
export async function draftBytesOf(path: string | undefined, options: DraftModelOptions): Promise<number> {
  if (path === undefined) return 0;
  const model = await openModel(path);
  try {
    const { precision, kvPrecision, capacityTokens } = resolveDraftModelOptions(options, model);
    const kvBytes = capacityTokens * kvBytesPerToken(model.config, kvPrecision);
    return totalBytes(weightSizes(model, precision)) + kvBytes;
  } finally {
    await model.close();
  }
}

/** Finds the first reason why a model cannot draft for another one. */
async function misfit(model: Model, target: DraftTarget): Promise<string | undefined> {
  const numExperts = Math.max(model.experts.names.length, 1 + (model.loraSet?.experts.length ?? 0));
  if (model.config.pooling) return "a model that generates";
  if (numExperts > 1 || !isPublished(model)) return `a dense model, not one of ${numExperts} experts`;
  const [own, other] = [(await model.loadText()).tokenizer, (await target.loadText()).tokenizer];
  const id = firstDifference(own, other);
  if (id === undefined) return undefined;
  const [ownToken, otherToken] = [own, other].map((tokenizer) => describeToken(tokenizer, id));
  return `a model with the tokens of \`${target.path}\`, whose token ${id} is ${otherToken}, not ${ownToken}`;
}

/** GGUF files fill ids without a token with such names. */
const PADDING = /^\[PAD\d+\]$/;

function spellingOf(tokenizer: Tokenizer, id: number): string | undefined {
  const spelling = tokenizer.spelling(id);
  return spelling !== undefined && PADDING.test(spelling) ? undefined : spelling;
}

/** Finds the first id that two vocabularies spell differently. Logits without a token do not count. */
function firstDifference(one: Tokenizer, other: Tokenizer): number | undefined {
  for (let id = 0; id < Math.max(one.vocabSize, other.vocabSize); id++) {
    if (spellingOf(one, id) !== spellingOf(other, id)) return id;
  }
  return undefined;
}

function describeToken(tokenizer: Tokenizer, id: number): string {
  const spelling = spellingOf(tokenizer, id);
  return spelling === undefined ? "none" : JSON.stringify(spelling);
}
