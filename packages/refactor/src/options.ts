import { choiceOption, integerOption, rejectUnknownKeys } from "@readme-moe/core";
import type { ModelConfig } from "@readme-moe/model";
import type { FitPlan } from "./job/fit-model.ts";

/** All methods, from the paper's own to the one that loses least; see `Method`. */
export const METHODS = ["paper", "select", "refit", "sequential"] as const;

/** What experts can be made of; see `RefactorOptions.expertsFrom`. */
export const EXPERTS_FROM = ["domains", "clusters"] as const;

/**
 * How experts are made:
 * - `"paper"`: the neurons with the largest mean magnitudes on a domain, dense weights (Read-ME, equation 3)
 * - `"select"`: the neurons that put out most, dense weights
 * - `"refit"`: the neurons that others cannot stand in for, down-projections fitted in closed form, each layer alone
 * - `"sequential"`: the same, each layer fitted to what the layers before it have become, errors so far fed back
 */
export type Method = (typeof METHODS)[number];

/** Of `refactor`: everything that decides what the result is, besides the model and its texts. */
export interface RefactorOptions {
  /** @default "sequential" */
  readonly method?: Method | undefined;
  /**
   * How many, at least 1. Where it is not the number of domains, experts are made of clusters.
   * @default one for each domain
   */
  readonly experts?: number | undefined;
  /**
   * What experts are made of: each domain's text, or clusters of sequences by the neurons that they need, which begin as
   * domains. @default "domains"
   */
  readonly expertsFrom?: (typeof EXPERTS_FROM)[number] | undefined;
  /** Neurons that a token uses in each layer, shared ones included: a share of the dense FFN's in (0, 1], or a number. @default 0.5 */
  readonly expertSize?: number | undefined;
  /**
   * Neurons of these that all experts share: a share of the dense FFN's in [0, 1), or a number; or `"auto"`: in each layer, none,
   * a quarter or a half of `expertSize`, whichever errs least on text held back from the fit. The paper's method shares what all
   * domains choose. @default 0
   */
  readonly sharedSize?: number | "auto" | undefined;
  /** With the paper's method, keep one neuron less than `expertSize`, as its official code does. @default false */
  readonly officialCount?: boolean | undefined;
  /** Of each domain. @default 16384 */
  readonly calibrationTokens?: number | undefined;
  /** Further text of each domain for the router at most. @default 131072 */
  readonly routerTokens?: number | undefined;
  /** Steps of the router's training. @default 600 */
  readonly routerSteps?: number | undefined;
  /** Routes are learned from costs over so many tokens around each: more keep their expert longer. @default 64 */
  readonly localityTokens?: number | undefined;
  /** Held-out sequences of each domain that losses are measured on. @default 2 */
  readonly evaluationSequences?: number | undefined;
  /** @default 512 */
  readonly sequenceTokens?: number | undefined;
  /** Also fits and measures what the result is compared with. @default true */
  readonly baselines?: boolean | undefined;
  /** @default 1 */
  readonly seed?: number | undefined;
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
  seed: 1,
};

/** @throws {TypeError | RangeError} naming the option, what was expected and what came */
export function resolveOptions(options: RefactorOptions): ResolvedOptions {
  rejectUnknownKeys("refactor", options, Object.keys(DEFAULTS));
  const given = Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined));
  const resolved: ResolvedOptions = { ...DEFAULTS, ...given };
  choiceOption("method", resolved.method, METHODS);
  choiceOption("expertsFrom", resolved.expertsFrom, EXPERTS_FROM);
  if (resolved.experts !== undefined) integerOption("experts", resolved.experts, 1, 1024);
  integerOption("sequenceTokens", resolved.sequenceTokens, 16, 1 << 20);
  integerOption("calibrationTokens", resolved.calibrationTokens, resolved.sequenceTokens);
  integerOption("routerTokens", resolved.routerTokens, 0);
  integerOption("routerSteps", resolved.routerSteps, 1);
  integerOption("localityTokens", resolved.localityTokens, 1);
  integerOption("evaluationSequences", resolved.evaluationSequences, 1);
  integerOption("seed", resolved.seed, 0, 2 ** 32 - 1);
  refuseOptionsOfOthers(resolved);
  return resolved;
}

/** What another method would not heed. */
function refuseOptionsOfOthers({ method, sharedSize, officialCount, expertSize }: ResolvedOptions): void {
  if (method === "paper" && sharedSize !== 0) {
    const expectation = "0 with the method `paper`, which shares what all domains choose";
    throw new RangeError(`Expected \`sharedSize\` to be ${expectation}, got \`${sharedSize}\``);
  }
  if (officialCount && method !== "paper") {
    throw new RangeError(`Expected \`officialCount\` with the method \`paper\` only, got \`${method}\``);
  }
  if (officialCount && expertSize === 1) {
    throw new RangeError("Expected `expertSize` to be below 1 with `officialCount`, got `1`");
  }
}

/** Neurons, the same in all layers. */
export interface Sizes {
  /** That a token uses, shared ones included. */
  readonly usedSize: number;
  /** That all tokens use: each layer takes one of these. */
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

/** What `method` means. */
export function planOf(options: ResolvedOptions, { usedSize, sharedSizes }: Sizes): FitPlan {
  const { method, officialCount, baselines, seed } = options;
  const settings = {
    usedSize,
    sharedSize: sharedSizes[0] as number,
    selection: method === "select" ? "contribution" : "elimination",
    refits: method === "refit" || method === "sequential",
    ownShare: 0.6,
    ridge: 1e-3,
  } as const;
  return {
    settings,
    sharedSizes,
    isPaper: method === "paper",
    isOfficialCount: officialCount,
    isSequential: method === "sequential",
    errorShare: 0.5,
    costEvery: 3,
    staticEvery: 4,
    baselines,
    seed,
  };
}
