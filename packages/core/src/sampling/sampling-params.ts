// The table of sampling parameters. Types, checks, bodies of HTTP, jobs of a fleet, flags, names in files and docs
// follow from it: a new parameter is an entry here, and what the sampler makes of it.

import { describeValue, integerOption, isRecord, rejectUnknownKeys, switchOption } from "../options.ts";

/** Values of parameters, as a caller gives them, by kind. */
interface SamplingValues {
  readonly number: number;
  readonly integer: number;
  readonly flag: boolean;
  readonly texts: string | readonly string[];
  readonly tokenIds: readonly number[];
  readonly biases: Readonly<Record<number, number>> | ReadonlyMap<number, number>;
}

/** Values of parameters after checks, by kind. */
interface CheckedValues {
  readonly number: number;
  readonly integer: number;
  readonly flag: boolean;
  readonly texts: readonly string[];
  readonly tokenIds: ReadonlySet<number>;
  readonly biases: ReadonlyMap<number, number>;
}

/** A closed range, or one that excludes its lower end, `above`. */
interface NumberRange {
  readonly min?: number;
  readonly above?: number;
  readonly max?: number;
}

/** A sampling parameter: its values, and its names elsewhere. A place that is absent does not take the parameter. */
export interface SamplingParameter extends NumberRange {
  readonly kind: keyof SamplingValues;
  /** Value of an absent parameter. */
  readonly default: unknown;
  /** Largest number of texts, ids or biases. */
  readonly maxItems?: number;
  /** Largest number of chars of a text. */
  readonly maxChars?: number;
  /**
   * Differences from the range in bodies of OpenAI's APIs, which name the parameter in snake case. A value below `min`
   * of the parameter stands for its default.
   */
  readonly http?: NumberRange & { readonly about?: string };
  /** Name in `options` of Ollama's API, and what differs from the range of `http`. */
  readonly ollama?: NumberRange & { readonly name: string; readonly about?: string };
  /** Flag of the commands that sample. */
  readonly flag?: { readonly syntax: string; readonly about: string };
  /** Names in files of a model that recommend a value: generation_config.json, and `general.sampling` of GGUF files. */
  readonly file?: { readonly json: string; readonly gguf?: string };
  /** Name in calls of transformers.js, for a parameter that leaves tokens out where `do_sample` is set. */
  readonly transformers?: string;
}

/** The table of sampling parameters. Names and meanings are vLLM's. */
export const SAMPLING_PARAMETERS = {
  /** Largest number of completion tokens, from 1. @default 128 */
  maxTokens: {
    kind: "integer",
    min: 1,
    default: 128,
    flag: { syntax: "--max-new-tokens <n>", about: "most tokens to add" },
    file: { json: "max_new_tokens" },
  },
  /**
   * Number of completion tokens before an end token or one of `stopTokenIds` may be chosen, up to `maxTokens`.
   * @default 0
   */
  minTokens: { kind: "integer", min: 0, default: 0, http: {} },
  /** Divisor of the logits, from 0; below 1e-5 the most likely token is always chosen, as in vLLM. @default 1 */
  temperature: {
    kind: "number",
    min: 0,
    default: 1,
    http: { max: 2 },
    ollama: { name: "temperature" },
    flag: { syntax: "--temperature <t>", about: "randomness; 0 always takes the most likely token" },
    file: { json: "temperature", gguf: "temp" },
  },
  /** Keeps this many of the most likely tokens; 0 keeps all. @default 0 */
  topK: {
    kind: "integer",
    min: 0,
    default: 0,
    http: { min: -1, about: "-1 and 0 keep all tokens" },
    ollama: { name: "top_k" },
    flag: { syntax: "--top-k <n>", about: "sample from the n most likely tokens; 0 for all" },
    file: { json: "top_k", gguf: "top_k" },
    transformers: "top_k",
  },
  /** Keeps the fewest most likely tokens whose probabilities sum to this, in (0, 1]. @default 1 */
  topP: {
    kind: "number",
    above: 0,
    max: 1,
    default: 1,
    http: {},
    ollama: { name: "top_p" },
    flag: { syntax: "--top-p <p>", about: "sample from the most likely tokens that together have this probability" },
    file: { json: "top_p", gguf: "top_p" },
    transformers: "top_p",
  },
  /** Keeps tokens at least this times as likely as the most likely one, in [0, 1]. @default 0 */
  minP: {
    kind: "number",
    min: 0,
    max: 1,
    default: 0,
    http: {},
    ollama: { name: "min_p" },
    flag: { syntax: "--min-p <p>", about: "drop tokens less likely than p times the most likely one" },
    file: { json: "min_p", gguf: "min_p" },
    transformers: "min_p",
  },
  /** Makes tokens of prompt and completion less likely (above 1) or more likely (below 1), above 0. @default 1 */
  repetitionPenalty: {
    kind: "number",
    above: 0,
    default: 1,
    http: { max: 1000 },
    ollama: { name: "repeat_penalty" },
    flag: { syntax: "--repetition-penalty <x>", about: "above 1 makes earlier tokens less likely" },
    file: { json: "repetition_penalty", gguf: "penalty_repeat" },
  },
  /** Penalty subtracted from the logit of each token that occurs in the completion, in [-2, 2]. @default 0 */
  presencePenalty: {
    kind: "number",
    min: -2,
    max: 2,
    default: 0,
    http: {},
    ollama: { name: "presence_penalty" },
    flag: { syntax: "--presence-penalty <x>", about: "subtracted once from the logits of tokens in the completion" },
  },
  /** Penalty subtracted from a token's logit for each time it occurs in the completion, in [-2, 2]. @default 0 */
  frequencyPenalty: {
    kind: "number",
    min: -2,
    max: 2,
    default: 0,
    http: {},
    ollama: { name: "frequency_penalty" },
    flag: { syntax: "--frequency-penalty <x>", about: "subtracted for each time that a token is in the completion" },
  },
  /** Values added to the logits of these token ids, each in [-100, 100]; at most 1,024. @default none */
  logitBias: {
    kind: "biases",
    min: -100,
    max: 100,
    maxItems: 1024,
    default: {},
    http: { about: "Values that are added to logits, by token id" },
    flag: { syntax: "--logit-bias <id=bias...>", about: "added to the logits of tokens, such as 42=-100" },
  },
  /** Seed that makes choices repeatable, an integer in [0, 2^53 - 1]. @default none: the engine draws one */
  seed: {
    kind: "integer",
    min: 0,
    default: undefined,
    http: {},
    ollama: { name: "seed", min: -1, about: "-1: another one for each request" },
    flag: { syntax: "--seed <n>", about: "makes sampling repeatable" },
  },
  /** Strings that end the completion and are not part of it; at most 64 of 1 to 1,024 chars. @default none */
  stop: {
    kind: "texts",
    maxItems: 64,
    maxChars: 1024,
    default: [],
    http: {},
    ollama: { name: "stop" },
    flag: { syntax: "--stop <text...>", about: "end before any of these texts" },
    file: { json: "stop_strings" },
  },
  /** Tokens that end the completion; at most 1,024. @default none */
  stopTokenIds: { kind: "tokenIds", maxItems: 1024, default: [], http: {} },
  /** Continues after an end token of the model, unless `stopTokenIds` contains it, as in vLLM. @default false */
  ignoreEos: { kind: "flag", default: false, http: {} },
  /** Reports each token's log-probability and those of this many most likely tokens, 0 to 20. @default none */
  logprobs: { kind: "integer", min: 0, max: 20, default: undefined },
  /** Number of completions of one prompt, 1 to 128. @default 1 */
  n: { kind: "integer", min: 1, max: 128, default: 1, http: { about: "Over all prompts of a request" } },
} as const;

type Table = typeof SAMPLING_PARAMETERS;

/** Name of a sampling parameter. */
export type SamplingName = keyof Table;

/** Names of the parameters that have a place, such as a flag. */
export type SamplingNameWith<Place extends keyof SamplingParameter> = {
  [Name in SamplingName]: Table[Name] extends Readonly<Record<Place, unknown>> ? Name : never;
}[SamplingName];

/** Name of a parameter in bodies of OpenAI's APIs: `topP` becomes `top_p`. */
export type WireName<Name extends string> = Name extends `${infer First}${infer Rest}`
  ? `${First extends Lowercase<First> ? First : `_${Lowercase<First>}`}${WireName<Rest>}`
  : Name;

/** Returns a parameter's name in bodies of OpenAI's APIs. */
export function wireName<Name extends string>(name: Name): WireName<Name> {
  return name.replaceAll(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`) as WireName<Name>;
}

const ENTRIES = Object.entries<SamplingParameter>(SAMPLING_PARAMETERS) as readonly (readonly [
  SamplingName,
  SamplingParameter,
])[];

/** Lists the parameters that have a place, in the order of the table. */
export function samplingParametersWith<Place extends keyof SamplingParameter>(
  place: Place,
): readonly EntryWith<Place>[] {
  return ENTRIES.filter(([, entry]) => place in entry) as unknown as readonly EntryWith<Place>[];
}

type EntryWith<Place extends keyof SamplingParameter> = {
  readonly [Name in SamplingNameWith<Place>]: readonly [Name, SamplingParameter & Table[Name]];
}[SamplingNameWith<Place>];

/** Parameters of one completion. Names and meanings are vLLM's; all are optional, and `undefined` equals absent. */
export type SamplingParams = {
  readonly [Name in SamplingName]?: SamplingValues[Table[Name]["kind"]] | undefined;
};

type CheckedParams = {
  readonly [Name in SamplingName]: CheckedValues[Table[Name]["kind"]] | Extract<Table[Name]["default"], undefined>;
};

/** `SamplingParams` with every default filled in and every value checked. */
export interface ResolvedSamplingParams extends CheckedParams {
  readonly vocabSize: number;
  /** 0, or at least 1e-5. */
  readonly temperature: number;
  /** 0 if the whole vocabulary is kept. */
  readonly topK: number;
  /** Tokens that must not be chosen while the completion has fewer than `minTokens`. */
  readonly maskedUntilMinTokens: ReadonlySet<number>;
}

/** Facts about a model's tokens that limit its parameters. */
export interface SamplingLimits {
  readonly vocabSize: number;
  /** Tokens that end a completion. @default none */
  readonly eosTokenIds?: readonly number[] | undefined;
}

const MIN_TEMPERATURE = 1e-5;

/**
 * Fills in defaults and checks all values, so that the parameters of a sequence cannot fail later.
 *
 * @throws {TypeError} on a value of the wrong type or an unknown name, {RangeError} on a value out of range; the
 *   message contains the parameter, the expectation and the value
 */
export function resolveSamplingParams(params: SamplingParams, limits: SamplingLimits): ResolvedSamplingParams {
  recordOption("sampling parameters", params);
  rejectUnknownKeys("sampling parameters", params, Object.keys(SAMPLING_PARAMETERS));
  const { vocabSize, eosTokenIds = [] } = limits;
  integerOption("vocabSize", vocabSize, 1);
  const checked = Object.fromEntries(
    ENTRIES.map(([name, entry]) => {
      // `null` is a value of the wrong type and does not stand for the default.
      const value = params[name] === undefined ? entry.default : params[name];
      return [name, value === undefined ? undefined : CHECKS[entry.kind](name, value, entry, vocabSize)];
    }),
  ) as unknown as CheckedParams;
  const { maxTokens, minTokens, temperature, topK, stopTokenIds, ignoreEos } = checked;
  return {
    ...checked,
    vocabSize,
    minTokens: integerOption("minTokens", minTokens, 0, maxTokens),
    temperature: temperature < MIN_TEMPERATURE ? 0 : temperature,
    topK: topK >= vocabSize ? 0 : topK,
    maskedUntilMinTokens: new Set([...(ignoreEos ? [] : eosTokenIds), ...stopTokenIds]),
  };
}

/** Checks a value that is not `undefined`. @throws {TypeError | RangeError} as `resolveSamplingParams` */
type Check<Value> = (name: string, value: unknown, entry: SamplingParameter, vocabSize: number) => Value;

const CHECKS: { readonly [Kind in keyof CheckedValues]: Check<CheckedValues[Kind]> } = {
  number: finiteOption,
  integer: wholeOption,
  flag: switchOption,
  texts: textsOption,
  tokenIds: idsOption,
  biases: biasesOption,
};

/** Sampling parameters that a model's files recommend. Absent ones are not in the files. */
export type SamplingDefaults = Pick<SamplingParams, SamplingNameWith<"file">>;

/**
 * Fills in what a request leaves out. What the request says wins, also where its value is the neutral one.
 *
 * @param defaults - of the model; `undefined` changes nothing
 */
export function withSamplingDefaults<Params extends SamplingParams>(
  params: Params,
  defaults: SamplingDefaults | undefined,
): Params {
  // Wrong parameters are refused later, with a message of their own.
  if (defaults === undefined || typeof params !== "object" || params === null) return params;
  const given = Object.entries(params).filter(([, value]) => value !== undefined);
  const filled = { ...defaults, ...Object.fromEntries(given) };
  const { minTokens } = params;
  if (params.maxTokens === undefined && typeof minTokens === "number") {
    filled.maxTokens = recommendedMaxTokens(defaults, minTokens);
  }
  return filled as Params;
}

/**
 * Returns a model's limit of completion tokens, which does not contradict a request that asks for more tokens.
 *
 * @param minTokens - of the request
 */
export function recommendedMaxTokens(defaults: SamplingDefaults | undefined, minTokens: number): number | undefined {
  return defaults?.maxTokens === undefined ? undefined : Math.max(defaults.maxTokens, minTokens);
}

/**
 * Checks that `value` is a finite number in the range, and returns it.
 * @throws {TypeError} if it is no number or NaN, {RangeError} if it is out of range or infinite
 */
function finiteOption(name: string, value: unknown, range: NumberRange): number {
  if (typeof value !== "number" || Number.isNaN(value)) {
    throw new TypeError(`Expected \`${name}\` to be a number, got ${describeValue(value)}`);
  }
  const { min = -Infinity, above = -Infinity, max = Infinity } = range;
  if (!Number.isFinite(value) || value < min || value <= above || value > max) {
    throw new RangeError(`Expected \`${name}\` to be ${describeRange(range)}, got ${describeValue(value)}`);
  }
  return value;
}

function describeRange({ min, above, max }: NumberRange): string {
  const low = above === undefined ? `at least ${min}` : `above ${above}`;
  if (max === undefined) return `finite and ${low}`;
  return above === undefined ? `from ${min} to ${max}` : `${low} and at most ${max}`;
}

function wholeOption(name: string, value: unknown, { min = 0, max }: NumberRange): number {
  // Larger integers are not exact.
  if (max === undefined && Number.isInteger(value) && Number(value) > Number.MAX_SAFE_INTEGER) {
    throw new RangeError(`Expected \`${name}\` to be at most 2^53 - 1, got ${describeValue(value)}`);
  }
  return integerOption(name, value, min, max);
}

function recordOption(name: string, value: unknown): asserts value is object {
  if (isRecord(value)) return;
  throw new TypeError(`Expected \`${name}\` to be an object, got ${describeValue(value)}`);
}

function idsOption(
  name: string,
  value: unknown,
  { maxItems }: SamplingParameter,
  vocabSize: number,
): ReadonlySet<number> {
  if (!Array.isArray(value)) {
    throw new TypeError(`Expected \`${name}\` to be a list of token ids, got ${describeValue(value)}`);
  }
  limitLength(name, value.length, maxItems);
  return new Set(value.map((id: unknown, index) => integerOption(`${name}[${index}]`, id, 0, vocabSize - 1)));
}

function biasesOption(
  name: string,
  value: unknown,
  entry: SamplingParameter,
  vocabSize: number,
): ReadonlyMap<number, number> {
  recordOption(name, value);
  const entries = value instanceof Map ? [...value] : Object.entries(value);
  limitLength(name, entries.length, entry.maxItems);
  return new Map(
    entries.map(([key, bias]: readonly [unknown, unknown]) => {
      // The keys of an object are strings; only a plain number can be a token id.
      const named = typeof key === "string" && /^\d+$/.test(key) ? Number(key) : key;
      const id = integerOption(`token id in ${name}`, named, 0, vocabSize - 1);
      return [id, finiteOption(`${name}[${String(key)}]`, bias, entry)];
    }),
  );
}

function textsOption(name: string, value: unknown, entry: SamplingParameter): readonly string[] {
  if (typeof value === "string") return [textOption(name, value, entry)];
  if (!Array.isArray(value)) {
    throw new TypeError(`Expected \`${name}\` to be a string or a list of strings, got ${describeValue(value)}`);
  }
  limitLength(name, value.length, entry.maxItems);
  return [...new Set(value.map((stop: unknown, index) => textOption(`${name}[${index}]`, stop, entry)))];
}

function textOption(name: string, value: unknown, { maxChars = Infinity }: SamplingParameter): string {
  if (typeof value !== "string")
    throw new TypeError(`Expected \`${name}\` to be a string, got ${describeValue(value)}`);
  if (value.length === 0 || value.length > maxChars) {
    const got = value.length === 0 ? "none" : `${value.length}: ${describeValue(value)}`;
    throw new RangeError(`Expected \`${name}\` to have 1 to ${maxChars} chars, got ${got}`);
  }
  // Decoded text has whole characters only, so such a stop could never be found.
  if (/\p{Surrogate}/u.test(value)) {
    throw new RangeError(`Expected \`${name}\` to have no lone surrogates, got ${describeValue(value)}`);
  }
  return value;
}

function limitLength(name: string, length: number, max = Infinity): void {
  if (length > max) throw new RangeError(`Expected \`${name}\` to have at most ${max} entries, got ${length}`);
}
