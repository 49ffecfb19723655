import { parseArgs } from "node:util";
import { resolveEngineOptions, type EngineOptions } from "@readme-moe/engine";

export interface BenchOptions {
  readonly model: string;
  /** What the peers run; another one where `model` is a mixture. */
  readonly peerModel: string;
  readonly precisions: readonly string[];
  readonly dtypes: readonly string[];
  /** Parts of contenders' names; all where there are none. */
  readonly only: readonly string[];
  readonly repetitions: number;
  readonly concurrency: readonly number[];
  readonly promptTokens: number;
  readonly newTokens: number;
  readonly prefillTokens: number;
  readonly threads: number;
  readonly seed: number;
  readonly data: readonly string[];
  readonly sequenceLength: number;
  readonly maxSequences: number;
  readonly json: string | undefined;
  readonly cacheFolder: string | undefined;
}

export const USAGE = `Our engine beside transformers.js and node-llama-cpp, on the same weights, prompts and cores.

  npm run bench:engine -- <model> [options]

  --precisions LIST       of our engine (default: all that it has)
  --dtypes LIST           of transformers.js (default: fp32,q8,q4)
  --only LIST             contenders whose names contain one of these
  --peer-model MODEL      what the peers run (default: <model>; needed where that is a mixture)
  --repetitions N         each in fresh processes; medians are shown (default: 3)
  --concurrency LIST      numbers of requests at once (default: 1,8,16,32)
  --prompt-tokens N       (default: 64)
  --new-tokens N          (default: 64)
  --prefill-tokens N      length of the prompt whose prefill is timed (default: 512)
  --threads N             (default: 2)
  --seed N                of prompts and sampling (default: 1)
  --data FILES            text, or .jsonl of {"text": …}, for prompts and loss (default: this repository's own texts)
  --sequence-length N     of the loss (default: 512)
  --max-sequences N       of the loss, per file; 0 for no loss (default: 2)
  --json FILE             also writes all results there
  --cache-folder DIR      as of readme-moe
`;

const TEXT = { type: "string" } as const;

/** @throws {TypeError | RangeError} naming the option */
export function readOptions(args: readonly string[]): BenchOptions | undefined {
  const { values, positionals } = parseArgs({
    args: [...args],
    allowPositionals: true,
    options: {
      help: { type: "boolean" },
      precisions: TEXT,
      dtypes: { ...TEXT, default: "fp32,q8,q4" },
      only: { ...TEXT, default: "" },
      "peer-model": TEXT,
      repetitions: { ...TEXT, default: "3" },
      concurrency: { ...TEXT, default: "1,8,16,32" },
      "prompt-tokens": { ...TEXT, default: "64" },
      "new-tokens": { ...TEXT, default: "64" },
      "prefill-tokens": { ...TEXT, default: "512" },
      threads: { ...TEXT, default: "2" },
      seed: { ...TEXT, default: "1" },
      data: { ...TEXT, multiple: true, default: [] },
      "sequence-length": { ...TEXT, default: "512" },
      "max-sequences": { ...TEXT, default: "2" },
      json: TEXT,
      "cache-folder": TEXT,
    },
  });
  const [model, ...data] = positionals;
  if (values.help || model === undefined) return undefined;
  const number = (name: keyof typeof values, least: number): number => wholeNumber(name, String(values[name]), least);
  return {
    model,
    peerModel: values["peer-model"] ?? model,
    precisions: values.precisions === undefined ? ownPrecisions() : list(values.precisions),
    dtypes: list(values.dtypes),
    only: list(values.only),
    repetitions: number("repetitions", 1),
    concurrency: list(values.concurrency).map((text) => wholeNumber("concurrency", text, 1)),
    promptTokens: number("prompt-tokens", 2),
    newTokens: number("new-tokens", 1),
    prefillTokens: number("prefill-tokens", 2),
    threads: number("threads", 1),
    seed: number("seed", 0),
    // `--data a b` leaves b a positional.
    data: [...values.data, ...data],
    sequenceLength: number("sequence-length", 2),
    maxSequences: number("max-sequences", 0),
    json: values.json,
    cacheFolder: values["cache-folder"],
  };
}

function list(text: string): readonly string[] {
  return text.split(",").flatMap((part) => (part.trim() === "" ? [] : [part.trim()]));
}

function wholeNumber(name: string, text: string, least: number): number {
  const value = Number(text);
  if (Number.isSafeInteger(value) && value >= least) return value;
  throw new RangeError(`Expected --${name} to be an integer from ${least} up, got ${text}`);
}

/** Of those that our engine may have, those that it does not refuse. */
function ownPrecisions(): readonly string[] {
  return ["fp32", "int8", "int4"].filter((precision) => {
    try {
      resolveEngineOptions({ precision: precision as EngineOptions["precision"] });
      return true;
    } catch {
      return false;
    }
  });
}
