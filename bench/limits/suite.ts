// Compares decoding with the limits of the machine, and splits its time into parts.

import { expertLayout } from "@readme-moe/engine";
import { openModel, type Model } from "@readme-moe/model";
import type { Sample } from "../kit/samples.ts";
import type { Suite, SuiteContext, SuiteReport } from "../kit/suite.ts";
import type { DecodeCase } from "../decode-steps.ts";
import { caseName, casesOf, type Cases } from "./cases.ts";
import { idleReport } from "./idle-experts.ts";
import type { ModelSpec } from "./jobs.ts";
import { DENSE, measurePairs, MIXTURE, pairedSamples, type PairedModel } from "./paired-steps.ts";
import { ratioTable, ratioTargets } from "./ratio-table.ts";
import { measureReading, readingTable, readingTarget } from "./reading-share.ts";
import { runJob } from "./run-job.ts";
import { shapeReports } from "./shape-reports.ts";
import { stepCost } from "./step-cost.ts";
import { limitsTable, machineTable, partsPicture, partsTable, type StepParts } from "./tables.ts";

const PRECISION = "int8";

export const limitsSuite: Suite = {
  name: "limits",
  summary: "decoding compared with the limits of memory and processor, and the parts of a step's time",
  async run(context) {
    const { settings, keep } = context;
    const machine = await keep("machine", () =>
      runJob({ kind: "machine", threads: settings.threads, isQuick: settings.quick }),
    );
    const models = await openModels(context);
    try {
      const cases = casesOf(settings, numExpertsOf(models.mixture), models.dense.config.contextTokens);
      const paired = await measurePairs(context, {
        group: "steps",
        models: pairedModels(models),
        cases,
        cacheFolder: settings.cacheFolder,
        combine: ([ms = NaN]) => ms,
      });
      const measured = (variant: string, model: Model, list: readonly DecodeCase[]) =>
        list
          .map((one) => ({ name: caseName(one, numExpertsOf(model)), cost: stepCost(model, PRECISION, one) }))
          .map((one) => ({ ...one, ms: paired.stepMs(variant, one.name) }))
          .filter(({ ms }) => !Number.isNaN(ms));
      const reading = await measureReading(context, models.dense.path, cases);
      const parts = await partsOf(context, models, cases);
      const idle = await idleReport(context);
      const shapes = await shapeReports(context);
      return {
        tables: [
          machineTable(machine),
          readingTable(reading, settings.seed),
          limitsTable("The dense model's steps, int8", measured(DENSE, models.dense, cases.dense), machine),
          limitsTable("The mixture's steps, int8", measured(MIXTURE, models.mixture, cases.mixture), machine),
          ratioTable("Dense against mixture, int8", paired, cases, {
            numExperts: numExpertsOf(models.mixture),
            seed: settings.seed,
          }),
          ...idle.tables,
          ...shapes.tables,
          partsTable("Where a step's time goes, ms", parts),
        ],
        targets: settings.quick
          ? []
          : [...readingTarget(reading), ...ratioTargets(paired, cases, numExpertsOf(models.mixture)), ...idle.targets],
        pictures: [{ name: "step-parts", picture: partsPicture(parts) }],
        samples: [...pairedSamples(paired), ...idle.samples, ...shapes.samples, ...partSamples(parts)],
        notes: [...idle.notes, ...shapes.notes, ...paired.failures],
      } satisfies SuiteReport;
    } finally {
      await models.close();
    }
  },
};

interface Models {
  readonly dense: Model;
  /** Returns the mixture, or the dense model when there is none. */
  readonly mixture: Model;
  readonly close: () => Promise<void>;
}

async function openModels({ settings }: SuiteContext): Promise<Models> {
  const mixture = await openModel(settings.model);
  const dense = settings.dense === undefined ? mixture : await openModel(settings.dense);
  const close = async (): Promise<void> => {
    await mixture.close();
    if (dense !== mixture) await dense.close();
  };
  return { dense, mixture, close };
}

function numExpertsOf(model: Model): number {
  return expertLayout(model).numExperts;
}

function pairedModels({ dense, mixture }: Models): readonly PairedModel[] {
  return [pairedModel(DENSE, dense), ...(mixture === dense ? [] : [pairedModel(MIXTURE, mixture)])];
}

function pairedModel(name: PairedModel["name"], model: Model): PairedModel {
  return { name, numExperts: numExpertsOf(model), measured: [{ path: model.path }] };
}

function jobOf({ settings }: SuiteContext, model: ModelSpec) {
  const { threads, cacheFolder, quick } = settings;
  return { model, precision: PRECISION, threads, cacheFolder, rounds: quick ? 10 : 40 } as const;
}

/** Measures the parts of steps with few and many sequences, and short and long pasts. */
async function partsOf(context: SuiteContext, { mixture }: Models, cases: Cases): Promise<readonly StepParts[]> {
  const parts: StepParts[] = [];
  for (const one of extremes(cases.mixture)) {
    const name = `${MIXTURE} ${caseName(one, numExpertsOf(mixture))}`;
    const job = { ...jobOf(context, { path: mixture.path }), cases: [one] };
    context.say(`taking apart: ${name}`);
    const [engine] = await context.keep(`engine | ${name}`, () => runJob({ kind: "engine", ...job }));
    if (engine) parts.push({ name, engine });
  }
  return parts;
}

/** Selects cases with one and up to sixteen sequences, the shortest and longest past, and up to four experts. */
function extremes(cases: readonly DecodeCase[]): readonly DecodeCase[] {
  const counts = cases.map(({ numSeqs }) => numSeqs).filter((count) => count <= 16);
  const pasts = cases.map(({ past }) => past);
  const few = Math.min(...counts);
  const many = Math.max(...counts);
  return [...new Set([Math.min(...pasts), Math.max(...pasts)])].flatMap((past) =>
    [...new Set([few, many])].flatMap((numSeqs) => {
      const own = cases.filter((one) => one.numSeqs === numSeqs && one.past === past && one.distinct <= 4);
      return own.toSorted((a, b) => b.distinct - a.distinct).slice(0, 1);
    }),
  );
}

function partSamples(parts: readonly StepParts[]): readonly Sample[] {
  return parts.flatMap(({ name, engine }, turn) =>
    Object.entries(engine.parts).map(([metric, value]) => ({
      metric: `${metric}, ms`,
      at: name,
      value,
      variant: name.startsWith(MIXTURE) ? MIXTURE : DENSE,
      round: 0,
      turn,
    })),
  );
}
