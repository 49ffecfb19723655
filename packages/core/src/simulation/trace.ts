// A trace: what a server did, or might do. It has the arrivals of sequences, their experts, and the experts of each
// step.
//
// As a file it has one line of JSON for the model and one for each sequence and step:
//
//   {"type":"model","num_experts":7,"layer_bytes":[1000000,1000000]}
//   {"type":"sequence","id":"s0","arrival_step":0,"prompt_tokens":3,"experts":[2,2,2,5]}
//   {"type":"step","step":0,"tokens_per_expert":[0,0,3,0,0,0,0]}
//
// A step of an engine with streamed experts also has the input of its expert cache; null stands for never:
//
//   "runs":[{"experts":[2],"planned":[2,5]}],"later_steps":[null,null,1,null,null,2,null]

import { ReadMeError } from "../errors.ts";
import type { ExpertRun } from "../events.ts";
import type { ExpertLayout } from "../expert-cache/cached-units.ts";
import { describeValue } from "../options.ts";
import { Fields } from "./trace-fields.ts";

/** A sequence of a trace: its arrival, and the experts of its tokens. */
export interface TraceSequence {
  readonly id: string;
  /** First step that may contain the sequence. Steps are numbered from 0 up. */
  readonly arrivalStep: number;
  readonly promptTokens: number;
  /**
   * Expert of each token that runs, `[promptTokens + outputTokens - 1]`, at least `promptTokens`: the last generated
   * token never runs.
   */
  readonly experts: readonly number[];
}

/** The experts of a step that ran. */
export interface TraceStep {
  readonly step: number;
  /** Number of tokens of each expert, `[numExperts]`. */
  readonly tokensPerExpert: readonly number[];
  /** The step's runs through all layers, if an engine with streamed experts ran it. */
  readonly runs?: readonly ExpertRun[] | undefined;
  /** Number of steps until each expert's estimated use at that time, `[numExperts]`; `Infinity` is never. */
  readonly laterSteps?: readonly number[] | undefined;
}

/** Arrivals and routes, independent of any model; input of `simulate`. See `readTrace` and `writeTrace` for files. */
export interface ExpertTrace {
  readonly layout: ExpertLayout;
  /** Sequences in order of arrival. */
  readonly sequences: readonly TraceSequence[];
  /** Steps that ran, in order; empty if none has. */
  readonly steps: readonly TraceStep[];
}

/** Lists the experts of a step that have tokens, ascending. */
export function distinctExperts({ tokensPerExpert }: Pick<TraceStep, "tokensPerExpert">): readonly number[] {
  return tokensPerExpert.flatMap((tokens, expert) => (tokens > 0 ? [expert] : []));
}

/** Writes a trace as lines, each ended by a line feed. */
export function writeTrace({ layout, sequences, steps }: ExpertTrace): string {
  return [layoutLine(layout), ...sequences.map(sequenceLine), ...steps.map(stepLine)].join("");
}

/** Writes the first line of a trace. */
export function layoutLine({ numExperts, layerBytes }: ExpertLayout): string {
  return lineOf({ type: "model", num_experts: numExperts, layer_bytes: layerBytes });
}

export function sequenceLine({ id, arrivalStep, promptTokens, experts }: TraceSequence): string {
  return lineOf({ type: "sequence", id, arrival_step: arrivalStep, prompt_tokens: promptTokens, experts });
}

export function stepLine({ step, tokensPerExpert, runs, laterSteps }: TraceStep): string {
  // JSON has no infinity.
  const laterOrNever = laterSteps?.map((steps) => (steps === Infinity ? null : steps));
  return lineOf({ type: "step", step, tokens_per_expert: tokensPerExpert, runs, later_steps: laterOrNever });
}

/** Writes an object as a line of JSON. */
export function lineOf(fields: object): string {
  return `${JSON.stringify(fields)}\n`;
}

/**
 * Reads the lines of `writeTrace`. Sequences and steps may be mixed: steps in their order, sequences in any order,
 * since a recorder writes a sequence when it ends. Ignores blank lines, and an incomplete last line of a server that
 * was stopped.
 *
 * @param name - file name for messages
 * @throws {ReadMeError} `ERR_FILE_CORRUPT`, naming file and line
 */
export function readTrace(text: string, name: string): ExpertTrace {
  let layout: ExpertLayout | undefined;
  const sequences: TraceSequence[] = [];
  const steps: TraceStep[] = [];
  const ids = new Set<string>();
  for (const [index, line] of wholeLines(text).entries()) {
    if (line.trim() === "") continue;
    const fields = Fields.parse(line, `${name}:${index + 1}`);
    const type = fields.text("type");
    if (!layout) {
      if (type !== "model") throw fields.bad("expected the first line to be of the type `model`");
      layout = { numExperts: fields.integer("num_experts", 1), layerBytes: fields.integers("layer_bytes", 1, 1) };
    } else if (type === "sequence") {
      const sequence = sequenceOf(fields, layout);
      if (ids.has(sequence.id)) throw fields.bad(`there is a sequence \`${sequence.id}\` already`);
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
  return { layout, sequences: sequences.toSorted((a, b) => a.arrivalStep - b.arrivalStep), steps };
}

/** Splits a text into lines, without an incomplete last line. */
export function wholeLines(text: string): readonly string[] {
  const lines = text.split("\n");
  return isJson(lines.at(-1) ?? "") ? lines : lines.slice(0, -1);
}

function isJson(text: string): boolean {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
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
  const step = { step: fields.integer("step", 0), tokensPerExpert };
  const runs = fields.has("runs") ? fields.objects("runs").map((run) => runOf(run, numExperts)) : undefined;
  const laterSteps = fields.has("later_steps") ? fields.integersOrNull("later_steps", numExperts, 1) : undefined;
  return {
    ...step,
    ...(runs && { runs }),
    ...(laterSteps && { laterSteps: laterSteps.map((steps) => steps ?? Infinity) }),
  };
}

function runOf(fields: Fields, numExperts: number): ExpertRun {
  const experts = fields.integers("experts", 0, 0, numExperts - 1);
  return { experts, planned: fields.integers("planned", 0, 0, numExperts - 1) };
}
