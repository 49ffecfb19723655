// Horizontal bars: parts that add up, and the costs of methods by domain.

import { decimals, signed } from "../text.ts";
import type { LossRow, Report } from "../report.ts";
import { draw, FAINT_INK, GROUND, INK, legendColumns, methodColour, type PictureText } from "./drawing.ts";

const BARS_WIDTH = 600;

/** Names from top to bottom, in the order of the data. */
const NAMES = { type: "nominal", sort: null, title: null };
const TOP_AXIS = { orient: "top", titleAnchor: "start", tickCount: 6, labelFlush: false };

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

/** Draws an SVG document. Values are not below 0. */
export function stackedPicture({ axisTitle, parts, bars, ...text }: StackedPicture): Promise<string> {
  const pieces = bars.flatMap(({ name: bar, values }) =>
    parts.flatMap(({ name: part }, place) => {
      const value = values[part] ?? 0;
      return value > 0 ? [{ bar, part, place, value, label: `${part}: ${decimals(value)}` }] : [];
    }),
  );
  const used = parts.filter(({ name }) => pieces.some(({ part }) => part === name));
  const names = used.map(({ name }) => name);
  const y = { ...NAMES, field: "bar", axis: { labelColor: INK, labelFontSize: 13 } };
  const x = { field: "value", aggregate: "sum", title: axisTitle, scale: { nice: false }, axis: TOP_AXIS };
  const scale = { domain: names, range: used.map(({ colour }) => colour) };
  const color = { field: "part", scale, legend: { columns: legendColumns(names) } };
  return draw(text, {
    data: { values: pieces },
    width: BARS_WIDTH,
    height: { step: 30 },
    layer: [
      {
        mark: { type: "bar", height: 20, aria: true },
        encoding: { y, x, color, order: { field: "place" }, description: { field: "label" } },
      },
      {
        mark: { type: "text", align: "left", dx: 6, fontSize: 11, color: FAINT_INK },
        encoding: { y, x, text: { field: "value", aggregate: "sum", format: ".2f" } },
      },
    ],
  });
}

/** Losses by method and domain. */
export interface LossesContent {
  readonly losses: Report["losses"];
  readonly data: readonly { readonly name: string }[];
  readonly base: { readonly name: string };
  readonly description?: string;
}

// With more groups, bars are thinner, and only those of the means have numbers.
const FEW_GROUPS = 9;

/** Draws the cost of each method on each domain. @returns `undefined` where there is nothing to compare */
export function lossesPicture({
  losses,
  data,
  base,
  description = "Loss on held-out documents above the dense model's: shorter bars are better.",
}: LossesContent): Promise<string> | undefined {
  const dense = losses.find(({ id }) => id === "dense");
  const rows = losses.filter((row) => row !== dense);
  if (dense === undefined || rows.length === 0) return undefined;
  const all = [{ name: "mean of domains", of: ({ mean }: LossRow): number | undefined => mean }].concat(
    data.map(({ name }) => ({ name, of: (row) => row.losses[name] })),
  );
  const groups = all.filter(({ of }) => of(dense) !== undefined);
  const isFew = groups.length <= FEW_GROUPS;
  const costs = groups.flatMap(({ of }, group) =>
    rows.flatMap((row, place) => {
      const own = of(row);
      return own === undefined ? [] : [{ group, place, cost: own - (of(dense) ?? 0), isOurs: row.id === "ours" }];
    }),
  );
  const amounts = costs.map(({ cost }) => cost);
  const [least, most] = [Math.min(0, ...amounts), Math.max(0, ...amounts)];
  const digits = most < 0.5 ? 3 : 2;
  const values = costs.map((one) => ({ ...one, text: isFew || one.group === 0 ? signed(one.cost, digits) : "" }));
  const labels = rows.map(({ label }) => label);
  const places = rows.map((_, place) => place);
  const y = {
    ...NAMES,
    field: "group",
    scale: { paddingInner: 0.22, paddingOuter: 0.1 },
    axis: {
      labelExpr: "groups[datum.value]",
      labelColor: INK,
      labelFontSize: 12,
      labelFontWeight: { condition: { test: "datum.value === 0", value: 600 }, value: "normal" },
    },
  };
  const x = {
    field: "cost",
    type: "quantitative",
    title: "nats per token above the dense model",
    scale: { domain: [least, most > least ? most : least + 1], nice: false },
    axis: TOP_AXIS,
  };
  const color = {
    field: "place",
    type: "nominal",
    scale: { domain: places, range: rows.map(({ id }, place) => methodColour(id, place)) },
    legend: { columns: legendColumns(labels), labelExpr: "labels[datum.value]" },
  };
  const number = {
    type: "text",
    fontSize: 10,
    align: { expr: "datum.cost < 0 ? 'right' : 'left'" },
    dx: { expr: "datum.cost < 0 ? -5 : 5" },
    fontWeight: { expr: "datum.isOurs ? 600 : 'normal'" },
    color: { expr: `datum.isOurs ? '${INK}' : '${FAINT_INK}'` },
  };
  return draw(
    { title: `Loss of ${base.name} on each domain`, description },
    {
      // Names are values, not parts of expressions.
      params: [
        { name: "labels", value: labels },
        { name: "groups", value: groups.map(({ name, of }) => [name, `dense ${decimals(of(dense) ?? 0)}`]) },
      ],
      data: { values },
      width: BARS_WIDTH,
      height: { step: isFew ? 13 : 11 },
      encoding: { y, yOffset: { field: "place", type: "nominal", scale: { domain: places } }, x },
      layer: [
        { mark: { type: "bar", stroke: GROUND }, encoding: { color } },
        { mark: number, encoding: { text: { field: "text" } } },
      ],
    },
  );
}
