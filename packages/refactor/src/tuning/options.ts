import { integerOption, type OptionsOf, type ResolvedOf } from "@readme-moe/core";
import { checkedOptions, type JobRun, type LabTable, RUN_NAMES } from "../option-table.ts";

/** Options that `tune` and `tuneLoras` have in common. */
export const TRAINING_OPTIONS = {
  /** Whether attention is trained, too. @default false */
  attention: { kind: "switch", default: false, about: "train the attention as well" },
  /** Tokens of a sequence. @default 256 */
  sequenceTokens: { kind: "integer", min: 8, max: 1 << 20, default: 256, about: "tokens of a sequence" },
  /**
   * Products with weights that are not trained: `"int8"` in the kernel, with weights in the file's blocks or in 8 bits;
   * `"float"` in float32. @default `"int8"`, of all weights that are trained `"float"`
   */
  frozen: {
    kind: "choice",
    choices: ["int8", "float"],
    about: "arithmetic of weights that are not trained: the kernel's 8 bits, or float32",
    otherwise: "int8, with --method full float",
  },
  /** Seed of all random choices. @default 1 */
  seed: { kind: "integer", max: 2 ** 32 - 1, default: 1, about: "seed of all random choices" },
} as const satisfies LabTable;

/** Options of `tune` that, beside the models and texts, decide the result. */
export const TUNE_OPTIONS = {
  ...TRAINING_OPTIONS,
  /** Tokens to learn from, of all kinds of text together; text is repeated when there is less of it. @default 500000 */
  tokens: { kind: "integer", min: 1, default: 500_000, about: "training tokens of all kinds together" },
  /**
   * `"lora"` trains low-rank changes of the experts' weights, `"full"` trains the weights themselves. @default "lora"
   */
  method: {
    kind: "choice",
    choices: ["lora", "full"],
    default: "lora",
    about: "what is trained of the experts: changes of low rank, or all weights",
  },
  /** Rank of the changes with `"lora"`. @default 32 */
  rank: { kind: "integer", min: 1, max: 1 << 16, default: 32, about: "rank of the changes" },
  /**
   * Parts that experts have in common. With `"neurons"`, a neuron of the dense model that several experts hold has one
   * change that the tokens of all of them train, and each expert trains its own change beside it. With `"none"`,
   * experts learn from their own tokens alone. @default "neurons" with "lora", "none" with "full"
   */
  sharing: {
    kind: "choice",
    choices: ["neurons", "none"],
    about:
      "common part of experts: neurons of the dense model, or none; of loras: ranks, what they start from, or none",
    otherwise: "neurons with lora, none with full",
  },
  /** Rank of the changes in common, with `"lora"` and `"neurons"`. @default `rank` */
  sharedRank: {
    kind: "integer",
    min: 1,
    max: 1 << 16,
    about: "with --sharing neurons: rank of the common changes; with ranks: number of common ranks",
    otherwise: "that of --rank",
  },
  /** Highest learning rate. @default 0.002 with `"lora"`, 0.0001 with `"full"` */
  learningRate: {
    kind: "number",
    about: "largest learning rate",
    otherwise: "0.002 with lora, 0.0001 with full",
  },
  /** Weight decay of matrices with `"full"`. @default 0.01 */
  weightDecay: { kind: "number", default: 0.01, about: "with --method full: weight decay of matrices" },
  /** Weight of the text's own next tokens beside the teacher's distribution. @default 0.3 */
  labelShare: {
    kind: "number",
    default: 0.3,
    about: "weight of the text's own next tokens beside the teacher's",
  },
  /** Sequences of a step. @default 16 */
  batchSequences: { kind: "integer", min: 1, max: 1 << 16, default: 16, about: "sequences of a step" },
  /** Sequences of a step that are in memory together; divides `batchSequences`. @default 8, or fewer */
  microSequences: {
    kind: "integer",
    min: 1,
    about: "sequences of a step that are in memory together",
    otherwise: "8, or fewer",
  },
  /** Steps over which the learning rate rises. @default a twentieth of all */
  warmUpSteps: { kind: "integer", about: "steps over which the rate rises", otherwise: "a twentieth of all" },
  /** Held-out sequences of each kind of text for measuring losses. @default 4 */
  evaluationSequences: { kind: "integer", min: 1, default: 4, about: "held-out sequences of each kind" },
  /** Number of evaluations, including the last one. @default 8 */
  evaluations: { kind: "integer", min: 1, default: 8, about: "evaluations during training" },
  /** Ends after so many evaluations in a row without a new best one; 0 never ends early. @default 3 */
  patience: {
    kind: "integer",
    default: 3,
    about: "evaluations without improvement that end the training; 0 for never",
  },
  /** Rounds of tuning; a new router is trained between two rounds. @default 1 */
  rounds: {
    kind: "integer",
    min: 1,
    max: 1024,
    default: 1,
    about: "rounds of tuning; the router is trained again between them",
  },
  /** Steps of a router's training. @default 200 */
  routerSteps: { kind: "integer", min: 1, default: 200, about: "steps of a router's training" },
  /** Tokens of each kind of text that a new router learns from. @default 4096 */
  routerTokens: {
    kind: "integer",
    min: 1,
    default: 4096,
    about: "tokens of each kind to measure the router's costs on",
  },
} as const satisfies LabTable;

/** Options of `tune`; see `TUNE_OPTIONS`. */
export type TuneOptions = OptionsOf<typeof TUNE_OPTIONS>;

export type ResolvedTuneOptions = ResolvedOf<typeof TUNE_OPTIONS>;

/** Options of `tune` that do not change the model. */
export interface TuneRun extends TrainingRun<TuneProgress> {
  /** Name of the teacher in the report. @default its path */
  readonly teacherSource?: string | undefined;
}

/** Options of a training that do not change its result. */
export interface TrainingRun<Progress> extends JobRun<Progress> {
  /** Called once, before the first step. */
  readonly onEstimate?: ((estimate: TuneEstimate) => void) | undefined;
}

/** Predicted time and memory of a training, measured on one batch before its first step. */
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

/** @throws {TypeError | RangeError} naming the option, the expectation and the value */
export function resolveTuneOptions(options: TuneOptions & TuneRun): ResolvedTuneOptions {
  const known = checkedOptions("tune", TUNE_OPTIONS, options, [...RUN_NAMES, "teacherSource", "onEstimate"]);
  const isLora = known.method === "lora";
  const frozen = known.frozen ?? (isLora ? "int8" : "float");
  if (frozen === "int8" && !isLora) {
    throw new RangeError(
      "Expected `frozen` to be `float` with the method `full`, which trains all weights, got `int8`",
    );
  }
  return {
    ...known,
    frozen,
    sharing: known.sharing ?? (isLora ? "neurons" : "none"),
    sharedRank: known.sharedRank ?? known.rank,
    learningRate: known.learningRate ?? (isLora ? 2e-3 : 1e-4),
    microSequences: divisorOption(
      "microSequences",
      known.microSequences ?? largestDivisor(known.batchSequences, 8),
      known.batchSequences,
      "of `batchSequences`",
    ),
    warmUpSteps: known.warmUpSteps ?? Math.ceil(stepsOf(known) / 20),
    routerTokens: integerOption("routerTokens", known.routerTokens, known.sequenceTokens),
  };
}

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

/** Checks that a number divides another one. @param of - says of what there are `whole` @throws {RangeError} */
export function divisorOption(name: string, value: number, whole: number, of: string): number {
  if (whole % value === 0) return value;
  throw new RangeError(`Expected \`${name}\` to divide the ${whole} ${of}, got \`${value}\``);
}
