// Everything that the tasks of a fit share: what its plan says, and the model that the plan is about.

import type { Model } from "@readme-moe/model";
import type { FitSettings } from "../experts/fit-layer.ts";
import type { PassOptions } from "../layers/run-layer.ts";
import type { Products } from "../linear-algebra/products.ts";
import { errorShareOf, resolveSizes, type ResolvedOptions, type Sizes } from "../options.ts";
import { shardText, type Shard, type ShardedText } from "./shards.ts";
import type { TaskBounds } from "./task.ts";

/** Inputs of a fit that decide its result, beside the model. */
export interface FitPlan {
  readonly options: ResolvedOptions;
  /** Calibration sequences of each expert, all of equal length. */
  readonly groups: readonly (readonly Int32Array[])[];
}

export interface FitSetting {
  readonly model: Pick<Model, "config" | "weights">;
  readonly options: ResolvedOptions;
  readonly text: ShardedText;
  readonly bounds: TaskBounds;
  /** Shared sizes to choose among. */
  readonly sharedSizes: readonly number[];
  readonly settings: FitSettings;
  /** Share of the error so far that each layer makes up for, see `errorShareOf`. */
  readonly share: number;
  readonly products: Products;
  readonly run: PassOptions;
}

/** Means of a machine: a model, products and options of the runtime. */
export type FitMachine = Pick<FitSetting, "model" | "products" | "run">;

export function fitSetting({ options, groups }: FitPlan, machine: FitMachine): FitSetting {
  const { config } = machine.model;
  const sizes = resolveSizes(options, config);
  const { shards, baselines } = options;
  const hasChoice = sizes.sharedSizes.length > 1;
  const text = shardText(config, groups, { shards, baselines, holdsBack: hasChoice });
  // Too little text to hold some back leaves no choice.
  const canChoose = hasChoice && text.shards.some(({ heldBack }) => heldBack.size > 0);
  const sharedSizes = canChoose ? sizes.sharedSizes : sizes.sharedSizes.slice(0, 1);
  const bounds = {
    numLayers: config.numLayers,
    numShards: text.shards.length,
    numExperts: groups.length,
    numSizes: sharedSizes.length,
    baselines,
  };
  const settings = settingsOf(options, sizes);
  return { ...machine, options, text, bounds, sharedSizes, settings, share: errorShareOf(options) };
}

/** Translates a method to the settings of its fits. */
function settingsOf({ method }: ResolvedOptions, { usedSize, sharedSizes: [sharedSize = 0] }: Sizes): FitSettings {
  return {
    usedSize,
    sharedSize,
    selection: method === "select" ? "contribution" : "elimination",
    refits: method === "refit" || method === "sequential",
    ownShare: 0.6,
    ridge: 1e-3,
  };
}

/** Finds a shard. @throws {RangeError} when there is none */
export function shardAt({ text }: FitSetting, index: number): Shard {
  const shard = text.shards[index];
  if (shard) return shard;
  throw new RangeError(`Expected a shard below ${text.shards.length}, got ${index}`);
}
