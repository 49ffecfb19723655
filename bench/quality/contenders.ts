// Which models are compared, and in what precision.

import { openModel, type Precision } from "@readme-moe/model";
import { weightSizes } from "@readme-moe/engine";
import type { BenchSettings } from "readme-moe/bench";

export interface QualityContender {
  readonly name: string;
  readonly path: string;
  readonly precision: Precision;
}

/** Folders of other refactorings of the same model, by `--set`. */
const OTHERS = {
  paper: "paper's selection",
  static: "static half",
  tuned: "ours, tuned",
} as const;

export function contendersOf({ model, dense, set, quick }: BenchSettings): readonly QualityContender[] {
  const precisions: readonly Precision[] = quick ? ["int8"] : ["fp32", "int8"];
  const mixture = (name: string, path: string): readonly QualityContender[] =>
    precisions.map((precision) => ({ name: `${name}, ${precision}`, path, precision }));
  const baseline: readonly Precision[] = quick ? ["int8", "int4"] : ["fp32", "int8", "int4"];
  return [
    ...(dense === undefined
      ? []
      : baseline.map((precision) => ({ name: `dense, ${precision}`, path: dense, precision }))),
    ...Object.entries(OTHERS).flatMap(([key, name]) => (set[key] === undefined ? [] : mixture(name, set[key]))),
    ...mixture("ours", model),
  ];
}

/** Of everything that has to be in memory to run it. */
export async function weightMegabytes({ path, precision }: QualityContender): Promise<number> {
  const model = await openModel(path);
  const sizes = weightSizes(model, precision);
  await model.close();
  return Object.values(sizes).reduce((sum, bytes) => sum + bytes, 0) / 1e6;
}
