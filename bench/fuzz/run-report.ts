// Counts the results of a run, and prints them as a table.

import type { FuzzCase } from "./fuzz-case.ts";
import type { Verdict } from "./judge.ts";

export class Tally {
  readonly #kinds = new Map<
    string,
    { cases: number; requests: number; failed: number; outcomes: Map<string, number> }
  >();

  add({ kind, asks }: FuzzCase, { outcomes, problems }: Verdict): void {
    const of = this.#kinds.get(kind) ?? { cases: 0, requests: 0, failed: 0, outcomes: new Map<string, number>() };
    this.#kinds.set(kind, of);
    of.cases++;
    of.requests += asks.length;
    if (problems.length > 0) of.failed++;
    for (const outcome of outcomes) of.outcomes.set(outcome, (of.outcomes.get(outcome) ?? 0) + 1);
  }

  get requests(): number {
    return [...this.#kinds.values()].reduce((sum, { requests }) => sum + requests, 0);
  }

  get failed(): number {
    return [...this.#kinds.values()].reduce((sum, { failed }) => sum + failed, 0);
  }

  /** Returns a line for each kind of case. */
  lines(): readonly string[] {
    return [...this.#kinds].map(([kind, { cases, requests, failed, outcomes }]) => {
      const counts = [...outcomes].toSorted(([, a], [, b]) => b - a).map(([outcome, count]) => `${outcome}: ${count}`);
      const sizes = `${String(cases).padStart(7)} cases ${String(requests).padStart(7)} requests ${String(failed).padStart(4)} failed`;
      return `${kind.padEnd(11)}${sizes}  ${counts.join(", ")}`;
    });
  }
}
