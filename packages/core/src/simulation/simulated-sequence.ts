import type { SchedulableSequence } from "../scheduling/scheduler.ts";
import type { TraceSequence } from "./trace.ts";

/** Start of a simulated sequence. */
export interface SequenceStart {
  /** Order of arrival; unique. */
  readonly arrival: number;
  readonly arrivalMs: number;
  /** @default 0 */
  readonly priority?: number | undefined;
  /** Number of tokens that were generated elsewhere. @default 0 */
  readonly numOutputs?: number | undefined;
  /** Number of first tokens whose keys and values are there. @default 0 */
  readonly cachedTokens?: number | undefined;
}

/** A running sequence of a trace. Its tokens become known one by one, as if an engine sampled them. */
export class SimulatedSequence implements SchedulableSequence {
  readonly id: string;
  readonly arrival: number;
  readonly arrivalMs: number;
  readonly priority: number;
  readonly outputTokens: number;
  waitingSinceMs = 0;
  readonly #experts: readonly number[];
  readonly #promptTokens: number;
  #numOutputs: number;
  #numComputedTokens: number;

  constructor({ id, experts, promptTokens }: Omit<TraceSequence, "arrivalStep">, start: SequenceStart) {
    const { arrival, arrivalMs, priority = 0, numOutputs = 0, cachedTokens = 0 } = start;
    this.id = id;
    this.arrival = arrival;
    this.arrivalMs = arrivalMs;
    this.outputTokens = experts.length - promptTokens + 1;
    this.#experts = experts;
    this.#promptTokens = promptTokens;
    this.priority = priority;
    this.#numOutputs = numOutputs;
    this.#numComputedTokens = Math.min(cachedTokens, promptTokens + numOutputs - 1);
  }

  get numTokens(): number {
    return this.#promptTokens + this.#numOutputs;
  }

  get numComputedTokens(): number {
    return this.#numComputedTokens;
  }

  get completionTokens(): number {
    return this.#numOutputs;
  }

  get nextExperts(): readonly number[] {
    return this.#experts.slice(this.#numComputedTokens, this.numTokens);
  }

  get isFinished(): boolean {
    return this.#numOutputs === this.outputTokens;
  }

  /** Counts tokens that have run until `nowMs`; after the last known token there is a new one. */
  advance(numTokens: number, nowMs: number): void {
    this.waitingSinceMs = nowMs;
    this.#numComputedTokens += numTokens;
    if (this.#numComputedTokens === this.numTokens) this.#numOutputs++;
  }
}
