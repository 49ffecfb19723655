// A sequence: one completion of a request, from its prompt to its last token.

import {
  StopMatcher,
  type StopAutomaton,
  TokenCounts,
  type FinishReason,
  type PreGatingRouter,
  type ReadMeEvents,
  type ResolvedSamplingParams,
  type RouterState,
  type SchedulableSequence,
} from "@readme-moe/core";
import type { KvSlot } from "@readme-moe/kernel";
import { StreamingDecoder, type Tokenizer } from "@readme-moe/model";
import type { PlacedAllowance } from "./allowed-tokens.ts";
import { draftUsage, NO_DRAFTS, type DraftTotals } from "./speculation/draft-counts.ts";

/** Input from which a sequence is created. */
export interface SequenceStart {
  /** Id of the request and the choice; unique. */
  readonly id: string;
  readonly requestId: string;
  readonly choice: number;
  readonly arrival: number;
  readonly arrivalMs: number;
  readonly priority: number;
  /** Owner of the sequence, for fair shares. */
  readonly client?: string | undefined;
  readonly promptIds: ArrayLike<number>;
  readonly params: ResolvedSamplingParams;
  /** Whether the caller changes logits before a token is chosen. */
  readonly processesLogits: boolean;
  /** Whether the caller says which tokens may come next. @default false */
  readonly isBound?: boolean | undefined;
  readonly seed: number;
  /** Tokens that the completion is expected to repeat. */
  readonly prediction?: ArrayLike<number> | undefined;
  /** Automaton of `params.stop`; the choices of a request share it. */
  readonly stops: StopAutomaton;
  /** Whether steps may run tokens before they are known. @default false */
  readonly isSpeculated?: boolean | undefined;
  /** Whether the sequence ends after its prompt, with the outputs of the last token. @default false */
  readonly isPooled?: boolean | undefined;
}

export class Sequence implements SchedulableSequence {
  readonly id: string;
  readonly requestId: string;
  readonly choice: number;
  readonly arrival: number;
  readonly arrivalMs: number;
  readonly priority: number;
  readonly client: string | undefined;
  readonly params: ResolvedSamplingParams;
  readonly processesLogits: boolean;
  readonly isBound: boolean;
  readonly seed: number;
  readonly isSpeculated: boolean;
  readonly isPooled: boolean;
  readonly promptTokens: number;
  /** Tokens that the completion is expected to repeat. */
  readonly prediction: ArrayLike<number> | undefined;
  /** Tokens of the prompt, then of the completion. */
  readonly tokenIds: number[];
  /** Experts of the first `tokenIds`, as far as they are routed. */
  readonly experts: number[] = [];
  readonly counts: TokenCounts;
  readonly decoder: StreamingDecoder;
  readonly stops: StopMatcher;
  /** Chooses the experts of the sequence's tokens. */
  readonly router: PreGatingRouter;
  readonly routerState: RouterState;
  /** Slot in the KV memory; `undefined` while the sequence waits. */
  slot: KvSlot | undefined;
  /** Number of prompt tokens that came from the prefix cache at the first admission. */
  cachedTokens = 0;
  /** Counts of the drafts that have run. */
  drafts: DraftTotals = NO_DRAFTS;
  /** Time of the first admission. */
  startedMs: number | undefined;
  lastTokenMs: number;
  waitingSinceMs: number;
  finishReason: FinishReason | undefined;
  /** Tokens that may come next, of a sequence that is bound; `undefined` while its caller is asked. */
  allowed: PlacedAllowance | undefined;

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
    this.params = start.params;
    this.processesLogits = start.processesLogits;
    this.isBound = start.isBound ?? false;
    this.isPooled = start.isPooled ?? false;
    this.seed = start.seed;
    // A caller's function sees each row once, for the token that follows.
    const isAlone = start.processesLogits || this.isPooled;
    this.isSpeculated = start.isSpeculated === true && router.rewind !== undefined && !isAlone;
    this.prediction = start.prediction;
    this.tokenIds = Array.from(start.promptIds);
    this.promptTokens = this.tokenIds.length;
    this.counts = new TokenCounts(this.tokenIds);
    this.decoder = new StreamingDecoder(tokenizer, { skipSpecialTokens: true });
    this.stops = new StopMatcher(start.stops);
    this.router = router;
    this.routerState = router.start();
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

  /** Whether a part of the prompt is not routed yet. */
  get isArriving(): boolean {
    return this.experts.length < this.promptTokens;
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

type FinishedEvent = Parameters<ReadMeEvents["sequence:finished"]>[0];
type TokenEvent = Parameters<ReadMeEvents["token:generated"]>[0];

/** Describes the end of a sequence. */
export function finishedEvent(sequence: Sequence, reason: FinishedEvent["reason"], nowMs: number): FinishedEvent {
  return {
    sequenceId: sequence.id,
    reason,
    promptTokens: sequence.promptTokens,
    completionTokens: sequence.completionTokens,
    cachedTokens: sequence.cachedTokens,
    ...draftUsage(sequence.drafts),
    queuedMs: (sequence.startedMs ?? nowMs) - sequence.arrivalMs,
    durationMs: nowMs - sequence.arrivalMs,
  };
}

/** Describes a token that a sequence got. @param position - index of the token in the sequence */
export function tokenEvent(sequence: Sequence, tokenId: number, position: number, nowMs: number): TokenEvent {
  const sinceMs = nowMs - sequence.lastTokenMs;
  return { sequenceId: sequence.id, tokenId, position, sinceMs, isFirst: position === sequence.promptTokens };
}

/** Options of `routeSequences`. */
export interface RoutingOptions {
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
    const tokenIds = sequence.tokenIds.slice(from, from + left);
    if (tokenIds.length === 0) continue;
    left -= tokenIds.length;
    parts.push({ sequence, tokenIds });
  }
  return parts;
}
