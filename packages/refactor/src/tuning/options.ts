import { choiceOption, integerOption, rejectUnknownKeys } from "@readme-moe/core";

/** What can be learned; see `TuneOptions.method`. */
export const TUNE_METHODS = ["lora", "full"] as const;

/** Of `tune`: everything that decides what the result is, besides the models and their texts. */
export interface TuneOptions {
  /** Of text that is learned from, all kinds together; read more than once where there is less of it. @default 500000 */
  readonly tokens?: number | undefined;
  /** `"lora"` learns changes of low rank of the experts' products, `"full"` all their weights. @default "lora" */
  readonly method?: (typeof TUNE_METHODS)[number] | undefined;
  /** With `"lora"`. @default 32 */
  readonly rank?: number | undefined;
  /** Whether attention learns, too. @default false */
  readonly attention?: boolean | undefined;
  /** At its highest. @default 0.002 with `"lora"`, 0.0001 with `"full"` */
  readonly learningRate?: number | undefined;
  /** With `"full"`, of matrices. @default 0.01 */
  readonly weightDecay?: number | undefined;
  /** What the text's own next tokens count beside the teacher's distribution. @default 0.3 */
  readonly labelShare?: number | undefined;
  /** Of a sequence. @default 256 */
  readonly sequenceTokens?: number | undefined;
  /** Sequences of one step. @default 16 */
  readonly batchSequences?: number | undefined;
  /** Of these, sequences that are in memory together: divides `batchSequences`. @default 8, or fewer */
  readonly microSequences?: number | undefined;
  /** Steps over which the learning rate rises. @default a twentieth of all */
  readonly warmUpSteps?: number | undefined;
  /** Held-out sequences of each kind of text that losses are measured on. @default 4 */
  readonly evaluationSequences?: number | undefined;
  /** Measurements on the way, the last one included. @default 8 */
  readonly evaluations?: number | undefined;
  /** Ends when so many measurements in a row have not been better than the best one; 0 for never. @default 3 */
  readonly patience?: number | undefined;
  /** Rounds of tuning, each but the last followed by new training of the router. @default 1 */
  readonly rounds?: number | undefined;
  /** Of each of these trainings. @default 200 */
  readonly routerSteps?: number | undefined;
  /** Of each kind of text, that a new router learns from. @default 4096 */
  readonly routerTokens?: number | undefined;
  /** @default 1 */
  readonly seed?: number | undefined;
}

export type ResolvedTuneOptions = { readonly [Name in keyof TuneOptions]-?: NonNullable<TuneOptions[Name]> };

/** @throws {TypeError | RangeError} naming the option, what was expected and what came */
export function resolveTuneOptions(options: TuneOptions): ResolvedTuneOptions {
  rejectUnknownKeys("tune", options, NAMES);
  const method = choiceOption("method", options.method ?? "lora", TUNE_METHODS);
  const batchSequences = integerOption("batchSequences", options.batchSequences ?? 16, 1, 1 << 16);
  const sequenceTokens = integerOption("sequenceTokens", options.sequenceTokens ?? 256, 8, 1 << 20);
  const tokens = integerOption("tokens", options.tokens ?? 500_000, 1);
  const steps = stepsOf({ tokens, batchSequences, sequenceTokens });
  const microSequences = integerOption(
    "microSequences",
    options.microSequences ?? largestDivisor(batchSequences, 8),
    1,
  );
  if (batchSequences % microSequences !== 0) {
    throw new RangeError(
      `Expected \`microSequences\` to divide the ${batchSequences} of \`batchSequences\`, got \`${microSequences}\``,
    );
  }
  return {
    tokens,
    method,
    rank: integerOption("rank", options.rank ?? 32, 1, 1 << 16),
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
}

const NAMES = [
  "tokens",
  "method",
  "rank",
  "attention",
  "learningRate",
  "weightDecay",
  "labelShare",
  "sequenceTokens",
  "batchSequences",
  "microSequences",
  "warmUpSteps",
  "evaluationSequences",
  "evaluations",
  "patience",
  "rounds",
  "routerSteps",
  "routerTokens",
  "seed",
] as const satisfies readonly (keyof TuneOptions)[];

/** Steps of a whole tuning, at least one. */
export function stepsOf({
  tokens,
  batchSequences,
  sequenceTokens,
}: Pick<ResolvedTuneOptions, "tokens" | "batchSequences" | "sequenceTokens">): number {
  return Math.max(1, Math.round(tokens / (batchSequences * sequenceTokens)));
}

function largestDivisor(value: number, most: number): number {
  for (let divisor = most; divisor > 1; divisor--) if (value % divisor === 0) return divisor;
  return 1;
}

function numberOption(name: string, value: number): number {
  if (typeof value !== "number") throw new TypeError(`Expected \`${name}\` to be a number, got \`${String(value)}\``);
  if (value >= 0 && value < Infinity) return value;
  throw new RangeError(`Expected \`${name}\` to be a number from 0, got \`${value}\``);
}
