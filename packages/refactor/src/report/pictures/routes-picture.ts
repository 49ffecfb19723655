// Which expert each token of sample texts goes to.

import { percent } from "../figures.ts";
import type { Report } from "../report.ts";
import { expertColour, FAINT_INK, GROUND } from "./colours.ts";
import { legend } from "./legend.ts";
import { label, MARGIN, picture, textWidth, TOP } from "./picture.ts";
import { element, together, type Svg } from "./svg.ts";
import { wrapRoutes, type Run, type RunText } from "./wrap-routes.ts";

const COLUMNS = 100;
/** Of a character at the font size below, in the usual fonts of equal widths. */
const CHARACTER = 7.8;
const FONT = { "font-size": 13, "font-family": "ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace" };
const LINE_HEIGHT = 32;
const BAND_HEIGHT = 18;
const WIDTH = 2 * MARGIN + COLUMNS * CHARACTER;
const MAX_LINES = 4;
const TAG_SIZE = 9;

/** `undefined` where nothing is routed. */
export function routesPicture({ router, settings }: Pick<Report, "router" | "settings">): string | undefined {
  const samples = (router?.samples ?? []).filter(({ pieces }) => pieces.some(({ text }) => text !== ""));
  if (router === undefined || samples.length === 0) return undefined;
  const entries = settings.experts.map((name, expert) => {
    const { fill, stripe } = expertColour(expert);
    const share = percent(router.expert_shares[expert] ?? 0);
    return { name: `${tagOf(expert)}  ${name} (${share})`, fill, stripe };
  });
  const key = legend(entries, MARGIN, TOP - 6, WIDTH - 2 * MARGIN);
  let y = TOP + key.height + 6;
  const drawn: Svg[] = [];
  for (const { domain, pieces } of samples) {
    const { lines, isCut } = wrapRoutes(pieces, COLUMNS, MAX_LINES);
    drawn.push(label(domain, MARGIN, y + 14, { "font-size": 13, "font-weight": 600 }, WIDTH / 2));
    y += 32;
    for (const runs of lines) {
      drawn.push(...runs.map((run) => drawRun(run, y)));
      y += LINE_HEIGHT;
    }
    if (isCut) drawn.push(label("…", endOf(lines.at(-1)), y - LINE_HEIGHT + 13, { "font-size": 13, fill: FAINT_INK }));
  }
  const text = {
    title: "Who reads what",
    description: "Beginnings of unseen texts. Colour and letter: the token's expert, with its share of all tokens.",
  };
  return picture(text, WIDTH, y + MARGIN - 8, key.svg, ...drawn);
}

/** Right of a line. */
function endOf(runs: readonly Run[] | undefined): number {
  const last = runs?.at(-1);
  return MARGIN + ((last?.column ?? 0) + (last?.columns ?? 0)) * CHARACTER + 5;
}

/** One letter for each of the first experts. */
function tagOf(expert: number): string {
  return expert < 26 ? String.fromCharCode(65 + expert) : `${expert}`;
}

function drawRun({ expert, texts, column, columns, tokenColumns }: Run, y: number): Svg {
  const x = MARGIN + column * CHARACTER;
  const width = columns * CHARACTER;
  const { fill, stripe } = expertColour(expert);
  const tag = tagOf(expert);
  const ticks = tokenColumns.map(
    (place) => `M${Math.round((MARGIN + place * CHARACTER) * 10) / 10} ${y}v${BAND_HEIGHT}`,
  );
  return together(
    element("rect", { x, y, width, height: BAND_HEIGHT, fill }),
    ...(stripe ? [element("rect", { x, y: y + BAND_HEIGHT - 2.5, width, height: 2.5, fill: stripe })] : []),
    ...(ticks.length > 0 ? [element("path", { d: ticks.join(""), stroke: GROUND })] : []),
    ...texts.map((part) => drawText(part, y + 13.5)),
    ...(textWidth(tag, TAG_SIZE) <= width
      ? [label(tag, x + 1, y - 3, { "font-size": TAG_SIZE, fill: FAINT_INK })]
      : []),
  );
}

/** As wide as its columns are, whatever the reader's font. */
function drawText({ text, column, columns }: RunText, y: number): Svg {
  const length = columns > 0 ? columns * CHARACTER : undefined;
  return element("text", { x: MARGIN + column * CHARACTER, y, ...FONT, textLength: length }, text);
}
