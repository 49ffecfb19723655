// Options of the command line.

import { availableParallelism } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import type { EngineOptions } from "@readme-moe/engine";
import { type Kind, KINDS } from "./request.ts";

const CALIBRATION = join(import.meta.dirname, "..", "..", "models", "pocket", "calibration");
const PRECISIONS = ["fp32", "int8", "int4", "file"] as const;
const BASELINES = ["none", "texts"] as const;

export interface SpeculationOptions {
  readonly model: string;
  readonly kinds: readonly Kind[];
  /** Numbers of requests at once. */
  readonly requests: readonly number[];
  readonly rounds: number;
  /** Most tokens of an answer. */
  readonly tokens: number;
  /** Requests of each kind. */
  readonly perKind: number;
  readonly seed: number;
  readonly threads: number;
  readonly precision: NonNullable<EngineOptions["precision"]>;
  /** Folder of `<kind>.jsonl`. */
  readonly data: string;
  /** Small model with which node-llama-cpp drafts. */
  readonly draft: string | undefined;
  /** Head that drafts. @default the one beside the model */
  readonly draftHead: string | undefined;
  /** Drafts of the engine to compare with: none, or those from texts. */
  readonly baseline: (typeof BASELINES)[number];
  /** File of the report in JSON; the tables go beside it as Markdown. */
  readonly out: string | undefined;
  /** Prints the answers instead of measuring. */
  readonly show: boolean;
}

/** Parses the command line. @throws {TypeError | RangeError} naming the option */
export function speculationOptions(args: readonly string[]): SpeculationOptions {
  const { values, positionals } = parseArgs({
    args: [...args],
    allowPositionals: true,
    options: {
      kinds: { type: "string", default: KINDS.join() },
      requests: { type: "string", default: "1,4,16" },
      rounds: { type: "string", default: "5" },
      tokens: { type: "string", default: "96" },
      "per-kind": { type: "string", default: "16" },
      seed: { type: "string", default: "1" },
      threads: { type: "string", default: String(availableParallelism()) },
      precision: { type: "string", default: "int8" },
      data: { type: "string", default: CALIBRATION },
      draft: { type: "string" },
      "draft-head": { type: "string" },
      baseline: { type: "string", default: "none" },
      out: { type: "string" },
      show: { type: "boolean", default: false },
    },
  });
  const requests = values.requests.split(",").map((text) => wholeNumber("requests", text));
  const perKind = wholeNumber("per-kind", values["per-kind"]);
  const most = Math.max(...requests);
  if (most > perKind) throw new RangeError(`Expected \`--requests\` to be at most ${perKind} at once, got \`${most}\``);
  return {
    model: positionals[0] ?? "smollm2-135m",
    kinds: values.kinds.split(",").map((name) => oneOf("kinds", name, KINDS)),
    requests,
    perKind,
    rounds: wholeNumber("rounds", values.rounds),
    tokens: wholeNumber("tokens", values.tokens),
    seed: wholeNumber("seed", values.seed),
    threads: wholeNumber("threads", values.threads),
    precision: oneOf("precision", values.precision, PRECISIONS),
    data: values.data,
    draft: values.draft,
    draftHead: values["draft-head"],
    baseline: oneOf("baseline", values.baseline, BASELINES),
    out: values.out,
    show: values.show,
  };
}

function wholeNumber(name: string, text: string): number {
  const value = Number(text);
  if (text.trim() !== "" && Number.isSafeInteger(value) && value > 0) return value;
  throw new RangeError(`Expected \`--${name}\` to be whole numbers from 1 up, got \`${text}\``);
}

function oneOf<Name extends string>(option: string, text: string, names: readonly Name[]): Name {
  const found = names.find((name) => name === text.trim());
  if (found !== undefined) return found;
  throw new TypeError(`Expected \`--${option}\` to be of ${names.join(", ")}, got \`${text}\``);
}
