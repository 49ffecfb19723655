import {
  StopMatcher,
  type StopAutomaton,
  TokenCounts,
  type FinishReason,
  type ResolvedSamplingParams,
  type RouterState,
  type SchedulableSequence,
} from "@readme-moe/core";
import type { KvSlot } from "@readme-moe/kernel";
import { StreamingDecoder, type Tokenizer } from "@readme-moe/model";

/** What a sequence starts from. */
export interface SequenceStart {
  /** Of the request and the choice; unique. */
  readonly id: string;
  readonly requestId: string;
  readonly choice: number;
  readonly arrival: number;
  readonly arrivalMs: number;
  readonly priority: number;
  /** Whose it is, for fair shares. */
  readonly client?: string | undefined;
  readonly promptIds: ArrayLike<number>;
  readonly params: ResolvedSamplingParams;
  /** Whether its caller changes logits before a token is chosen. */
  readonly processesLogits: boolean;
  readonly seed: number;
  /** Of `params.stop`; the choices of a request share it. */
  readonly stops: StopAutomaton;
}

/** One completion on its way: its tokens, their experts, and what decides on the next one. */
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
  readonly seed: number;
  readonly promptTokens: number;
  /** Prompt, then completion. */
  readonly tokenIds: number[];
  /** Of each of `tokenIds` that was routed. */
  readonly experts: number[] = [];
  readonly counts: TokenCounts;
  readonly decoder: StreamingDecoder;
  readonly stops: StopMatcher;
  readonly routerState: RouterState;
  /** `undefined` while it waits. */
  slot: KvSlot | undefined;
  /** Prompt tokens that came from the prefix cache when it was first admitted. */
  cachedTokens = 0;
  /** `undefined` until it first runs. */
  startedMs: number | undefined;
  lastTokenMs: number;
  waitingSinceMs: number;
  finishReason: FinishReason | undefined;

  #next: { from: number; end: number; experts: readonly number[] } = { from: 0, end: 0, experts: [] };

  constructor(start: SequenceStart, tokenizer: Tokenizer, routerState: RouterState) {
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
    this.seed = start.seed;
    this.tokenIds = Array.from(start.promptIds);
    this.promptTokens = this.tokenIds.length;
    this.counts = new TokenCounts(this.tokenIds);
    this.decoder = new StreamingDecoder(tokenizer, { skipSpecialTokens: true });
    this.stops = new StopMatcher(start.stops);
    this.routerState = routerState;
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

  get nextExperts(): ArrayLike<number> {
    const [from, end] = [this.numComputedTokens, this.experts.length];
    // Schedulers ask many times a step, and of a long prompt it is much.
    if (this.#next.from !== from || this.#next.end !== end) {
      this.#next = { from, end, experts: this.experts.slice(from) };
    }
    return this.#next.experts;
  }

  /** The next tokens that were not routed yet, `most` at most. */
  unroutedIds(most: number): readonly number[] {
    return this.tokenIds.slice(this.experts.length, this.experts.length + most);
  }
}
