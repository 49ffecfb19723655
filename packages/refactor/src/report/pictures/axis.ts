// Axes: straight lines with numbers, and what they measure.

import type { ScaleLinear } from "d3-scale";
import { FAINT_INK, LINE } from "./colours.ts";
import { label } from "./picture.ts";
import { element, together, type Svg } from "./svg.ts";

type Scale = ScaleLinear<number, number>;

const NUMBERS = { "font-size": 11, fill: FAINT_INK } as const;

/** Vertical grid lines with numbers above them; the one at zero is darker. */
export function topAxis(scale: Scale, top: number, bottom: number, title: string): Svg {
  const [left = 0] = scale.range();
  const format = scale.tickFormat(6);
  return together(
    label(title, left, top - 24, { "font-size": 12, fill: FAINT_INK }),
    ...scale.ticks(6).map((tick) => {
      const x = scale(tick);
      return together(
        element("line", { x1: x, x2: x, y1: top, y2: bottom, stroke: tick === 0 ? FAINT_INK : LINE }),
        label(format(tick), x, top - 6, { ...NUMBERS, "text-anchor": "middle" }),
      );
    }),
  );
}

/** Horizontal grid lines with numbers on their left. */
export function leftAxis(scale: Scale, left: number, right: number): Svg {
  const format = scale.tickFormat(5);
  return together(
    ...scale.ticks(5).map((tick) => {
      const y = scale(tick);
      return together(
        element("line", { x1: left, x2: right, y1: y, y2: y, stroke: tick === 0 ? FAINT_INK : LINE }),
        label(format(tick), left - 8, y + 4, { ...NUMBERS, "text-anchor": "end" }),
      );
    }),
  );
}

/** Numbers below; whole ones only, as layers have. */
export function bottomAxis(scale: Scale, bottom: number, title: string): Svg {
  const [left = 0, right = 0] = scale.range();
  const ticks = scale.ticks(12).filter((tick) => Number.isInteger(tick));
  return together(
    ...ticks.map((tick) => label(`${tick}`, scale(tick), bottom + 16, { ...NUMBERS, "text-anchor": "middle" })),
    label(title, (left + right) / 2, bottom + 36, { "font-size": 12, fill: FAINT_INK, "text-anchor": "middle" }),
  );
}
