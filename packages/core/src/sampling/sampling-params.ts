import { integerOption, rejectUnknownKeys } from "../options.ts";
import {
  biasOption,
  flagOption,
  idsOption,
  numberOption,
  recordOption,
  seedOption,
  stopsOption,
} from "./param-checks.ts";

/** How one sequence is continued. Names and meanings are vLLM's; all are optional, `undefined` equals absent. */
export interface SamplingParams {
  /** Completion tokens at most, from 1. @default 128 */
  readonly maxTokens?: number | undefined;
  /** Completion tokens before an end token or one of `stopTokenIds` may be chosen, up to `maxTokens`. @default 0 */
  readonly minTokens?: number | undefined;
  /** Divides the logits, from 0; below 1e-5 the most likely token is taken always, as in vLLM. @default 1 */
  readonly temperature?: number | undefined;
  /** Keeps this many of the most likely tokens; 0 keeps all. @default 0 */
  readonly topK?: number | undefined;
  /** Keeps the fewest most likely tokens whose probabilities sum to this, in (0, 1]. @default 1 */
  readonly topP?: number | undefined;
  /** Keeps tokens at least this times as likely as the most likely one, in [0, 1]. @default 0 */
  readonly minP?: number | undefined;
  /** Makes tokens of prompt and completion less likely (above 1) or more (below 1), above 0. @default 1 */
  readonly repetitionPenalty?: number | undefined;
  /** Subtracted from the logit of each token that the completion has, in [-2, 2]. @default 0 */
  readonly presencePenalty?: number | undefined;
  /** Subtracted from a token's logit for each time that the completion has it, in [-2, 2]. @default 0 */
  readonly frequencyPenalty?: number | undefined;
  /** Added to the logits of these token ids, each in [-100, 100]; at most 1,024. @default none */
  readonly logitBias?: Readonly<Record<number, number>> | ReadonlyMap<number, number> | undefined;
  /** Makes choices repeatable, an integer in [0, 2^53 - 1]. @default none: the engine draws one */
  readonly seed?: number | undefined;
  /** Ends before the first of these strings, which is not shown; at most 64 of 1 to 1,024 chars. @default none */
  readonly stop?: string | readonly string[] | undefined;
  /** Ends after any of these tokens; at most 1,024. @default none */
  readonly stopTokenIds?: readonly number[] | undefined;
  /** Goes on after an end token of the model, unless `stopTokenIds` has it, as in vLLM. @default false */
  readonly ignoreEos?: boolean | undefined;
  /** Reports each token's log-probability and those of this many most likely ones, 0 to 20. @default none */
  readonly logprobs?: number | undefined;
  /** Completions of one prompt, 1 to 128. @default 1 */
  readonly n?: number | undefined;
}

/** What a model says about its tokens. */
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
  /** 0 also for a `topK` that keeps the whole vocabulary. */
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
  /** Tokens that may not be chosen while the completion has fewer than `minTokens`. */
  readonly maskedUntilMinTokens: ReadonlySet<number>;
}

const MIN_TEMPERATURE = 1e-5;

const PARAM_NAMES = [
  "maxTokens",
  "minTokens",
  "temperature",
  "topK",
  "topP",
  "minP",
  "repetitionPenalty",
  "presencePenalty",
  "frequencyPenalty",
  "logitBias",
  "seed",
  "stop",
  "stopTokenIds",
  "ignoreEos",
  "logprobs",
  "n",
] as const satisfies readonly (keyof SamplingParams)[];

/**
 * Fills defaults and checks all values, so that nothing about a sequence's parameters can fail later.
 *
 * @throws {TypeError} on a value of the wrong type or an unknown name, {RangeError} on a value out of range; the
 *   message names the parameter, what was expected and what came
 */
export function resolveSamplingParams(params: SamplingParams, limits: SamplingLimits): ResolvedSamplingParams {
  recordOption("sampling parameters", params);
  rejectUnknownKeys("sampling parameters", params, PARAM_NAMES);
  const { maxTokens = 128, temperature = 1, topK = 0, topP = 1, minP = 0, ignoreEos = false, seed, logprobs } = params;
  const { repetitionPenalty = 1, presencePenalty = 0, frequencyPenalty = 0, logitBias = {}, minTokens = 0 } = params;
  const { stop = [], stopTokenIds: stopIds = [], n = 1 } = params;
  const { vocabSize, eosTokenIds = [] } = limits;
  integerOption("vocabSize", vocabSize, 1);
  const stopTokenIds = idsOption("stopTokenIds", stopIds, vocabSize);
  return {
    vocabSize,
    maxTokens: integerOption("maxTokens", maxTokens, 1),
    minTokens: integerOption("minTokens", minTokens, 0, maxTokens),
    temperature: numberOption("temperature", temperature, { min: 0 }) < MIN_TEMPERATURE ? 0 : temperature,
    topK: integerOption("topK", topK, 0) >= vocabSize ? 0 : topK,
    topP: numberOption("topP", topP, { above: 0, max: 1 }),
    minP: numberOption("minP", minP, { min: 0, max: 1 }),
    repetitionPenalty: numberOption("repetitionPenalty", repetitionPenalty, { above: 0 }),
    presencePenalty: numberOption("presencePenalty", presencePenalty, { min: -2, max: 2 }),
    frequencyPenalty: numberOption("frequencyPenalty", frequencyPenalty, { min: -2, max: 2 }),
    logitBias: biasOption("logitBias", logitBias, vocabSize),
    seed: seed === undefined ? undefined : seedOption("seed", seed),
    stop: stopsOption("stop", stop),
    stopTokenIds,
    ignoreEos: flagOption("ignoreEos", ignoreEos),
    logprobs: logprobs === undefined ? undefined : integerOption("logprobs", logprobs, 0, 20),
    n: integerOption("n", n, 1, 128),
    maskedUntilMinTokens: new Set([...(ignoreEos ? [] : eosTokenIds), ...stopTokenIds]),
  };
}
