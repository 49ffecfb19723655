// A GGUF file in our engine and in node-llama-cpp, by turns.

import { stat } from "node:fs/promises";
import { measureTasks, type TurnTask, wholeSpeed } from "../engine/by-turns.ts";
import type { BatchTimes } from "../engine/child.ts";
import { compiled } from "../engine/contender-process.ts";
import type { ContenderSpec } from "../engine/contender.ts";
import { METRICS } from "../engine/metrics.ts";
import { median } from "../kit/statistics.ts";
import { type BenchSettings, namesOf, numbersOf, type Suite, type SuiteContext } from "../kit/suite.ts";
import { MemoryReaders } from "../limits/memory-readers.ts";
import { type Reading, readingOf } from "../limits/reading-share.ts";
import { readFacts } from "./facts.ts";
import { measureLosses } from "./losses.ts";
import { measureOpening } from "./opening.ts";
import { MEMORY, OURS, PROMPT_TOKENS, REQUEST_TOKENS, reportOf, TURNS } from "./tables.ts";

/** The peers of a file, and the texts that prompts are drawn from when `--data` names none. */
interface FileSuiteOptions {
  readonly peers: (context: SuiteContext, path: string) => Promise<readonly ContenderSpec[]>;
  readonly data: () => Promise<readonly string[]>;
}

/** Memory that each thread reads; shared caches of virtual machines have up to 300 MB. */
const READ_BYTES = 256 << 20;
const READS_IN_ROUND = 9;
/** The slowest contender reads two sequences of each in a minute or two. */
const LOSS_FILES = 7;

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
      const facts = await readFacts(path, {
        specs,
        isOurs: ({ engine }) => engine === OURS,
        data: settings.data.length > 0 ? settings.data : await data(),
        requestTokens: REQUEST_TOKENS,
        losses: lossSizes(settings),
      });
      const warmUp = facts.tokens.slice(0, PROMPT_TOKENS);
      const opening = await measureOpening(context, specs, warmUp);
      const losses = await measureLosses(context, specs, { warmUp, texts: facts.texts });
      const readings: Reading[] = [];
      for (const instructions of namesOf(settings, "instructions", [])) {
        const one = { name: instructions, instructions, past: PROMPT_TOKENS, precision: "file" } as const;
        readings.push(await readingOf(context, path, one));
      }
      const readers = new MemoryReaders(settings.threads, READ_BYTES, "search");
      const tasks = [...decodeTasks(settings, readers), ...prefillTasks(settings, facts.contextTokens)];
      const turns = await measureTasks(context, tasks, { specs, tokens: facts.tokens }).finally(() =>
        readers.dispose(),
      );
      const all = [opening, losses, turns];
      const { size: fileBytes } = await stat(path);
      return {
        ...reportOf(settings, { samples: all.flatMap(({ samples }) => samples), readings, facts, fileBytes }),
        notes: all.flatMap(({ failures }) => Array.from(failures, ([name, why]) => `${name}: not measured: ${why}`)),
      };
    },
  };
}

function oursOf(settings: BenchSettings, model: string): readonly ContenderSpec[] {
  const module = compiled("contenders/ours").href;
  const precisions = namesOf(settings, "precisions", ["file"]);
  return precisions.map((variant) => ({ engine: OURS, variant, module, files: { model } }));
}

/** Sizes of the texts whose losses are compared; none in a quick run. */
function lossSizes(settings: BenchSettings) {
  const [sequenceLength = NaN] = numbersOf(settings, "loss-tokens", [512]);
  const [maxSequences = NaN] = numbersOf(settings, "loss-sequences", [settings.quick ? 0 : 2]);
  return { sequenceLength, maxSequences, maxFiles: maxSequences === 0 ? 0 : LOSS_FILES };
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
