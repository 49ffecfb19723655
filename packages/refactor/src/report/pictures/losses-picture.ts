// What each method costs on each domain: bars from the dense model's loss.

import { scaleLinear } from "d3-scale";
import { decimals, signed } from "../figures.ts";
import type { LossRow, Report } from "../report.ts";
import { topAxis } from "./axis.ts";
import { FAINT_INK, GROUND, methodColour } from "./colours.ts";
import { legend } from "./legend.ts";
import { label, MARGIN, picture, TOP } from "./picture.ts";
import { element, together, type Svg } from "./svg.ts";

const WIDTH = 860;
const BARS_LEFT = 190;
/** For the numbers behind bars. */
const NUMBERS_WIDTH = 48;
const GROUP_GAP = 16;
/** Keeps grid lines off numbers. */
const HALO = { stroke: GROUND, "stroke-width": 4, "paint-order": "stroke" } as const;
/** With more domains, bars are thinner and have no numbers. */
const FEW_DOMAINS = 9;

interface Group {
  readonly name: string;
  readonly dense: number;
  readonly bars: readonly { readonly row: LossRow; readonly cost: number }[];
  readonly isMean: boolean;
}

/** `undefined` when there is nothing to compare. */
export function lossesPicture({ losses, data, base }: Pick<Report, "losses" | "data" | "base">): string | undefined {
  const dense = losses.find(({ id }) => id === "dense");
  const rows = losses.filter((row) => row !== dense);
  if (dense === undefined || rows.length === 0) return undefined;
  const colours = new Map(rows.map((row, place) => [row, methodColour(row.id, place)]));
  const groups = groupsOf(dense, rows, data);
  const names = rows.map((row) => ({ name: row.label, fill: colours.get(row) as string }));
  const key = legend(names, MARGIN, TOP - 6, WIDTH - 2 * MARGIN);
  const top = TOP + key.height + 44;
  const lane = groups.length <= FEW_DOMAINS ? 13 : 9;
  const digits = Math.max(...groups.flatMap(({ bars }) => bars.map(({ cost }) => cost))) < 0.5 ? 3 : 2;
  const heights = groups.map(({ bars, isMean }) => Math.max(bars.length * (isMean ? 13 : lane), 30) + GROUP_GAP);
  const bottom = heights.reduce((sum, height) => sum + height, top);
  const scale = costScale(groups);
  let y = top + GROUP_GAP / 2;
  const drawn = groups.map((group, index) => {
    const from = y;
    y += heights[index] as number;
    return drawGroup(group, { y: from, lane: group.isMean ? 13 : lane, digits, scale, colours });
  });
  const text = {
    title: `What ${base.name} loses on each domain`,
    description: "Loss on held-out documents above the dense model's: shorter bars are better.",
  };
  const axis = topAxis(scale, top, bottom, "nats per token above the dense model");
  return picture(text, WIDTH, bottom + MARGIN, key.svg, axis, ...drawn);
}

/** The mean first; then domains that were measured. */
function groupsOf(dense: LossRow, rows: readonly LossRow[], data: Report["data"]): readonly Group[] {
  const mean = {
    name: "mean of domains",
    dense: dense.mean,
    bars: rows.map((row) => ({ row, cost: row.above_dense })),
    isMean: true,
  };
  const domains = data.flatMap(({ name }): readonly Group[] => {
    const base = dense.losses[name];
    if (base === undefined) return [];
    const bars = rows.flatMap((row) => {
      const loss = row.losses[name];
      return loss === undefined ? [] : [{ row, cost: loss - base }];
    });
    return [{ name, dense: base, bars, isMean: false }];
  });
  return [mean, ...domains];
}

function costScale(groups: readonly Group[]): ReturnType<typeof scaleLinear<number, number>> {
  const costs = groups.flatMap(({ bars }) => bars.map(({ cost }) => cost));
  const most = Math.max(0, ...costs);
  const least = Math.min(0, ...costs);
  return scaleLinear<number, number>()
    .domain([least, most > least ? most : least + 1])
    .range([BARS_LEFT + (least < 0 ? NUMBERS_WIDTH : 0), WIDTH - MARGIN - NUMBERS_WIDTH]);
}

interface GroupLayout {
  readonly y: number;
  /** Height of a bar, with its gap. */
  readonly lane: number;
  readonly digits: number;
  readonly scale: (cost: number) => number;
  readonly colours: ReadonlyMap<LossRow, string>;
}

function drawGroup({ name, dense, bars, isMean }: Group, layout: GroupLayout): Svg {
  const { y, lane, scale, colours } = layout;
  const zero = scale(0);
  const bold = isMean ? { "font-weight": 600 } : {};
  return together(
    label(name, MARGIN, y + 12, { "font-size": 13, ...bold }, BARS_LEFT - MARGIN - 16),
    label(`dense ${decimals(dense)}`, MARGIN, y + 27, { "font-size": 11, fill: FAINT_INK }),
    ...(lane < 12 ? [] : bars.map(({ row, cost }, place) => drawNumber(row, cost, y + place * lane, layout))),
    ...bars.map(({ row, cost }, place) => {
      const end = scale(cost);
      const from = { x: Math.min(zero, end), y: y + place * lane + 1 };
      const width = Math.max(Math.abs(end - zero), 1);
      return element("rect", { ...from, width, height: lane - 2, fill: colours.get(row) });
    }),
  );
}

/** Behind the end of a bar, on either side of zero. */
function drawNumber({ id }: LossRow, cost: number, y: number, { scale, digits }: GroupLayout): Svg {
  const emphasis = id === "ours" ? { "font-weight": 600 } : { fill: FAINT_INK };
  const x = scale(cost) + (cost < 0 ? -5 : 5);
  const anchor = cost < 0 ? "end" : "start";
  return label(signed(cost, digits), x, y + 10, { "font-size": 10, "text-anchor": anchor, ...HALO, ...emphasis });
}
