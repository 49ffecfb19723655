// A GGUF file in our engine and in node-llama-cpp, by turns.

import { stat } from "node:fs/promises";
import { openModel } from "@readme-moe/model";
import { measureTasks, type TurnTask, wholeSpeed } from "../engine/by-turns.ts";
import type { BatchTimes } from "../engine/child.ts";
import { compiled } from "../engine/contender-process.ts";
import type { ContenderSpec } from "../engine/contender.ts";
import { METRICS } from "../engine/metrics.ts";
import { documentsOf } from "../engine/own-texts.ts";
import { turnsTable } from "../engine/peer-tables.ts";
import { promptSource } from "../engine/workload.ts";
import { summaryTable } from "../kit/report.ts";
import type { Sample } from "../kit/samples.ts";
import { median } from "../kit/statistics.ts";
import { type BenchSettings, namesOf, numbersOf, type Suite, type SuiteContext } from "../kit/suite.ts";
import { MemoryReaders } from "../limits/memory-readers.ts";
import { measureOpening, OPENING } from "./opening.ts";

/** The peers of a file, and the texts that prompts are drawn from when `--data` names none. */
interface FileSuiteOptions {
  readonly peers: (context: SuiteContext, path: string) => Promise<readonly ContenderSpec[]>;
  readonly data: () => Promise<readonly string[]>;
}

const OURS = "readme-moe";
const MEMORY = "memory";
const PROMPT_TOKENS = 64;
/** Metrics of tasks by turns. */
const TURNS = {
  /** After the prompts: the requests' own speeds, added up. */
  decode: "decode by turns, tok/s",
  prefill: "prefill to the first token by turns, tok/s",
  behind: "decode behind a prompt by turns, tok/s",
  read: "read, GB/s",
} as const;
/** Memory that each thread reads; shared caches of virtual machines have up to 300 MB. */
const READ_BYTES = 256 << 20;
const READS_IN_ROUND = 9;

/** Makes the suite `file`: a GGUF file in our precisions beside its peers. */
export function fileSuite({ peers, data }: FileSuiteOptions): Suite {
  return {
    name: "file",
    summary: "a GGUF file beside node-llama-cpp, by turns: opening, peak memory, decode and prefill",
    async run(context) {
      const { settings } = context;
      const path = settings.dense ?? settings.model;
      if (!path.toLowerCase().endsWith(".gguf")) {
        return { tables: [], samples: [], notes: [`not measured: ${path} is not a GGUF file`] };
      }
      const specs = [...oursOf(settings, path), ...(await peers(context, path))];
      const { tokens, contextTokens } = await readPrompts(
        path,
        settings.data.length > 0 ? settings.data : await data(),
      );
      const opening = await measureOpening(context, specs, tokens.slice(0, PROMPT_TOKENS));
      const readers = new MemoryReaders(settings.threads, READ_BYTES, "search");
      const tasks = [...decodeTasks(settings, readers), ...prefillTasks(settings, contextTokens)];
      const turns = await measureTasks(context, tasks, { specs, tokens }).finally(() => readers.dispose());
      const samples = [...opening.samples, ...turns.samples];
      const { size } = await stat(path);
      return {
        tables: tablesOf(settings, samples, size).filter((table) => table !== undefined),
        samples,
        notes: Array.from([...opening.failures, ...turns.failures], ([name, why]) => `${name}: not measured: ${why}`),
      };
    },
  };
}

function oursOf(settings: BenchSettings, model: string): readonly ContenderSpec[] {
  const module = compiled("contenders/ours").href;
  const precisions = namesOf(settings, "precisions", ["file"]);
  return precisions.map((variant) => ({ engine: OURS, variant, module, files: { model } }));
}

async function readPrompts(path: string, data: readonly string[]) {
  const model = await openModel(path);
  try {
    const { tokenizer } = await model.loadText();
    const documents = await documentsOf(data);
    return { tokens: promptSource(tokenizer, documents.flat()), contextTokens: model.config.contextTokens };
  } finally {
    await model.close();
  }
}

/** Lists batches of short prompts; memory is read beside single ones. */
function decodeTasks(settings: BenchSettings, readers: MemoryReaders): readonly TurnTask[] {
  const { quick } = settings;
  const [newTokens = NaN] = numbersOf(settings, "new-tokens", [quick ? 4 : 64]);
  const concurrency = numbersOf(settings, "concurrency", quick ? [1, 2] : [1, 4, 16]);
  const measure = async () => {
    const rates: number[] = [];
    while (rates.length < (quick ? 1 : READS_IN_ROUND)) rates.push(await readers.read());
    return { metric: TURNS.read, at: 1, value: median(rates) };
  };
  return concurrency.map((at) => ({
    name: `${at} at once`,
    numPrompts: at,
    promptTokens: PROMPT_TOKENS,
    newTokens,
    figuresOf: (times) => [
      { metric: TURNS.decode, at, value: decodeSpeed(times, newTokens) },
      ...wholeSpeed(METRICS.byTurns, at, at * newTokens)(times),
    ],
    ...(at === 1 ? { machine: { name: MEMORY, measure } } : {}),
  }));
}

function prefillTasks(settings: BenchSettings, contextTokens: number): readonly TurnTask[] {
  const { quick } = settings;
  const [newTokens = NaN] = numbersOf(settings, "behind-tokens", [quick ? 4 : 32]);
  const contexts = numbersOf(settings, "contexts", quick ? [32, 64] : [512, 4096]);
  const lengths = new Set(contexts.map((length) => Math.min(length, contextTokens - newTokens)));
  return Array.from(lengths, (at) => ({
    name: `prompt of ${at}`,
    numPrompts: 1,
    promptTokens: at,
    newTokens,
    // One of 4,096 tokens takes a minute in some engines.
    ...(at > 1024 ? { batches: 1 } : {}),
    figuresOf: (times) => [
      { metric: TURNS.prefill, at, value: (at * 1000) / (times.firstMs[0] ?? NaN) },
      { metric: TURNS.behind, at, value: decodeSpeed(times, newTokens) },
    ],
  }));
}

/** Adds up the speeds of requests, each from its first new token to the end of the batch. */
export function decodeSpeed({ elapsedMs, firstMs }: BatchTimes, newTokens: number): number {
  return firstMs.reduce((sum, first) => sum + ((newTokens - 1) * 1000) / (elapsedMs - first), 0);
}

function isOurs(variant: string): boolean {
  return variant.startsWith(OURS);
}

function ofPrompt(length: number | string): string {
  return `prompt of ${length}`;
}

function tablesOf({ seed, threads }: BenchSettings, samples: readonly Sample[], fileBytes: number) {
  const table = (metric: string, title: string, columnOf?: (at: number | string) => string, method?: string) =>
    turnsTable(
      samples.filter((one) => one.metric === metric),
      { title, seed, isOurs, ...(columnOf && { columnOf }), ...(method !== undefined && { method }) },
    );
  const opening = (metric: string, title: string, method: string) => table(metric, title, (at) => `${at}`, method);
  return [
    opening(
      OPENING.open,
      "Opening, s",
      "Each in a fresh process, by turns: first with an empty cache folder, then again. The file is in the system's cache.",
    ),
    opening(OPENING.peak, "Peak memory, MB", "Peaks of all processes, added up, after opening and 8 tokens."),
    summaryTable(
      samples.filter((one) => one.metric === OPENING.written),
      { title: "Written to the cache folder by the first opening, MB", seed },
    ),
    table(TURNS.decode, `Decode, tokens a second by requests at once (behind ${PROMPT_TOKENS} tokens of prompt each)`),
    table(METRICS.byTurns, "New tokens a second, with the time of the prompts"),
    table(TURNS.prefill, "Prefill, tokens a second to the first new token", ofPrompt),
    table(TURNS.behind, "Decode behind a prompt, tokens a second", ofPrompt),
    turnsTable(readingOf(samples, fileBytes), {
      title: `Decode of one request times the file's bytes, beside reading memory on ${threads} threads, GB/s`,
      seed,
      isOurs: (variant) => variant !== MEMORY,
      method: "Engines that hold more or fewer bytes than the file read more or less than this.",
    }),
  ];
}

/** Rates of reading the file's bytes once for each token of one request, and those of reading memory. */
function readingOf(samples: readonly Sample[], fileBytes: number): readonly Sample[] {
  return samples.flatMap((one) => {
    if (one.metric === TURNS.read) return [one];
    if (one.metric !== TURNS.decode || one.at !== 1) return [];
    return [{ ...one, metric: TURNS.read, value: (one.value * fileBytes) / 1e9 }];
  });
}
