// How well each layer's output is met, by method: lines over layers, with a band from the best to the worst expert.

import { scaleLinear } from "d3-scale";
import { area, line } from "d3-shape";
import { LOSS_LABELS } from "../loss-row.ts";
import type { Report } from "../report.ts";
import { bottomAxis, leftAxis } from "./axis.ts";
import { GROUND, methodColour } from "./colours.ts";
import { legend } from "./legend.ts";
import { MARGIN, picture, TOP } from "./picture.ts";
import { element, together, type Svg } from "./svg.ts";

const WIDTH = 720;
const PLOT_HEIGHT = 280;
const LEFT = MARGIN + 44;

interface Point {
  readonly layer: number;
  readonly mean: number;
  readonly least: number;
  readonly most: number;
}

/** `undefined` where no errors were measured. */
export function layerErrorsPicture({ layers }: Pick<Report, "layers">): string | undefined {
  const methods = [...new Set(layers.flatMap((layer) => Object.keys(layer.relative_errors)))];
  const series = methods.map((id, place) => ({ id, colour: methodColour(id, place), points: pointsOf(layers, id) }));
  const points = series.flatMap((one) => one.points);
  if (points.length === 0) return undefined;
  const key = legend(
    series.map(({ id, colour }) => ({ name: nameOf(id), fill: colour })),
    MARGIN,
    TOP - 6,
    WIDTH - 2 * MARGIN,
  );
  const top = TOP + key.height + 10;
  const bottom = top + PLOT_HEIGHT;
  const most = Math.max(...points.map((point) => point.most));
  const x = scaleLinear()
    .domain(layers.length > 1 ? [0, layers.length - 1] : [-0.5, 0.5])
    .range([LEFT, WIDTH - MARGIN - 8]);
  const y = scaleLinear()
    .domain([0, most > 0 ? most : 1])
    .nice()
    .range([bottom, top]);
  const text = {
    title: "Error of each layer",
    description: "Squared error relative to the target's square: mean of experts, band from best to worst.",
  };
  const drawn = series.map(({ colour, points: own }) => drawSeries(own, colour, x, y));
  const axes = [leftAxis(y, LEFT, WIDTH - MARGIN), bottomAxis(x, bottom, "layer")];
  return picture(text, WIDTH, bottom + 36 + MARGIN, key.svg, ...axes, ...drawn);
}

function pointsOf(layers: Report["layers"], id: string): readonly Point[] {
  return layers.flatMap(({ relative_errors: errors }, layer) => {
    const own = errors[id];
    if (own === undefined || own.length === 0) return [];
    const mean = own.reduce((sum, error) => sum + error, 0) / own.length;
    return [{ layer, mean, least: Math.min(...own), most: Math.max(...own) }];
  });
}

function nameOf(id: string): string {
  if (id === "ours") return "Ours";
  return id in LOSS_LABELS ? LOSS_LABELS[id as keyof typeof LOSS_LABELS] : id;
}

function drawSeries(
  points: readonly Point[],
  colour: string,
  x: (value: number) => number,
  y: (value: number) => number,
): Svg {
  const band = area<Point>(
    (point) => x(point.layer),
    (point) => y(point.least),
    (point) => y(point.most),
  ).digits(2);
  const mean = line<Point>(
    (point) => x(point.layer),
    (point) => y(point.mean),
  ).digits(2);
  return together(
    element("path", { d: band([...points]) ?? "", fill: colour, "fill-opacity": 0.15 }),
    element("path", { d: mean([...points]) ?? "", fill: "none", stroke: colour, "stroke-width": 2 }),
    ...points.map((point) =>
      element("circle", { cx: x(point.layer), cy: y(point.mean), r: 3, fill: colour, stroke: GROUND }),
    ),
  );
}
