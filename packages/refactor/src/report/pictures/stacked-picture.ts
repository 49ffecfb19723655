// Bars of parts that add up, side by side along one axis.

import { scaleLinear } from "d3-scale";
import { decimals } from "../figures.ts";
import { topAxis } from "./axis.ts";
import { FAINT_INK } from "./colours.ts";
import { legend } from "./legend.ts";
import { label, MARGIN, picture, TOP, type PictureText } from "./picture.ts";
import { element, together, type Svg } from "./svg.ts";

/** One bar of a picture: its name, and how large each of its parts is. */
export interface StackedBar {
  readonly name: string;
  /** By part; parts that are absent or 0 are not drawn. */
  readonly values: Readonly<Record<string, number>>;
}

/** What `stackedPicture` draws. */
export interface StackedPicture extends PictureText {
  /** What is measured, and its unit. */
  readonly axisTitle: string;
  /** In the order in which bars have them, from the left. */
  readonly parts: readonly { readonly name: string; readonly colour: string }[];
  readonly bars: readonly StackedBar[];
}

const WIDTH = 860;
const BARS_LEFT = 260;
/** For the sums behind bars. */
const NUMBERS_WIDTH = 52;
const [BAR, LANE] = [20, 30];

/** An SVG document. Values are not below 0. */
export function stackedPicture({ axisTitle, parts, bars, ...text }: StackedPicture): string {
  const used = parts.filter(({ name }) => bars.some(({ values }) => (values[name] ?? 0) > 0));
  const names = used.map(({ name, colour }) => ({ name, fill: colour }));
  const key = legend(names, MARGIN, TOP - 6, WIDTH - 2 * MARGIN);
  const top = TOP + key.height + 44;
  const bottom = top + bars.length * LANE;
  const most = Math.max(0, ...bars.map((bar) => sumOf(bar, used)));
  const scale = scaleLinear<number, number>()
    .domain([0, most > 0 ? most : 1])
    .range([BARS_LEFT, WIDTH - MARGIN - NUMBERS_WIDTH]);
  const drawn = bars.map((bar, index) => drawBar(bar, used, top + index * LANE, scale));
  return picture(text, WIDTH, bottom + MARGIN, key.svg, topAxis(scale, top, bottom, axisTitle), ...drawn);
}

function drawBar(bar: StackedBar, parts: StackedPicture["parts"], y: number, scale: (value: number) => number): Svg {
  let sum = 0;
  const pieces = parts.flatMap(({ name, colour }) => {
    const value = bar.values[name] ?? 0;
    if (value <= 0) return [];
    const [x, end] = [scale(sum), scale((sum += value))];
    const title = element("title", {}, `${name}: ${decimals(value)}`);
    return [element("rect", { x, y: y + (LANE - BAR) / 2, width: end - x, height: BAR, fill: colour }, title)];
  });
  const middle = y + LANE / 2 + 4;
  return together(
    label(bar.name, MARGIN, middle, { "font-size": 13 }, BARS_LEFT - MARGIN - 12),
    ...pieces,
    label(decimals(sum), scale(sum) + 6, middle, { "font-size": 11, fill: FAINT_INK }),
  );
}

function sumOf({ values }: StackedBar, parts: StackedPicture["parts"]): number {
  return parts.reduce((sum, { name }) => sum + (values[name] ?? 0), 0);
}
