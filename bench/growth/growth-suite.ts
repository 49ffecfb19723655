// Fits the growth of step time, memory and scheduling time as powers of their inputs.

import { curvesPanel, formatNumber, summaryTable } from "../kit/report.ts";
import { distinct, type Sample, valuesOf } from "../kit/samples.ts";
import { growthOf, median } from "../kit/statistics.ts";
import type { ReportTable, Suite, SuiteReport } from "../kit/suite.ts";
import { measureScheduling, SCHEDULING_METRICS, STREAMED } from "./scheduling-sweeps.ts";
import { measureSweep, sweepsOf } from "./sweeps.ts";

const WANTED_MS = 1;
const MOST_WAITING = 1024;

interface Measured {
  readonly name: string;
  readonly axis: string;
  readonly samples: readonly Sample[];
}

export const growthSuite: Suite = {
  name: "growth",
  summary: "growth of step time, memory and scheduling by sequences, context, experts and size, as powers",
  async run(context) {
    const { settings } = context;
    const notes: string[] = [
      "Models have random weights; times are medians of 15 decode steps.",
      "`y` grows as `x` to the exponent, fitted to logarithms; R² is the share of the variance that the fit explains.",
      "Memory is the peak of the process up to that case, smaller cases before it included.",
    ];
    const measured: Measured[] = [];
    const scheduling = await measureScheduling(context);
    for (const sweep of sweepsOf(context)) {
      // One round of a large model in each direction takes minutes.
      const { samples, failures } = await measureSweep(context, sweep, sweep.name === "size" ? 1 : settings.rounds);
      measured.push({ ...sweep, samples });
      for (const [name, why] of failures) notes.push(`${sweep.name}, ${name}: not measured: ${why}`);
    }
    return report(settings.seed, scheduling.samples, measured, notes);
  },
};

function report(
  seed: number,
  scheduling: readonly Sample[],
  measured: readonly Measured[],
  notes: readonly string[],
): SuiteReport {
  const queue = { name: "scheduling", axis: "sequences", samples: scheduling };
  const variant = "cost-aware";
  const metric = SCHEDULING_METRICS.waiting;
  const target = (name: string) => ({
    what: `${name}: deciding with ${MOST_WAITING} waiting`,
    value: median(valuesOf(scheduling, { variant: name, at: MOST_WAITING, metric })),
    unit: "ms",
    wanted: "under" as const,
    limit: WANTED_MS,
  });
  const hasMost = scheduling.some(({ at }) => at === MOST_WAITING);
  const shown = [queue, ...measured].filter(({ samples }) => samples.length > 0);
  return {
    tables: [
      exponents(shown),
      ...shown.flatMap(({ name, axis, samples }) =>
        distinct(samples.map((one) => one.metric)).map((one) =>
          summaryTable(
            samples.filter((sample) => sample.metric === one),
            {
              title: `${name}: ${one}, by ${axis}`,
              seed,
              columns: atsOf(samples, one).map((at) => ({ title: at.toLocaleString("en-US"), metric: one, at })),
            },
          ),
        ),
      ),
    ],
    targets: hasMost ? [target(variant), target(variant + STREAMED)] : [],
    pictures: shown.map(({ name, axis, samples }) => ({
      name: name.replaceAll(/\W+/g, "-"),
      picture: {
        title: `Growth: ${name}`,
        description: "medians; both axes are logarithmic",
        xTitle: axis,
        isLogarithmic: "both" as const,
        rows: distinct(samples.map((one) => one.metric)).map((one) => ({ panels: [curvesPanel(samples, one)] })),
      },
    })),
    samples: shown.flatMap(({ name, samples }) =>
      samples.map((sample) => ({ ...sample, metric: `${name}: ${sample.metric}` })),
    ),
    notes,
  };
}

function atsOf(samples: readonly Sample[], metric: string): readonly number[] {
  const ats = samples.filter((one) => one.metric === metric).flatMap(({ at }) => (typeof at === "number" ? [at] : []));
  return distinct(ats).toSorted((a, b) => a - b);
}

function exponents(measured: readonly Measured[]): ReportTable {
  const rows = measured.flatMap(({ name, axis, samples }) =>
    distinct(samples.map(({ metric }) => metric)).flatMap((metric) =>
      distinct(samples.filter((one) => one.metric === metric).map(({ variant }) => variant)).flatMap((variant) => {
        const points = atsOf(samples, metric).flatMap((at): (readonly [number, number])[] => {
          const values = valuesOf(samples, { variant, at, metric });
          return values.length > 0 ? [[at, median(values)]] : [];
        });
        const growth = growthOf(points);
        if (!growth) return [];
        const [first, last] = [points[0], points.at(-1)];
        const range = `${first?.[0].toLocaleString("en-US")} to ${last?.[0].toLocaleString("en-US")}`;
        const values = `${formatNumber(first?.[1] ?? NaN)} to ${formatNumber(last?.[1] ?? NaN)}`;
        const fitted = [growth.exponent.toFixed(2), growth.rSquared.toFixed(2)];
        return [[`${name}: ${metric}`, variant, axis, range, values, ...fitted]];
      }),
    ),
  );
  return { title: "Exponents", columns: ["", "of", "by", "from", "is", "exponent", "R²"], rows };
}
