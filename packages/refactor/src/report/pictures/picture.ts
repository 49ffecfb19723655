// The frame of a picture, and the text in it.

import stringWidth from "string-width";
import { FAINT_INK, GROUND, INK, LINE } from "./colours.ts";
import { element, printable, together, type Attributes, type Svg } from "./svg.ts";

export interface PictureText {
  readonly title: string;
  /** What there is to see, for those who cannot; also printed below the title. */
  readonly description: string;
}

/** Space around everything. */
export const MARGIN = 24;
/** Where the content of a picture begins, below its title. */
export const TOP = 84;

const TITLE_SIZE = 17;
const DESCRIPTION_SIZE = 12;
/** How much wider bold letters are. */
const BOLD = 1.15;
const SANS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif";

/** @param height - of all, with the margin below the content */
export function picture(
  { title, description }: PictureText,
  width: number,
  height: number,
  ...content: readonly Svg[]
): string {
  const frame = { x: 0.5, y: 0.5, width: width - 1, height: height - 1, rx: 8, fill: GROUND, stroke: LINE };
  const whole = element(
    "svg",
    {
      xmlns: "http://www.w3.org/2000/svg",
      viewBox: `0 0 ${Math.ceil(width)} ${Math.ceil(height)}`,
      width: Math.ceil(width),
      height: Math.ceil(height),
      role: "img",
      "font-family": SANS,
      fill: INK,
    },
    together(
      element("title", {}, title),
      element("desc", {}, description),
      element("rect", frame),
      label(title, MARGIN, 34, { "font-size": TITLE_SIZE, "font-weight": 600 }, width - 2 * MARGIN),
      label(description, MARGIN, 56, { "font-size": DESCRIPTION_SIZE, fill: FAINT_INK }, width - 2 * MARGIN),
      ...content,
    ),
  );
  return `${whole.markup}\n`;
}

/** Of a picture whose title and description are not to be cut. */
export function widthFor({ title, description }: PictureText, contentWidth: number): number {
  const texts = [textWidth(title, TITLE_SIZE) * BOLD, textWidth(description, DESCRIPTION_SIZE)];
  return Math.ceil(Math.max(contentWidth, ...texts)) + 2 * MARGIN;
}

/** One line of text; cut where it would be wider than `maxWidth`. */
export function label(text: string, x: number, y: number, attributes: Attributes, maxWidth: number = Infinity): Svg {
  const size = attributes["font-size"] as number;
  const isBold = attributes["font-weight"] !== undefined;
  const shown = shortened(text, isBold ? maxWidth / BOLD : maxWidth, size);
  return element("text", { x, y, ...attributes }, shown, ...(shown === text ? [] : [element("title", {}, text)]));
}

/** About how wide a line of text is, rather more than less, since a reader's font is not known. */
export function textWidth(text: string, fontSize: number): number {
  return stringWidth(printable(text)) * fontSize * 0.58;
}

function shortened(text: string, maxWidth: number, fontSize: number): string {
  if (textWidth(text, fontSize) <= maxWidth) return text;
  const characters = Array.from(text);
  while (characters.length > 1 && textWidth(`${characters.join("")}…`, fontSize) > maxWidth) characters.pop();
  return `${characters.join("").trimEnd()}…`;
}
