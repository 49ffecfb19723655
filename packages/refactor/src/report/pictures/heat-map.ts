// A table of numbers with colours behind them.

import { FAINT_INK, GROUND, INK, type Shades } from "./colours.ts";
import { label, textWidth } from "./picture.ts";
import { element, together, type Svg } from "./svg.ts";

export interface HeatMap {
  readonly rows: readonly string[];
  readonly columns: readonly string[];
  readonly rowsAre: string;
  readonly columnsAre: string;
  /** `[row][column]` */
  readonly cells: readonly (readonly HeatCell[])[];
  readonly shades: Shades;
}

interface HeatCell {
  readonly text: string;
  /** From 0 to 1. */
  readonly amount: number;
  readonly isMarked?: boolean | undefined;
}

const CELL_HEIGHT = 28;
const MAX_LABEL = 150;
const FONT_SIZE = 12;
/** By how much long labels of columns rise. */
const TURN = (40 * Math.PI) / 180;

/** Of the whole, with its labels. */
export interface HeatMapSize {
  readonly width: number;
  readonly height: number;
  readonly rowLabels: number;
  readonly columnLabels: number;
  readonly isTurned: boolean;
  readonly cellWidth: number;
}

export function heatMapSize({ rows, columns }: Pick<HeatMap, "rows" | "columns">): HeatMapSize {
  const rowLabels = Math.min(MAX_LABEL, Math.max(...rows.map((name) => textWidth(name, FONT_SIZE)), 60)) + 10;
  const lengths = columns.map((name) => Math.min(MAX_LABEL, textWidth(name, FONT_SIZE)));
  const longest = Math.max(...lengths, 0);
  const cellWidth = columns.length <= 8 ? 64 : 48;
  // Labels that do not fit over their column rise to the right, the last ones beyond the columns.
  const isTurned = longest > cellWidth - 6;
  const columnLabels = isTurned ? longest * Math.sin(TURN) + 18 : 24;
  const ends = lengths.map((length, column) => (column + 0.5) * cellWidth + (isTurned ? length * Math.cos(TURN) : 0));
  return {
    width: rowLabels + Math.max(columns.length * cellWidth, ...ends),
    height: 18 + columnLabels + rows.length * CELL_HEIGHT,
    rowLabels,
    columnLabels,
    isTurned,
    cellWidth,
  };
}

/** Drawn at `x` and `y`; as large as `heatMapSize` says. */
export function heatMap(map: HeatMap, x: number, y: number): Svg {
  const { rowLabels, columnLabels, cellWidth } = heatMapSize(map);
  const left = x + rowLabels;
  const top = y + 18 + columnLabels;
  const faint = { "font-size": 11, fill: FAINT_INK };
  return together(
    label(map.columnsAre, left, y + 8, faint),
    label(map.rowsAre, left - 10, top - 8, { ...faint, "text-anchor": "end" }, rowLabels),
    ...map.columns.map((name, column) => columnLabel(name, left + (column + 0.5) * cellWidth, top - 8, map)),
    ...map.rows.map((name, row) => {
      const at = { x: left - 10, y: top + (row + 0.5) * CELL_HEIGHT + 4 };
      return label(name, at.x, at.y, { "font-size": FONT_SIZE, "text-anchor": "end" }, MAX_LABEL);
    }),
    ...map.cells.flatMap((cells, row) =>
      cells.map((cell, column) => drawCell(cell, left + column * cellWidth, top + row * CELL_HEIGHT, cellWidth, map)),
    ),
  );
}

function columnLabel(name: string, x: number, y: number, map: HeatMap): Svg {
  if (!heatMapSize(map).isTurned) return label(name, x, y, { "font-size": FONT_SIZE, "text-anchor": "middle" });
  const turned = `rotate(${Math.round((-TURN * 180) / Math.PI)} ${x} ${y})`;
  return label(name, x, y, { "font-size": FONT_SIZE, transform: turned }, MAX_LABEL);
}

function drawCell({ text, amount, isMarked }: HeatCell, x: number, y: number, width: number, { shades }: HeatMap): Svg {
  const { fill, ink } = shades(Math.min(1, Math.max(0, amount)));
  const inner = { x: x + 2.5, y: y + 2.5, width: width - 5, height: CELL_HEIGHT - 5 };
  return together(
    element("rect", { x, y, width, height: CELL_HEIGHT, fill, stroke: GROUND }),
    ...(isMarked
      ? [element("rect", { ...inner, fill: "none", stroke: ink === GROUND ? GROUND : INK, "stroke-width": 1.5 })]
      : []),
    label(text, x + width / 2, y + CELL_HEIGHT / 2 + 4, {
      "font-size": 11,
      "text-anchor": "middle",
      fill: ink,
      ...(isMarked ? { "font-weight": 600 } : {}),
    }),
  );
}

/** What colours mean: from none to `most`. */
export function shadeKey(shades: Shades, x: number, y: number, from: string, to: string): Svg {
  const steps = 24;
  const width = 6;
  const start = x + textWidth(from, 11) + 8;
  return together(
    label(from, x, y + 10, { "font-size": 11, fill: FAINT_INK }),
    ...Array.from({ length: steps }, (_, step) => {
      const { fill } = shades(step / (steps - 1));
      return element("rect", { x: start + step * width, y, width: width + 0.5, height: 12, fill });
    }),
    label(to, start + steps * width + 8, y + 10, { "font-size": 11, fill: FAINT_INK }),
  );
}
