// Compared models and their precisions.

import { openModel, type Precision } from "@readme-moe/model";
import { weightSizes } from "@readme-moe/engine";
import { type BenchSettings, namesOf } from "../kit/suite.ts";

export interface QualityContender {
  readonly name: string;
  readonly path: string;
  readonly precision: Precision;
}

/** Folders of other refactorings of the same model, given by `--set`. */
const OTHERS = {
  paper: "paper's selection",
  static: "static half",
  closed: "ours, closed form",
  tuned: "ours, tuned",
} as const;

/**
 * Lists models. `--set precisions=int8` leaves other precisions out, except the dense model's float32, which losses are
 * compared with.
 */
export function contendersOf(settings: BenchSettings): readonly QualityContender[] {
  const { model, dense, set, quick } = settings;
  const precisions = namesOf(settings, "precisions", quick ? ["int8"] : ["fp32", "int8"]) as readonly Precision[];
  const mixture = (name: string, path: string): readonly QualityContender[] =>
    precisions.map((precision) => ({ name: `${name}, ${precision}`, path, precision }));
  const baseline: readonly Precision[] = [...new Set<Precision>(["fp32", ...precisions, "int4"])];
  return [
    ...(dense === undefined
      ? []
      : baseline.map((precision) => ({ name: `dense, ${precision}`, path: dense, precision }))),
    ...Object.entries(OTHERS).flatMap(([key, name]) => (set[key] === undefined ? [] : mixture(name, set[key]))),
    ...mixture("ours", model),
  ];
}

/** Returns the bytes of everything in memory while the model runs. */
export async function weightMegabytes({ path, precision }: QualityContender): Promise<number> {
  const model = await openModel(path);
  const sizes = weightSizes(model, precision);
  await model.close();
  return Object.values(sizes).reduce((sum, bytes) => sum + bytes, 0) / 1e6;
}
