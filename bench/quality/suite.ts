// Measures the loss of a mixture beside the dense model in the same memory, the paper's method, and one static expert.

import { join } from "node:path";
import { namesOf, numbersOf, type Suite, type SuiteContext } from "../kit/suite.ts";
import { cliJson } from "../cli-json.ts";
import { reportOf } from "../refactor-report.ts";
import { contendersOf, weightMegabytes, type QualityContender } from "./contenders.ts";
import { heldOutFiles } from "./held-out.ts";
import { accuraciesTable, lossesTable, reportTable, type Evaluated, type MeasuredQuality } from "./tables.ts";

export const qualitySuite: Suite = {
  name: "quality",
  summary: "losses of experts by domain and on questions, beside the dense model in the same memory",
  async run(context) {
    const { settings, folder, keep } = context;
    const paths = settings.data.length > 0 ? settings.data : ["models/pocket/calibration"];
    const files = await heldOutFiles(paths, join(folder, "held-out"));
    const contenders = contendersOf(settings);
    const measured: MeasuredQuality[] = [];
    const failures: string[] = [];
    for (const contender of contenders) {
      context.say(`evaluating ${contender.name}`);
      try {
        const evaluated = await keep(`eval | ${contender.name}`, () => evaluate(context, contender, files));
        measured.push({ name: contender.name, megabytes: await weightMegabytes(contender), evaluated });
      } catch (error) {
        failures.push(`${contender.name}: ${error instanceof Error ? error.message : String(error)}`);
      }
    }
    const report = await reportOf(settings.model);
    const accuracies = accuraciesTable(measured);
    return {
      tables: [lossesTable(measured), ...(accuracies ? [accuracies] : []), ...(report ? [reportTable(report)] : [])],
      samples: measured.flatMap(samplesOf),
      notes: [
        `Documents: every twelfth of ${paths.join(", ")}, as refactorings hold them out; documents of other texts were never seen.`,
        "Evaluation is deterministic, so each model is measured once.",
        ...failures,
      ],
    };
  },
};

function evaluate({ settings }: SuiteContext, { path, precision }: QualityContender, files: readonly string[]) {
  const { threads, cacheFolder, quick } = settings;
  const requests = namesOf(settings, "requests", []);
  const [limit = 200] = numbersOf(settings, "limit", [quick ? 10 : 200]);
  const [sequences = 8] = numbersOf(settings, "sequences", [quick ? 1 : 8]);
  return cliJson<Evaluated>([
    "eval",
    path,
    "--precision",
    precision,
    "--threads",
    `${threads}`,
    ...(cacheFolder === undefined ? [] : ["--cache-folder", cacheFolder]),
    "--max-sequences",
    `${sequences}`,
    "--data",
    ...files,
    ...(requests.length > 0 ? ["--limit", `${limit}`, "--requests", ...requests] : []),
  ]);
}

function samplesOf({ name, megabytes, evaluated }: MeasuredQuality, turn: number) {
  const sample = (metric: string, at: string, value: number) => ({ metric, at, value, variant: name, round: 0, turn });
  return [
    sample("weights, MB", "", megabytes),
    ...Object.entries(evaluated.files ?? {}).map(([domain, { loss }]) => sample("loss, nats", domain, loss)),
    ...Object.entries(evaluated.requests ?? {}).flatMap(([task, { acc, acc_norm: perLength }]) => [
      sample("right answers", task, acc),
      sample("right answers by length", task, perLength),
    ]),
  ];
}
