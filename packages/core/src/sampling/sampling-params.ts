// Parameters of sampling: their names, ranges and defaults.

import { describeValue, integerOption, rejectUnknownKeys, isRecord } from "../options.ts";

/** Parameters of one completion. Names and meanings are vLLM's; all are optional, and `undefined` equals absent. */
export interface SamplingParams {
  /** Largest number of completion tokens, from 1. @default 128 */
  readonly maxTokens?: number | undefined;
  /**
   * Number of completion tokens before an end token or one of `stopTokenIds` may be chosen, up to `maxTokens`.
   * @default 0
   */
  readonly minTokens?: number | undefined;
  /** Divisor of the logits, from 0; below 1e-5 the most likely token is always chosen, as in vLLM. @default 1 */
  readonly temperature?: number | undefined;
  /** Keeps this many of the most likely tokens; 0 keeps all. @default 0 */
  readonly topK?: number | undefined;
  /** Keeps the fewest most likely tokens whose probabilities sum to this, in (0, 1]. @default 1 */
  readonly topP?: number | undefined;
  /** Keeps tokens at least this times as likely as the most likely one, in [0, 1]. @default 0 */
  readonly minP?: number | undefined;
  /** Makes tokens of prompt and completion less likely (above 1) or more likely (below 1), above 0. @default 1 */
  readonly repetitionPenalty?: number | undefined;
  /** Penalty subtracted from the logit of each token that occurs in the completion, in [-2, 2]. @default 0 */
  readonly presencePenalty?: number | undefined;
  /** Penalty subtracted from a token's logit for each time it occurs in the completion, in [-2, 2]. @default 0 */
  readonly frequencyPenalty?: number | undefined;
  /** Values added to the logits of these token ids, each in [-100, 100]; at most 1,024. @default none */
  readonly logitBias?: Readonly<Record<number, number>> | ReadonlyMap<number, number> | undefined;
  /** Seed that makes choices repeatable, an integer in [0, 2^53 - 1]. @default none: the engine draws one */
  readonly seed?: number | undefined;
  /** Strings that end the completion and are not part of it; at most 64 of 1 to 1,024 chars. @default none */
  readonly stop?: string | readonly string[] | undefined;
  /** Tokens that end the completion; at most 1,024. @default none */
  readonly stopTokenIds?: readonly number[] | undefined;
  /** Continues after an end token of the model, unless `stopTokenIds` contains it, as in vLLM. @default false */
  readonly ignoreEos?: boolean | undefined;
  /** Reports each token's log-probability and those of this many most likely tokens, 0 to 20. @default none */
  readonly logprobs?: number | undefined;
  /** Number of completions of one prompt, 1 to 128. @default 1 */
  readonly n?: number | undefined;
}

/** Facts about a model's tokens that limit its parameters. */
export interface SamplingLimits {
  readonly vocabSize: number;
  /** Tokens that end a completion. @default none */
  readonly eosTokenIds?: readonly number[] | undefined;
}

/** `SamplingParams` with every default filled in and every value checked. */
export interface ResolvedSamplingParams {
  readonly vocabSize: number;
  readonly maxTokens: number;
  readonly minTokens: number;
  /** 0, or at least 1e-5. */
  readonly temperature: number;
  /** 0 if the whole vocabulary is kept. */
  readonly topK: number;
  readonly topP: number;
  readonly minP: number;
  readonly repetitionPenalty: number;
  readonly presencePenalty: number;
  readonly frequencyPenalty: number;
  readonly logitBias: ReadonlyMap<number, number>;
  readonly seed: number | undefined;
  readonly stop: readonly string[];
  readonly stopTokenIds: ReadonlySet<number>;
  readonly ignoreEos: boolean;
  readonly logprobs: number | undefined;
  readonly n: number;
  /** Tokens that must not be chosen while the completion has fewer than `minTokens`. */
  readonly maskedUntilMinTokens: ReadonlySet<number>;
}

const MIN_TEMPERATURE = 1e-5;

/** Values of absent parameters. Every parameter has one, which the compiler checks. */
const DEFAULTS = {
  maxTokens: 128,
  minTokens: 0,
  temperature: 1,
  topK: 0,
  topP: 1,
  minP: 0,
  repetitionPenalty: 1,
  presencePenalty: 0,
  frequencyPenalty: 0,
  logitBias: {},
  seed: undefined,
  stop: [],
  stopTokenIds: [],
  ignoreEos: false,
  logprobs: undefined,
  n: 1,
} as const satisfies Required<SamplingParams>;

/**
 * Fills in defaults and checks all values, so that the parameters of a sequence cannot fail later.
 *
 * @throws {TypeError} on a value of the wrong type or an unknown name, {RangeError} on a value out of range; the
 *   message contains the parameter, the expectation and the value
 */
export function resolveSamplingParams(params: SamplingParams, limits: SamplingLimits): ResolvedSamplingParams {
  recordOption("sampling parameters", params);
  rejectUnknownKeys("sampling parameters", params, Object.keys(DEFAULTS));
  // `null` is a value of the wrong type and does not stand for the default.
  const given = (name: keyof SamplingParams): unknown => (params[name] === undefined ? DEFAULTS[name] : params[name]);
  const number = (name: keyof SamplingParams, range: NumberRange): number => finiteOption(name, given(name), range);
  const integer = (name: keyof SamplingParams, min: number, max?: number): number =>
    integerOption(name, given(name), min, max);
  const { vocabSize, eosTokenIds = [] } = limits;
  integerOption("vocabSize", vocabSize, 1);
  const maxTokens = integer("maxTokens", 1);
  const temperature = number("temperature", { min: 0 });
  const topK = integer("topK", 0);
  const stopTokenIds = idsOption("stopTokenIds", given("stopTokenIds"), vocabSize);
  const ignoreEos = flagOption("ignoreEos", given("ignoreEos"));
  return {
    vocabSize,
    maxTokens,
    minTokens: integer("minTokens", 0, maxTokens),
    temperature: temperature < MIN_TEMPERATURE ? 0 : temperature,
    topK: topK >= vocabSize ? 0 : topK,
    topP: number("topP", { above: 0, max: 1 }),
    minP: number("minP", { min: 0, max: 1 }),
    repetitionPenalty: number("repetitionPenalty", { above: 0 }),
    presencePenalty: number("presencePenalty", { min: -2, max: 2 }),
    frequencyPenalty: number("frequencyPenalty", { min: -2, max: 2 }),
    logitBias: biasOption("logitBias", given("logitBias"), vocabSize),
    seed: params.seed === undefined ? undefined : seedOption("seed", params.seed),
    stop: stopsOption("stop", given("stop")),
    stopTokenIds,
    ignoreEos,
    logprobs: params.logprobs === undefined ? undefined : integer("logprobs", 0, 20),
    n: integer("n", 1, 128),
    maskedUntilMinTokens: new Set([...(ignoreEos ? [] : eosTokenIds), ...stopTokenIds]),
  };
}

const MAX_STOPS = 64;
const MAX_STOP_CHARS = 1024;
const MAX_LISTED_TOKENS = 1024;

/** A closed range, or one that excludes its lower end, `above`. */
interface NumberRange {
  readonly min?: number;
  readonly above?: number;
  readonly max?: number;
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

/** Checks a seed. @throws {TypeError | RangeError} if `value` is no integer in [0, 2^53 - 1] */
function seedOption(name: string, value: unknown): number {
  // Larger integers are not exact.
  if (typeof value === "number" && Number.isInteger(value) && value > Number.MAX_SAFE_INTEGER) {
    throw new RangeError(`Expected \`${name}\` to be at most 2^53 - 1, got ${describeValue(value)}`);
  }
  return integerOption(name, value, 0);
}

/** Checks a flag. @throws {TypeError} if `value` is neither true nor false */
function flagOption(name: string, value: unknown): boolean {
  if (typeof value === "boolean") return value;
  throw new TypeError(`Expected \`${name}\` to be true or false, got ${describeValue(value)}`);
}

/** Checks an object of named values. @throws {TypeError} if `value` is none */
function recordOption(name: string, value: unknown): asserts value is object {
  if (isRecord(value)) return;
  throw new TypeError(`Expected \`${name}\` to be an object, got ${describeValue(value)}`);
}

/** Checks a list of token ids. @throws {TypeError | RangeError} if `value` is no list of at most 1,024 token ids */
function idsOption(name: string, value: unknown, vocabSize: number): ReadonlySet<number> {
  if (!Array.isArray(value)) {
    throw new TypeError(`Expected \`${name}\` to be a list of token ids, got ${describeValue(value)}`);
  }
  limitLength(name, value.length, MAX_LISTED_TOKENS);
  return new Set(value.map((id: unknown, index) => integerOption(`${name}[${index}]`, id, 0, vocabSize - 1)));
}

/**
 * Checks a bias by token.
 * @throws {TypeError | RangeError} if `value` does not map at most 1,024 ids to [-100, 100]
 */
function biasOption(name: string, value: unknown, vocabSize: number): ReadonlyMap<number, number> {
  recordOption(name, value);
  const entries = value instanceof Map ? [...value] : Object.entries(value);
  limitLength(name, entries.length, MAX_LISTED_TOKENS);
  return new Map(
    entries.map(([key, bias]: readonly [unknown, unknown]) => {
      // The keys of an object are strings; only a plain number can be a token id.
      const named = typeof key === "string" && /^\d+$/.test(key) ? Number(key) : key;
      const id = integerOption(`token id in ${name}`, named, 0, vocabSize - 1);
      return [id, finiteOption(`${name}[${String(key)}]`, bias, { min: -100, max: 100 })];
    }),
  );
}

/**
 * Checks stop strings.
 * @throws {TypeError | RangeError} if `value` is neither a stop string nor a list of at most 64
 */
function stopsOption(name: string, value: unknown): readonly string[] {
  if (typeof value === "string") return [stopOption(name, value)];
  if (!Array.isArray(value)) {
    throw new TypeError(`Expected \`${name}\` to be a string or a list of strings, got ${describeValue(value)}`);
  }
  limitLength(name, value.length, MAX_STOPS);
  return [...new Set(value.map((stop: unknown, index) => stopOption(`${name}[${index}]`, stop)))];
}

function stopOption(name: string, value: unknown): string {
  if (typeof value !== "string")
    throw new TypeError(`Expected \`${name}\` to be a string, got ${describeValue(value)}`);
  if (value.length === 0 || value.length > MAX_STOP_CHARS) {
    const got = value.length === 0 ? "none" : `${value.length}: ${describeValue(value)}`;
    throw new RangeError(`Expected \`${name}\` to have 1 to ${MAX_STOP_CHARS} chars, got ${got}`);
  }
  // Decoded text has whole characters only, so such a stop could never be found.
  if (/\p{Surrogate}/u.test(value)) {
    throw new RangeError(`Expected \`${name}\` to have no lone surrogates, got ${describeValue(value)}`);
  }
  return value;
}

function limitLength(name: string, length: number, max: number): void {
  if (length > max) throw new RangeError(`Expected \`${name}\` to have at most ${max} entries, got ${length}`);
}
