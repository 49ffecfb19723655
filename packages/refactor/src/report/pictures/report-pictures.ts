// The pictures of a report.

import { LOSS_LABELS, type Report, type LossRow } from "../report.ts";
import { decimals, signed } from "../verdict.ts";
import {
  methodColour,
  linePicture,
  type Curve,
  draw,
  FAINT_INK,
  GROUND,
  INK,
  legendColumns,
  type PictureText,
  textWidth,
} from "./line-picture.ts";
import { routesPicture } from "./routes-picture.ts";

export interface ReportPicture {
  /** Path within the model folder. */
  readonly file: string;
  /** Content in a few words. */
  readonly alt: string;
  /** An SVG document; the same for the same report. */
  readonly svg: string;
}

/** Draws everything that a report has figures for. */
export async function reportPictures(report: Report): Promise<readonly ReportPicture[]> {
  const pictures = [
    { file: "losses", alt: "Loss above the dense model, by domain and method", svg: lossesPicture(report) },
    { file: "expert-losses", alt: "Loss of each expert on each domain", svg: expertLossesPicture(report) },
    { file: "routes", alt: "Tokens of sample texts, coloured by expert", svg: routesPicture(report) },
    { file: "overlap", alt: "Share of neurons that experts have in common", svg: overlapPicture(report) },
    { file: "layer-errors", alt: "Relative error of each layer, by method", svg: layerErrorsPicture(report) },
  ];
  const drawn = await Promise.all(
    pictures.map(async ({ file, alt, svg }) => ({ file: `pictures/${file}.svg`, alt, svg: await svg })),
  );
  return drawn.filter((one): one is ReportPicture => one.svg !== undefined);
}

/** Draws the error of each layer by method, with a band from the best to the worst expert. */
function layerErrorsPicture({ layers }: Pick<Report, "layers">): Promise<string> | undefined {
  const methods = [...new Set(layers.flatMap((layer) => Object.keys(layer.relative_errors)))];
  const curves = methods.map((id, place): Curve => {
    const measured = layers.flatMap(({ relative_errors: errors }, layer) => {
      const own = errors[id] ?? [];
      return own.length === 0 ? [] : [{ layer, own }];
    });
    return {
      name: id === "ours" ? "Ours" : nameOf(id),
      colour: methodColour(id, place),
      points: measured.map(({ layer, own }) => [layer, own.reduce((sum, error) => sum + error, 0) / own.length]),
      band: measured.map(({ layer, own }) => [layer, Math.min(...own), Math.max(...own)]),
    };
  });
  if (curves.every(({ points }) => points.length === 0)) return undefined;
  return linePicture({
    title: "Error of each layer",
    description: "Mean of experts, and a band from the best to the worst expert: lower is better.",
    xTitle: "layer",
    rows: [{ panels: [{ title: "squared error relative to the square of the dense layer's output", curves }] }],
  });
}

function nameOf(id: string): string {
  return (LOSS_LABELS as Readonly<Record<string, string>>)[id] ?? id;
}

// Horizontal bars: parts that add up, and the costs of methods by domain.

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
interface LossesContent {
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

// Tables of numbers with colours behind them: losses of experts by domain, and the overlap of experts.

/** Draws the losses of all experts on all domains; `undefined` where they were not measured, or for a single expert. */
export function expertLossesPicture({ expert_losses: losses, settings, data }: Report): Promise<string> | undefined {
  if (losses === undefined || losses.length < 2) return undefined;
  const columns = data.map(({ name }) => name);
  const best = columns.map((_, domain) => Math.min(...losses.map((row) => row[domain] ?? Infinity)));
  const most = Math.max(...losses.flatMap((row) => row.map((loss, domain) => loss - (best[domain] ?? 0))));
  const cells = losses.map((row) =>
    row.map((loss, domain) => ({
      text: decimals(loss),
      amount: most > 0 ? (loss - (best[domain] ?? 0)) / most : 0,
      isMarked: loss === best[domain],
    })),
  );
  const text = {
    title: "Each expert on each domain",
    description: "Nats per token; framed: the domain's best expert.",
  };
  const map = { rows: settings.experts, columns, columnsAre: "domain of the text", cells };
  return heatMapPicture(text, {
    ...map,
    shades: ["#fff5eb", "#fdae6b", "#d94801"],
    range: ["as the best", `${decimals(most)} nats worse`],
  });
}

/** Draws the share of neurons that experts have in common; `undefined` for fewer than two experts. */
export function overlapPicture({ overlap, settings }: Report): Promise<string> | undefined {
  if (overlap === undefined || overlap.mean.length < 2) return undefined;
  const cells = overlap.mean.map((row) => row.map((share) => ({ text: decimals(share), amount: share })));
  const text = {
    title: "Neurons that experts have in common",
    description: "Share of an expert's neurons, mean over layers; neurons that all tokens use are not counted.",
  };
  const names = settings.experts;
  const map = { rows: names, columns: names, columnsAre: "expert", cells };
  return heatMapPicture(text, { ...map, shades: ["#f7fbff", "#6baed6", "#2171b5"], range: ["none", "all"] });
}

interface HeatMap {
  readonly rows: readonly string[];
  readonly columns: readonly string[];
  readonly columnsAre: string;
  /** `[row][column]`, with the strength of the colour from 0 to 1. */
  readonly cells: readonly (readonly {
    readonly text: string;
    readonly amount: number;
    readonly isMarked?: boolean;
  }[])[];
  /** Colours from little to much. */
  readonly shades: readonly string[];
  /** Meanings of the lightest and the darkest colour. */
  readonly range: readonly [string, string];
}

// At this luminance, black and white have the same contrast by the Web Content Accessibility Guidelines.
const INK_ON_SHADE = {
  condition: { test: "luminance(scale('color', datum.amount)) > 0.179", value: INK },
  value: GROUND,
};

const AXIS = { labelColor: INK, labelFontSize: 12, labelOverlap: false };

function heatMapPicture(
  text: PictureText,
  { rows, columns, columnsAre, cells, shades, range }: HeatMap,
): Promise<string> {
  const values = cells.flatMap((row, y) => row.map((cell, x) => ({ ...cell, x, y })));
  const cellWidth = columns.length <= 8 ? 64 : 48;
  const isTurned = columns.some((name) => textWidth(name, 12) > cellWidth - 6);
  const color = {
    field: "amount",
    type: "quantitative",
    scale: { range: shades, domain: [0, 1] },
    legend: {
      orient: "bottom",
      direction: "horizontal",
      gradientLength: 2 * Math.max(80, ...range.map((name) => textWidth(name, 12))),
      values: [0, 1],
      labelExpr: "range[datum.value]",
    },
  };
  const columnAxis = { title: columnsAre, orient: "top", titleAnchor: "start", labelAngle: isTurned ? -40 : 0 };
  const rowAxis = { title: "expert", titleAngle: 0, titleAlign: "right", titleX: -8, titleY: -8 };
  return draw(text, {
    // Names are values, not parts of expressions.
    params: Object.entries({ rows, columns, range }).map(([name, value]) => ({ name, value })),
    data: { values },
    width: { step: cellWidth },
    height: { step: 28 },
    encoding: {
      x: { field: "x", type: "ordinal", axis: { ...AXIS, ...columnAxis, labelExpr: "columns[datum.value]" } },
      y: { field: "y", type: "ordinal", axis: { ...AXIS, ...rowAxis, labelExpr: "rows[datum.value]" } },
    },
    layer: [
      { mark: { type: "rect", stroke: GROUND }, encoding: { color } },
      {
        transform: [{ filter: "datum.isMarked" }],
        mark: { type: "rect", filled: false, strokeWidth: 1.5, width: { band: 0.93 }, height: { band: 0.83 } },
        encoding: { stroke: INK_ON_SHADE },
      },
      {
        mark: { type: "text", fontSize: 11, fontWeight: { expr: "datum.isMarked ? 600 : 'normal'" } },
        encoding: { text: { field: "text" }, fill: INK_ON_SHADE },
      },
    ],
  });
}
