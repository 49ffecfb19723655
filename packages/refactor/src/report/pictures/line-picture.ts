// Curves over a common axis, in panels that share their legend.

import { scaleLinear, scaleLog } from "d3-scale";
import { area, line } from "d3-shape";
import {
  AXIS_TITLE,
  dot,
  element,
  gridLines,
  label,
  legend,
  MARGIN,
  NUMBERS,
  picture,
  stroke,
  textWidth,
  together,
  TOP,
  type Box,
  type NumberScale,
  type PictureText,
  type Svg,
} from "./drawing.ts";

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

const WIDTH = 860;
const PLOT_HEIGHT = 240;
const [NUMBERS_WIDTH, PANEL_GAP] = [46, 28];
// Space of a panel for its title above, and for numbers and their title below.
const [PANEL_HEAD, PANEL_FOOT] = [30, 54];
const ROW_HEAD = 30;

/** Draws an SVG document. There is at least one panel, and a point in each. */
export function linePicture({ rows, xTitle, isLogarithmic, ...text }: LinePicture): string {
  const curves = rows.flatMap(({ panels }) => panels.flatMap((panel) => panel.curves));
  const xs = [...new Set(curves.flatMap(({ points }) => points.map(([x]) => x)))].toSorted((a, b) => a - b);
  const named = [...new Map(curves.map((curve) => [curve.name, curve])).values()];
  const entries = named.map((curve) => ({ name: curve.name, colour: curve.colour, line: lineOf(curve) }));
  const key = legend(entries, WIDTH);
  let y = TOP - 4 + key.height;
  const drawn: Svg[] = [key.svg];
  for (const { title, panels } of rows) {
    if (title !== undefined) {
      drawn.push(label(title, [MARGIN, y + 18], { "font-size": 13, "font-weight": 600 }, WIDTH - 2 * MARGIN));
      y += ROW_HEAD;
    }
    const room = (WIDTH - 2 * MARGIN - PANEL_GAP * (panels.length - 1)) / panels.length;
    const [top, bottom] = [y + PANEL_HEAD, y + PANEL_HEAD + PLOT_HEIGHT];
    for (const [index, panel] of panels.entries()) {
      const left = MARGIN + index * (room + PANEL_GAP) + NUMBERS_WIDTH;
      const box = { left, right: left + room - NUMBERS_WIDTH, top, bottom };
      drawn.push(drawPanel(panel, xs, { xTitle, isLogarithmic }, box));
    }
    y = bottom + PANEL_FOOT;
  }
  return picture(text, WIDTH, y + MARGIN / 2, ...drawn);
}

function lineOf({ isBound }: Curve): "solid" | "dashed" {
  return isBound ? "dashed" : "solid";
}

function drawPanel(
  { title, curves, most }: LinePanel,
  xs: readonly number[],
  { xTitle, isLogarithmic }: Pick<LinePicture, "xTitle" | "isLogarithmic">,
  box: Box,
): Svg {
  const { left, right, top, bottom } = box;
  const [first = 0, last = 0] = [xs[0], xs.at(-1)];
  const around = isLogarithmic ? [first / 2, last * 2] : [first - 1, last + 1];
  const x = (isLogarithmic ? scaleLog() : scaleLinear())
    .domain(first === last ? around : [first, last])
    .range([left + 12, right - 12]);
  const ys = curves.flatMap(({ points, band = [] }) => [...points.map(([, at]) => at), ...band.map(([, , at]) => at)]);
  const largest = most ?? Math.max(...ys);
  const isLogY = isLogarithmic === "both";
  const domain = isLogY ? [Math.min(...ys), largest] : [0, largest > 0 ? largest : 1];
  const y = (isLogY ? scaleLog() : scaleLinear()).domain(domain).nice(5).range([bottom, top]);
  return together(
    label(title, [left - NUMBERS_WIDTH, top - 14], AXIS_TITLE, right - left + NUMBERS_WIDTH),
    // On a logarithmic axis some numbers are left out where they would touch.
    gridLines(y, box, "left", isLogY ? y.tickFormat(5, "~g") : undefined),
    ...ticksThatFit(xs, x).map((tick) =>
      label(short(tick), [x(tick), bottom + 17], { ...NUMBERS, "text-anchor": "middle" }),
    ),
    label(xTitle, [(left + right) / 2, bottom + 36], { ...AXIS_TITLE, "text-anchor": "middle" }),
    // Bounds lie above what they bound, so they are drawn first: where lines meet, the others show.
    ...curves
      .toSorted((a, b) => Number(b.isBound ?? false) - Number(a.isBound ?? false))
      .map((curve) => drawCurve(curve, x, y)),
  );
}

/** Keeps numbers at measured places that do not touch the one before. */
function ticksThatFit(xs: readonly number[], x: NumberScale): readonly number[] {
  let end = -Infinity;
  return xs.filter((tick) => {
    const half = textWidth(short(tick), 11) / 2 + 4;
    if (x(tick) - half < end) return false;
    end = x(tick) + half;
    return true;
  });
}

function drawCurve(curve: Curve, x: NumberScale, y: NumberScale): Svg {
  const { colour, isBound, points, band } = curve;
  const pathOf = line<readonly [number, number]>(
    ([at]) => x(at),
    ([, value]) => y(value),
  ).digits(2);
  const areaOf = area<readonly [number, number, number]>(
    ([at]) => x(at),
    ([, least]) => y(least),
    ([, , most]) => y(most),
  ).digits(2);
  return together(
    ...(band ? [element("path", { d: areaOf([...band]) ?? "", fill: colour, "fill-opacity": 0.15 })] : []),
    element("path", { d: pathOf([...points]) ?? "", fill: "none", ...stroke(colour, lineOf(curve)) }),
    ...(isBound ? [] : points.map(([at, value]) => dot(x(at), y(value), colour))),
  );
}

function short(value: number): string {
  if (value >= 1e7) return `${Number((value / 1e6).toPrecision(3)).toLocaleString("en-US")}M`;
  return `${Math.round(value * 100) / 100}`;
}
