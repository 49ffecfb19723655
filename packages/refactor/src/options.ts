import { choiceOption, integerOption, rejectUnknownKeys } from "@readme-moe/core";
import type { ModelConfig } from "@readme-moe/model";
import type { FitPlan } from "./job/fit-model.ts";

export const METHODS = ["paper", "select", "refit", "sequential"] as const;

export const EXPERTS_FROM = ["domains", "clusters"] as const;

/**
 * How experts are made:
 * - `"paper"`: the neurons with the largest mean magnitudes on a domain, dense weights (Read-ME, equation 3)
 * - `"select"`: the neurons that put out most, dense weights
 * - `"refit"`: the neurons that others cannot stand in for, down-projections fitted in closed form, each layer alone
 * - `"sequential"`: the same, each layer fitted to what the layers before it have become, errors so far fed back
 */
export type Method = (typeof METHODS)[number];

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
  /** Neurons of these that all experts share: a share of the dense FFN's in [0, 1), or a number. @default 0 */
  readonly sharedSize?: number | undefined;
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
  return resolved;
}

/** Neurons of each expert and shared ones, the same in all layers. */
export interface Sizes {
  readonly expertSize: number;
  readonly sharedSize: number;
}

/** @throws {RangeError} when the sizes do not fit the model's FFN */
export function resolveSizes({ expertSize, sharedSize }: ResolvedOptions, { intermediateSize }: ModelConfig): Sizes {
  const used = neurons("expertSize", expertSize, intermediateSize);
  const shared = neurons("sharedSize", sharedSize, intermediateSize);
  if (used < 1 || used > intermediateSize) {
    const expectation = `a share in (0, 1] or a number of neurons up to ${intermediateSize}`;
    throw new RangeError(`Expected \`expertSize\` to be ${expectation}, got \`${expertSize}\``);
  }
  if (shared < 0 || shared >= used) {
    throw new RangeError(
      `Expected \`sharedSize\` to be below the ${used} neurons of \`expertSize\`, got \`${sharedSize}\``,
    );
  }
  return { expertSize: used - shared, sharedSize: shared };
}

function neurons(name: string, value: number, intermediateSize: number): number {
  if (value > 1) return integerOption(name, value, 0);
  if (Number.isFinite(value)) return Math.round(value * intermediateSize);
  throw new TypeError(`Expected \`${name}\` to be a number, got \`${value}\``);
}

/** What `method` means layer by layer. */
export function planOf(options: ResolvedOptions, sizes: Sizes, { numLayers }: ModelConfig): FitPlan {
  const { method, baselines, seed } = options;
  const layer = {
    ...sizes,
    selection: method === "select" ? "contribution" : "elimination",
    refits: method === "refit" || method === "sequential",
    ownShare: 0.6,
    ridge: 1e-3,
  } as const;
  return {
    layers: Array.from({ length: numLayers }, () => layer),
    isPaper: method === "paper",
    isSequential: method === "sequential",
    errorShare: 0.5,
    costEvery: 3,
    staticEvery: 4,
    baselines,
    seed,
  };
}
