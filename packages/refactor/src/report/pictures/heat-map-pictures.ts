// Tables of numbers with colours behind them: losses of experts by domain, and the overlap of experts.

import { decimals } from "../text.ts";
import type { Report } from "../report.ts";
import { draw, GROUND, INK, textWidth, type PictureText } from "./drawing.ts";

/** Draws the losses of all experts on all domains; `undefined` where they were not measured, or for a single expert. */
export function expertLossesPicture({ expert_losses: losses, settings, data }: Report): Promise<string> | undefined {
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
  const map = { rows: settings.experts, columns, columnsAre: "domain of the text", cells };
  return heatMapPicture(text, {
    ...map,
    shades: ["#fff5eb", "#fdae6b", "#d94801"],
    range: ["as the best", `${decimals(most)} nats worse`],
  });
}

/** Draws the share of neurons that experts have in common; `undefined` for fewer than two experts. */
export function overlapPicture({ overlap, settings }: Report): Promise<string> | undefined {
  if (overlap === undefined || overlap.mean.length < 2) return undefined;
  const cells = overlap.mean.map((row) => row.map((share) => ({ text: decimals(share), amount: share })));
  const text = {
    title: "Neurons that experts have in common",
    description: "Share of an expert's neurons, mean over layers; neurons that all tokens use are not counted.",
  };
  const names = settings.experts;
  const map = { rows: names, columns: names, columnsAre: "expert", cells };
  return heatMapPicture(text, { ...map, shades: ["#f7fbff", "#6baed6", "#2171b5"], range: ["none", "all"] });
}

interface HeatMap {
  /** Names of experts. */
  readonly rows: readonly string[];
  readonly columns: readonly string[];
  readonly columnsAre: string;
  /** `[row][column]`, with the strength of the colour from 0 to 1. */
  readonly cells: readonly (readonly {
    readonly text: string;
    readonly amount: number;
    readonly isMarked?: boolean;
  }[])[];
  /** Colours from little to much. */
  readonly shades: readonly string[];
  /** Meanings of the lightest and the darkest colour. */
  readonly range: readonly [string, string];
}

// At this luminance, black and white have the same contrast by the Web Content Accessibility Guidelines.
const INK_ON_SHADE = {
  condition: { test: "luminance(scale('color', datum.amount)) > 0.179", value: INK },
  value: GROUND,
};

const AXIS = { labelColor: INK, labelFontSize: 12, labelOverlap: false };

function heatMapPicture(
  text: PictureText,
  { rows, columns, columnsAre, cells, shades, range }: HeatMap,
): Promise<string> {
  const values = cells.flatMap((row, y) => row.map((cell, x) => ({ ...cell, x, y })));
  const cellWidth = columns.length <= 8 ? 64 : 48;
  const isTurned = columns.some((name) => textWidth(name, 12) > cellWidth - 6);
  const color = {
    field: "amount",
    type: "quantitative",
    scale: { range: shades, domain: [0, 1] },
    legend: {
      orient: "bottom",
      direction: "horizontal",
      gradientLength: 2 * Math.max(80, ...range.map((name) => textWidth(name, 12))),
      values: [0, 1],
      labelExpr: "range[datum.value]",
    },
  };
  const columnAxis = { title: columnsAre, orient: "top", titleAnchor: "start", labelAngle: isTurned ? -40 : 0 };
  const rowAxis = { title: "expert", titleAngle: 0, titleAlign: "right", titleX: -8, titleY: -8 };
  return draw(text, {
    // Names are values, not parts of expressions.
    params: Object.entries({ rows, columns, range }).map(([name, value]) => ({ name, value })),
    data: { values },
    width: { step: cellWidth },
    height: { step: 28 },
    encoding: {
      x: { field: "x", type: "ordinal", axis: { ...AXIS, ...columnAxis, labelExpr: "columns[datum.value]" } },
      y: { field: "y", type: "ordinal", axis: { ...AXIS, ...rowAxis, labelExpr: "rows[datum.value]" } },
    },
    layer: [
      { mark: { type: "rect", stroke: GROUND }, encoding: { color } },
      {
        transform: [{ filter: "datum.isMarked" }],
        mark: { type: "rect", filled: false, strokeWidth: 1.5, width: { band: 0.93 }, height: { band: 0.83 } },
        encoding: { stroke: INK_ON_SHADE },
      },
      {
        mark: { type: "text", fontSize: 11, fontWeight: { expr: "datum.isMarked ? 600 : 'normal'" } },
        encoding: { text: { field: "text" }, fill: INK_ON_SHADE },
      },
    ],
  });
}
