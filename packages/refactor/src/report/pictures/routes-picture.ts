// The expert of each token of sample texts, in lines of equally wide characters.

import stringWidth from "string-width";
import { percent } from "../text.ts";
import type { Report, RoutedPiece } from "../report.ts";
import {
  element,
  FAINT_INK,
  GROUND,
  label,
  legend,
  MARGIN,
  picture,
  printable,
  textWidth,
  together,
  TOP,
  type Svg,
} from "./drawing.ts";

const COLUMNS = 100;
// Width of a character at the font size below, in the usual fonts of equal widths.
const CHARACTER = 7.8;
const FONT = { "font-size": 13, "font-family": "ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace" };
const LINE_HEIGHT = 32;
const BAND_HEIGHT = 18;
const WIDTH = 2 * MARGIN + COLUMNS * CHARACTER;
const MAX_LINES = 4;
const TAG_SIZE = 9;

/** Draws the routes of sample texts; `undefined` where nothing is routed. */
export function routesPicture({ router, settings }: Pick<Report, "router" | "settings">): string | undefined {
  const samples = (router?.samples ?? []).filter(({ pieces }) => pieces.some(({ text }) => text !== ""));
  if (router === undefined || samples.length === 0) return undefined;
  const entries = settings.experts.map((name, expert) => {
    const share = percent(router.expert_shares[expert] ?? 0);
    return { name: `${tagOf(expert)}  ${name} (${share})`, ...expertColour(expert) };
  });
  const key = legend(entries, WIDTH);
  let y = TOP + key.height + 6;
  const drawn: Svg[] = [];
  for (const { domain, pieces } of samples) {
    const { lines, isCut } = wrapRoutes(pieces, COLUMNS, MAX_LINES);
    drawn.push(label(domain, [MARGIN, y + 14], { "font-size": 13, "font-weight": 600 }, WIDTH / 2));
    y += 32;
    for (const runs of lines) {
      drawn.push(...runs.map((run) => drawRun(run, y)));
      y += LINE_HEIGHT;
    }
    const last = lines.at(-1)?.at(-1);
    const end = xOf((last?.column ?? 0) + (last?.columns ?? 0)) + 5;
    if (isCut) drawn.push(label("…", [end, y - LINE_HEIGHT + 13], { "font-size": 13, fill: FAINT_INK }));
  }
  const text = {
    title: "The expert of each token",
    description: "Beginnings of unseen texts. Colour and letter: the token's expert, with its share of all tokens.",
  };
  return picture(text, WIDTH, y + MARGIN - 8, key.svg, ...drawn);
}

// Tints of Okabe and Ito's colours, on which dark text is readable, and the colours themselves for stripes.
const TINTS = ["#abdaf4", "#f3cf80", "#80cfb9", "#e6bcd3", "#f8f2a1", "#80b9d9", "#eaaf80", "#cccccc"];
const STRIPES = ["#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#f0e442", "#0072b2", "#d55e00", "#999999"];

/**
 * Chooses an expert's colour. Experts from the ninth on have a stripe as well: there are no more colours to tell apart.
 */
function expertColour(expert: number): { readonly colour: string; readonly stripe: string | undefined } {
  const at = expert % TINTS.length;
  return { colour: TINTS[at] ?? GROUND, stripe: expert < TINTS.length ? undefined : STRIPES[at] };
}

function xOf(column: number): number {
  return MARGIN + column * CHARACTER;
}

/** Names the first experts by a letter. */
function tagOf(expert: number): string {
  return expert < 26 ? String.fromCharCode(65 + expert) : `${expert}`;
}

function drawRun({ expert, texts, column, columns, tokenColumns }: Run, y: number): Svg {
  const x = xOf(column);
  const width = columns * CHARACTER;
  const { colour, stripe } = expertColour(expert);
  const tag = tagOf(expert);
  const ticks = tokenColumns.map((place) => `M${Math.round(xOf(place) * 10) / 10} ${y}v${BAND_HEIGHT}`);
  const parts = texts.map((part) => {
    // A text is as wide as its columns, whatever the reader's font.
    const length = part.columns > 0 ? part.columns * CHARACTER : undefined;
    return element("text", { x: xOf(part.column), y: y + 13.5, ...FONT, textLength: length }, part.text);
  });
  return together(
    element("rect", { x, y, width, height: BAND_HEIGHT, fill: colour }),
    ...(stripe ? [element("rect", { x, y: y + BAND_HEIGHT - 2.5, width, height: 2.5, fill: stripe })] : []),
    ...(ticks.length > 0 ? [element("path", { d: ticks.join(""), stroke: GROUND })] : []),
    ...parts,
    ...(textWidth(tag, TAG_SIZE) <= width
      ? [label(tag, [x + 1, y - 3], { "font-size": TAG_SIZE, fill: FAINT_INK })]
      : []),
  );
}

/** Neighbouring tokens of one line that go to the same expert. */
interface Run {
  readonly expert: number;
  /** Stretches of equally wide characters, and each wide character on its own. */
  readonly texts: RunText[];
  /** First column, in characters. */
  readonly column: number;
  columns: number;
  /** Columns at which tokens begin, other than the first. */
  readonly tokenColumns: number[];
}

interface RunText {
  text: string;
  readonly column: number;
  columns: number;
}

export interface WrappedRoutes {
  readonly lines: readonly (readonly Run[])[];
  /** Whether there was more than fits into the lines. */
  readonly isCut: boolean;
}

/** Shown at the end of a line where the text has line breaks. */
const LINE_BREAK = "↵";

const graphemes = new Intl.Segmenter("en", { granularity: "grapheme" });

/**
 * Breaks lines where the text does and, where necessary, between tokens; within a token only if it is longer than a
 * line.
 *
 * @param width - of a line, in characters; wide characters count twice
 */
export function wrapRoutes(pieces: readonly RoutedPiece[], width: number, maxLines: number): WrappedRoutes {
  const lines: Run[][] = [];
  let line: Run[] = [];
  let column = 0;
  let isBroken = false;
  const next = (): void => {
    lines.push(line);
    [line, column, isBroken] = [[], 0, false];
  };
  for (const { text, expert } of pieces) {
    const parts = partsOf(text);
    const columns = parts.reduce((sum, part) => sum + part.columns, 0);
    if (column > 0 && column + columns > width && columns <= width) next();
    for (const [index, part] of parts.entries()) {
      // Several line breaks end one line.
      if ((isBroken && !part.isLineBreak) || (column > 0 && column + part.columns > width)) next();
      if (lines.length >= maxLines) return { lines, isCut: true };
      append(line, expert, { text: part.text, column, columns: part.columns }, index === 0);
      column += part.columns;
      isBroken = part.isLineBreak;
    }
  }
  if (line.length > 0) lines.push(line);
  return { lines, isCut: false };
}

interface TextPart {
  readonly text: string;
  readonly columns: number;
  readonly isLineBreak: boolean;
}

function partsOf(text: string): readonly TextPart[] {
  return Array.from(graphemes.segment(text), ({ segment }) => {
    if (/^[\r\n\u2028\u2029]+$/.test(segment)) return { text: LINE_BREAK, columns: 1, isLineBreak: true };
    // Spaces that neither XML joins nor a browser leaves out.
    const shown = segment === "\t" ? "\u00A0\u00A0" : printable(segment).replace(/\s/gu, "\u00A0");
    return { text: shown, columns: stringWidth(shown), isLineBreak: false };
  });
}

function append(line: Run[], expert: number, part: RunText, startsToken: boolean): void {
  const run = line.at(-1);
  if (run?.expert !== expert) {
    line.push({ expert, texts: [part], column: part.column, columns: part.columns, tokenColumns: [] });
    return;
  }
  run.columns += part.columns;
  if (startsToken) run.tokenColumns.push(part.column);
  const last = run.texts.at(-1);
  if (last === undefined || part.columns > 1 || last.columns !== last.text.length) run.texts.push(part);
  else {
    last.text += part.text;
    last.columns += part.columns;
  }
}
