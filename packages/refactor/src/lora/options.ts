import { choiceOption, integerOption, rejectUnknownKeys } from "@readme-moe/core";
import type { RefactorFleet } from "../options.ts";
import { largestDivisor, numberOption, type TuneEstimate, type TuneProgress, type TuneRun } from "../tuning/options.ts";

/** Ways in which experts learn from the text of other kinds; see `LoraOptions.sharing`. */
export const SHARINGS = ["ranks", "start", "none"] as const;

/** Options of `tuneLoras` that, beside the model and texts, decide the result. */
export interface LoraOptions {
  /**
   * Tokens to learn from, of all kinds of text together; text is repeated when there is less. @default 50000 a kind,
   * but no more than three passes
   */
  readonly tokens?: number | undefined;
  /**
   * Common part of experts: `"ranks"`, some of their ranks, which all text trains; `"start"`, an expert that all kinds
   * trained, from which each goes on; or `"none"`. @default "ranks"
   */
  readonly sharing?: (typeof SHARINGS)[number] | undefined;
  /** Share of the tokens from which all kinds learn together with `"start"`. @default 0.5 */
  readonly sharedShare?: number | undefined;
  /** Share of the tokens with the constant learning rate, after which it falls. @default 0.5 */
  readonly constantShare?: number | undefined;
  /** Rank of the changes. @default 16 */
  readonly rank?: number | undefined;
  /** Ranks of these that all experts have in common with `"ranks"`. @default half of the rank */
  readonly sharedRank?: number | undefined;
  /** Factor of the changes times their rank, as in PEFT. @default the rank */
  readonly alpha?: number | undefined;
  /** Whether attention is changed, too, beside the FFN. @default false */
  readonly attention?: boolean | undefined;
  /** Highest learning rate. @default 0.003 */
  readonly learningRate?: number | undefined;
  /** Weight of the divergence from the dense model beside the text's own next tokens. @default 0 */
  readonly teacherShare?: number | undefined;
  /** Tokens of a sequence. @default 256 */
  readonly sequenceTokens?: number | undefined;
  /** Sequences of a step. @default 2 */
  readonly batchSequences?: number | undefined;
  /** Sequences of a step that are in memory together; divides those of a shard. @default 4, or fewer */
  readonly microSequences?: number | undefined;
  /**
   * Parts of a step's sequences whose gradients are summed on their own, then in their order; divides `batchSequences`.
   * Machines take shards side by side; the number decides the last bits of the result, the machines do not. @default 1
   */
  readonly shards?: number | undefined;
  /** Steps over which the learning rate rises. @default 10, or a twentieth of all if that is less */
  readonly warmUpSteps?: number | undefined;
  /** Held-out sequences of each kind: every second one chooses parameters, the others are measured. @default 12 */
  readonly evaluationSequences?: number | undefined;
  /** Evaluations during the training of each expert. @default 2 */
  readonly evaluations?: number | undefined;
  /** Whether one expert for all kinds is trained on as many tokens, for comparison. @default true */
  readonly rival?: boolean | undefined;
  /** Steps of the router's training. @default 400 */
  readonly routerSteps?: number | undefined;
  /** Tokens of each kind of text on which all experts are measured for the router. @default 2048 */
  readonly routerTokens?: number | undefined;
  /** Seed of all random choices. @default 1 */
  readonly seed?: number | undefined;
}

/** Options of `tuneLoras` that do not change the experts. */
export interface LoraRun extends Omit<TuneRun, "teacherSource" | "onProgress"> {
  readonly onProgress?: ((progress: LoraProgress) => void) | undefined;
  /** Machines that compute the gradients of steps. @default this one */
  readonly fleet?: RefactorFleet | undefined;
}

/** Part of the work: one expert of all kinds, one of each kind, one for comparison, and the router. */
export type LoraStage = "shared" | "expert" | "rival" | "router";

/** Progress of a part, reported after each of its steps. */
export interface LoraProgress extends Pick<TuneProgress, "step" | "steps" | "etaMs"> {
  readonly stage: LoraStage;
  /** Name of the expert. */
  readonly name: string;
  /** Figures of the step; `undefined` for the router. */
  readonly figures: Omit<TuneProgress, "step" | "steps" | "etaMs"> | undefined;
}

/** Predicted time and memory, see `TuneEstimate`. */
export type LoraEstimate = TuneEstimate;

export type ResolvedLoraOptions = { readonly [Name in keyof LoraOptions]-?: NonNullable<LoraOptions[Name]> };

const [BATCH_SEQUENCES, MOST_FLEET_SHARDS] = [2, 8] as const;

/** Returns the number of shards that suits machines: one for each sequence of a step, or equal ones, at most 8. */
export function fleetShards(batchSequences: number = BATCH_SEQUENCES): number {
  return largestDivisor(batchSequences, MOST_FLEET_SHARDS);
}

/**
 * @param numKinds - of text
 * @throws {TypeError | RangeError} naming the option, the expectation and the value
 */
export function resolveLoraOptions(options: LoraOptions & LoraRun, numKinds: number): ResolvedLoraOptions {
  const batchSequences = integerOption("batchSequences", options.batchSequences ?? BATCH_SEQUENCES, 1, 1 << 16);
  const sequenceTokens = integerOption("sequenceTokens", options.sequenceTokens ?? 256, 8, 1 << 20);
  const shards = integerOption("shards", options.shards ?? 1, 1);
  if (batchSequences % shards !== 0) {
    throw new RangeError(
      `Expected \`shards\` to divide the ${batchSequences} of \`batchSequences\`, got \`${shards}\``,
    );
  }
  const shardSequences = batchSequences / shards;
  const { microSequences: givenMicro = largestDivisor(shardSequences, 4) } = options;
  const microSequences = integerOption("microSequences", givenMicro, 1);
  if (shardSequences % microSequences !== 0) {
    const of = shards === 1 ? "of `batchSequences`" : "sequences of a shard";
    throw new RangeError(
      `Expected \`microSequences\` to divide the ${shardSequences} ${of}, got \`${microSequences}\``,
    );
  }
  const tokens = integerOption("tokens", options.tokens ?? 50_000 * Math.max(1, numKinds), 1);
  const rank = integerOption("rank", options.rank ?? 16, 1, 1 << 12);
  const sharedShare = shareOption("sharedShare", options.sharedShare ?? 0.5);
  const alpha = numberOption("alpha", options.alpha ?? rank);
  if (alpha === 0) throw new RangeError("Expected `alpha` to be above 0, got `0`");
  const steps = tokens / (batchSequences * sequenceTokens);
  const resolved = {
    tokens,
    sharing: choiceOption("sharing", options.sharing ?? "ranks", SHARINGS),
    sharedShare,
    constantShare: shareOption("constantShare", options.constantShare ?? 0.5),
    rank,
    sharedRank: integerOption("sharedRank", options.sharedRank ?? Math.floor(rank / 2), 0, rank - 1),
    alpha,
    attention: options.attention ?? false,
    learningRate: numberOption("learningRate", options.learningRate ?? 3e-3),
    teacherShare: numberOption("teacherShare", options.teacherShare ?? 0),
    sequenceTokens,
    batchSequences,
    microSequences,
    shards,
    warmUpSteps: integerOption("warmUpSteps", options.warmUpSteps ?? Math.min(10, Math.ceil(steps / 20)), 0),
    evaluationSequences: integerOption("evaluationSequences", options.evaluationSequences ?? 12, 1),
    evaluations: integerOption("evaluations", options.evaluations ?? 2, 1),
    rival: options.rival ?? true,
    routerSteps: integerOption("routerSteps", options.routerSteps ?? 400, 1),
    routerTokens: integerOption("routerTokens", options.routerTokens ?? Math.max(2048, sequenceTokens), sequenceTokens),
    seed: integerOption("seed", options.seed ?? 1, 0, 2 ** 32 - 1),
  };
  rejectUnknownKeys("tuneLoras", options, [...Object.keys(resolved), ...RUN_NAMES]);
  return resolved;
}

function shareOption(name: string, value: number): number {
  if (numberOption(name, value) < 1) return value;
  throw new RangeError(`Expected \`${name}\` to be below 1, got \`${value}\``);
}

const RUN_NAMES = [
  "source",
  "resume",
  "threads",
  "signal",
  "onEstimate",
  "onProgress",
  "checkpointMs",
  "fleet",
] as const satisfies readonly (keyof LoraRun)[];
