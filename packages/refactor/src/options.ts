import { choiceOption, integerOption, rejectUnknownKeys, type ArtefactStore, type TaskFlow } from "@readme-moe/core";
import type { ModelConfig } from "@readme-moe/model";

/** Methods, from the paper's own to the one with the least loss; see `Method`. */
export const METHODS = ["paper", "select", "refit", "sequential"] as const;

/** Sources of experts; see `RefactorOptions.expertsFrom`. */
export const EXPERTS_FROM = ["domains", "clusters"] as const;

/**
 * Method that makes experts:
 * - `"paper"`: the neurons with the largest mean magnitudes on a domain, dense weights (Read-ME, equation 3)
 * - `"select"`: the neurons that add most to the output, dense weights
 * - `"refit"`: the neurons that others cannot replace, down-projections fitted in closed form, each layer independently
 * - `"sequential"`: like `"refit"`, with each layer fitted to the output of the fitted layers before it, so that it
 *   makes up for their errors
 */
export type Method = (typeof METHODS)[number];

/** Options of `refactor` that, beside the model and its texts, decide the result. */
export interface RefactorOptions {
  /** Way in which experts are chosen and fitted. @default "sequential" */
  readonly method?: Method | undefined;
  /**
   * Number of experts, at least 1. Experts are made of clusters when it is not the number of domains.
   * @default one for each domain
   */
  readonly experts?: number | undefined;
  /**
   * Text that an expert is made of: a domain, or a cluster of sequences that use the same neurons. Clusters start as
   * domains. @default "domains"
   */
  readonly expertsFrom?: (typeof EXPERTS_FROM)[number] | undefined;
  /**
   * Neurons that a token uses in each layer, shared ones included: a share of the dense FFN's in (0, 1], or a number.
   * @default 0.5
   */
  readonly expertSize?: number | undefined;
  /**
   * Neurons of these that all experts share: a share of the dense FFN's in [0, 1), or a number. `"auto"` chooses none,
   * a quarter or a half of `expertSize` in each layer, whichever has the smallest error on text held back from the fit.
   * The paper's method shares the neurons that all domains select. @default 0
   */
  readonly sharedSize?: number | "auto" | undefined;
  /** Keeps one neuron less than `expertSize` with the paper's method, like its official code. @default false */
  readonly officialCount?: boolean | undefined;
  /** Calibration tokens of each domain. @default 16384 */
  readonly calibrationTokens?: number | undefined;
  /** Maximum of further tokens of each domain for the router. @default 131072 */
  readonly routerTokens?: number | undefined;
  /** Steps of the router's training. @default 600 */
  readonly routerSteps?: number | undefined;
  /**
   * Routes are learned from costs averaged over this many tokens: more tokens make routes change less often. @default
   * 64
   */
  readonly localityTokens?: number | undefined;
  /** Held-out sequences of each domain for measuring losses. @default 2 */
  readonly evaluationSequences?: number | undefined;
  /** Tokens of a sequence. @default 512 */
  readonly sequenceTokens?: number | undefined;
  /** Whether the models that the result is compared with are also fitted and measured. @default true */
  readonly baselines?: boolean | undefined;
  /**
   * Parts of the calibration text whose statistics are summed on their own, then in their order. Machines take shards
   * side by side; the number decides the last bits of the result, the machines do not. @default 1
   */
  readonly shards?: number | undefined;
  /** Seed of all random choices. @default 1 */
  readonly seed?: number | undefined;
}

/** Options of `refactor` that do not change the model. */
export interface RefactorRun {
  /** Name of the model in the report. @default the model's path */
  readonly source?: string | undefined;
  /** Id of the model on the Hugging Face hub, for the model card. */
  readonly hubId?: string | undefined;
  /** Resumes unfinished work for the same folder. @default false */
  readonly resume?: boolean | undefined;
  /** Threads of the inference runtime. @default all cores */
  readonly threads?: number | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: RefactorProgress) => void) | undefined;
  /** Time between two checkpoints, about the work that a killed process loses. @default 30000 */
  readonly checkpointMs?: number | undefined;
  /** Machines that fit the layers. @default this one */
  readonly fleet?: RefactorFleet | undefined;
}

/** Machines that fit the layers of a model, or compute the gradients of a training. Each runs a `RefactorWorker`. */
export interface RefactorFleet {
  /** Store that the machines share. */
  readonly artefacts: ArtefactStore;
  /** Runs tasks side by side and one behind them; rejects when one of them fails. */
  readonly run: (flow: TaskFlow) => Promise<void>;
}

/** Progress of a refactoring. */
export interface RefactorProgress {
  readonly stage: string;
  /** Layers, training steps or parts done, out of `of`. */
  readonly done: number;
  readonly of: number;
}

export type ResolvedOptions = Pick<RefactorOptions, "experts"> & {
  readonly [Name in Exclude<keyof RefactorOptions, "experts">]-?: NonNullable<RefactorOptions[Name]>;
};

const DEFAULTS: ResolvedOptions = {
  method: "sequential",
  experts: undefined,
  expertsFrom: "domains",
  expertSize: 0.5,
  sharedSize: 0,
  officialCount: false,
  calibrationTokens: 16_384,
  routerTokens: 131_072,
  routerSteps: 600,
  localityTokens: 64,
  evaluationSequences: 2,
  sequenceTokens: 512,
  baselines: true,
  shards: 1,
  seed: 1,
};

const RUN_NAMES = [
  "source",
  "hubId",
  "resume",
  "threads",
  "signal",
  "onProgress",
  "checkpointMs",
  "fleet",
] as const satisfies readonly (keyof RefactorRun)[];

/** @throws {TypeError | RangeError} naming the option, the expectation and the value */
export function resolveOptions(options: RefactorOptions & RefactorRun): ResolvedOptions {
  rejectUnknownKeys("refactor", options, [...Object.keys(DEFAULTS), ...RUN_NAMES]);
  const given = Object.entries(options).filter(([name, value]) => name in DEFAULTS && value !== undefined);
  const resolved: ResolvedOptions = { ...DEFAULTS, ...Object.fromEntries(given) };
  choiceOption("method", resolved.method, METHODS);
  choiceOption("expertsFrom", resolved.expertsFrom, EXPERTS_FROM);
  if (resolved.experts !== undefined) integerOption("experts", resolved.experts, 1, 1024);
  integerOption("sequenceTokens", resolved.sequenceTokens, 16, 1 << 20);
  integerOption("calibrationTokens", resolved.calibrationTokens, resolved.sequenceTokens);
  integerOption("routerTokens", resolved.routerTokens, 0);
  integerOption("routerSteps", resolved.routerSteps, 1);
  integerOption("localityTokens", resolved.localityTokens, 1);
  integerOption("evaluationSequences", resolved.evaluationSequences, 1);
  integerOption("shards", resolved.shards, 1, 4096);
  integerOption("seed", resolved.seed, 0, 2 ** 32 - 1);
  refuseUnusedOptions(resolved);
  return resolved;
}

/** Refuses options that the chosen method would ignore. */
function refuseUnusedOptions({ method, sharedSize, officialCount, expertSize }: ResolvedOptions): void {
  if (method === "paper" && sharedSize !== 0) {
    const expectation = "0 with the method `paper`, which shares the neurons that all domains select";
    throw new RangeError(`Expected \`sharedSize\` to be ${expectation}, got \`${sharedSize}\``);
  }
  if (officialCount && method !== "paper") {
    throw new RangeError(`Expected \`officialCount\` with the method \`paper\` only, got \`${method}\``);
  }
  if (officialCount && expertSize === 1) {
    throw new RangeError("Expected `expertSize` to be below 1 with `officialCount`, got `1`");
  }
}

/** Returns the share of the error so far that each layer makes up for; 0 when layers are fitted independently. */
export function errorShareOf({ method }: Pick<ResolvedOptions, "method">): number {
  return method === "sequential" ? 0.5 : 0;
}

/** Numbers of neurons, the same in all layers. */
export interface Sizes {
  /** Neurons that a token uses, shared ones included. */
  readonly usedSize: number;
  /** Neurons that all tokens use; each layer takes one of these sizes. */
  readonly sharedSizes: readonly number[];
}

/** @throws {RangeError} when the sizes do not fit the model's FFN */
export function resolveSizes({ expertSize, sharedSize }: ResolvedOptions, { intermediateSize }: ModelConfig): Sizes {
  const usedSize = neurons("expertSize", expertSize, intermediateSize);
  if (usedSize < 1 || usedSize > intermediateSize) {
    const expectation = `a share in (0, 1] or a number of neurons up to ${intermediateSize}`;
    throw new RangeError(`Expected \`expertSize\` to be ${expectation}, got \`${expertSize}\``);
  }
  if (sharedSize === "auto") {
    const sizes = [0, 1 / 4, 1 / 2].map((share) => Math.floor(share * usedSize));
    return { usedSize, sharedSizes: [...new Set(sizes)] };
  }
  const shared = neurons("sharedSize", sharedSize, intermediateSize);
  if (shared < 0 || shared >= usedSize) {
    throw new RangeError(
      `Expected \`sharedSize\` to be below the ${usedSize} neurons of \`expertSize\`, got \`${sharedSize}\``,
    );
  }
  return { usedSize, sharedSizes: [shared] };
}

function neurons(name: string, value: number, intermediateSize: number): number {
  if (value > 1) return integerOption(name, value, 0);
  if (Number.isFinite(value)) return Math.round(value * intermediateSize);
  throw new TypeError(`Expected \`${name}\` to be a number, got \`${value}\``);
}
