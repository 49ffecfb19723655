import { choiceOption, integerOption, rejectUnknownKeys } from "@readme-moe/core";

/** Kinds of trained parameters; see `TuneOptions.method`. */
export const TUNE_METHODS = ["lora", "full"] as const;

/** Parts that experts have in common; see `TuneOptions.sharing`. */
export const TUNE_SHARINGS = ["neurons", "none"] as const;

/** Options of `tune` that, beside the models and texts, decide the result. */
export interface TuneOptions {
  /** Tokens to learn from, of all kinds of text together; text is repeated when there is less of it. @default 500000 */
  readonly tokens?: number | undefined;
  /**
   * `"lora"` trains low-rank changes of the experts' weights, `"full"` trains the weights themselves. @default "lora"
   */
  readonly method?: (typeof TUNE_METHODS)[number] | undefined;
  /** Rank of the changes with `"lora"`. @default 32 */
  readonly rank?: number | undefined;
  /**
   * Parts that experts have in common. With `"neurons"`, a neuron of the dense model that several experts hold has one
   * change that the tokens of all of them train, and each expert trains its own change beside it. With `"none"`,
   * experts learn from their own tokens alone. @default "neurons" with "lora", "none" with "full"
   */
  readonly sharing?: (typeof TUNE_SHARINGS)[number] | undefined;
  /** Rank of the changes in common, with `"lora"` and `"neurons"`. @default `rank` */
  readonly sharedRank?: number | undefined;
  /** Whether attention is trained, too. @default false */
  readonly attention?: boolean | undefined;
  /** Highest learning rate. @default 0.002 with `"lora"`, 0.0001 with `"full"` */
  readonly learningRate?: number | undefined;
  /** Weight decay of matrices with `"full"`. @default 0.01 */
  readonly weightDecay?: number | undefined;
  /** Weight of the text's own next tokens beside the teacher's distribution. @default 0.3 */
  readonly labelShare?: number | undefined;
  /** Tokens of a sequence. @default 256 */
  readonly sequenceTokens?: number | undefined;
  /** Sequences of a step. @default 16 */
  readonly batchSequences?: number | undefined;
  /** Sequences of a step that are in memory together; divides `batchSequences`. @default 8, or fewer */
  readonly microSequences?: number | undefined;
  /** Steps over which the learning rate rises. @default a twentieth of all */
  readonly warmUpSteps?: number | undefined;
  /** Held-out sequences of each kind of text for measuring losses. @default 4 */
  readonly evaluationSequences?: number | undefined;
  /** Number of evaluations, including the last one. @default 8 */
  readonly evaluations?: number | undefined;
  /** Ends after so many evaluations in a row without a new best one; 0 never ends early. @default 3 */
  readonly patience?: number | undefined;
  /** Rounds of tuning; a new router is trained between two rounds. @default 1 */
  readonly rounds?: number | undefined;
  /** Steps of a router's training. @default 200 */
  readonly routerSteps?: number | undefined;
  /** Tokens of each kind of text that a new router learns from. @default 4096 */
  readonly routerTokens?: number | undefined;
  /** Seed of all random choices. @default 1 */
  readonly seed?: number | undefined;
}

/** Options of `tune` that do not change the model. */
export interface TuneRun {
  /** Name of the tuned model in the report. @default its path */
  readonly source?: string | undefined;
  /** Name of the teacher in the report. @default its path */
  readonly teacherSource?: string | undefined;
  /** Resumes unfinished work for the same folder. @default false */
  readonly resume?: boolean | undefined;
  /** Threads of the inference runtime. @default all cores */
  readonly threads?: number | undefined;
  /** Stops the tuning: a checkpoint is written, then the reason is thrown. */
  readonly signal?: AbortSignal | undefined;
  /** Called once, before the first step. */
  readonly onEstimate?: ((estimate: TuneEstimate) => void) | undefined;
  readonly onProgress?: ((progress: TuneProgress) => void) | undefined;
  /** Time between two checkpoints, about the work that a killed process loses. @default 300000 */
  readonly checkpointMs?: number | undefined;
}

/** Predicted time and memory of a tuning, measured on one batch before its first step. */
export interface TuneEstimate {
  readonly trainedParameters: number;
  readonly steps: number;
  /** Throughput of the measured batch. */
  readonly tokensPerS: number;
  /** Time of all steps and evaluations. */
  readonly ms: number;
  /** Peak memory of the process. */
  readonly memoryBytes: number;
}

/** Means over the tokens of a step, in nats. */
export interface StepFigures {
  /** Divergence of the student from its teacher. */
  readonly divergence: number;
  readonly crossEntropy: number;
  /** Norm of the gradient before clipping. */
  readonly gradientNorm: number;
}

/** Losses on held-out text. */
export interface Evaluation {
  /** Steps done. */
  readonly step: number;
  /** Mean loss of each kind of text, in nats per token. */
  readonly losses: readonly number[];
  /** Mean of `losses`. */
  readonly mean: number;
}

/** Progress of a tuning, reported after each step. */
export interface TuneProgress extends StepFigures {
  /** Steps done. */
  readonly step: number;
  readonly steps: number;
  /** Training throughput of this process. */
  readonly tokensPerS: number;
  /** Expected time until the last step. */
  readonly etaMs: number;
  /** Losses measured after this step, if they were. */
  readonly evaluation: Evaluation | undefined;
}

export type ResolvedTuneOptions = { readonly [Name in keyof TuneOptions]-?: NonNullable<TuneOptions[Name]> };

/** @throws {TypeError | RangeError} naming the option, the expectation and the value */
export function resolveTuneOptions(options: TuneOptions & TuneRun): ResolvedTuneOptions {
  const method = choiceOption("method", options.method ?? "lora", TUNE_METHODS);
  const batchSequences = integerOption("batchSequences", options.batchSequences ?? 16, 1, 1 << 16);
  const sequenceTokens = integerOption("sequenceTokens", options.sequenceTokens ?? 256, 8, 1 << 20);
  const tokens = integerOption("tokens", options.tokens ?? 500_000, 1);
  const steps = stepsOf({ tokens, batchSequences, sequenceTokens });
  const { microSequences: givenMicro = largestDivisor(batchSequences, 8) } = options;
  const microSequences = integerOption("microSequences", givenMicro, 1);
  if (batchSequences % microSequences !== 0) {
    throw new RangeError(
      `Expected \`microSequences\` to divide the ${batchSequences} of \`batchSequences\`, got \`${microSequences}\``,
    );
  }
  const rank = integerOption("rank", options.rank ?? 32, 1, 1 << 16);
  const resolved = {
    tokens,
    method,
    rank,
    sharing: choiceOption("sharing", options.sharing ?? (method === "lora" ? "neurons" : "none"), TUNE_SHARINGS),
    sharedRank: integerOption("sharedRank", options.sharedRank ?? rank, 1, 1 << 16),
    attention: options.attention ?? false,
    learningRate: numberOption("learningRate", options.learningRate ?? (method === "lora" ? 2e-3 : 1e-4)),
    weightDecay: numberOption("weightDecay", options.weightDecay ?? 0.01),
    labelShare: numberOption("labelShare", options.labelShare ?? 0.3),
    sequenceTokens,
    batchSequences,
    microSequences,
    warmUpSteps: integerOption("warmUpSteps", options.warmUpSteps ?? Math.ceil(steps / 20), 0),
    evaluationSequences: integerOption("evaluationSequences", options.evaluationSequences ?? 4, 1),
    evaluations: integerOption("evaluations", options.evaluations ?? 8, 1),
    patience: integerOption("patience", options.patience ?? 3, 0),
    rounds: integerOption("rounds", options.rounds ?? 1, 1, 1024),
    routerSteps: integerOption("routerSteps", options.routerSteps ?? 200, 1),
    routerTokens: integerOption("routerTokens", options.routerTokens ?? 4096, sequenceTokens),
    seed: integerOption("seed", options.seed ?? 1, 0, 2 ** 32 - 1),
  };
  rejectUnknownKeys("tune", options, [...Object.keys(resolved), ...RUN_NAMES]);
  return resolved;
}

const RUN_NAMES = [
  "source",
  "teacherSource",
  "resume",
  "threads",
  "signal",
  "onEstimate",
  "onProgress",
  "checkpointMs",
] as const satisfies readonly (keyof TuneRun)[];

/** Returns the number of steps of a whole tuning, at least one. */
export function stepsOf({
  tokens,
  batchSequences,
  sequenceTokens,
}: Pick<ResolvedTuneOptions, "tokens" | "batchSequences" | "sequenceTokens">): number {
  return Math.max(1, Math.round(tokens / (batchSequences * sequenceTokens)));
}

export function largestDivisor(value: number, most: number): number {
  for (let divisor = most; divisor > 1; divisor--) if (value % divisor === 0) return divisor;
  return 1;
}

export function numberOption(name: string, value: number): number {
  if (typeof value !== "number") throw new TypeError(`Expected \`${name}\` to be a number, got \`${String(value)}\``);
  if (value >= 0 && value < Infinity) return value;
  throw new RangeError(`Expected \`${name}\` to be a number from 0, got \`${value}\``);
}
