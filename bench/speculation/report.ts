// Tables of the results.

import { formatNumber, markdownTable } from "../kit/report.ts";
import { mean, median } from "../kit/statistics.ts";
import type { ReportTable } from "../kit/suite.ts";
import type { Memory } from "./engines.ts";
import type { RoundFigures, Rounds } from "./measure.ts";
import { type Plan, quotedShareOf } from "./plan.ts";
import type { Kind } from "./request.ts";
import { sumOfCounts } from "./step-meter.ts";

/** Results of one kind and number of requests. */
export interface Cell {
  readonly memory: Memory;
  readonly kind: Kind;
  readonly atOnce: number;
  readonly rounds: Rounds;
}

/** Median and range over rounds. */
export interface Spread {
  readonly median: number;
  readonly low: number;
  readonly high: number;
}

/** Summary of a cell. */
export interface CellFigures {
  readonly memory: Memory;
  readonly kind: Kind;
  readonly requests: number;
  /** Tokens per second after all prompts of a batch have run. */
  readonly tokensPerSecond: { readonly without: Spread; readonly with: Spread };
  /** Ratio of these speeds in each round. */
  readonly ratio: Spread;
  /** Ratio of the speeds from the start, what is left of the prompts included. */
  readonly ratioFromStart: Spread;
  readonly target: number | undefined;
  /** Tokens that a decoding sequence gets in a step. */
  readonly tokensPerStep: { readonly without: number; readonly with: number };
  /** Tokens that were drafted and accepted, of each answer's token. */
  readonly draftedPerToken: number;
  readonly acceptedPerToken: number;
  readonly firstTokenMs: { readonly without: number; readonly with: number };
  readonly distinctExpertsPerStep: { readonly without: number; readonly with: number };
  readonly bytesReadPerToken: { readonly without: number; readonly with: number };
}

const TARGETS: Readonly<Record<Kind, readonly (readonly [atOnce: number, ratio: number])[]>> = {
  quote: [
    [1, 1.7],
    [4, 1.3],
    [16, 0.98],
  ],
  predicted: [
    [1, 1.7],
    [4, 1.3],
    [16, 0.98],
  ],
  json: [
    [1, 1.5],
    [4, 1.2],
    [16, 0.98],
  ],
  chat: [
    [1, 1.08],
    [4, 1],
    [16, 0.98],
  ],
  code: [
    [1, 1.8],
    [4, 1.3],
    [16, 0.98],
  ],
  random: [
    [1, 0.98],
    [4, 0.98],
    [16, 0.98],
  ],
};

/** Summarizes a cell. */
export function cellFigures({ memory, kind, atOnce, rounds }: Cell): CellFigures {
  const both = <Value>(of: (figures: readonly RoundFigures[]) => Value): { without: Value; with: Value } => ({
    without: of(rounds.without),
    with: of(rounds.with),
  });
  const ratioOf = (speed: (figures: RoundFigures) => number): Spread =>
    spreadOf(rounds.with.map((own, round) => speed(own) / speed(rounds.without[round] as RoundFigures)));
  const [counts, tokens] = [sumOfCounts(rounds.with.map((one) => one.counts)), numTokens(rounds.with)];
  return {
    memory,
    kind,
    requests: atOnce,
    tokensPerSecond: both((figures) => spreadOf(figures.map(decodeSpeed))),
    ratio: ratioOf(decodeSpeed),
    ratioFromStart: ratioOf(({ tokens: all, allMs }) => all / allMs),
    target: TARGETS[kind].find(([requests]) => requests === atOnce)?.[1],
    tokensPerStep: both(tokensPerStep),
    draftedPerToken: counts.draftTokens / tokens,
    acceptedPerToken: counts.acceptedDraftTokens / tokens,
    firstTokenMs: both((figures) => median(figures.flatMap(({ firstMs }) => firstMs))),
    distinctExpertsPerStep: both((figures) => {
      const own = sumOfCounts(figures.map((one) => one.counts));
      return own.experts / own.steps;
    }),
    bytesReadPerToken: both((figures) => sumOfCounts(figures.map((one) => one.counts)).bytesRead / numTokens(figures)),
  };
}

function decodeSpeed({ decodeTokens, decodeMs }: RoundFigures): number {
  return (1000 * decodeTokens) / decodeMs;
}

function numTokens(figures: readonly RoundFigures[]): number {
  return figures.reduce((sum, { tokens }) => sum + tokens, 0);
}

/** The first token of each answer comes from its prompt. */
function tokensPerStep(figures: readonly RoundFigures[]): number {
  const numFirst = figures.reduce((sum, { firstMs }) => sum + firstMs.length, 0);
  return (numTokens(figures) - numFirst) / sumOfCounts(figures.map(({ counts }) => counts)).decodes;
}

export function spreadOf(values: readonly number[]): Spread {
  return { median: median(values), low: Math.min(...values), high: Math.max(...values) };
}

export function spreadText({ median: middle, low, high }: Spread, digits: number): string {
  const text = formatNumber(middle, digits);
  return low === high ? text : `${text} (${formatNumber(low, digits)} to ${formatNumber(high, digits)})`;
}

/** Makes the tables of all cells. */
export function speculationTables(plans: ReadonlyMap<Kind, Plan>, cells: readonly CellFigures[]): string {
  const tables = [plansTable(plans), speedTable(cells), ...expertTables(cells)];
  return `${tables.map(markdownTable).join("\n\n")}\n`;
}

export function plansTable(plans: ReadonlyMap<Kind, Plan>): ReportTable {
  return {
    title: "Requests",
    columns: ["", "requests", "tried", "cut", "looping", "short", "prompt tokens", "answer tokens", "ended", "quoted"],
    rows: Array.from(plans, ([kind, plan]) => {
      const { requests, numTried, numCut, numLooping, numShort } = plan;
      return [
        kind,
        ...[requests.length, numTried, numCut, numLooping, numShort].map(String),
        meanText(requests.map(({ promptIds }) => promptIds.length)),
        meanText(requests.map(({ expected }) => expected.tokenIds.length)),
        String(requests.filter(({ expected }) => expected.finishReason === "stop").length),
        `${formatNumber(100 * quotedShareOf(plan), 0)} %`,
      ];
    }),
    notes: [
      "Prompt and answer tokens are means. Quoted: answer tokens that follow the same three tokens in the prompt.",
    ],
  };
}

function meanText(values: readonly number[]): string {
  return formatNumber(mean(values), 0);
}

function megabytes(bytes: number): string {
  return formatNumber(bytes / 1e6, 2);
}

function speedTable(cells: readonly CellFigures[]): ReportTable {
  return {
    title: "Speculation",
    columns: ["", "at once", "tok/s without", "with", "ratio", "wanted", "from the start"].concat([
      "tokens a step",
      "drafted",
      "accepted",
      "first token, ms",
      "with ",
    ]),
    rows: cells.map((cell) => [
      cell.memory === "all" ? cell.kind : `${cell.kind}, half of the experts`,
      String(cell.requests),
      spreadText(cell.tokensPerSecond.without, 0),
      spreadText(cell.tokensPerSecond.with, 0),
      spreadText(cell.ratio, 3),
      wantedText(cell),
      spreadText(cell.ratioFromStart, 3),
      formatNumber(cell.tokensPerStep.with, 2),
      formatNumber(cell.draftedPerToken, 2),
      formatNumber(cell.acceptedPerToken, 2),
      formatNumber(cell.firstTokenMs.without, 1),
      formatNumber(cell.firstTokenMs.with, 1),
    ]),
    notes: ["Medians and ranges over rounds. Drafted and accepted tokens are for each token of the answers."],
  };
}

function wantedText({ target, ratio }: CellFigures): string {
  if (target === undefined) return "";
  return ratio.median >= target ? `${target}: met` : `${target}: **missed**`;
}

function expertTables(cells: readonly CellFigures[]): readonly ReportTable[] {
  const halves = cells.filter(({ memory }) => memory === "half");
  if (halves.length === 0) return [];
  return [
    {
      title: "Experts, with half of their bytes in memory",
      columns: ["", "at once", "distinct experts a step", "with", "MB read for a token", "with "],
      rows: halves.map(({ kind, requests, distinctExpertsPerStep: experts, bytesReadPerToken: bytes }) => [
        kind,
        String(requests),
        formatNumber(experts.without, 2),
        formatNumber(experts.with, 2),
        megabytes(bytes.without),
        megabytes(bytes.with),
      ]),
    },
  ];
}
