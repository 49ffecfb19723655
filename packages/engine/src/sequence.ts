// A sequence: one completion of a request, from its prompt to its last token.

import {
  type DraftCounts,
  type DraftsBySource,
  type DraftSource,
  type FinishReason,
  type PreGatingRouter,
  type ResolvedSamplingParams,
  type RouterState,
  type SchedulableSequence,
  type StopAutomaton,
  TokenCounts,
  type Usage,
} from "@readme-moe/core";
import type { KvSlot } from "@readme-moe/kernel";
import { type CompletionPiece, CompletionText, type Tokenizer } from "@readme-moe/model";
import type { PlacedAllowance } from "./allowed-tokens.ts";
import type { PrefixNames } from "./prefix-names.ts";

type Identity = "id" | "requestId" | "choice" | "arrival" | "arrivalMs" | "priority";

/** Input from which a sequence is created. */
export interface SequenceStart
  extends
    Pick<Sequence, Identity | "params" | "processesLogits" | "seed">,
    Partial<Pick<Sequence, "client" | "cacheSalt" | "prediction">> {
  readonly promptIds: ArrayLike<number>;
  /** @default false */
  readonly isBound?: boolean | undefined;
  /** Automaton of `params.stop`; the choices of a request share it. */
  readonly stops: StopAutomaton;
  /** Tokens that were generated before. */
  readonly resumed?: ResumedCompletion | undefined;
  /** @default false */
  readonly isSpeculated?: boolean | undefined;
  /** Called once, when the keys and values of the prompt are computed. */
  readonly onPrefilled?: OnPrefilled | undefined;
  /** @default false */
  readonly isPooled?: boolean | undefined;
  /** @default false */
  readonly givesStates?: boolean | undefined;
}

type OnPrefilled = (sequence: Sequence, slot: KvSlot) => void;

export class Sequence implements SchedulableSequence {
  /** Id of the request and the choice; unique. */
  readonly id: string;
  readonly requestId: string;
  readonly choice: number;
  readonly arrival: number;
  readonly arrivalMs: number;
  readonly priority: number;
  /** Owner of the sequence, for fair shares. */
  readonly client: string | undefined;
  /** Keeps what is cached and learned apart, see `GenerateRequest.cacheSalt`. */
  readonly cacheSalt: string | undefined;
  readonly params: ResolvedSamplingParams;
  /** Whether the caller changes logits before a token is chosen. */
  readonly processesLogits: boolean;
  /** Whether the caller says which tokens may come next. */
  readonly isBound: boolean;
  readonly seed: number;
  /** Whether steps may run tokens before they are known. */
  readonly isSpeculated: boolean;
  /** Whether the sequence ends after its prompt, with the outputs of the last token. */
  readonly isPooled: boolean;
  /** Whether the outputs of all tokens are its result instead. */
  readonly givesStates: boolean;
  readonly promptTokens: number;
  /** Number of tokens that are routed before the sequence waits for KV memory: the prompt and resumed tokens. */
  readonly arrivingTokens: number;
  /** Tokens that the completion is expected to repeat. */
  readonly prediction: ArrayLike<number> | undefined;
  /** Tokens of the prompt, then of the completion. */
  readonly tokenIds: number[];
  /** Experts of the first `tokenIds`, as far as they are routed. */
  readonly experts: number[] = [];
  readonly counts: TokenCounts;
  readonly text: CompletionText;
  /** The last piece of a completion that had ended before it came here. */
  readonly ended: CompletionPiece | undefined;
  /** Chooses the experts of the sequence's tokens. */
  readonly router: PreGatingRouter;
  readonly routerState: RouterState;
  /** Slot in the KV memory; `undefined` while the sequence waits. */
  slot: KvSlot | undefined;
  /** Names of the files of the prompt and the answer; `undefined` if the prompt is not worth files. */
  files: PrefixNames | undefined;
  /** Number of prompt tokens that came from the prefix cache before the first step. */
  cachedTokens = 0;
  /** Counts of the drafts that have run. */
  drafts: DraftTotals = NO_DRAFTS;
  /** Time of the first step. */
  startedMs: number | undefined;
  lastTokenMs: number;
  waitingSinceMs: number;
  finishReason: FinishReason | undefined;
  /** Tokens that may come next, of a sequence that is bound; `undefined` while its caller is asked. */
  allowed: PlacedAllowance | undefined;

  #onPrefilled: OnPrefilled | undefined;
  #next: { from: number; end: number; experts: readonly number[] } = { from: 0, end: 0, experts: [] };

  constructor(start: SequenceStart, tokenizer: Tokenizer, router: PreGatingRouter) {
    this.id = start.id;
    this.requestId = start.requestId;
    this.choice = start.choice;
    this.arrival = start.arrival;
    this.arrivalMs = start.arrivalMs;
    this.lastTokenMs = start.arrivalMs;
    this.waitingSinceMs = start.arrivalMs;
    this.priority = start.priority;
    this.client = start.client;
    this.cacheSalt = start.cacheSalt;
    this.params = start.params;
    this.processesLogits = start.processesLogits;
    this.isBound = start.isBound ?? false;
    this.isPooled = start.isPooled ?? false;
    this.givesStates = start.givesStates ?? false;
    this.seed = start.seed;
    // A caller's function sees each row once, for the token that follows.
    const isAlone = start.processesLogits || this.isPooled;
    this.isSpeculated = start.isSpeculated === true && router.rewind !== undefined && !isAlone;
    this.prediction = start.prediction;
    this.tokenIds = Array.from(start.promptIds);
    this.promptTokens = this.tokenIds.length;
    this.counts = new TokenCounts(this.tokenIds);
    this.text = start.resumed?.text ?? new CompletionText(tokenizer, start.stops);
    this.ended = start.resumed?.ended;
    this.finishReason = this.ended?.finishReason;
    for (const id of Array.from(start.resumed?.tokenIds ?? [])) {
      this.tokenIds.push(id);
      this.counts.add(id);
    }
    this.arrivingTokens = this.ended ? this.promptTokens : this.tokenIds.length;
    this.router = router;
    this.routerState = router.start();
    this.#onPrefilled = start.onPrefilled;
  }

  get numTokens(): number {
    return this.tokenIds.length;
  }

  get numComputedTokens(): number {
    return this.slot?.numTokens ?? 0;
  }

  get completionTokens(): number {
    return this.tokenIds.length - this.promptTokens;
  }

  /** Whether a part of the tokens that it came with is not routed yet. */
  get isArriving(): boolean {
    return this.experts.length < this.arrivingTokens;
  }

  /** Returns what is to be called when the prompt is computed, once. */
  takeOnPrefilled(): OnPrefilled | undefined {
    const onPrefilled = this.#onPrefilled;
    this.#onPrefilled = undefined;
    return onPrefilled;
  }

  get nextExperts(): ArrayLike<number> {
    const [from, end] = [this.numComputedTokens, this.experts.length];
    // Schedulers read this many times per step, and it is long for a long prompt.
    if (this.#next.from !== from || this.#next.end !== end) {
      this.#next = { from, end, experts: this.experts.slice(from) };
    }
    return this.#next.experts;
  }
}

interface RoutingOptions {
  /**
   * Whether a call routes at most a router's `chunkTokens`, earlier sequences first; the rest waits for the next call.
   */
  readonly isInChunks: boolean;
  readonly now: () => number;
  readonly onRouted: (sequence: Sequence, position: number, experts: Uint16Array, durationMs: number) => void;
  readonly onFailed: (sequence: Sequence, error: unknown) => void;
}

/** Routes the tokens that have no expert yet, in one call for all sequences of a router. */
export async function routeSequences(
  sequences: readonly Sequence[],
  { isInChunks, now, onRouted, onFailed }: RoutingOptions,
): Promise<void> {
  for (const router of new Set(sequences.map((sequence) => sequence.router))) {
    const own = sequences.filter((sequence) => sequence.router === router);
    const parts = nextUnrouted(own, isInChunks ? router.chunkTokens : undefined);
    if (parts.length === 0) continue;
    const startMs = now();
    try {
      const routes = await router.route(
        parts.map(({ sequence, tokenIds }) => ({ state: sequence.routerState, tokenIds })),
      );
      const durationMs = now() - startMs;
      for (const [index, { sequence }] of parts.entries()) {
        const experts = routes[index]?.experts ?? new Uint16Array();
        const position = sequence.experts.length;
        for (const expert of experts) sequence.experts.push(expert);
        onRouted(sequence, position, experts, durationMs);
      }
    } catch (error) {
      for (const { sequence } of parts) onFailed(sequence, error);
    }
  }
}

/** Takes the next unrouted tokens of sequences, up to `most` tokens in total. */
function nextUnrouted(sequences: readonly Sequence[], most = Infinity) {
  const parts: { readonly sequence: Sequence; readonly tokenIds: readonly number[] }[] = [];
  let left = most;
  for (const sequence of sequences) {
    if (left === 0) break;
    const from = sequence.experts.length;
    const end = sequence.isArriving ? sequence.arrivingTokens : sequence.numTokens;
    const tokenIds = sequence.tokenIds.slice(from, Math.min(end, from + left));
    if (tokenIds.length === 0) continue;
    left -= tokenIds.length;
    parts.push({ sequence, tokenIds });
  }
  return parts;
}

/** Facts that end a completion, besides its own text. */
export interface CompletionEnds {
  readonly eosTokenIds: readonly number[];
  /** Largest number of tokens of one sequence, prompt included. */
  readonly contextTokens: number;
}

interface CompletionLength {
  readonly params: Pick<ResolvedSamplingParams, "maxTokens" | "ignoreEos" | "stopTokenIds">;
  readonly promptTokens: number;
  /** Tokens of the completion, the last one included. */
  readonly completionTokens: number;
}

/** Finds why a completion ends with its last token, unless a stop string ends it. */
export function endingOf(
  tokenId: number,
  { params, promptTokens, completionTokens }: CompletionLength,
  { eosTokenIds, contextTokens }: CompletionEnds,
): FinishReason | undefined {
  if ((!params.ignoreEos && eosTokenIds.includes(tokenId)) || params.stopTokenIds.has(tokenId)) return "stop";
  const isFull = completionTokens >= params.maxTokens || promptTokens + completionTokens >= contextTokens;
  return isFull ? "length" : undefined;
}

/** Beginning of a completion: its tokens, and the text behind them. */
export interface ResumedCompletion {
  readonly tokenIds: ArrayLike<number>;
  /** Text after the tokens; it holds back what the tokens do not decide. */
  readonly text: CompletionText;
  /** The last piece, if the tokens end the completion. */
  readonly ended: CompletionPiece | undefined;
}

/** Pause after this many tokens, some tenths of a millisecond. */
const PAUSE_TOKENS = 512;

/**
 * Takes the tokens of a completion that were generated before. Pauses often, since there may be many.
 *
 * @throws {RangeError} on tokens behind the completion's end
 */
export function* resumeCompletion(
  tokenIds: ArrayLike<number>,
  text: CompletionText,
  completion: Omit<CompletionLength, "completionTokens"> & { readonly choice: number },
  ends: CompletionEnds,
): Generator<void, ResumedCompletion> {
  let ended: CompletionPiece | undefined;
  for (let index = 0; index < tokenIds.length; index++) {
    if (ended) {
      const expected = `Expected \`resume.choices[${completion.choice}]\` to end with its first ${index} tokens`;
      const why = ended.stop === undefined ? `(${ended.finishReason})` : `(a stop string)`;
      throw new RangeError(`${expected} ${why}, got ${tokenIds.length} tokens`);
    }
    const tokenId = tokenIds[index] ?? 0;
    const piece = text.push(tokenId, endingOf(tokenId, { ...completion, completionTokens: index + 1 }, ends));
    if (piece.finishReason) ended = piece;
    if (index % PAUSE_TOKENS === PAUSE_TOKENS - 1) yield;
  }
  return { tokenIds, text, ended };
}

/** Counts of drafts, in total and by source. Plain data. */
interface DraftTotals extends DraftCounts {
  readonly draftsBySource: DraftsBySource;
}

const SOURCES = ["prediction", "grammar", "context", "recycled", "head"] as const satisfies readonly DraftSource[];

export const NO_DRAFTS: DraftTotals = { draftedTokens: 0, acceptedDraftTokens: 0, draftsBySource: {} };

/** Counts a draft that has run. */
export function countDraft(totals: DraftTotals, source: DraftSource, counts: DraftCounts): DraftTotals {
  const draftsBySource = { ...totals.draftsBySource, [source]: sum(totals.draftsBySource[source], counts) };
  return { ...sum(totals, counts), draftsBySource };
}

/** Adds the drafts of sequences to totals, which may have other fields as well. */
export function addDrafts<Totals extends DraftTotals>(
  totals: Totals,
  sequences: Iterable<{ readonly drafts: DraftTotals }>,
): Totals {
  let all: DraftTotals = totals;
  for (const { drafts } of sequences) {
    if (drafts.draftedTokens === 0) continue;
    const draftsBySource = sumBySource(all.draftsBySource, drafts.draftsBySource);
    all = { ...sum(all, drafts), draftsBySource };
  }
  const { draftedTokens, acceptedDraftTokens, draftsBySource } = all;
  return { ...totals, draftedTokens, acceptedDraftTokens, draftsBySource };
}

/** Returns counts as usage and events give them. */
export function draftUsage(counts: DraftCounts): Pick<Usage, "acceptedDraftTokens" | "rejectedDraftTokens"> {
  const { draftedTokens, acceptedDraftTokens: accepted } = counts;
  return { acceptedDraftTokens: accepted, rejectedDraftTokens: draftedTokens - accepted };
}

function sum(a: DraftCounts = NO_DRAFTS, b: DraftCounts = NO_DRAFTS): DraftCounts {
  return {
    draftedTokens: a.draftedTokens + b.draftedTokens,
    acceptedDraftTokens: a.acceptedDraftTokens + b.acceptedDraftTokens,
  };
}

function sumBySource(a: DraftsBySource, b: DraftsBySource): DraftsBySource {
  const all: Partial<Record<DraftSource, DraftCounts>> = { ...a };
  for (const source of SOURCES) if (b[source]) all[source] = sum(a[source], b[source]);
  return all;
}
