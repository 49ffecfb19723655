// From which size on a mixture of half-width experts is faster than its dense model: shapes of larger ones, random weights.

import { rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { interleave, namesOf, type ReportTable, type Sample, type SuiteContext, type Variant } from "readme-moe/bench";
import type { Shape } from "../random-model.ts";
import { caseName, type Cases } from "./cases.ts";
import type { ModelSpec } from "./jobs.ts";
import { DENSE, MIXTURE, ratioTable, STEP_MS } from "./ratio-table.ts";
import { runJob } from "./run-job.ts";
import { allLayersMs, MEASURED_LAYERS, SHAPES } from "./shapes.ts";

const NUM_EXPERTS = 7;
const PAST = 128;

export interface ShapeReports {
  readonly tables: readonly ReportTable[];
  readonly samples: readonly Sample[];
  readonly notes: readonly string[];
}

export async function shapeReports(context: SuiteContext): Promise<ShapeReports> {
  const names = namesOf(context.settings, "shapes", context.settings.quick ? ["tiny"] : ["360m", "1b", "3b"]);
  // Gigabytes that nobody else has a use for.
  const cacheFolder = join(tmpdir(), "readme-moe-bench-shapes");
  const cases = shapeCases(context.settings.quick ? [1, 4] : [1, 4, 16]);
  const reports: ShapeReports[] = [];
  for (const name of names) {
    const shape = SHAPES[name];
    if (!shape)
      throw new RangeError(`Expected \`--set shapes\` to be of ${Object.keys(SHAPES).join(", ")}, got \`${name}\``);
    const { samples, failures } = await interleave(
      context,
      `shape ${name}`,
      shapeVariants(context, shape, cases, cacheFolder),
    );
    await rm(cacheFolder, { recursive: true, force: true });
    const table = ratioTable(titleOf(name, shape), samples, cases, NUM_EXPERTS);
    const notes = Array.from(failures, ([variant, why]) => `${name}, ${variant}: ${why}`);
    const own = samples.map((sample) => ({ ...sample, variant: `${name} ${sample.variant}` }));
    reports.push({ tables: [table], samples: own, notes });
  }
  return {
    tables: reports.flatMap(({ tables }) => tables),
    samples: reports.flatMap(({ samples }) => samples),
    notes: reports.flatMap(({ notes }) => notes),
  };
}

function titleOf(name: string, { hiddenSize, ffnSize, numLayers }: Shape): string {
  const [few, many] = MEASURED_LAYERS;
  const how = `from steps of ${few} and ${many} of ${numLayers} layers`;
  return `Dense against mixture, the shape of ${name} (hidden ${hiddenSize}, FFN ${ffnSize}), random weights, ${how}`;
}

function shapeCases(sequences: readonly number[]): Cases {
  const dense = sequences.map((numSeqs) => ({ numSeqs, past: PAST, distinct: 1 }));
  const mixture = dense.flatMap((one) =>
    [1, 2, 4, NUM_EXPERTS].filter((distinct) => distinct <= one.numSeqs).map((distinct) => ({ ...one, distinct })),
  );
  return { dense, mixture };
}

function shapeVariants(context: SuiteContext, shape: Shape, cases: Cases, cacheFolder: string): readonly Variant[] {
  const { threads, quick } = context.settings;
  const variant = (name: string, numExperts: number, expertSize: number, list: Cases["dense"]): Variant => ({
    name,
    measure: async () => {
      const measured: (readonly number[])[] = [];
      for (const numLayers of MEASURED_LAYERS) {
        const model: ModelSpec = { shape: { ...shape, numLayers }, numExperts, expertSize };
        const job = { model, precision: "int8", threads, cacheFolder, cases: list, rounds: quick ? 10 : 30 } as const;
        measured.push((await runJob({ kind: "steps", ...job })).map(({ medianMs }) => medianMs));
      }
      return list.flatMap((one, index) => {
        const [few, many] = measured.map((times) => times[index] as number) as [number, number];
        const value = allLayersMs([few, many], shape.numLayers);
        return Number.isNaN(value) ? [] : [{ metric: STEP_MS, at: caseName(one, numExperts), value }];
      });
    },
  });
  return [
    variant(DENSE, 1, shape.ffnSize, cases.dense),
    variant(MIXTURE, NUM_EXPERTS, shape.ffnSize / 2, cases.mixture),
  ];
}
