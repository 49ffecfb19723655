import { type ArtefactStore, type CheckedOf, integerOption, type OptionsOf, type TaskFlow } from "@readme-moe/core";
import type { ModelConfig } from "@readme-moe/model";
import { sizeUnit } from "./experts/budget.ts";
import { checkedOptions, type JobRun, type LabTable, RUN_NAMES } from "./option-table.ts";

/** Number of shards that suits machines. */
export const FLEET_SHARDS = 8;

/** Options of `refactor` that, beside the model and its texts, decide the result. */
export const REFACTOR_OPTIONS = {
  /**
   * Way in which experts are chosen and fitted, from the paper's own to the one with the least loss:
   * - `"paper"`: the neurons with the largest mean magnitudes on a domain, dense weights (Read-ME, equation 3)
   * - `"select"`: the neurons that add most to the output, dense weights
   * - `"refit"`: the neurons that others cannot replace, down-projections fitted in closed form, each layer
   *   independently
   * - `"sequential"`: like `"refit"`, with each layer fitted to the output of the fitted layers before it, so that it
   *   makes up for their errors
   * @default "sequential"
   */
  method: {
    kind: "choice",
    choices: ["paper", "select", "refit", "sequential"],
    default: "sequential",
    about: "how experts are made",
  },
  /**
   * Number of experts, at least 1. Experts are made of clusters when it is not the number of domains.
   * @default one for each domain
   */
  experts: {
    kind: "integer",
    min: 1,
    max: 1024,
    about: "number of experts",
    otherwise: "one for each kind of text, else clusters",
  },
  /**
   * Text that an expert is made of: a domain, or a cluster of sequences that use the same neurons. Clusters start as
   * domains. @default "domains"
   */
  expertsFrom: {
    kind: "choice",
    choices: ["domains", "clusters"],
    default: "domains",
    about: "kinds of text, or clusters of texts that need the same neurons",
  },
  /**
   * Neurons that a token uses in each layer, shared ones included: a share of the dense FFN's in (0, 1], or a number.
   * @default 0.5, without `budget` or `layerSizes`
   */
  expertSize: {
    kind: "number",
    about: "neurons that a token uses in each layer: a share of the dense ones, such as 0.5, or a number",
    otherwise: "0.5",
  },
  /**
   * Share of the dense model's weights that a token reads, in place of `expertSize`. Each layer gets a size of its own,
   * from a quarter of its neurons to all, so that the sum of all errors is least.
   */
  budget: {
    kind: "number",
    above: 0,
    max: 1,
    about: "share of the dense model's weights that a token reads, in place of --expert-size: layers differ in size",
  },
  /** Neurons that a token uses in each of the layers, shared ones included, in place of `expertSize`. */
  layerSizes: { kind: "integers", min: 1 },
  /**
   * Neurons of these that all experts share: a share of the dense FFN's in [0, 1), or a number. `"auto"` chooses none,
   * a quarter or a half of the layer's neurons that a token uses, whichever has the smallest error on text held back
   * from the fit. Less than the smallest layer's size.
   * The paper's method shares the neurons that all domains select. @default 0
   */
  sharedSize: {
    kind: "number",
    choices: ["auto"],
    default: 0,
    about: "neurons of these that all experts share; auto: in each layer the number with the least error",
  },
  /** Keeps one neuron less than `expertSize` with the paper's method, like its official code. @default false */
  officialCount: {
    kind: "switch",
    default: false,
    about: "with --method paper: keep one neuron less, as the official code does",
  },
  /** Calibration tokens of each domain. @default 16384 */
  calibrationTokens: { kind: "integer", min: 1, default: 16_384, about: "calibration tokens of each kind of text" },
  /** Maximum of further tokens of each domain for the router. @default 131072 */
  routerTokens: { kind: "integer", default: 131_072, about: "most further tokens of each kind for the router" },
  /** Steps of the router's training. @default 600 */
  routerSteps: { kind: "integer", min: 1, default: 600, about: "steps of the router's training" },
  /**
   * Routes are learned from costs averaged over this many tokens: more tokens make routes change less often. @default
   * 64
   */
  localityTokens: {
    kind: "integer",
    min: 1,
    default: 64,
    about: "tokens over which costs are averaged to learn routes",
  },
  /** Held-out sequences of each domain for measuring losses. @default 2 */
  evaluationSequences: {
    kind: "integer",
    min: 1,
    default: 2,
    about: "held-out sequences of 512 tokens, of each kind",
  },
  /** Tokens of a sequence. @default 512 */
  sequenceTokens: { kind: "integer", min: 16, max: 1 << 20, default: 512 },
  /** Whether the models that the result is compared with are also fitted and measured. @default true */
  baselines: { kind: "switch", default: true, about: "leave out the models that the result is compared with" },
  /**
   * Parts of the calibration text whose statistics are summed on their own, then in their order. Machines take shards
   * side by side; the number decides the last bits of the result, the machines do not. @default 1
   */
  shards: {
    kind: "integer",
    min: 1,
    max: 4096,
    default: 1,
    about: "parts of the text that machines take side by side; decides the last bits",
    otherwise: `1, with --fleet ${FLEET_SHARDS}`,
  },
  /** Seed of all random choices. @default 1 */
  seed: { kind: "integer", max: 2 ** 32 - 1, default: 1, about: "seed of all random choices" },
} as const satisfies LabTable;

/** Method that makes experts. */
export type Method = (typeof REFACTOR_OPTIONS.method.choices)[number];

/** Options of `refactor`; see `REFACTOR_OPTIONS`. */
export type RefactorOptions = OptionsOf<typeof REFACTOR_OPTIONS>;

/** Options of `refactor` that do not change the model. */
export interface RefactorRun extends JobRun<RefactorProgress> {
  /** Id of the model on the Hugging Face hub, for the model card. */
  readonly hubId?: string | undefined;
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

export type ResolvedOptions = CheckedOf<typeof REFACTOR_OPTIONS>;

/** @throws {TypeError | RangeError} naming the option, the expectation and the value */
export function resolveOptions(options: RefactorOptions & RefactorRun): ResolvedOptions {
  const resolved = checkedOptions("refactor", REFACTOR_OPTIONS, options, [...RUN_NAMES, "hubId", "fleet"]);
  integerOption("calibrationTokens", resolved.calibrationTokens, resolved.sequenceTokens);
  refuseUnusedOptions(resolved);
  return resolved;
}

/** Refuses options that the chosen method would ignore. */
function refuseUnusedOptions(options: ResolvedOptions): void {
  const { method, sharedSize, officialCount, expertSize } = options;
  const [size, other] = (["expertSize", "budget", "layerSizes"] as const).filter((name) => options[name] !== undefined);
  if (other !== undefined) throw new RangeError(`Expected \`${size}\` without \`${other}\`, got both`);
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

/** Numbers of neurons, by layer. */
export interface Sizes {
  /** Neurons that a token uses, shared ones included. */
  readonly usedSizes: readonly number[];
  /** Neurons that all tokens use: choices for all layers, of which each layer takes one. */
  readonly sharedSizes: readonly (readonly number[])[];
}

/** @throws {RangeError} when the sizes do not fit the model's FFN */
export function resolveSizes(
  { expertSize = 0.5, layerSizes, sharedSize }: Pick<ResolvedOptions, "expertSize" | "layerSizes" | "sharedSize">,
  { intermediateSize, numLayers }: Pick<ModelConfig, "intermediateSize" | "numLayers">,
): Sizes {
  const usedSizes = layerSizes ?? everyLayer(neurons("expertSize", expertSize, intermediateSize), numLayers);
  if (usedSizes.length !== numLayers) {
    throw new RangeError(`Expected \`layerSizes\` to have ${numLayers} numbers, got ${usedSizes.length}`);
  }
  const wrong = usedSizes.findIndex((size) => size < 1 || size > intermediateSize);
  if (wrong >= 0) {
    const [name, range, value] = layerSizes
      ? [`layerSizes[${wrong}]`, `from 1 to ${intermediateSize}`, usedSizes[wrong]]
      : ["expertSize", `a share in (0, 1] or a number of neurons up to ${intermediateSize}`, expertSize];
    throw new RangeError(`Expected \`${name}\` to be ${range}, got \`${value}\``);
  }
  if (sharedSize === "auto") {
    const unit = sizeUnit(intermediateSize);
    const choices = [0, 1 / 4, 1 / 2].map((share) => usedSizes.map((size) => unit * Math.floor((share * size) / unit)));
    return { usedSizes, sharedSizes: choices.filter((own, index) => index === 0 || own.some((size) => size > 0)) };
  }
  const shared = neurons("sharedSize", sharedSize, intermediateSize);
  const smallest = Math.min(...usedSizes);
  if (shared < 0 || shared >= smallest) {
    const expectation = `below the ${smallest} neurons that a token uses in ${layerSizes ? "the smallest" : "each"} layer`;
    throw new RangeError(`Expected \`sharedSize\` to be ${expectation}, got \`${sharedSize}\``);
  }
  return { usedSizes, sharedSizes: [everyLayer(shared, numLayers)] };
}

function everyLayer(size: number, numLayers: number): readonly number[] {
  return Array.from({ length: numLayers }, () => size);
}

function neurons(name: string, value: number, intermediateSize: number): number {
  if (value > 1) return integerOption(name, value, 0);
  const unit = sizeUnit(intermediateSize);
  if (Number.isFinite(value)) return unit * Math.round((value * intermediateSize) / unit);
  throw new TypeError(`Expected \`${name}\` to be a number, got \`${value}\``);
}
