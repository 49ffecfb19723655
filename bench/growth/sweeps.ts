// Sweeps of step time and memory: one input varies, the others are fixed.

import { existsSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Precision } from "@readme-moe/model";
import type { Figure } from "../kit/samples.ts";
import { interleave, type Interleaved } from "../kit/turns.ts";
import { namesOf, numbersOf, type SuiteContext } from "../kit/suite.ts";
import type { DecodeCase } from "../decode-steps.ts";
import type { Shape } from "../random-model.ts";
import { FEW_LAYERS, parametersOf, SHAPES, TINY } from "./shapes.ts";
import { runSteps } from "./steps-job.ts";

const GROWTH_METRICS = {
  step: "step, ms",
  memory: "peak memory, MB",
  /** Metric of opening a cached graph. */
  open: "open, s",
} as const;

/** Model, and the values of the axis that it is measured at. */
interface Point {
  readonly shape: Shape;
  readonly numExperts: number;
  readonly expertSize: number;
  readonly cases: readonly (DecodeCase & { readonly at: number })[];
}

export interface Sweep {
  readonly name: string;
  /** Value on the axis. */
  readonly axis: string;
  readonly points: readonly Point[];
}

const PAST_TOKENS = 128;
const NUM_SEQS = 16;

function dense(shape: Shape): Omit<Point, "cases"> {
  return { shape, numExperts: 1, expertSize: shape.ffnSize };
}

function one(numSeqs: number, past: number, at: number): Point["cases"][number] {
  return { numSeqs, past, distinct: 1, at };
}

export function sweepsOf({ settings }: SuiteContext): readonly Sweep[] {
  const { quick } = settings;
  const base = quick ? TINY : (SHAPES["135m"] as Shape);
  const few = quick ? TINY : FEW_LAYERS;
  const sequences = numbersOf(settings, "sequences", quick ? [1, 4, 16] : [1, 4, 16, 64, 256]);
  const contexts = numbersOf(settings, "contexts", quick ? [64, 256] : [64, 256, 1024, 4096]);
  const experts = numbersOf(settings, "experts", quick ? [1, 4, 16] : [1, 2, 4, 8, 16, 32, 64]);
  const sizes = namesOf(settings, "sizes", quick ? ["20m"] : Object.keys(SHAPES));
  const shapes = sizes.map((name) => {
    const shape = SHAPES[name];
    if (shape) return shape;
    throw new RangeError(`Expected \`--set sizes\` to be of ${Object.keys(SHAPES).join(", ")}, got \`${name}\``);
  });
  const expertSize = few.ffnSize / 2;
  const mixtures = (distinct: number) =>
    experts
      .filter((numExperts) => numExperts >= distinct)
      .map((numExperts) => ({
        shape: few,
        numExperts,
        expertSize,
        cases: [{ numSeqs: NUM_SEQS, past: PAST_TOKENS, distinct: distinct || numExperts, at: numExperts }],
      }));
  return [
    {
      name: "sequences",
      axis: "sequences in a step",
      points: [{ ...dense(base), cases: sequences.map((count) => one(count, PAST_TOKENS, count)) }],
    },
    {
      name: "context",
      axis: `tokens of past, ${NUM_SEQS} sequences`,
      points: [{ ...dense(base), cases: contexts.map((past) => one(NUM_SEQS, past, past)) }],
    },
    { name: "experts, all used", axis: `experts, all of ${NUM_SEQS} sequences' used`, points: mixtures(0) },
    { name: "experts, one used", axis: "experts, one of them used", points: mixtures(1) },
    {
      name: "size",
      axis: "parameters, one sequence",
      points: shapes.map((shape) => ({ ...dense(shape), cases: [one(1, PAST_TOKENS, parametersOf(shape))] })),
    },
  ];
}

/** Precisions take turns. */
export async function measureSweep(context: SuiteContext, sweep: Sweep, rounds: number): Promise<Interleaved> {
  const { settings } = context;
  const root = await mkdtemp(join(tmpdir(), "readme-moe-growth-"));
  try {
    const variants = namesOf(settings, "precisions", settings.quick ? ["int8"] : ["int8", "int4"]).map((precision) => ({
      name: precision,
      measure: () => measurePoints(context, sweep, precision as Precision, root),
    }));
    return await interleave(context, sweep.name, variants, rounds);
  } finally {
    await rm(root, { recursive: true, force: true });
  }
}

async function measurePoints(
  { settings, say }: SuiteContext,
  { points, name }: Sweep,
  precision: Precision,
  root: string,
): Promise<readonly Figure[]> {
  const figures: Figure[] = [];
  for (const [index, point] of points.entries()) {
    const cacheFolder = join(root, `${index}-${precision}`);
    const { threads, quick } = settings;
    const job = { ...point, precision, threads, cacheFolder, rounds: quick ? 5 : 15 };
    if (!existsSync(cacheFolder)) {
      const built = await runSteps({ ...job, onlyBuilds: true });
      say(
        `${name}: graph ${index + 1} of ${points.length} in ${precision}, made in ${(built.openMs / 1000).toFixed(0)} s`,
      );
    }
    const { openMs, cases } = await runSteps(job);
    for (const [place, { medianMs, peakBytes }] of cases.entries()) {
      const { at } = point.cases[place] as (typeof point.cases)[number];
      figures.push({ metric: GROWTH_METRICS.step, at, value: medianMs });
      figures.push({ metric: GROWTH_METRICS.memory, at, value: peakBytes / 1e6 });
    }
    if (points.length > 1) {
      const { at = 0 } = point.cases[0] ?? {};
      figures.push({ metric: GROWTH_METRICS.open, at, value: openMs / 1000 });
    }
  }
  return figures;
}
