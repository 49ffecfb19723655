import { choiceOption, integerOption } from "@readme-moe/core";
import type { RouterConfig } from "@readme-moe/model";
import type { RouteFigures } from "./route-figures.ts";
import { checkArchitecture, ROUTER_ARCHITECTURES, type RouterArchitecture } from "./router-architecture.ts";
import type { RouterCheckpoint } from "./router-checkpoint.ts";
import type { RouterExample } from "./router-example.ts";
import type { TargetKind } from "./router-targets.ts";
import type { SourceEmbedding } from "./start-embedding.ts";

interface RouterTrainingProgress {
  /** Steps done. */
  readonly step: number;
  readonly steps: number;
  /** Mean cross-entropy per token of the last step, in nats. */
  readonly loss: number;
  /** On the validation examples, when they were just routed. */
  readonly validation?: RouteFigures | undefined;
}

export interface RouterTrainingOptions {
  readonly numExperts: number;
  readonly vocabSize: number;
  /** What the router's config states; training reads crops of `cropTokens`. */
  readonly contextTokens: number;
  /** The language model's, to start from. */
  readonly embedding: SourceEmbedding;
  /** @default "default" */
  readonly architecture?: "default" | "paper" | RouterArchitecture | undefined;
  /** @default "soft" */
  readonly target?: TargetKind | undefined;
  /** See `TargetOptions`. @default 0.25 */
  readonly temperature?: number | undefined;
  /** See `TargetOptions`. @default 1 */
  readonly localityTokens?: number | undefined;
  /** See `TargetOptions`. @default 0 */
  readonly classBalance?: number | undefined;
  /** Starts from what each token's costs say of it: see `addEvidence`. @default true but for the paper's architecture */
  readonly startsFromEvidence?: boolean | undefined;
  /** @default 1500 */
  readonly steps?: number | undefined;
  /** Crops per step. @default 16 */
  readonly batchCrops?: number | undefined;
  /** @default 256 */
  readonly cropTokens?: number | undefined;
  /** @default 0.003 */
  readonly learningRate?: number | undefined;
  /** Of matrices and the embedding. @default 0.05 */
  readonly weightDecay?: number | undefined;
  /** Share of the tokens that are replaced by others, against learning documents by heart. @default 0.1 */
  readonly replacedShare?: number | undefined;
  /** Of other documents. The parameters that cost them least, of those tried, are the result. */
  readonly validation?: readonly RouterExample[] | undefined;
  /** @default a tenth of `steps` */
  readonly validateEverySteps?: number | undefined;
  readonly seed: number;
  /** @default all cores */
  readonly threads?: number | undefined;
  readonly onProgress?: ((progress: RouterTrainingProgress) => void) | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Called every `checkpointEverySteps`; the checkpoint's arrays change once the promise is settled. */
  readonly onCheckpoint?: ((checkpoint: RouterCheckpoint) => Promise<void> | void) | undefined;
  /** @default a tenth of `steps` */
  readonly checkpointEverySteps?: number | undefined;
  /** Goes on from there; examples and options must be the same, and so is the result, to the bit. */
  readonly resumeFrom?: RouterCheckpoint | undefined;
}

type Settled<Options> = { readonly [Name in keyof Options]-?: Exclude<Options[Name], undefined> };

type Hooks =
  | "embedding"
  | "architecture"
  | "threads"
  | "validation"
  | "onProgress"
  | "signal"
  | "onCheckpoint"
  | "resumeFrom";

type Settings = Omit<RouterTrainingOptions, Hooks>;

/** All options, checked, and the config of the router that they make. */
export interface RouterTrainingPlan extends Settled<Settings> {
  readonly embedding: SourceEmbedding;
  readonly validation: readonly RouterExample[];
  readonly threads: number | undefined;
  readonly config: RouterConfig;
}

/** @throws {TypeError | RangeError} naming the option that cannot be, what was expected and what came */
export function planRouterTraining(options: RouterTrainingOptions): RouterTrainingPlan {
  const numExperts = integerOption("numExperts", options.numExperts, 1, 1 << 16);
  const vocabSize = integerOption("vocabSize", options.vocabSize, 1);
  const contextTokens = integerOption("contextTokens", options.contextTokens, 1);
  const { architecture = "default", embedding } = options;
  const shape =
    typeof architecture === "string"
      ? ROUTER_ARCHITECTURES[choiceOption("architecture", architecture, ["default", "paper"] as const)]
      : checkArchitecture(architecture);
  integerOption("embedding.size", embedding.size, 1);
  if (embedding.values.length !== vocabSize * embedding.size) {
    const expected = `${vocabSize} x ${embedding.size} values`;
    throw new RangeError(`Expected \`embedding.values\` to have ${expected}, got ${embedding.values.length}`);
  }
  const steps = integerOption("steps", options.steps ?? 1500, 1);
  const tenth = Math.ceil(steps / 10);
  const startsFromEvidence = options.startsFromEvidence ?? architecture !== "paper";
  if (startsFromEvidence && numExperts > shape.embeddingSize / 2) {
    const found = `${numExperts} experts in an embedding of ${shape.embeddingSize}`;
    throw new RangeError(
      `Expected at most half as many experts as dimensions with \`startsFromEvidence\`, got ${found}`,
    );
  }
  return {
    numExperts,
    vocabSize,
    contextTokens,
    embedding,
    startsFromEvidence,
    steps,
    config: { vocabSize, numExperts, contextTokens, ...shape },
    target: choiceOption("target", options.target ?? "soft", ["soft", "given"] as const),
    temperature: numberOption("temperature", options.temperature ?? 0.25, Number.MIN_VALUE),
    localityTokens: integerOption("localityTokens", options.localityTokens ?? 1, 1),
    classBalance: numberOption("classBalance", options.classBalance ?? 0, 0, 1),
    batchCrops: integerOption("batchCrops", options.batchCrops ?? 16, 1),
    cropTokens: integerOption("cropTokens", options.cropTokens ?? 256, 1),
    learningRate: numberOption("learningRate", options.learningRate ?? 3e-3, 0),
    weightDecay: numberOption("weightDecay", options.weightDecay ?? 0.05, 0),
    replacedShare: numberOption("replacedShare", options.replacedShare ?? 0.1, 0, 1),
    validation: options.validation ?? [],
    validateEverySteps: integerOption("validateEverySteps", options.validateEverySteps ?? tenth, 1),
    checkpointEverySteps: integerOption("checkpointEverySteps", options.checkpointEverySteps ?? tenth, 1),
    seed: integerOption("seed", options.seed, 0),
    threads: options.threads === undefined ? undefined : integerOption("threads", options.threads, 1, 1024),
  };
}

function numberOption(name: string, value: number, min: number, max = Number.MAX_VALUE): number {
  if (value >= min && value <= max) return value;
  const range = max === Number.MAX_VALUE ? `a number from ${min}` : `a number from ${min} to ${max}`;
  throw new RangeError(`Expected \`${name}\` to be ${range}, got ${value}`);
}
