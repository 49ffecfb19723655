// A trace as lines of JSON. The first line describes the model; each other one is a sequence or a step:
//
//   {"type":"model","num_experts":7,"layer_bytes":[1000000,1000000]}
//   {"type":"sequence","id":"s0","arrival_step":0,"prompt_tokens":3,"experts":[2,2,2,5]}
//   {"type":"step","step":0,"tokens_per_expert":[0,0,3,0,0,0,0]}

import { ReadMeError } from "../errors.ts";
import type { ExpertLayout } from "../expert-cache/unit.ts";
import { describeValue } from "../options.ts";
import type { ExpertTrace, TraceSequence, TraceStep } from "./trace.ts";

/** @returns lines, each ended by a line feed */
export function writeTrace({ layout, sequences, steps }: ExpertTrace): string {
  const lines = [
    { type: "model", num_experts: layout.numExperts, layer_bytes: layout.layerBytes },
    ...sequences.map(({ id, arrivalStep, promptTokens, experts }) => ({
      type: "sequence",
      id,
      arrival_step: arrivalStep,
      prompt_tokens: promptTokens,
      experts,
    })),
    ...steps.map(({ step, tokensPerExpert }) => ({ type: "step", step, tokens_per_expert: tokensPerExpert })),
  ];
  return lines.map((line) => `${JSON.stringify(line)}\n`).join("");
}

/**
 * Reads what `writeTrace` writes. Sequences and steps may be mixed, each in its order; blank lines are ignored.
 *
 * @param name - of the file, for messages
 * @throws {ReadMeError} `ERR_FILE_CORRUPT`, naming file and line
 */
export function readTrace(text: string, name: string): ExpertTrace {
  let layout: ExpertLayout | undefined;
  const sequences: TraceSequence[] = [];
  const steps: TraceStep[] = [];
  const ids = new Set<string>();
  for (const [index, line] of text.split("\n").entries()) {
    if (line.trim() === "") continue;
    const fields = new Fields(line, `${name}:${index + 1}`);
    const type = fields.text("type");
    if (!layout) {
      if (type !== "model") throw fields.bad("expected the first line to be of the type `model`");
      layout = { numExperts: fields.integer("num_experts", 1), layerBytes: fields.integers("layer_bytes", 1, 1) };
    } else if (type === "sequence") {
      const sequence = sequenceOf(fields, layout);
      if (ids.has(sequence.id)) throw fields.bad(`there is a sequence \`${sequence.id}\` already`);
      const before = sequences.at(-1)?.arrivalStep ?? 0;
      if (sequence.arrivalStep < before) throw fields.bad(`the sequence before arrives later, in step ${before}`);
      ids.add(sequence.id);
      sequences.push(sequence);
    } else if (type === "step") {
      const step = stepOf(fields, layout);
      const before = steps.at(-1)?.step ?? -1;
      if (step.step <= before) throw fields.bad(`expected a step above ${before}, got ${step.step}`);
      steps.push(step);
    } else {
      throw fields.bad(`expected \`type\` to be \`sequence\` or \`step\`, got ${describeValue(type)}`);
    }
  }
  if (!layout) throw new ReadMeError("ERR_FILE_CORRUPT", `${name}:1: expected a line of the type \`model\``);
  return { layout, sequences, steps };
}

function sequenceOf(fields: Fields, { numExperts }: ExpertLayout): TraceSequence {
  const promptTokens = fields.integer("prompt_tokens", 1);
  return {
    id: fields.text("id"),
    arrivalStep: fields.integer("arrival_step", 0),
    promptTokens,
    experts: fields.integers("experts", promptTokens, 0, numExperts - 1),
  };
}

function stepOf(fields: Fields, { numExperts }: ExpertLayout): TraceStep {
  const tokensPerExpert = fields.integers("tokens_per_expert", numExperts, 0);
  if (tokensPerExpert.length > numExperts)
    throw fields.bad(`\`tokens_per_expert\` has more than ${numExperts} numbers`);
  if (tokensPerExpert.every((tokens) => tokens === 0)) throw fields.bad("expected a step to have tokens");
  return { step: fields.integer("step", 0), tokensPerExpert };
}

/** The fields of one line, each checked when it is asked for. */
class Fields {
  readonly #fields: Readonly<Record<string, unknown>>;
  readonly #where: string;

  constructor(line: string, where: string) {
    this.#where = where;
    let value: unknown;
    try {
      value = JSON.parse(line);
    } catch (cause) {
      throw this.bad("is not JSON", { cause });
    }
    if (typeof value !== "object" || value === null || Array.isArray(value)) throw this.bad("expected an object");
    this.#fields = value as Readonly<Record<string, unknown>>;
  }

  text(name: string): string {
    const value = this.#fields[name];
    if (typeof value === "string" && value !== "") return value;
    throw this.#unexpected(name, "a string that is not empty", value);
  }

  integer(name: string, least: number): number {
    const value = this.#fields[name];
    if (isInteger(value, least, Infinity)) return value;
    throw this.#unexpected(name, `an integer from ${least} up`, value);
  }

  integers(name: string, leastLength: number, least: number, most: number = Infinity): readonly number[] {
    const values = this.#fields[name];
    if (!Array.isArray(values) || values.length < leastLength) {
      throw this.#unexpected(name, `an array of at least ${leastLength} integers`, values);
    }
    const range = most === Infinity ? `from ${least} up` : `from ${least} to ${most}`;
    for (const [index, value] of values.entries()) {
      if (!isInteger(value, least, most)) throw this.#unexpected(`${name}[${index}]`, `an integer ${range}`, value);
    }
    return values as readonly number[];
  }

  bad(problem: string, options?: ErrorOptions): ReadMeError {
    return new ReadMeError("ERR_FILE_CORRUPT", `${this.#where}: ${problem}`, options);
  }

  #unexpected(name: string, expectation: string, value: unknown): ReadMeError {
    return this.bad(`expected \`${name}\` to be ${expectation}, got ${describeValue(value)}`);
  }
}

function isInteger(value: unknown, least: number, most: number): value is number {
  return Number.isSafeInteger(value) && (value as number) >= least && (value as number) <= most;
}
