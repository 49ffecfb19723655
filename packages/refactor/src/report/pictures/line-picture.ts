// Curves over a common axis, in panels that share their legend.

import { scaleLinear, scaleLog } from "d3-scale";
import { line } from "d3-shape";
import { FAINT_INK, GROUND, LINE } from "./colours.ts";
import { label, MARGIN, picture, textWidth, TOP, type PictureText } from "./picture.ts";
import { element, together, type Attributes, type Svg } from "./svg.ts";

/** One line of a panel. */
export interface Curve {
  /** Curves of one name have one entry in the legend. */
  readonly name: string;
  readonly colour: string;
  /** Drawn dashed, without points: what could be, rather than what is. */
  readonly isBound?: boolean | undefined;
  /** By x, ascending. */
  readonly points: readonly (readonly [x: number, y: number])[];
}

/** Curves over one pair of axes. */
export interface LinePanel {
  /** What is measured, and its unit. */
  readonly title: string;
  readonly curves: readonly Curve[];
  /** Largest value of the axis, which begins at 0; panels that are to be compared have the same. @default the curves' */
  readonly most?: number | undefined;
}

/** What `linePicture` draws: panels in rows, with one title for their x axes. */
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
/** Of a panel: its title above, numbers and their title below. */
const [PANEL_HEAD, PANEL_FOOT] = [30, 54];
const ROW_HEAD = 30;
const NUMBERS = { "font-size": 11, fill: FAINT_INK } as const;

/** An SVG document. At least one panel, and a point in each. */
export function linePicture({ rows, xTitle, isLogarithmic, ...text }: LinePicture): string {
  const curves = rows.flatMap(({ panels }) => panels.flatMap((panel) => panel.curves));
  const xs = [...new Set(curves.flatMap(({ points }) => points.map(([x]) => x)))].toSorted((a, b) => a - b);
  const key = lineKey(curves);
  let y = TOP - 4 + key.height;
  const drawn: Svg[] = [key.svg];
  for (const { title, panels } of rows) {
    if (title !== undefined) {
      drawn.push(label(title, MARGIN, y + 18, { "font-size": 13, "font-weight": 600 }, WIDTH - 2 * MARGIN));
      y += ROW_HEAD;
    }
    const room = (WIDTH - 2 * MARGIN - PANEL_GAP * (panels.length - 1)) / panels.length;
    const top = y + PANEL_HEAD;
    drawn.push(
      ...panels.map((panel, index) => {
        const left = MARGIN + index * (room + PANEL_GAP) + NUMBERS_WIDTH;
        return drawPanel(
          panel,
          xs,
          { xTitle, isLogarithmic },
          {
            left,
            right: left + room - NUMBERS_WIDTH,
            top,
            bottom: top + PLOT_HEIGHT,
          },
        );
      }),
    );
    y = top + PLOT_HEIGHT + PANEL_FOOT;
  }
  return picture(text, WIDTH, y + MARGIN / 2, ...drawn);
}

interface Box {
  readonly left: number;
  readonly right: number;
  readonly top: number;
  readonly bottom: number;
}

type Axes = Pick<LinePicture, "xTitle" | "isLogarithmic">;

function drawPanel(
  { title, curves, most }: LinePanel,
  xs: readonly number[],
  { xTitle, isLogarithmic }: Axes,
  box: Box,
): Svg {
  const { left, right, top, bottom } = box;
  const [first = 0, last = 0] = [xs[0], xs.at(-1)];
  const x = (isLogarithmic ? scaleLog() : scaleLinear())
    .domain(first === last ? (isLogarithmic ? [first / 2, last * 2] : [first - 1, last + 1]) : [first, last])
    .range([left + 12, right - 12]);
  const ys = curves.flatMap(({ points }) => points.map(([, value]) => value));
  const largest = most ?? Math.max(...ys);
  const isLogY = isLogarithmic === "both";
  const y = (
    isLogY ? scaleLog().domain([Math.min(...ys), largest]) : scaleLinear().domain([0, largest > 0 ? largest : 1])
  )
    .nice(5)
    .range([bottom, top]);
  // Of a logarithmic axis some numbers are left out, where they would touch.
  const format = isLogY ? y.tickFormat(5, "~g") : y.tickFormat(5);
  return together(
    label(title, left - NUMBERS_WIDTH, top - 14, { "font-size": 12, fill: FAINT_INK }, right - left + NUMBERS_WIDTH),
    ...y
      .ticks(5)
      .map((tick) =>
        together(
          element("line", { x1: left, x2: right, y1: y(tick), y2: y(tick), stroke: tick === 0 ? FAINT_INK : LINE }),
          label(format(tick), left - 8, y(tick) + 4, { ...NUMBERS, "text-anchor": "end" }),
        ),
      ),
    ...ticksThatFit(xs, x).map((tick) =>
      label(short(tick), x(tick), bottom + 17, { ...NUMBERS, "text-anchor": "middle" }),
    ),
    label(xTitle, (left + right) / 2, bottom + 36, { "font-size": 12, fill: FAINT_INK, "text-anchor": "middle" }),
    // Bounds lie above everything that they bound, so they are drawn first, and where lines meet the others show.
    ...curves
      .toSorted((a, b) => Number(b.isBound ?? false) - Number(a.isBound ?? false))
      .map((curve) => drawCurve(curve, x, y)),
  );
}

/** Numbers that are at measured places, without those that would touch the one before. */
function ticksThatFit(xs: readonly number[], x: (value: number) => number): readonly number[] {
  let end = -Infinity;
  return xs.filter((tick) => {
    const half = textWidth(short(tick), 11) / 2 + 4;
    if (x(tick) - half < end) return false;
    end = x(tick) + half;
    return true;
  });
}

function drawCurve(
  { colour, isBound, points }: Curve,
  x: (value: number) => number,
  y: (value: number) => number,
): Svg {
  const path = line<readonly [number, number]>(
    ([at]) => x(at),
    ([, value]) => y(value),
  ).digits(2);
  return together(
    element("path", { d: path([...points]) ?? "", fill: "none", ...stroke(colour, isBound) }),
    ...(isBound ? [] : points.map(([at, value]) => dot(x(at), y(value), colour))),
  );
}

function stroke(colour: string, isBound: boolean | undefined): Attributes {
  return { stroke: colour, "stroke-width": isBound ? 1.5 : 2, "stroke-dasharray": isBound ? "5 4" : undefined };
}

function dot(cx: number, cy: number, colour: string): Svg {
  return element("circle", { cx, cy, r: 3.5, fill: colour, stroke: GROUND });
}

const [SAMPLE, ENTRY_GAP, KEY_LINE] = [26, 20, 20];

/** Names beside a piece of their lines. */
function lineKey(curves: readonly Curve[]): { readonly svg: Svg; readonly height: number } {
  const entries = [...new Map(curves.map((curve) => [curve.name, curve])).values()];
  let left = MARGIN;
  let middle = TOP;
  const parts = entries.map(({ name, colour, isBound }) => {
    const room = SAMPLE + 6 + textWidth(name, 12);
    if (left > MARGIN && left + room > WIDTH - MARGIN) {
      left = MARGIN;
      middle += KEY_LINE;
    }
    const x = left;
    left += room + ENTRY_GAP;
    return together(
      element("line", { x1: x, x2: x + SAMPLE, y1: middle, y2: middle, ...stroke(colour, isBound) }),
      ...(isBound ? [] : [dot(x + SAMPLE / 2, middle, colour)]),
      label(name, x + SAMPLE + 6, middle + 4, { "font-size": 12 }, WIDTH - MARGIN - x - SAMPLE - 6),
    );
  });
  return { svg: together(...parts), height: middle - TOP + KEY_LINE };
}

function short(value: number): string {
  if (value >= 1e7) return `${Number((value / 1e6).toPrecision(3)).toLocaleString("en-US")}M`;
  return `${Math.round(value * 100) / 100}`;
}
