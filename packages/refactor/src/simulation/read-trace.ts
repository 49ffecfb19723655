// Reads traces, which come from files of unknown origin: those of `writeTrace`, and those of mixtures with a router in
// every layer. A mixture's has one line of JSON for the model and one for each sequence:
//
//   {"type":"mixture","num_experts":4,"experts_per_token":2,"layer_bytes":[1000000,1000000]}
//   {"type":"sequence","id":"s0","arrival_step":0,"prompt_tokens":1,"routes":[[0,3,1,2],[0,1,-1,-1]]}
//
// A token's route lists its experts layer by layer. -1 stands for an expert that was not chosen: the last layer runs
// only tokens whose logits are wanted.

import {
  ReadMeError,
  type ExpertRun,
  type ExpertLayout,
  describeValue,
  type ExpertTrace,
  type TraceSequence,
  type TraceStep,
} from "@readme-moe/core";

/** Lists the experts of a step that have tokens, ascending. */
export function distinctExperts({ tokensPerExpert }: Pick<TraceStep, "tokensPerExpert">): readonly number[] {
  return tokensPerExpert.flatMap((tokens, expert) => (tokens > 0 ? [expert] : []));
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
  const steps: TraceStep[] = [];
  const trace = readLines(text, name, {
    type: "model",
    model: (fields) => ({
      layout: { numExperts: fields.integer("num_experts", 1), layerBytes: fields.integers("layer_bytes", 1, 1) },
    }),
    sequence: (fields, { layout }) => sequenceOf(fields, layout),
    step: (fields, { layout }) => {
      const step = stepOf(fields, layout);
      const before = steps.at(-1)?.step ?? -1;
      if (step.step <= before) throw fields.bad(`expected a step above ${before}, got ${step.step}`);
      steps.push(step);
    },
  });
  return { ...trace, steps };
}

/** Lines of one kind of trace. */
interface LineReaders<Model, Sequence> {
  /** Type of the first line. */
  readonly type: string;
  readonly model: (fields: Fields) => Model;
  readonly sequence: (fields: Fields, model: Model) => Sequence;
  readonly step?: (fields: Fields, model: Model) => void;
}

function readLines<Model extends object, Sequence extends Pick<TraceSequence, "id" | "arrivalStep">>(
  text: string,
  name: string,
  { type: first, ...read }: LineReaders<Model, Sequence>,
): Model & { readonly sequences: readonly Sequence[] } {
  let model: Model | undefined;
  const sequences = new Map<string, Sequence>();
  for (const [index, line] of wholeLines(text).entries()) {
    if (line.trim() === "") continue;
    const fields = Fields.parse(line, `${name}:${index + 1}`);
    const type = fields.text("type");
    if (!model) {
      if (type !== first) throw fields.bad(`expected the first line to be of the type \`${first}\``);
      model = read.model(fields);
    } else if (type === "sequence") {
      const sequence = read.sequence(fields, model);
      if (sequences.has(sequence.id)) throw fields.bad(`there is a sequence \`${sequence.id}\` already`);
      sequences.set(sequence.id, sequence);
    } else if (type === "step" && read.step) {
      read.step(fields, model);
    } else {
      const types = read.step ? "`sequence` or `step`" : "`sequence`";
      throw fields.bad(`expected \`type\` to be ${types}, got ${describeValue(type)}`);
    }
  }
  if (!model) throw new ReadMeError("ERR_FILE_CORRUPT", `${name}:1: expected a line of the type \`${first}\``);
  return { ...model, sequences: [...sequences.values()].toSorted((a, b) => a.arrivalStep - b.arrivalStep) };
}

/** Splits a text into lines, without an incomplete last line. */
function wholeLines(text: string): readonly string[] {
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

/** The fields of an object of JSON; each is checked when it is read. */
class Fields {
  readonly #fields: Readonly<Record<string, unknown>>;
  readonly #where: string;

  constructor(value: unknown, where: string) {
    this.#where = where;
    if (typeof value !== "object" || value === null || Array.isArray(value)) throw this.bad("expected an object");
    this.#fields = { ...value };
  }

  /** @param where - file and line, for messages */
  static parse(line: string, where: string): Fields {
    let value: unknown;
    try {
      value = JSON.parse(line);
    } catch (cause) {
      throw new ReadMeError("ERR_FILE_CORRUPT", `${where}: is not JSON`, { cause });
    }
    return new Fields(value, where);
  }

  has(name: string): boolean {
    return this.#fields[name] !== undefined;
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
    return values.map((value: unknown, index) => {
      if (isInteger(value, least, most)) return value;
      throw this.#unexpected(`${name}[${index}]`, `an integer ${range}`, value);
    });
  }

  /** Reads at least `leastLength` lists of integers, all of one length and in one range. */
  lists(
    name: string,
    leastLength: number,
    each: { readonly length: number; readonly least: number; readonly most: number },
  ): readonly (readonly number[])[] {
    const values = this.#fields[name];
    const isOne = (value: unknown): boolean =>
      Array.isArray(value) &&
      value.length === each.length &&
      value.every((one: unknown) => isInteger(one, each.least, each.most));
    if (Array.isArray(values) && values.length >= leastLength && values.every(isOne)) return values;
    const lists = `at least ${leastLength} lists of ${each.length} integers from ${each.least} to ${each.most}`;
    throw this.#unexpected(name, lists, values);
  }

  objects(name: string): readonly Fields[] {
    const values = this.#fields[name];
    if (!Array.isArray(values)) throw this.#unexpected(name, "an array of objects", values);
    return values.map((value, index) => new Fields(value, `${this.#where}: \`${name}[${index}]\``));
  }

  /** Reads one integer or null for each of `length` experts. */
  integersOrNull(name: string, length: number, least: number): readonly (number | null)[] {
    const values = this.#fields[name];
    const isOne = (value: unknown): boolean => value === null || isInteger(value, least, Infinity);
    if (Array.isArray(values) && values.length === length && values.every(isOne)) return values;
    throw this.#unexpected(name, `${length} integers from ${least} up, or null`, values);
  }

  bad(problem: string, options?: ErrorOptions): ReadMeError {
    return new ReadMeError("ERR_FILE_CORRUPT", `${this.#where}: ${problem}`, options);
  }

  #unexpected(name: string, expectation: string, value: unknown): ReadMeError {
    return this.bad(`expected \`${name}\` to be ${expectation}, got ${describeValue(value)}`);
  }
}

function isInteger(value: unknown, least: number, most: number): value is number {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= least && value <= most;
}

/** A sequence of a trace: its arrival, and the experts of its tokens. */
export interface MixtureSequence extends Omit<TraceSequence, "experts"> {
  /**
   * Experts of each token that runs, `[tokens, numLayers, expertsPerToken]`, at least of the prompt; -1 where a layer
   * did not run. The last generated token never runs.
   */
  readonly routes: Int32Array;
}

/** Arrivals and routes, independent of any model; input of `simulateMixture`. */
export interface MixtureTrace {
  readonly layout: ExpertLayout;
  /** Number of distinct experts that a layer chooses for a token. */
  readonly expertsPerToken: number;
  /** Sequences in order of arrival. */
  readonly sequences: readonly MixtureSequence[];
}

/** Returns the numbers of `routes` that one token takes. */
export function routeSize({ layout, expertsPerToken }: Pick<MixtureTrace, "layout" | "expertsPerToken">): number {
  return layout.layerBytes.length * expertsPerToken;
}

/**
 * Lets every layer use the first layer's experts: the routes of a pre-gating router with the same number of experts,
 * bytes and tokens, and the same locality.
 */
export function preGatedTrace(trace: MixtureTrace): MixtureTrace {
  const { expertsPerToken } = trace;
  const size = routeSize(trace);
  const sequences = trace.sequences.map((sequence): MixtureSequence => {
    const routes = sequence.routes.map((_, index) => {
      const token = Math.floor(index / size);
      return sequence.routes[token * size + (index % expertsPerToken)] ?? -1;
    });
    return { ...sequence, routes };
  });
  return { ...trace, sequences };
}

/** Writes a trace as lines, each ended by a line feed. */
export function writeMixtureTrace(trace: MixtureTrace): string {
  const { layout, expertsPerToken, sequences } = trace;
  const model = {
    type: "mixture",
    num_experts: layout.numExperts,
    experts_per_token: expertsPerToken,
    layer_bytes: layout.layerBytes,
  };
  const size = routeSize(trace);
  const lines = sequences.map(({ id, arrivalStep, promptTokens, routes }) => {
    const tokens = Array.from({ length: routes.length / size }, (_, token) =>
      Array.from(routes.subarray(token * size, (token + 1) * size)),
    );
    return lineOf({ type: "sequence", id, arrival_step: arrivalStep, prompt_tokens: promptTokens, routes: tokens });
  });
  return [lineOf(model), ...lines].join("");
}

/** Whether a text begins like a trace of a mixture. */
export function isMixtureTrace(text: string): boolean {
  return /^\s*\{\s*"type"\s*:\s*"mixture"/.test(text);
}

/**
 * Reads the lines of `writeMixtureTrace`. Sequences may be in any order. Ignores blank lines and an incomplete last
 * one.
 *
 * @param name - file name for messages
 * @throws {ReadMeError} `ERR_FILE_CORRUPT`, naming file and line
 */
export function readMixtureTrace(text: string, name: string): MixtureTrace {
  return readLines(text, name, { type: "mixture", model: modelOf, sequence: mixtureSequenceOf });
}

function modelOf(fields: Fields): Omit<MixtureTrace, "sequences"> {
  const numExperts = fields.integer("num_experts", 1);
  const expertsPerToken = fields.integer("experts_per_token", 1);
  if (expertsPerToken > numExperts) throw fields.bad(`\`experts_per_token\` exceeds the ${numExperts} experts`);
  return { layout: { numExperts, layerBytes: fields.integers("layer_bytes", 1, 1) }, expertsPerToken };
}

function mixtureSequenceOf(fields: Fields, model: Omit<MixtureTrace, "sequences">): MixtureSequence {
  const promptTokens = fields.integer("prompt_tokens", 1);
  const size = routeSize(model);
  const { numExperts } = model.layout;
  const tokens = fields.lists("routes", promptTokens, { length: size, least: -1, most: numExperts - 1 });
  const routes = Int32Array.from(tokens.flat());
  const { expertsPerToken } = model;
  for (let at = 0; at < routes.length; at += expertsPerToken) {
    const chosen = routes.subarray(at, at + expertsPerToken);
    const isWhole = new Set(chosen).size === expertsPerToken && !chosen.includes(-1);
    if (!isWhole && chosen.some((expert) => expert >= 0)) {
      throw fields.bad(
        `expected token ${Math.floor(at / size)} to have ${expertsPerToken} different experts in each layer`,
      );
    }
  }
  return { id: fields.text("id"), arrivalStep: fields.integer("arrival_step", 0), promptTokens, routes };
}

/** Writes an object as a line of JSON. */
function lineOf(fields: object): string {
  return `${JSON.stringify(fields)}\n`;
}
