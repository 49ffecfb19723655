// A dense model and the changes of it that are trained: the same on every machine that has the model and the options.

import type { Model } from "@readme-moe/model";
import { readDecoderWeights, type DecoderWeights } from "../tuning/decoder/decoder-weights.ts";
import { AdaptedModel } from "./adapted-model.ts";
import { copyAdapter, newAdapter, type Adapter } from "./adapter.ts";
import type { Parts } from "./adapter-trainer.ts";
import type { ResolvedLoraOptions } from "./options.ts";
import { changedProducts } from "./products.ts";
import type { Course } from "./schedule.ts";

/** Distance of the seeds of changes that are trained together. */
const SEED_STEP = 7919;

export interface TrainingModel {
  readonly adapted: AdaptedModel;
  readonly weights: DecoderWeights;
  /** Makes a change of a rank that changes nothing yet, the same for the same place. */
  readonly newChange: (rank: number, place: number) => Adapter;
}

/** Reads a model for training. The caller disposes `adapted`. */
export async function openTrainingModel(
  model: Pick<Model, "config" | "weights">,
  { microSequences, sequenceTokens, alpha, rank, teacherShare, attention, seed }: ResolvedLoraOptions,
  threads: number | undefined,
): Promise<TrainingModel> {
  const weights = await readDecoderWeights(model);
  const products = changedProducts(attention);
  const settings = { sequences: microSequences, sequenceTokens, scale: alpha / rank, teacherShare, threads };
  return {
    adapted: new AdaptedModel(model.config, weights, settings),
    weights,
    newChange: (ranks, place) => newAdapter(weights, { products, rank: ranks, seed: (seed + place * SEED_STEP) >>> 0 }),
  };
}

/** Makes the changes that a course trains; those of several kinds are of other random numbers. */
export function changesOf(
  course: Course,
  { newChange }: Pick<TrainingModel, "newChange">,
  { rank, sharedRank, numKinds }: Pick<ResolvedLoraOptions, "rank" | "sharedRank"> & { readonly numKinds: number },
): Parts {
  if (course !== "all") return { shared: copyAdapter(newChange(rank, 0)), own: [] };
  return {
    shared: newChange(sharedRank, 0),
    own: Array.from({ length: numKinds }, (_, kind) => newChange(rank - sharedRank, kind + 1)),
  };
}
