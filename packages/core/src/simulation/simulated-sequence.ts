import type { SchedulableSequence } from "../scheduling/scheduler.ts";
import { outputTokens, type TraceSequence } from "./trace.ts";

/** A sequence of a trace on its way: its tokens become known one by one, as an engine would sample them. */
export class SimulatedSequence implements SchedulableSequence {
  readonly id: string;
  readonly arrival: number;
  readonly arrivalMs: number;
  readonly priority = 0;
  readonly outputTokens: number;
  waitingSinceMs = 0;
  readonly #experts: readonly number[];
  readonly #promptTokens: number;
  #numOutputs = 0;
  #numComputedTokens = 0;

  constructor(sequence: TraceSequence, arrival: number, arrivalMs: number) {
    this.id = sequence.id;
    this.arrival = arrival;
    this.arrivalMs = arrivalMs;
    this.outputTokens = outputTokens(sequence);
    this.#experts = sequence.experts;
    this.#promptTokens = sequence.promptTokens;
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

  /** Its next tokens have run, until `nowMs`; with the last known one it gets another. */
  advance(numTokens: number, nowMs: number): void {
    this.waitingSinceMs = nowMs;
    this.#numComputedTokens += numTokens;
    if (this.#numComputedTokens === this.numTokens) this.#numOutputs++;
  }
}
