import { label, textWidth } from "./picture.ts";
import { element, together, type Svg } from "./svg.ts";

export interface LegendEntry {
  readonly name: string;
  readonly fill: string;
  /** A line below the colour. */
  readonly stripe?: string | undefined;
}

const FONT_SIZE = 12;
const LINE_HEIGHT = 20;
const SWATCH = 12;
const GAP = 18;

/** Names beside their colours, in as many lines as are needed. */
export function legend(
  entries: readonly LegendEntry[],
  x: number,
  y: number,
  width: number,
): { readonly svg: Svg; readonly height: number } {
  let left = 0;
  let line = 0;
  const parts = entries.map(({ name, fill, stripe }) => {
    const room = Math.min(width, SWATCH + 6 + textWidth(name, FONT_SIZE));
    if (left > 0 && left + room > width) {
      left = 0;
      line++;
    }
    const at = { x: x + left, y: y + line * LINE_HEIGHT };
    left += room + GAP;
    return together(
      element("rect", { ...at, width: SWATCH, height: SWATCH, rx: 2, fill }),
      ...(stripe ? [element("rect", { x: at.x, y: at.y + SWATCH - 3, width: SWATCH, height: 3, fill: stripe })] : []),
      label(name, at.x + SWATCH + 6, at.y + 10, { "font-size": FONT_SIZE }, width - SWATCH - 6),
    );
  });
  return { svg: together(...parts), height: (line + 1) * LINE_HEIGHT };
}
