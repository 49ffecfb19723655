// Measures the cost of experts that a step does not use: seven experts of half the width against a single one, with
// random weights.

import { rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { formatNumber } from "../kit/report.ts";
import type { ReportTable, SuiteContext, Target } from "../kit/suite.ts";
import type { Sample } from "../kit/samples.ts";
import type { Shape } from "../random-model.ts";
import { caseName, type Cases } from "./cases.ts";
import { DENSE, measurePairs, MIXTURE, pairedSamples, pairOf, type PairedSteps } from "./paired-steps.ts";
import { SHAPES } from "./shapes.ts";

const NUM_EXPERTS = 7;
const PAST = 128;
const MAX_MORE_PERCENT = 2;
/** Steps of one sequence, and of sixteen that all use the same expert. */
const ALONE: Cases["dense"] = [1, 16].map((numSeqs) => ({ numSeqs, past: PAST, distinct: 1 }));
const CASES: Cases = { dense: ALONE, mixture: ALONE };

export interface IdleReport {
  readonly tables: readonly ReportTable[];
  readonly targets: readonly Target[];
  readonly samples: readonly Sample[];
  readonly notes: readonly string[];
}

export async function idleReport(context: SuiteContext): Promise<IdleReport> {
  const name = context.settings.quick ? "tiny" : "135m";
  const shape = SHAPES[name] as Shape;
  const cacheFolder = join(tmpdir(), "readme-moe-bench-idle");
  const paired = await measurePairs(context, {
    group: "idle experts",
    // A single expert is a dense model of its width.
    models: pairOf([shape], NUM_EXPERTS, 0.5),
    cases: CASES,
    cacheFolder,
    combine: ([ms = NaN]) => ms,
  });
  await rm(cacheFolder, { recursive: true, force: true });
  const own = pairedSamples(paired).map((sample) => ({
    ...sample,
    variant: sample.variant === DENSE ? "the expert alone" : `one of ${NUM_EXPERTS} experts`,
  }));
  return { tables: [idleTable(name, paired)], targets: idleTargets(paired), samples: own, notes: paired.failures };
}

function morePercent({ stepMs }: PairedSteps, one: Cases["dense"][number]): number {
  return 100 * (stepMs(MIXTURE, caseName(one, NUM_EXPERTS)) / stepMs(DENSE, caseName(one, 1)) - 1);
}

function idleTable(name: string, paired: PairedSteps): ReportTable {
  return {
    title: `Idle experts: ${NUM_EXPERTS} of half the width, one of them used, beside that one alone (shape of ${name}, int8)`,
    columns: ["sequences × context", "alone, ms", `of ${NUM_EXPERTS}, ms`, "more, %"],
    rows: CASES.dense.map((one) => [
      caseName(one, 1),
      formatNumber(paired.stepMs(DENSE, caseName(one, 1))),
      formatNumber(paired.stepMs(MIXTURE, caseName(one, NUM_EXPERTS))),
      formatNumber(morePercent(paired, one)),
    ]),
  };
}

function idleTargets(paired: PairedSteps): readonly Target[] {
  const what = "idle experts: one sequence's step takes more than with the expert alone";
  const value = morePercent(paired, ALONE[0] as Cases["dense"][number]);
  return [{ what, value, unit: "%", wanted: "under", limit: MAX_MORE_PERCENT }];
}
