// Samples as curves over a condition that is a number.

import type { Curve, LinePanel } from "@readme-moe/refactor";
import { distinct, type Sample, valuesOf } from "./sample.ts";
import { median } from "./statistics.ts";

/** Of Okabe and Ito, and others as far from each other. */
const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#999999", "#7a5195"];

/** One panel: a metric's medians, a curve for each variant. */
export function curvesPanel(samples: readonly Sample[], metric: string, title: string = metric): LinePanel {
  const names = distinct(samples.map(({ variant }) => variant));
  const curves = names.map((variant, index): Curve => {
    const own = samples.filter((one) => one.variant === variant && one.metric === metric);
    const ats = distinct(own.map(({ at }) => at)).filter((at) => typeof at === "number");
    const points = ats
      .toSorted((a, b) => a - b)
      .map((at) => [at, median(valuesOf(own, { variant, at, metric }))] as const);
    return { name: variant, colour: COLOURS[index % COLOURS.length] as string, points };
  });
  return { title, curves: curves.filter(({ points }) => points.length > 0) };
}
