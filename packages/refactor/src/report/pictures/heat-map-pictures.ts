// Tables of numbers with colours behind them: losses of experts by domain, and the overlap of experts.

import { interpolateBlues, interpolateOranges } from "d3-scale-chromatic";
import { decimals } from "../text.ts";
import type { Report } from "../report.ts";
import {
  element,
  GROUND,
  INK,
  label,
  MARGIN,
  NUMBERS,
  picture,
  textWidth,
  together,
  TOP,
  widthFor,
  type PictureText,
  type Svg,
} from "./drawing.ts";

/** Draws the losses of all experts on all domains; `undefined` where they were not measured, or for a single expert. */
export function expertLossesPicture({ expert_losses: losses, settings, data }: Report): string | undefined {
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
  const map = { rows: settings.experts, columns, rowsAre: "expert", columnsAre: "domain of the text", cells };
  return heatMapPicture(text, { ...map, shades: oranges }, ["as the best", `${decimals(most)} nats worse`]);
}

/** Draws the share of neurons that experts have in common; `undefined` for fewer than two experts. */
export function overlapPicture({ overlap, settings }: Report): string | undefined {
  if (overlap === undefined || overlap.mean.length < 2) return undefined;
  const cells = overlap.mean.map((row) => row.map((share) => ({ text: decimals(share), amount: share })));
  const text = {
    title: "Neurons that experts have in common",
    description: "Share of an expert's neurons, mean over layers; neurons that all tokens use are not counted.",
  };
  const names = settings.experts;
  const map = { rows: names, columns: names, rowsAre: "expert", columnsAre: "expert", cells };
  return heatMapPicture(text, { ...map, shades: blues }, ["none", "all"]);
}

/** Colours from none (0) to much (1). */
type Shades = (amount: number) => string;

const blues: Shades = (amount) => interpolateBlues(amount * 0.85);
const oranges: Shades = (amount) => interpolateOranges(amount * 0.8);

/** Chooses dark or light ink for text on a colour that d3 writes as `rgb(r, g, b)`. */
function inkOn(fill: string): string {
  const [red = 0, green = 0, blue = 0] = Array.from(fill.matchAll(/\d+/g), ([channel]) => {
    const share = Number(channel) / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  // At this luminance, black and white have the same contrast by the Web Content Accessibility Guidelines.
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 ? INK : GROUND;
}

interface HeatCell {
  readonly text: string;
  /** Strength of the colour, from 0 to 1. */
  readonly amount: number;
  readonly isMarked?: boolean;
}

interface HeatMap {
  readonly rows: readonly string[];
  readonly columns: readonly string[];
  readonly rowsAre: string;
  readonly columnsAre: string;
  /** `[row][column]` */
  readonly cells: readonly (readonly HeatCell[])[];
  readonly shades: Shades;
}

const CELL_HEIGHT = 28;
const MAX_LABEL = 150;
const FONT_SIZE = 12;
// Angle by which long labels of columns rise.
const TURN_DEGREES = 40;
const TURN = (TURN_DEGREES * Math.PI) / 180;

function widthOf(name: string): number {
  return Math.min(MAX_LABEL, textWidth(name, FONT_SIZE));
}

/** Draws a heat map. `range` are the meanings of the lightest and the darkest colour. */
function heatMapPicture(text: PictureText, map: HeatMap, range: readonly [string, string]): string {
  const { rows, columns, rowsAre, columnsAre, cells, shades } = map;
  const rowLabels = Math.max(...rows.map(widthOf), 60) + 10;
  const longest = Math.max(...columns.map(widthOf), 0);
  const cellWidth = columns.length <= 8 ? 64 : 48;
  // Labels that do not fit over their column rise to the right, the last ones beyond the columns.
  const isTurned = longest > cellWidth - 6;
  const columnLabels = isTurned ? longest * Math.sin(TURN) + 18 : 24;
  const rise = isTurned ? Math.cos(TURN) : 0;
  const ends = columns.map((name, column) => (column + 0.5) * cellWidth + widthOf(name) * rise);
  const [left, top] = [MARGIN + rowLabels, TOP + 18 + columnLabels];
  const columnLabel = (name: string, column: number): Svg => {
    const [x, y] = [left + (column + 0.5) * cellWidth, top - 8];
    const turned = { transform: `rotate(${-TURN_DEGREES} ${x} ${y})` };
    return label(
      name,
      [x, y],
      { "font-size": FONT_SIZE, ...(isTurned ? turned : { "text-anchor": "middle" }) },
      MAX_LABEL,
    );
  };
  const rowLabel = (name: string, row: number): Svg =>
    label(
      name,
      [left - 10, top + (row + 0.5) * CELL_HEIGHT + 4],
      { "font-size": FONT_SIZE, "text-anchor": "end" },
      MAX_LABEL,
    );
  const drawn = cells.flatMap((row, y) =>
    row.map((cell, x) =>
      drawCell(cell, { x: left + x * cellWidth, y: top + y * CELL_HEIGHT, width: cellWidth }, shades),
    ),
  );
  const width = widthFor(text, rowLabels + Math.max(columns.length * cellWidth, ...ends));
  const keyTop = top + rows.length * CELL_HEIGHT + 14;
  return picture(
    text,
    width,
    keyTop + 12 + MARGIN,
    label(columnsAre, [left, TOP + 8], NUMBERS),
    label(rowsAre, [left - 10, top - 8], { ...NUMBERS, "text-anchor": "end" }, rowLabels),
    ...columns.map(columnLabel),
    ...rows.map(rowLabel),
    ...drawn,
    shadeKey(shades, keyTop, range),
  );
}

function drawCell(
  { text, amount, isMarked }: HeatCell,
  { x, y, width }: { readonly x: number; readonly y: number; readonly width: number },
  shades: Shades,
): Svg {
  const fill = shades(Math.min(1, Math.max(0, amount)));
  const ink = inkOn(fill);
  const inner = { x: x + 2.5, y: y + 2.5, width: width - 5, height: CELL_HEIGHT - 5 };
  const frame = element("rect", { ...inner, fill: "none", stroke: ink, "stroke-width": 1.5 });
  const bold = isMarked ? { "font-weight": 600 } : {};
  const centred = { "font-size": 11, "text-anchor": "middle", fill: ink, ...bold };
  return together(
    element("rect", { x, y, width, height: CELL_HEIGHT, fill, stroke: GROUND }),
    ...(isMarked ? [frame] : []),
    label(text, [x + width / 2, y + CELL_HEIGHT / 2 + 4], centred),
  );
}

function shadeKey(shades: Shades, y: number, [from, to]: readonly [string, string]): Svg {
  const [steps, width] = [24, 6];
  const start = MARGIN + textWidth(from, 11) + 8;
  return together(
    label(from, [MARGIN, y + 10], NUMBERS),
    ...Array.from({ length: steps }, (_, step) => {
      const fill = shades(step / (steps - 1));
      return element("rect", { x: start + step * width, y, width: width + 0.5, height: 12, fill });
    }),
    label(to, [start + steps * width + 8, y + 10], NUMBERS),
  );
}
