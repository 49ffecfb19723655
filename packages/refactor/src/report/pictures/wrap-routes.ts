// Tokens with their experts, set in lines of equally wide characters.

import stringWidth from "string-width";
import type { RoutedPiece } from "../report.ts";
import { printable } from "./svg.ts";

/** Neighbouring tokens of one line that go to the same expert. */
export interface Run {
  readonly expert: number;
  /** Stretches of characters that are equally wide, and each wide character on its own. */
  readonly texts: readonly RunText[];
  /** Where it begins, in characters. */
  readonly column: number;
  readonly columns: number;
  /** Where tokens begin but for the first, in characters from the line's beginning. */
  readonly tokenColumns: readonly number[];
}

export interface RunText {
  readonly text: string;
  readonly column: number;
  readonly columns: number;
}

export interface WrappedRoutes {
  readonly lines: readonly (readonly Run[])[];
  /** There was more than fits into the lines. */
  readonly isCut: boolean;
}

/** Shown at the end of a line where the text has line breaks. */
const LINE_BREAK = "↵";

const characters = new Intl.Segmenter("en", { granularity: "grapheme" });

/**
 * Breaks lines where the text does and, where it must, between tokens; within a token only when it is longer than a line.
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
    line = [];
    column = 0;
    isBroken = false;
  };
  for (const { text, expert } of pieces) {
    const parts = partsOf(text);
    const columns = parts.reduce((sum, part) => sum + part.columns, 0);
    if (column > 0 && column + columns > width && columns <= width) next();
    for (const [index, part] of parts.entries()) {
      // Several line breaks end one line.
      if ((isBroken && !part.isLineBreak) || (column > 0 && column + part.columns > width)) next();
      if (lines.length >= maxLines) return { lines, isCut: true };
      append(line, { ...part, expert }, column, index === 0);
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
  return Array.from(characters.segment(text), ({ segment }) => {
    if (/^[\r\n\u2028\u2029]+$/.test(segment)) return { text: LINE_BREAK, columns: 1, isLineBreak: true };
    // Spaces that XML does not join, nor a browser leave out.
    const shown = segment === "\t" ? "\u00A0\u00A0" : printable(segment).replace(/\s/gu, "\u00A0");
    return { text: shown, columns: stringWidth(shown), isLineBreak: false };
  });
}

function append(line: Run[], part: TextPart & { expert: number }, column: number, startsToken: boolean): void {
  const last = line.at(-1);
  if (last?.expert !== part.expert) {
    const texts = [{ text: part.text, column, columns: part.columns }];
    line.push({ expert: part.expert, texts, column, columns: part.columns, tokenColumns: [] });
    return;
  }
  line[line.length - 1] = {
    ...last,
    texts: withPart(last.texts, part, column),
    columns: last.columns + part.columns,
    tokenColumns: startsToken ? [...last.tokenColumns, column] : last.tokenColumns,
  };
}

function withPart(texts: readonly RunText[], { text, columns }: TextPart, column: number): readonly RunText[] {
  const last = texts.at(-1);
  if (last === undefined || columns > 1 || last.columns !== last.text.length)
    return [...texts, { text, column, columns }];
  return [...texts.slice(0, -1), { ...last, text: last.text + text, columns: last.columns + columns }];
}
