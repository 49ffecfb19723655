// Draws specifications with Vega-Lite in one look, and curves over a common axis.

import stringWidth from "string-width";
import type { Config, TopLevelSpec } from "vega-lite";

// Colours of Okabe and Ito, which people with colour blindness can tell apart, on a white ground.
export const GROUND = "#ffffff";
export const INK = "#1b1f24";
export const FAINT_INK = "#59636e";
const LINE = "#d9dee3";
const METHODS: Readonly<Record<string, string>> = {
  dense: "#000000",
  paper: "#d55e00",
  random: "#999999",
  static: "#e69f00",
  oracle_domain: "#56b4e9",
  oracle_token: "#009e73",
  free: "#cc79a7",
  ours: "#0072b2",
};
const OTHERS = ["#7f5f00", "#4b3f8f", "#5f6f00"];

/** Chooses a method's colour; `place` tells methods apart that have no colour of their own. */
export function methodColour(id: string, place: number): string {
  return METHODS[id] ?? OTHERS[place % OTHERS.length] ?? INK;
}

/**
 * Replaces what XML cannot hold, such as control characters and halves of surrogate pairs, and marks that reorder text.
 */
export function printable(text: string): string {
  return text.replace(/(?!\u200D)[\p{Cc}\p{Cf}\p{Cs}\uFFFE\uFFFF]/gu, "\uFFFD");
}

/** Estimates the width of a line of text, rather too wide than too narrow, since the reader's font is unknown. */
export function textWidth(text: string, fontSize: number): number {
  return stringWidth(printable(text)) * fontSize * 0.58;
}

/** Width of the content of wide pictures. */
const WIDTH = 812;
const MARGIN = 24;
const FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif";

const CONFIG: Config = {
  aria: false,
  font: "inherit",
  title: { anchor: "start", color: INK, fontSize: 17, fontWeight: 600, offset: 18 },
  view: { stroke: null },
  axis: {
    domain: false,
    ticks: false,
    gridColor: { condition: { test: "datum.value === 0", value: FAINT_INK }, value: LINE },
    labelColor: FAINT_INK,
    labelFontSize: 11,
    labelLimit: 300,
    labelPadding: 8,
    titleColor: FAINT_INK,
    titleFontSize: 12,
    titleFontWeight: "normal",
  },
  text: { color: INK },
  legend: {
    orient: "top",
    title: null,
    labelColor: INK,
    labelFontSize: 12,
    labelLimit: 0,
    symbolType: "square",
    symbolSize: 144,
    rowPadding: 6,
    offset: 14,
  },
};

/** Names beside their colours, in columns that are as wide as the widest name. */
export function legendColumns(names: readonly string[], width: number = WIDTH): number {
  const widest = Math.max(0, ...names.map((name) => textWidth(name, 12))) + 40;
  return Math.max(1, Math.min(names.length, Math.floor(width / widest)));
}

export interface PictureText {
  readonly title: string;
  /** Text below the title, also for readers who cannot see the picture. */
  readonly description: string;
}

/**
 * Draws an SVG document, the same for the same specification. Vega is loaded at the first picture.
 *
 * @throws {RangeError} when a number is not finite
 */
export async function draw({ title, description }: PictureText, spec: object): Promise<string> {
  const [vega, { compile }] = await Promise.all([import("vega"), import("vega-lite")]);
  // Measured by a canvas where one is installed, a text would not have the same width everywhere.
  const { textMetrics } = vega as unknown as { textMetrics: { width: (item: TextItem, text?: unknown) => number } };
  textMetrics.width = (item, text = item.text) =>
    textWidth(String(text), item.fontSize ?? 11) * (Number(item.fontWeight) >= 600 ? 1.15 : 1);
  const heading = {
    text: title,
    subtitle: description,
    subtitleColor: FAINT_INK,
    subtitleFontSize: 12,
    subtitlePadding: 8,
  };
  const whole = { ...spec, title: heading, background: null, padding: MARGIN, config: CONFIG };
  const { spec: compiled } = compile(JSON.parse(JSON.stringify(whole, checked)) as TopLevelSpec);
  const view = new vega.View(vega.parse(compiled), { renderer: "none", logLevel: vega.Error });
  const svg = await view.toSVG();
  view.finalize();
  const [root = "", ...sizes] = /^<svg[^>]* width="([\d.]+)" height="([\d.]+)"[^>]*>/.exec(svg) ?? [];
  const [width = 0, height = 0] = sizes.map((size) => Math.ceil(Number(size)));
  const head = [
    `<svg xmlns="http://www.w3.org/2000/svg" role="img" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" font-family="${FONT}">`,
    `<title>${escaped(title)}</title><desc>${escaped(description)}</desc>`,
    `<rect x="0.5" y="0.5" width="${width - 1}" height="${height - 1}" rx="8" fill="${GROUND}" stroke="${LINE}"/>`,
  ];
  return `${head.join("\n")}${svg.slice(root.length).replace(/<[^>]*>/g, withoutChance)}\n`;
}

/** Shortens numbers, whose last digits may differ between machines, and numbers that count a process's pictures. */
function withoutChance(tag: string): string {
  return tag
    .replace(/gradient_\d+/g, "gradient")
    .replace(/-?\d+\.\d{3,}(?:e-\d+)?/g, (number) => `${Math.round(Number(number) * 100) / 100}`);
}

interface TextItem {
  readonly text?: unknown;
  readonly fontSize?: number;
  readonly fontWeight?: number | string;
}

function checked(_: string, value: unknown): unknown {
  if (typeof value === "number" && !Number.isFinite(value)) {
    throw new RangeError(`Expected a picture's number to be finite, got \`${value}\``);
  }
  return typeof value === "string" ? printable(value) : value;
}

function escaped(text: string): string {
  return printable(text).replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);
}

// Curves over a common axis, in panels that share their legend.

/** One line of a panel. */
export interface Curve {
  /** Curves of one name have one entry in the legend. */
  readonly name: string;
  readonly colour: string;
  /** Draws the curve dashed and without points: a bound, not a measurement. */
  readonly isBound?: boolean | undefined;
  /** Points in ascending order of x. */
  readonly points: readonly (readonly [x: number, y: number])[];
  /** Area around the curve, in ascending order of x. */
  readonly band?: readonly (readonly [x: number, least: number, most: number])[] | undefined;
}

/** Curves over one pair of axes. */
export interface LinePanel {
  /** Quantity and unit of the y axis. */
  readonly title: string;
  readonly curves: readonly Curve[];
  /** Largest value of the axis, which begins at 0. Panels to be compared have the same. @default the curves' largest */
  readonly most?: number | undefined;
}

/** Content of `linePicture`: panels in rows, with one title for their x axes. */
export interface LinePicture extends PictureText {
  readonly xTitle: string;
  /** Axes on which equal steps are equal factors; all their values are positive. @default none */
  readonly isLogarithmic?: "x" | "both" | undefined;
  /** Panels of a row stand side by side, rows below each other. */
  readonly rows: readonly { readonly title?: string | undefined; readonly panels: readonly LinePanel[] }[];
}

const NUMBERS_WIDTH = 46;
const PANEL_GAP = 28;
const PANEL_TITLE = {
  anchor: "start",
  frame: "bounds",
  fontSize: 12,
  fontWeight: "normal",
  color: FAINT_INK,
  offset: 8,
};

/** Draws an SVG document. There is at least one panel, and a point in each. */
export function linePicture({ rows, xTitle, isLogarithmic, ...text }: LinePicture): Promise<string> {
  const curves = rows.flatMap(({ panels }) => panels.flatMap((panel) => panel.curves));
  const named = [...new Map(curves.map((curve) => [curve.name, curve])).values()];
  const names = named.map(({ name }) => name);
  const xs = [...new Set(curves.flatMap(({ points }) => points.map(([x]) => x)))].toSorted((a, b) => a - b);
  const [first = 0, last = 0] = [xs[0], xs.at(-1)];
  const around = isLogarithmic ? [first / 2, last * 2] : [first - 1, last + 1];
  const x = {
    field: "x",
    type: "quantitative",
    title: xTitle,
    scale: {
      type: isLogarithmic ? "log" : "linear",
      domain: first === last ? around : [first, last],
      nice: false,
      ...(isLogarithmic ? {} : { zero: false }),
      padding: 12,
    },
    axis: { grid: false, values: xs, labelOverlap: "greedy", labelExpr: X_LABEL, titlePadding: 8 },
  };
  const legend = { columns: legendColumns(names), symbolType: "stroke", symbolStrokeWidth: 2, symbolSize: 400 };
  const series = {
    stroke: { field: "name", scale: { domain: names, range: named.map(({ colour }) => colour) }, legend },
    strokeDash: {
      field: "name",
      scale: { domain: names, range: named.map(({ isBound }) => (isBound ? [5, 4] : [1, 0])) },
      legend,
    },
  };
  return draw(text, {
    vconcat: rows.map(({ title, panels }) => ({
      ...(title === undefined ? {} : { title: { text: title, fontSize: 13 } }),
      spacing: PANEL_GAP,
      hconcat: panels.map((panel) => ({
        title: { ...PANEL_TITLE, text: panel.title },
        width: (WIDTH - PANEL_GAP * (panels.length - 1)) / panels.length - NUMBERS_WIDTH,
        height: 240,
        layer: layersOf(panel, x, series, isLogarithmic === "both"),
      })),
    })),
    resolve: { legend: { stroke: "shared", strokeDash: "shared" } },
  });
}

const X_LABEL = "datum.value >= 1e7 ? format(datum.value / 1e6, ',.3r') + 'M' : format(datum.value, '.2~f')";
/** The curve's own colour, which needs no legend. */
const OWN_COLOUR = { field: "colour", type: "nominal", scale: null };

function layersOf({ curves, most }: LinePanel, x: object, series: object, isLogarithmic: boolean): readonly object[] {
  // Bounds lie above what they bound, so they are drawn first: where lines meet, the others show.
  const drawn = curves.toSorted((a, b) => Number(b.isBound ?? false) - Number(a.isBound ?? false));
  const points = drawn.flatMap((curve) => curve.points.map(([at, value]) => ({ ...partOf(curve), x: at, y: value })));
  const bands = drawn.flatMap((curve) =>
    (curve.band ?? []).map(([at, least, largest]) => ({ ...partOf(curve), x: at, y: least, largest })),
  );
  const ys = [...points.map((point) => point.y), ...bands.map(({ largest }) => largest)];
  const largest = most ?? Math.max(...ys);
  const y = {
    field: "y",
    type: "quantitative",
    scale: isLogarithmic
      ? { type: "log", domain: [Math.min(...ys), largest], nice: true }
      : { domain: [0, largest > 0 ? largest : 1], nice: 5 },
    axis: { title: null, tickCount: 5, ...(isLogarithmic ? { format: "~g", labelOverlap: "greedy" } : {}) },
  };
  const area = { x, y, y2: { field: "largest" }, fill: OWN_COLOUR };
  return [
    ...(bands.length > 0 ? [{ data: { values: bands }, mark: { type: "area", opacity: 0.15 }, encoding: area }] : []),
    { data: { values: points }, mark: { type: "line", strokeWidth: 2 }, encoding: { x, y, ...series } },
    {
      data: { values: points.filter(({ isBound }) => !isBound) },
      mark: { type: "point", filled: true, opacity: 1, size: 40, stroke: GROUND, strokeWidth: 1 },
      encoding: { x, y, fill: OWN_COLOUR },
    },
  ];
}

function partOf({ name, colour, isBound = false }: Curve): Pick<Curve, "name" | "colour"> & { isBound: boolean } {
  return { name, colour, isBound };
}
