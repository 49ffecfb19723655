// Tables and picture of the results.

import type { StackedPicture } from "@readme-moe/refactor";
import { formatNumber } from "../kit/report.ts";
import type { ReportTable } from "../kit/suite.ts";
import { ENGINE_PARTS, type EngineFigures, type EnginePart } from "./jobs.ts";
import type { MachineFigures } from "./machine.ts";
import { leastMs, type StepCost } from "./step-cost.ts";

export function machineTable(machine: MachineFigures): ReportTable {
  return {
    title: "Limits of the machine",
    columns: ["", ""],
    rows: [
      ["memory read by all threads, GB/s", formatNumber(machine.readGBPerS)],
      ["memory read by one thread, GB/s", formatNumber(machine.readGBPerSOfOne)],
      ["int8 products of 512 rows, GOP/s", formatNumber(machine.int8GOPerS)],
    ],
    notes: [
      "Memory is read by the C library's search over memory larger than any cache, in the fastest round; products are onnxruntime's.",
    ],
  };
}

export interface MeasuredStep {
  readonly name: string;
  readonly ms: number;
  readonly cost: StepCost;
}

/** Compares steps with the limits of the machine. */
export function limitsTable(title: string, steps: readonly MeasuredStep[], machine: MachineFigures): ReportTable {
  const peaks = { readBytesPerMs: machine.readGBPerS * 1e6, int8OpsPerMs: machine.int8GOPerS * 1e6 };
  return {
    title,
    columns: [
      "sequences × context",
      "step, ms",
      "weights, MB",
      "KV, MB",
      "GOP",
      "reading, ms",
      "of the step",
      "computing, ms",
      "of the step",
    ],
    rows: steps.map(({ name, ms, cost }) => {
      const { readMs, computeMs } = leastMs(cost, peaks);
      return [
        name,
        formatNumber(ms),
        formatNumber(cost.weightBytes / 1e6),
        formatNumber(cost.kvBytes / 1e6),
        formatNumber((cost.productOps + cost.attentionOps) / 1e9),
        formatNumber(readMs),
        percent(readMs / ms),
        formatNumber(computeMs),
        percent(computeMs / ms),
      ];
    }),
    notes: [
      "Reading: all bytes once at the machine's rate. Computing: products with weights at the int8 rate, without attention.",
    ],
  };
}

/** Parts of a step. */
export interface StepParts {
  readonly name: string;
  readonly engine: EngineFigures;
}

export function partsTable(title: string, steps: readonly StepParts[]): ReportTable {
  const sums = steps.map(({ engine }) => Object.values(engine.parts).reduce((sum, ms) => sum + ms, 0));
  return {
    title,
    columns: ["part", ...steps.map(({ name }) => name)],
    rows: [
      ...ENGINE_PARTS.map((name) => [
        name,
        ...steps.map(
          ({ engine }, index) =>
            `${engine.parts[name].toFixed(2)} (${percent(engine.parts[name] / (sums[index] as number))})`,
        ),
      ]),
      ["all", ...sums.map((sum) => sum.toFixed(2))],
      ["step as measured", ...steps.map(({ engine }) => engine.step.toFixed(2))],
    ],
    notes: ["Medians over steps of the engine, sampling at temperature 1, top-p 0.95."],
  };
}

const COLOURS: Readonly<Record<EnginePart, string>> = {
  "forward pass": "#0072b2",
  router: "#009e73",
  scheduling: "#d55e00",
  "sampling, events": "#e69f00",
};

export function partsPicture(steps: readonly StepParts[]): StackedPicture {
  return {
    title: "Where a decode step's time goes",
    description: "The forward pass in the kernel, and the engine around it.",
    axisTitle: "milliseconds a step",
    parts: ENGINE_PARTS.map((name) => ({ name, colour: COLOURS[name] })),
    bars: steps.map(({ name, engine }) => ({ name, values: engine.parts })),
  };
}

function percent(share: number): string {
  return `${(100 * share).toFixed(0)} %`;
}
