// Curves over a common axis, in panels that share their legend.

import { draw, FAINT_INK, GROUND, legendColumns, WIDTH, type PictureText } from "./drawing.ts";

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
