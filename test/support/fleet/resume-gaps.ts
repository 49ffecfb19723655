// Pauses of answers when their machine has a fault, by fault.

import { percentile } from "../../../bench/kit/statistics.ts";
import type { Fault } from "./chaos.ts";

/** Measures answers that were under way on a machine when it had a fault. */
export class ResumeGaps {
  /** Time of the last chunk of each answer under way. */
  readonly #heardMs = new Map<string, number>();
  readonly #struck = new Map<string, { readonly fault: Fault; longestMs: number }>();
  readonly #gaps: Record<Fault, number[]> = { killed: [], frozen: [], drained: [] };

  /** Answers under way, of which something has come. */
  get ids(): readonly string[] {
    return [...this.#heardMs.keys()];
  }

  struck(id: string, fault: Fault): void {
    if (this.#heardMs.has(id) && !this.#struck.has(id)) this.#struck.set(id, { fault, longestMs: 0 });
  }

  chunk(id: string, nowMs: number): void {
    const struck = this.#struck.get(id);
    if (struck) struck.longestMs = Math.max(struck.longestMs, nowMs - (this.#heardMs.get(id) ?? nowMs));
    this.#heardMs.set(id, nowMs);
  }

  ended(id: string): void {
    const struck = this.#struck.get(id);
    if (struck) this.#gaps[struck.fault].push(struck.longestMs);
    this.#heardMs.delete(id);
    this.#struck.delete(id);
  }

  /** Describes the longest pauses: number of answers, median and 95th percentile in ms. */
  toString(): string {
    return Object.entries(this.#gaps)
      .map(([fault, gaps]) => `${fault}: ${gaps.length}, p50 ${at(gaps, 50)} ms, p95 ${at(gaps, 95)} ms`)
      .join("; ");
  }
}

function at(values: readonly number[], percent: number): string {
  return values.length === 0 ? "–" : percentile(values, percent).toFixed(0);
}
