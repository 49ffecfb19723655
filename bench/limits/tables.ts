// What was measured, as tables and a picture.

import type { StackedPicture } from "@readme-moe/refactor";
import { formatNumber, type ReportTable } from "readme-moe/bench";
import { PARTS, type Part } from "./graph-parts.ts";
import { ENGINE_PARTS, type EngineFigures, type EnginePart, type ProfileFigures } from "./jobs.ts";
import type { MachineFigures } from "./machine.ts";
import { leastMs, type StepCost } from "./step-cost.ts";

export function machineTable(machine: MachineFigures): ReportTable {
  return {
    title: "What the machine can do",
    columns: ["", ""],
    rows: [
      ["memory read by all threads, GB/s", formatNumber(machine.readGBPerS)],
      ["memory read by one thread, GB/s", formatNumber(machine.readGBPerSOfOne)],
      ["int8 weights read by products of one row, GB/s", formatNumber(machine.oneRowGBPerS)],
      ["the same, weights in blocks of 8 bits, GB/s", formatNumber(machine.oneRowBlocksGBPerS)],
      ["int8 products of 512 rows, GOP/s", formatNumber(machine.int8GOPerS)],
    ],
    notes: [
      "Read by the C library's search and comparison over memory larger than any cache, the fastest round; products by the runtime's kernels.",
    ],
  };
}

export interface MeasuredStep {
  readonly name: string;
  readonly ms: number;
  readonly cost: StepCost;
}

/** How close steps come to what the machine can do. */
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

/** A step taken apart, inside the graph and around it. */
export interface StepParts {
  readonly name: string;
  readonly engine: EngineFigures;
  readonly profile: ProfileFigures;
}

export const BETWEEN = "between nodes";
const AROUND: readonly EnginePart[] = ENGINE_PARTS.filter((part) => part !== "graph");

/** Milliseconds by part, in the order of the picture. What a run takes beyond its nodes is between them. */
export function partsOfStep({ engine, profile }: StepParts): Readonly<Record<string, number>> {
  const nodes = PARTS.map((part) => [part, profile.parts[part] ?? 0] as const);
  const inNodes = nodes.reduce((sum, [, ms]) => sum + ms, 0);
  const around = AROUND.map((part) => [part, engine.parts[part]] as const);
  const between = Math.max(0, engine.parts.graph - inNodes);
  return Object.fromEntries([...nodes, [BETWEEN, between], ...around]);
}

export function partsTable(title: string, steps: readonly StepParts[]): ReportTable {
  const parts = steps.map(partsOfStep);
  const sums = parts.map((values) => Object.values(values).reduce((sum, ms) => sum + ms, 0));
  const names = [...PARTS, BETWEEN, ...AROUND].filter((name) => parts.some((values) => (values[name] ?? 0) > 0));
  return {
    title,
    columns: ["part", ...steps.map(({ name }) => name)],
    rows: [
      ...names.map((name) => [
        name,
        ...parts.map(
          (values, index) =>
            `${(values[name] ?? 0).toFixed(2)} (${percent((values[name] ?? 0) / (sums[index] as number))})`,
        ),
      ]),
      ["all", ...sums.map((sum) => sum.toFixed(2))],
      ["step as measured", ...steps.map(({ engine }) => engine.step.toFixed(2))],
      ["nodes", ...steps.map(({ profile }) => `${profile.numNodes}`)],
    ],
    notes: [
      "Nodes: medians of each node over runs with the runtime's profile, less what its clock takes, added up; the run itself was timed without it, and the difference is between nodes: starting them, passing inputs in and outputs out, and on a busy machine waiting for a core. Around the graph: medians over steps of the engine, sampling at temperature 1, top-p 0.95.",
      "Keys and values of the past are made up, so that logits are flatter than a text's, where the best candidates decide nine rows in ten: here sampling searches whole rows, and takes longer than it does in use.",
    ],
  };
}

export function typesTable(title: string, { types }: ProfileFigures): ReportTable {
  return {
    title,
    columns: ["operator", "nodes", "ms a step", "µs a node"],
    rows: types.filter(({ ms }) => ms >= 0.005).map(({ type, count, ms }) => typeRow(type, count, ms)),
  };
}

const COLOURS: Readonly<Record<Part, string>> = {
  "FFN products": "#0072b2",
  "attention products": "#56b4e9",
  head: "#4b3f8f",
  "attention over the cache": "#009e73",
  "rows to int8 and back": "#d55e00",
  "gate and activation": "#e69f00",
  norms: "#f0e442",
  "rotary, splits, shapes": "#cc79a7",
  "dealing to experts": "#7f5f00",
  "choosing candidates": "#999999",
  "inputs, masks, outputs": "#bbbbbb",
};
const AROUND_COLOURS = ["#1b1f24", "#59636e", "#8b949e", "#5f6f00", "#7a5195", "#ef5675"];

export function partsPicture(steps: readonly StepParts[]): StackedPicture {
  const around = [BETWEEN, ...AROUND].map((name, index) => ({ name, colour: AROUND_COLOURS[index] as string }));
  return {
    title: "Where a decode step's time goes",
    description: "Parts of the graph, what the runtime takes between its nodes, and the engine around it.",
    axisTitle: "milliseconds a step",
    parts: [...PARTS.map((name) => ({ name, colour: COLOURS[name] })), ...around],
    bars: steps.map((step) => ({ name: step.name, values: partsOfStep(step) })),
  };
}

function percent(share: number): string {
  return `${(100 * share).toFixed(0)} %`;
}

function typeRow(name: string, count: number, ms: number): readonly string[] {
  return [name, `${count}`, ms.toFixed(2), ((1000 * ms) / count).toFixed(1)];
}
