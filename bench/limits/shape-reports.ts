// Finds the model size from which a mixture of half-width experts is faster than its dense model. Larger shapes have
// random weights.

import { rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { namesOf, type ReportTable, type SuiteContext } from "../kit/suite.ts";
import type { Sample } from "../kit/samples.ts";
import type { Shape } from "../random-model.ts";
import type { Cases } from "./cases.ts";
import { measurePairs, pairedSamples, pairOf } from "./paired-steps.ts";
import { ratioTable } from "./ratio-table.ts";
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
  // Large models are disposed at once.
  const cacheFolder = join(tmpdir(), "readme-moe-bench-shapes");
  const cases = shapeCases(context.settings.quick ? [1, 4] : [1, 4, 16]);
  const reports: ShapeReports[] = [];
  for (const name of names) {
    const shape = SHAPES[name];
    if (!shape)
      throw new RangeError(`Expected \`--set shapes\` to be of ${Object.keys(SHAPES).join(", ")}, got \`${name}\``);
    const paired = await measurePairs(context, {
      group: `shape ${name}`,
      models: pairOf(
        MEASURED_LAYERS.map((numLayers) => ({ ...shape, numLayers })),
        NUM_EXPERTS,
        1,
      ),
      cases,
      cacheFolder,
      combine: ([few = NaN, many = NaN]) => allLayersMs([few, many], shape.numLayers),
    });
    await rm(cacheFolder, { recursive: true, force: true });
    const options = { numExperts: NUM_EXPERTS, seed: context.settings.seed };
    const table = ratioTable(titleOf(name, shape), paired, cases, options);
    const own = pairedSamples(paired).map((sample) => ({ ...sample, variant: `${name} ${sample.variant}` }));
    reports.push({ tables: [table], samples: own, notes: paired.failures });
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
