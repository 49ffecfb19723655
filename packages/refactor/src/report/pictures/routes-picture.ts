// The expert of each token of sample texts, in lines of equally wide characters.

import stringWidth from "string-width";
import { percent } from "../verdict.ts";
import type { Report, RoutedPiece } from "../report.ts";
import { draw, FAINT_INK, GROUND, legendColumns, printable, textWidth } from "./line-picture.ts";

const COLUMNS = 100;
// Width of a character at the font size below, in the usual fonts of equal widths.
const CHARACTER = 7.8;
const FONT = { fontSize: 13, font: "monospace" };
const LINE_HEIGHT = 32;
const BAND_HEIGHT = 18;
const MAX_LINES = 4;
const PLACE = { type: "quantitative", axis: null };
const TAG_SIZE = 9;

// Tints of Okabe and Ito's colours, on which dark text is readable, and the colours themselves for frames.
const TINTS = ["#abdaf4", "#f3cf80", "#80cfb9", "#e6bcd3", "#f8f2a1", "#80b9d9", "#eaaf80", "#cccccc"];
const FRAMES = ["#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#f0e442", "#0072b2", "#d55e00", "#999999"];

/** Draws the routes of sample texts; `undefined` where nothing is routed. */
export function routesPicture({ router, settings }: Pick<Report, "router" | "settings">): Promise<string> | undefined {
  const samples = (router?.samples ?? []).filter(({ pieces }) => pieces.some(({ text }) => text !== ""));
  if (router === undefined || samples.length === 0) return undefined;
  const headings: object[] = [];
  const tokens: (RoutedToken & { readonly tag: string })[] = [];
  let height = 0;
  for (const { domain, pieces } of samples) {
    headings.push({ line: height, column: 0, text: domain });
    const { tokens: own, isCut } = wrapRoutes(pieces, COLUMNS, MAX_LINES);
    const top = height + 1;
    tokens.push(...own.map((token, at) => ({ ...token, line: top + token.line, tag: tagAt(own, at) })));
    const last = own.at(-1);
    if (last && isCut) headings.push({ line: top + last.line, column: last.column + last.columns + 1, text: "…" });
    height = top + (last?.line ?? 0) + 1;
  }
  const experts = settings.experts.map((_, expert) => expert);
  const names = settings.experts.map((name, expert) => {
    return `${tagOf(expert)}  ${name} (${percent(router.expert_shares[expert] ?? 0)})`;
  });
  const legend = { columns: legendColumns(names), labelExpr: "names[datum.value]" };
  const colours = (of: (expert: number) => string | undefined): object => ({
    field: "expert",
    type: "nominal",
    scale: { domain: experts, range: experts.map((expert) => of(expert) ?? GROUND) },
    legend,
  });
  const x = { ...PLACE, field: "column", scale: { domain: [0, COLUMNS], nice: false } };
  const y = { ...PLACE, field: "line", scale: { domain: [0, height], nice: false, reverse: true } };
  const text = { x, y, text: { field: "text" } };
  return draw(
    {
      title: "The expert of each token",
      description: "Beginnings of unseen texts. Colour and letter: the token's expert, with its share of all tokens.",
    },
    {
      params: [{ name: "names", value: names }],
      width: COLUMNS * CHARACTER,
      height: height * LINE_HEIGHT,
      layer: [
        {
          data: { values: tokens.map((token) => ({ ...token, end: token.column + token.columns })) },
          // A gap on the right parts the tokens.
          mark: { type: "rect", yOffset: 0, y2Offset: BAND_HEIGHT, x2Offset: -1 },
          encoding: {
            x,
            x2: { field: "end" },
            y,
            y2: { field: "line" },
            fill: colours((expert) => TINTS[expert % TINTS.length]),
            // Experts from the ninth on have a frame as well: there are no more colours to tell apart.
            ...(experts.length > TINTS.length
              ? { stroke: colours((expert) => (expert < TINTS.length ? "transparent" : FRAMES[expert % TINTS.length])) }
              : {}),
          },
        },
        {
          data: { values: tokens.map(shownPart) },
          mark: { type: "text", ...FONT, align: "left", baseline: "alphabetic", dy: 13.5 },
          encoding: text,
        },
        {
          data: {
            values: tokens
              .filter(({ tag }) => tag !== "")
              .map(({ tag, line, column }) => ({ line, column, text: tag })),
          },
          mark: {
            type: "text",
            align: "left",
            baseline: "alphabetic",
            dx: 1,
            dy: -3,
            fontSize: TAG_SIZE,
            color: FAINT_INK,
          },
          encoding: text,
        },
        {
          data: { values: headings },
          mark: { type: "text", align: "left", baseline: "alphabetic", dy: 14, fontSize: 13, fontWeight: 600 },
          encoding: text,
        },
      ],
    },
  );
}

/** Leaves out spaces around a text, which Vega does not draw. */
function shownPart({ line, column, text }: RoutedToken): object {
  return { line, column: column + stringWidth(text) - stringWidth(text.trimStart()), text: text.trim() };
}

/** Names the expert where a token's is another than that of the token before it, if the name has room. */
function tagAt(tokens: readonly RoutedToken[], at: number): string {
  const [before, token] = [tokens[at - 1], tokens[at]];
  if (token === undefined || (before?.line === token.line && before.expert === token.expert)) return "";
  const tag = tagOf(token.expert);
  return textWidth(tag, TAG_SIZE) <= token.columns * CHARACTER ? tag : "";
}

/** Names the first experts by a letter. */
function tagOf(expert: number): string {
  return expert < 26 ? String.fromCharCode(65 + expert) : `${expert}`;
}

/** A token, or its part on one line. */
interface RoutedToken {
  readonly expert: number;
  readonly line: number;
  /** First column, in characters. */
  readonly column: number;
  columns: number;
  text: string;
}

export interface WrappedRoutes {
  readonly tokens: readonly RoutedToken[];
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
  const tokens: RoutedToken[] = [];
  let [line, column, isBroken] = [0, 0, false];
  for (const { text, expert } of pieces) {
    const parts = partsOf(text);
    const columns = parts.reduce((sum, part) => sum + part.columns, 0);
    if (column > 0 && column + columns > width && columns <= width) [line, column, isBroken] = [line + 1, 0, false];
    let token: RoutedToken | undefined;
    for (const part of parts) {
      // Several line breaks end one line.
      if ((isBroken && !part.isLineBreak) || (column > 0 && column + part.columns > width)) {
        [line, column, token] = [line + 1, 0, undefined];
      }
      if (line >= maxLines) return { tokens, isCut: true };
      if (token === undefined) tokens.push((token = { expert, line, column, columns: 0, text: "" }));
      token.text += part.text;
      token.columns += part.columns;
      column += part.columns;
      isBroken = part.isLineBreak;
    }
  }
  return { tokens, isCut: false };
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
