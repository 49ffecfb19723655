// Results of a run as plain data, their table, and the comparison of two runs.

import { markdownTable } from "../kit/report.ts";
import { mcNemarExact, wilsonInterval } from "../kit/statistics.ts";
import { type Kind, KINDS } from "./cases.ts";
import type { Level } from "./problems.ts";

/** Result of one case. */
export interface Result {
  readonly kind: Kind;
  readonly level?: Level | undefined;
  readonly isSolved: boolean;
  /** Tokens of the answer. */
  readonly tokens: number;
  readonly why?: string | undefined;
  readonly text: string;
  readonly version: string;
}

/** File of a run. */
export interface Run {
  readonly model: string;
  /** Whatever changes answers. */
  readonly settings: Readonly<Record<string, unknown>>;
  /** Time of all parts of the run. */
  readonly seconds: number;
  readonly results: Readonly<Record<string, Result>>;
}

/** Returns the results of an earlier part of a run that still hold. @throws {TypeError} on another model or settings */
export function resumable(earlier: Run, now: Pick<Run, "model" | "settings">): Run {
  for (const [name, old, own] of [
    ["model", earlier.model, now.model],
    ["settings", JSON.stringify(earlier.settings), JSON.stringify(now.settings)],
  ] as const) {
    if (old !== own) throw new TypeError(`Expected \`--out\` to be a run with ${name} ${own}, got one with ${old}`);
  }
  return earlier;
}

const percent = (share: number): string => (100 * share).toFixed(0);

function shareCells(results: readonly Result[]): readonly string[] {
  const solved = results.filter(({ isSolved }) => isSolved).length;
  const { low, high } = wilsonInterval(solved, results.length);
  return [`${solved} of ${results.length}`, percent(solved / results.length), `${percent(low)} to ${percent(high)}`];
}

/** Formats a run: what was solved of each kind and level, and the tokens. */
export function runTable({ results }: Pick<Run, "results">): string {
  const all = Object.values(results);
  const rows = KINDS.flatMap((kind) => {
    const own = all.filter((one) => one.kind === kind);
    const levels = (["easy", "medium", "hard"] as const).map((level) => own.filter((one) => one.level === level));
    const cells = levels.map((one) =>
      one.length === 0 ? "" : `${one.filter(({ isSolved }) => isSolved).length} of ${one.length}`,
    );
    const tokens = own.reduce((sum, one) => sum + one.tokens, 0);
    return own.length === 0 ? [] : [[kind, ...shareCells(own), ...cells, String(tokens)]];
  });
  const columns = ["kind", "solved", "%", "95 % interval", "easy", "medium", "hard", "tokens"];
  return markdownTable({ title: "Solved", columns, rows });
}

/** Formats the comparison of two runs over the cases that both have in the same version. */
export function comparisonTable(first: Run, second: Run): string {
  const pairs = Object.entries(first.results).flatMap(([id, one]) => {
    const other = second.results[id];
    return other?.version === one.version ? [[one, other] as const] : [];
  });
  const rows = [...KINDS, "all"].flatMap((kind) => {
    const own = pairs.filter(([one]) => kind === "all" || one.kind === kind);
    const count = (a: boolean, b: boolean): number =>
      own.filter(([one, other]) => one.isSolved === a && other.isSolved === b).length;
    const [both, onlyFirst, onlySecond] = [count(true, true), count(true, false), count(false, true)];
    const p = mcNemarExact(onlyFirst, onlySecond).toFixed(3);
    const numbers = [own.length, both + onlyFirst, both + onlySecond, onlyFirst, onlySecond].map(String);
    return own.length === 0 ? [] : [[kind, ...numbers, p]];
  });
  return markdownTable({ title: "Compared", columns: ["kind", "cases", "A", "B", "only A", "only B", "p"], rows });
}
