import { integerOption, type OptionsOf, type ResolvedOf } from "@readme-moe/core";
import { checkedOptions, type LabTable, RUN_NAMES } from "../option-table.ts";
import type { RefactorFleet } from "../options.ts";
import {
  divisorOption,
  largestDivisor,
  TRAINING_OPTIONS,
  type TrainingRun,
  type TuneProgress,
} from "../tuning/options.ts";

/**
 * Options of `tuneLoras` that, beside the model and texts, decide the result. Flags that `tune` has, too, have the help
 * of its table.
 */
export const LORA_OPTIONS = {
  ...TRAINING_OPTIONS,
  /**
   * Tokens to learn from, of all kinds of text together; text is repeated when there is less. @default 50000 a kind,
   * but no more than three passes
   */
  tokens: { kind: "integer", min: 1, otherwise: "50000 a kind, but no more than three passes" },
  /**
   * Common part of experts: `"ranks"`, some of their ranks, which all text trains; `"start"`, an expert that all kinds
   * trained, from which each goes on; or `"none"`. @default "ranks"
   */
  sharing: { kind: "choice", choices: ["ranks", "start", "none"], default: "ranks" },
  /** Share of the tokens from which all kinds learn together with `"start"`. @default 0.5 */
  sharedShare: {
    kind: "number",
    below: 1,
    default: 0.5,
    about: "with --sharing start: share of the tokens from which all kinds learn together",
  },
  /** Share of the tokens with the constant learning rate, after which it falls. @default 0.5 */
  constantShare: {
    kind: "number",
    below: 1,
    default: 0.5,
    about: "share of the tokens before the learning rate falls",
  },
  /** Rank of the changes. @default 16 */
  rank: { kind: "integer", min: 1, max: 1 << 12, default: 16 },
  /** Ranks of these that all experts have in common with `"ranks"`. @default half of the rank */
  sharedRank: { kind: "integer", otherwise: "half of it" },
  /** Factor of the changes times their rank, as in PEFT. @default the rank */
  alpha: { kind: "number", above: 0, about: "factor of the changes times their rank", otherwise: "the rank" },
  /** Highest learning rate. @default 0.003 */
  learningRate: { kind: "number", default: 3e-3 },
  /** Weight of the divergence from the dense model beside the text's own next tokens. @default 0 */
  teacherShare: {
    kind: "number",
    default: 0,
    about: "weight of the divergence from the dense model beside the text's next tokens",
  },
  /** Sequences of a step. @default 2 */
  batchSequences: { kind: "integer", min: 1, max: 1 << 16, default: 2 },
  /** Sequences of a step that are in memory together; divides those of a shard. @default 4, or fewer */
  microSequences: { kind: "integer", min: 1, otherwise: "4, or fewer" },
  /**
   * Parts of a step's sequences whose gradients are summed on their own, then in their order; divides `batchSequences`.
   * Machines take shards side by side; the number decides the last bits of the result, the machines do not. @default 1
   */
  shards: {
    kind: "integer",
    min: 1,
    default: 1,
    about: "parts of a step's sequences that machines take side by side; decides the last bits",
    otherwise: "1, with --fleet a part for each sequence, at most 8",
  },
  /** Steps over which the learning rate rises. @default 10, or a twentieth of all if that is less */
  warmUpSteps: { kind: "integer", otherwise: "10, or a twentieth of all if that is less" },
  /** Held-out sequences of each kind: every second one chooses parameters, the others are measured. @default 12 */
  evaluationSequences: { kind: "integer", min: 1, default: 12 },
  /** Evaluations during the training of each expert. @default 2 */
  evaluations: { kind: "integer", min: 1, default: 2 },
  /** Whether one expert for all kinds is trained on as many tokens, for comparison. @default true */
  rival: { kind: "switch", default: true, about: "do not train one expert for all kinds for comparison" },
  /** Steps of the router's training. @default 400 */
  routerSteps: { kind: "integer", min: 1, default: 400 },
  /** Tokens of each kind of text on which all experts are measured for the router. @default 2048 */
  routerTokens: { kind: "integer", min: 1, otherwise: "2048" },
} as const satisfies LabTable;

/** Options of `tuneLoras`; see `LORA_OPTIONS`. */
export type LoraOptions = OptionsOf<typeof LORA_OPTIONS>;

export type ResolvedLoraOptions = ResolvedOf<typeof LORA_OPTIONS>;

/** Options of `tuneLoras` that do not change the experts. */
export interface LoraRun extends TrainingRun<LoraProgress> {
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

/** Returns the number of shards that suits machines: one for each sequence of a step, or equal ones, at most 8. */
export function fleetShards(batchSequences: number = LORA_OPTIONS.batchSequences.default): number {
  return largestDivisor(batchSequences, 8);
}

/**
 * @param numKinds - of text
 * @throws {TypeError | RangeError} naming the option, the expectation and the value
 */
export function resolveLoraOptions(options: LoraOptions & LoraRun, numKinds: number): ResolvedLoraOptions {
  const known = checkedOptions("tuneLoras", LORA_OPTIONS, options, [...RUN_NAMES, "onEstimate", "fleet"]);
  const { rank, batchSequences, sequenceTokens, tokens = 50_000 * Math.max(1, numKinds) } = known;
  const shards = divisorOption("shards", known.shards, batchSequences, "of `batchSequences`");
  const ofShard = batchSequences / shards;
  const { microSequences = largestDivisor(ofShard, 4), routerTokens = Math.max(2048, sequenceTokens) } = known;
  const sequences = shards === 1 ? "of `batchSequences`" : "sequences of a shard";
  return {
    ...known,
    tokens,
    frozen: known.frozen ?? "int8",
    sharedRank: integerOption("sharedRank", known.sharedRank ?? Math.floor(rank / 2), 0, rank - 1),
    alpha: known.alpha ?? rank,
    microSequences: divisorOption("microSequences", microSequences, ofShard, sequences),
    warmUpSteps: known.warmUpSteps ?? Math.min(10, Math.ceil(tokens / (batchSequences * sequenceTokens) / 20)),
    routerTokens: integerOption("routerTokens", routerTokens, sequenceTokens),
  };
}
