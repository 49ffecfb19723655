// Horizontal bars: parts that add up, and the costs of methods by domain.

import { scaleLinear } from "d3-scale";
import { decimals, signed } from "../text.ts";
import type { LossRow, Report } from "../report.ts";
import {
  AXIS_TITLE,
  element,
  FAINT_INK,
  GROUND,
  gridLines,
  label,
  legend,
  MARGIN,
  methodColour,
  NUMBERS,
  picture,
  together,
  TOP,
  type NumberScale,
  type PictureText,
  type Svg,
} from "./drawing.ts";

const WIDTH = 860;

/** Draws the axis of bars, above them. */
function topAxis(scale: NumberScale, top: number, bottom: number, title: string): Svg {
  const [left = 0, right = 0] = scale.range();
  const box = { left, right, top, bottom };
  return together(label(title, [left, top - 24], AXIS_TITLE), gridLines(scale, box, "top"));
}

/** One bar of a picture: its name, and the sizes of its parts. */
export interface StackedBar {
  readonly name: string;
  /** Sizes by part; parts that are absent or 0 are not drawn. */
  readonly values: Readonly<Record<string, number>>;
}

/** Content of `stackedPicture`. */
export interface StackedPicture extends PictureText {
  /** Quantity and unit of the axis. */
  readonly axisTitle: string;
  /** Parts from left to right. */
  readonly parts: readonly { readonly name: string; readonly colour: string }[];
  readonly bars: readonly StackedBar[];
}

const STACKS_LEFT = 260;
const SUMS_WIDTH = 52;
const [BAR, LANE] = [20, 30];

/** Draws an SVG document. Values are not below 0. */
export function stackedPicture({ axisTitle, parts, bars, ...text }: StackedPicture): string {
  const used = parts.filter(({ name }) => bars.some(({ values }) => (values[name] ?? 0) > 0));
  const key = legend(used, WIDTH);
  const top = TOP + key.height + 44;
  const bottom = top + bars.length * LANE;
  const sums = bars.map(({ values }) => used.reduce((sum, { name }) => sum + (values[name] ?? 0), 0));
  const most = Math.max(0, ...sums);
  const scale = scaleLinear()
    .domain([0, most > 0 ? most : 1])
    .range([STACKS_LEFT, WIDTH - MARGIN - SUMS_WIDTH]);
  const drawn = bars.map((bar, index) => drawStack(bar, used, top + index * LANE, scale));
  return picture(text, WIDTH, bottom + MARGIN, key.svg, topAxis(scale, top, bottom, axisTitle), ...drawn);
}

function drawStack(bar: StackedBar, parts: StackedPicture["parts"], y: number, scale: NumberScale): Svg {
  let sum = 0;
  const pieces = parts.flatMap(({ name, colour }) => {
    const value = bar.values[name] ?? 0;
    if (value <= 0) return [];
    const [x, end] = [scale(sum), scale((sum += value))];
    const title = element("title", {}, `${name}: ${decimals(value)}`);
    return [element("rect", { x, y: y + (LANE - BAR) / 2, width: end - x, height: BAR, fill: colour }, title)];
  });
  const middle = y + LANE / 2 + 4;
  const name = label(bar.name, [MARGIN, middle], { "font-size": 13 }, STACKS_LEFT - MARGIN - 12);
  return together(name, ...pieces, label(decimals(sum), [scale(sum) + 6, middle], NUMBERS));
}

const COSTS_LEFT = 190;
const COSTS_WIDTH = 48;
const GROUP_GAP = 16;
// Keeps grid lines off numbers.
const HALO = { stroke: GROUND, "stroke-width": 4, "paint-order": "stroke" } as const;
// With more groups, bars are thinner and have no numbers.
const FEW_GROUPS = 9;
const [WIDE_LANE, THIN_LANE] = [13, 9];

interface Group {
  readonly name: string;
  readonly dense: number;
  readonly bars: readonly { readonly row: LossRow; readonly cost: number }[];
  readonly isMean?: boolean;
}

/** Losses by method and domain. */
export interface LossesContent {
  readonly losses: Report["losses"];
  readonly data: readonly { readonly name: string }[];
  readonly base: { readonly name: string };
  readonly description?: string;
}

/** Draws the cost of each method on each domain. @returns `undefined` where there is nothing to compare */
export function lossesPicture({
  losses,
  data,
  base,
  description = "Loss on held-out documents above the dense model's: shorter bars are better.",
}: LossesContent): string | undefined {
  const dense = losses.find(({ id }) => id === "dense");
  const rows = losses.filter((row) => row !== dense);
  if (dense === undefined || rows.length === 0) return undefined;
  const colours = new Map(rows.map((row, place) => [row, methodColour(row.id, place)]));
  const groups = groupsOf(dense, rows, data);
  const key = legend(
    rows.map((row) => ({ name: row.label, colour: colours.get(row) ?? FAINT_INK })),
    WIDTH,
  );
  const costs = groups.flatMap(({ bars }) => bars.map(({ cost }) => cost));
  const [least, most] = [Math.min(0, ...costs), Math.max(0, ...costs)];
  const scale = scaleLinear()
    .domain([least, most > least ? most : least + 1])
    .range([COSTS_LEFT + (least < 0 ? COSTS_WIDTH : 0), WIDTH - MARGIN - COSTS_WIDTH]);
  const digits = Math.max(...costs) < 0.5 ? 3 : 2;
  const top = TOP + key.height + 44;
  let y = top;
  const drawn = groups.map((group) => {
    const lane = group.isMean || groups.length <= FEW_GROUPS ? WIDE_LANE : THIN_LANE;
    const from = y + GROUP_GAP / 2;
    y += Math.max(group.bars.length * lane, 30) + GROUP_GAP;
    return drawGroup(group, { y: from, lane, digits, scale, colours });
  });
  const text = {
    title: `Loss of ${base.name} on each domain`,
    description,
  };
  const axis = topAxis(scale, top, y, "nats per token above the dense model");
  return picture(text, WIDTH, y + MARGIN, key.svg, axis, ...drawn);
}

/** Groups bars: the mean first, then the domains that were measured. */
function groupsOf(dense: LossRow, rows: readonly LossRow[], data: LossesContent["data"]): readonly Group[] {
  const means = rows.map((row) => ({ row, cost: row.above_dense }));
  const domains = data.flatMap(({ name }): readonly Group[] => {
    const base = dense.losses[name];
    if (base === undefined) return [];
    const bars = rows.flatMap((row) => {
      const loss = row.losses[name];
      return loss === undefined ? [] : [{ row, cost: loss - base }];
    });
    return [{ name, dense: base, bars }];
  });
  return [{ name: "mean of domains", dense: dense.mean, bars: means, isMean: true }, ...domains];
}

interface GroupLayout {
  readonly y: number;
  /** Height of a bar, with its gap. */
  readonly lane: number;
  readonly digits: number;
  readonly scale: NumberScale;
  readonly colours: ReadonlyMap<LossRow, string>;
}

function drawGroup({ name, dense, bars, isMean }: Group, { y, lane, digits, scale, colours }: GroupLayout): Svg {
  const zero = scale(0);
  const drawn = bars.map(({ row, cost }, place) => {
    const end = scale(cost);
    const at = { x: Math.min(zero, end), y: y + place * lane + 1 };
    const width = Math.max(Math.abs(end - zero), 1);
    return element("rect", { ...at, width, height: lane - 2, fill: colours.get(row) });
  });
  const numbers = bars.map(({ row, cost }, place) => {
    const emphasis = row.id === "ours" ? { "font-weight": 600 } : { fill: FAINT_INK };
    const side = { "text-anchor": cost < 0 ? "end" : "start", ...HALO, ...emphasis };
    const x = scale(cost) + (cost < 0 ? -5 : 5);
    return label(signed(cost, digits), [x, y + place * lane + 10], { "font-size": 10, ...side });
  });
  const bold = isMean ? { "font-weight": 600 } : {};
  return together(
    label(name, [MARGIN, y + 12], { "font-size": 13, ...bold }, COSTS_LEFT - MARGIN - 16),
    label(`dense ${decimals(dense)}`, [MARGIN, y + 27], NUMBERS),
    ...(lane === WIDE_LANE ? numbers : []),
    ...drawn,
  );
}
