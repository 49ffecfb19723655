// Tables and targets of the suite `file`.

import { METRICS } from "../engine/metrics.ts";
import { turnsTable } from "../engine/peer-tables.ts";
import { formatNumber, summaryTable } from "../kit/report.ts";
import { distinct, type Sample } from "../kit/samples.ts";
import { median } from "../kit/statistics.ts";
import type { BenchSettings, ReportTable, SuiteReport, Target } from "../kit/suite.ts";
import { type Reading, readingTable, shareOf } from "../limits/reading-share.ts";
import type { FileFacts } from "./facts.ts";
import { OPENING } from "./opening.ts";

export const OURS = "readme-moe";
export const MEMORY = "memory";
export const PROMPT_TOKENS = 64;
/** Size of the request whose memory is measured. */
export const REQUEST_TOKENS = PROMPT_TOKENS + 8;
/** Metrics of tasks by turns. */
export const TURNS = {
  /** After the prompts: the requests' own speeds, added up. */
  decode: "decode by turns, tok/s",
  prefill: "prefill to the first token by turns, tok/s",
  behind: "decode behind a prompt by turns, tok/s",
  read: "read, GB/s",
} as const;

/** Least share of memory's speed at which one request decodes, from files of this size on. */
const WANTED_SHARE = 0.9;
const WANTED_SHARE_AVX2 = 0.8;
const BOUND_BY_MEMORY_BYTES = 1e9;
/** Memory besides the file and the keys and values in use. */
const WANTED_REST_BYTES = 200e6;

interface Measured {
  readonly samples: readonly Sample[];
  readonly readings: readonly Reading[];
  readonly facts: FileFacts;
  readonly fileBytes: number;
}

/** Makes tables of everything that was measured. Targets are for files as they are, of one billion weights and more. */
export function reportOf(settings: BenchSettings, measured: Measured): Omit<SuiteReport, "notes"> {
  const { samples, facts, fileBytes } = measured;
  const reading = readingSamples(samples, facts.stepBytes);
  const peaks = peaksOf(measured);
  const tables = [
    ...openingTables(settings, samples, peaks),
    ...speedTables(settings, samples),
    ...readingTables(settings, reading, measured),
  ];
  return {
    tables: tables.filter((table) => table !== undefined),
    targets: fileBytes < BOUND_BY_MEMORY_BYTES ? [] : [...readingTargets(reading, measured), ...peakTargets(peaks)],
    samples,
  };
}

function isOurs(variant: string): boolean {
  return variant.startsWith(OURS);
}

function ofPrompt(length: number | string): string {
  return `prompt of ${length}`;
}

function openingTables({ seed }: BenchSettings, samples: readonly Sample[], peaks: readonly Peak[]) {
  const opening = (metric: string, title: string, method: string) =>
    turnsTable(
      samples.filter((one) => one.metric === metric),
      { title, seed, isOurs, columnOf: (at) => `${at}`, method },
    );
  const written = samples.filter((one) => one.metric === OPENING.written);
  const losses = samples.filter((one) => one.metric === METRICS.loss);
  return [
    opening(
      OPENING.open,
      "Opening, s",
      "Each in a fresh process, by turns: first with an empty cache folder, then again. The file is in the system's cache.",
    ),
    opening(OPENING.peak, "Peak memory, MB", "Peaks of all processes, added up, after opening and 8 tokens."),
    peaks.length > 0 ? peakTable(peaks) : undefined,
    summaryTable(written, { title: "Written to the cache folder by the first opening, MB", seed }),
    losses.length > 0
      ? summaryTable(losses, {
          title: "Loss",
          seed,
          columns: [{ title: METRICS.loss, metric: METRICS.loss, digits: 4 }],
        })
      : undefined,
  ];
}

function speedTables({ seed }: BenchSettings, samples: readonly Sample[]) {
  const table = (metric: string, title: string, columnOf?: (at: number | string) => string) =>
    turnsTable(
      samples.filter((one) => one.metric === metric),
      { title, seed, isOurs, ...(columnOf && { columnOf }) },
    );
  return [
    table(TURNS.decode, `Decode, tokens a second by requests at once (behind ${PROMPT_TOKENS} tokens of prompt each)`),
    table(METRICS.byTurns, "New tokens a second, with the time of the prompts"),
    table(TURNS.prefill, "Prefill, tokens a second to the first new token", ofPrompt),
    table(TURNS.behind, "Decode behind a prompt, tokens a second", ofPrompt),
  ];
}

function readingTables(
  { seed, threads }: BenchSettings,
  reading: readonly Sample[],
  { readings, facts: { stepBytes } }: Measured,
) {
  const bytes = Array.from(stepBytes, ([name, each]) => `${name} ${formatNumber(each / 1e6)} MB`);
  return [
    turnsTable(reading, {
      title: `Weights that one request's decode reads, beside reading memory on ${threads} threads, GB/s`,
      seed,
      isOurs: (variant) => variant !== MEMORY,
      method: `Tokens a second times the bytes of a token: ${bytes.join(", ")}.`,
    }),
    readings.length > 0
      ? readingTable(readings, seed, { title: "Steps of one sequence beside reading memory, by turns", names: "loops" })
      : undefined,
  ];
}

/** Rates of reading a step's weights for each token of one request, and those of reading memory. */
function readingSamples(samples: readonly Sample[], stepBytes: FileFacts["stepBytes"]): readonly Sample[] {
  return samples.flatMap((one) => {
    if (one.metric === TURNS.read) return [one];
    const bytes = stepBytes.get(one.variant);
    if (one.metric !== TURNS.decode || one.at !== 1 || bytes === undefined) return [];
    return [{ ...one, metric: TURNS.read, value: (one.value * bytes) / 1e9 }];
  });
}

function readingTargets(reading: readonly Sample[], { readings }: Measured): readonly Target[] {
  const rateOf = (variant: string): number =>
    median(reading.filter((one) => one.variant === variant).map(({ value }) => value));
  return [
    ...ofFiles(reading).map((name) =>
      shareTarget(`${name}, one request's decode`, rateOf(name) / rateOf(MEMORY), WANTED_SHARE),
    ),
    ...readings.map(({ name, rounds }) =>
      shareTarget(`steps with ${name}`, shareOf(rounds), name === "avx2" ? WANTED_SHARE_AVX2 : WANTED_SHARE),
    ),
  ];
}

function shareTarget(what: string, value: number, limit: number): Target {
  return { what, value, unit: "of what memory gives", wanted: "over", limit };
}

/** Our variants that run the file's blocks as they are. */
function ofFiles(samples: readonly Sample[]): readonly string[] {
  return distinct(samples.map(({ variant }) => variant)).filter((name) => name.startsWith(`${OURS} file`));
}

/** Peak memory of one of our variants, in MB. */
interface Peak {
  readonly name: string;
  readonly measured: number;
  readonly planned: number;
  /** The file, keys and values in use, and what is wanted at most besides. */
  readonly wanted: number;
}

function peaksOf({ samples, facts, fileBytes }: Measured): readonly Peak[] {
  const own = samples.filter(({ metric }) => metric === OPENING.peak);
  return ofFiles(own).map((name) => {
    const { plannedBytes = NaN, kvBytes = NaN } = facts.memory.get(name) ?? {};
    return {
      name,
      measured: Math.max(...own.filter(({ variant }) => variant === name).map(({ value }) => value)),
      planned: plannedBytes / 1e6,
      wanted: (fileBytes + kvBytes + WANTED_REST_BYTES) / 1e6,
    };
  });
}

function peakTable(peaks: readonly Peak[]): ReportTable {
  return {
    title: "Peak memory beside the plan, MB",
    columns: ["", "peak", "`readme-moe plan`", "file, keys and values, and 200 MB"],
    rows: peaks.map(({ name, measured, planned, wanted }) => [
      name,
      ...[measured, planned, wanted].map((megabytes) => megabytes.toFixed(0)),
    ]),
    notes: [
      `The largest peak of all processes. The plan is for one request of ${REQUEST_TOKENS} tokens, with 60 MB for the process that calls the engine.`,
    ],
  };
}

function peakTargets(peaks: readonly Peak[]): readonly Target[] {
  return peaks.map(({ name, measured, wanted }) => {
    return { what: `${name}, peak memory`, value: measured, unit: "MB", wanted: "under", limit: Math.round(wanted) };
  });
}
