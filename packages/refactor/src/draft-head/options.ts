import type { OptionsOf, ResolvedOf } from "@readme-moe/core";
import type { ModelConfig } from "@readme-moe/model";
import { ROUNDED_TYPES } from "../blocks/round-blocks.ts";
import { checkedOptions, type JobRun, type LabTable, RUN_NAMES } from "../option-table.ts";
import { stepsOf, type TuneProgress } from "../tuning/options.ts";

/** Options of `trainDraftHead` that, beside the model and texts, decide the result. */
export const HEAD_OPTIONS = {
  /** Tokens to learn from, of all kinds of text together; text is repeated when there is less. @default 1000000 */
  tokens: { kind: "integer", min: 1, default: 1_000_000 },
  /** Tokens of a sequence. @default 512 */
  sequenceTokens: { kind: "integer", min: 16, max: 1 << 16, default: 512 },
  /** Neurons of the head's FFN. @default 2.7 times the model's width, in whole 64s */
  intermediate: {
    kind: "integer",
    min: 1,
    max: 1 << 20,
    about: "neurons of the head's FFN",
    otherwise: "2.7 times the model's width",
  },
  /** Tokens that the head can draft: the most frequent ones of the text. @default 16384, at most all */
  vocabulary: {
    kind: "integer",
    min: 1,
    max: 1 << 24,
    about: "tokens that the head can draft, the most frequent ones of the text",
    otherwise: "16384, at most all",
  },
  /** Drafts in a row that the head learns from its own states. @default 3 */
  drafts: { kind: "integer", min: 1, max: 8, default: 3, about: "drafts in a row that the head learns" },
  /** Weight of each further draft relative to the one before it. @default 0.8 */
  draftDecay: { kind: "number", above: 0, max: 1, default: 0.8, about: "weight of each further draft" },
  /**
   * Blocks of GGUF files that the head's products are rounded to, where their rows are whole blocks. Other engines read
   * heads without blocks alone.
   * @default "none": 16 bits
   */
  blocks: {
    kind: "choice",
    choices: ["none", ...ROUNDED_TYPES],
    default: "none",
    about: "blocks that the head's products are rounded to; other engines read heads without blocks alone",
  },
  /** Highest learning rate. @default 0.001 */
  learningRate: { kind: "number", default: 1e-3 },
  /** Sequences of a step. @default 2 */
  batchSequences: { kind: "integer", min: 1, max: 1 << 16, default: 2 },
  /** Steps over which the learning rate rises. @default a twentieth of all */
  warmUpSteps: { kind: "integer", otherwise: "a twentieth of all" },
  /** Held-out sequences of each kind of text. @default 4 */
  evaluationSequences: { kind: "integer", min: 1, default: 4 },
  /** Number of evaluations, including the last one. @default 8 */
  evaluations: { kind: "integer", min: 1, default: 8 },
  /** Seed of all random choices. @default 1 */
  seed: { kind: "integer", max: 2 ** 32 - 1, default: 1 },
} as const satisfies LabTable;

/** Options of `trainDraftHead`; see `HEAD_OPTIONS`. */
export type HeadOptions = OptionsOf<typeof HEAD_OPTIONS>;

/** Options with all defaults, which also depend on the model. */
export interface ResolvedHeadOptions extends ResolvedOf<typeof HEAD_OPTIONS> {
  readonly intermediate: number;
  readonly vocabulary: number;
  readonly warmUpSteps: number;
}

/** Options of `trainDraftHead` that do not change the head. */
export type HeadRun = JobRun<HeadProgress>;

/** Progress of a training: of the model's states, then of the head's steps. */
export type HeadProgress =
  | { readonly stage: "states"; readonly done: number; readonly of: number }
  | (TuneProgress & { readonly stage: "head"; readonly accepted: AcceptedByKind | undefined });

/** Mean number of accepted drafts in chains of 1 to 4 drafts, of each kind of text. */
export type AcceptedByKind = readonly (readonly number[])[];

const MOST_TOKENS = 16384;

/** @throws {TypeError | RangeError} naming the option, the expectation and the value */
export function resolveHeadOptions(
  options: HeadOptions & HeadRun,
  { hiddenSize, vocabSize }: Pick<ModelConfig, "hiddenSize" | "vocabSize">,
): ResolvedHeadOptions {
  const known = checkedOptions("trainDraftHead", HEAD_OPTIONS, options, RUN_NAMES);
  const { vocabulary = Math.min(MOST_TOKENS, vocabSize) } = known;
  if (vocabulary > vocabSize) {
    throw new RangeError(`Expected \`vocabulary\` to be at most the model's ${vocabSize} tokens, got ${vocabulary}`);
  }
  return {
    ...known,
    vocabulary,
    intermediate: known.intermediate ?? Math.max(64, Math.round((2.7 * hiddenSize) / 64) * 64),
    warmUpSteps: known.warmUpSteps ?? Math.ceil(stepsOf(known) / 20),
  };
}

/**
 * Chooses the layers in front of which the head reads the residual stream: an early one, the middle and a late one.
 *
 * @throws {RangeError} for a model of fewer than four layers
 */
export function tappedLayers(numLayers: number): readonly number[] {
  if (numLayers < 4) throw new RangeError(`Expected a model of at least 4 layers, got ${numLayers}`);
  const late = Math.max(3, numLayers - 3);
  const middle = Math.min(late - 1, Math.max(2, Math.floor(numLayers / 2)));
  return [Math.min(2, middle - 1), middle, late];
}
