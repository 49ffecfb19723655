// Parts of SVG pictures: escaped elements, the frame with its title, labels, legends, axes and colours.

import stringWidth from "string-width";

// Colours of Okabe and Ito, which people with colour blindness can tell apart, on a white ground.
export const GROUND = "#ffffff";
export const INK = "#1b1f24";
export const FAINT_INK = "#59636e";
const LINE = "#d9dee3";
const METHODS: Readonly<Record<string, string>> = {
  dense: "#000000",
  paper: "#d55e00",
  random: "#999999",
  static: "#e69f00",
  oracle_domain: "#56b4e9",
  oracle_token: "#009e73",
  free: "#cc79a7",
  ours: "#0072b2",
};
const OTHERS = ["#7f5f00", "#4b3f8f", "#5f6f00"];

/** Chooses a method's colour; `place` tells methods apart that have no colour of their own. */
export function methodColour(id: string, place: number): string {
  return METHODS[id] ?? OTHERS[place % OTHERS.length] ?? INK;
}

/** Escaped markup, unlike a string. */
export class Svg {
  readonly markup: string;

  constructor(markup: string) {
    this.markup = markup;
  }
}

export type Attributes = Readonly<Record<string, string | number | undefined>>;

/** Writes an element. Children that are strings are text; numbers are checked and shortened. */
export function element(name: string, attributes: Attributes, ...children: readonly (Svg | string)[]): Svg {
  const written = Object.entries(attributes).map(([key, value]) =>
    value === undefined ? "" : ` ${key}="${typeof value === "number" ? short(value) : escaped(value)}"`,
  );
  const inner = children.map((child) => (typeof child === "string" ? escaped(child) : child.markup)).join("");
  return new Svg(inner === "" ? `<${name}${written.join("")}/>` : `<${name}${written.join("")}>${inner}</${name}>`);
}

/** Joins elements. */
export function together(...parts: readonly Svg[]): Svg {
  return new Svg(parts.map(({ markup }) => markup).join("\n"));
}

function short(value: number): string {
  if (!Number.isFinite(value)) throw new RangeError(`Expected an attribute to be a finite number, got \`${value}\``);
  return `${Math.round(value * 100) / 100}`.replace(/^-0$/, "0");
}

function escaped(text: string): string {
  return printable(text).replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);
}

/**
 * Replaces what XML cannot hold, such as control characters and halves of surrogate pairs, and marks that reorder text.
 */
export function printable(text: string): string {
  return text.replace(/(?!\u200D)[\p{Cc}\p{Cf}\p{Cs}\uFFFE\uFFFF]/gu, "\uFFFD");
}

export interface PictureText {
  readonly title: string;
  /** Text below the title, also for readers who cannot see the picture. */
  readonly description: string;
}

/** Space around the content. */
export const MARGIN = 24;
/** Upper edge of the content, below the title. */
export const TOP = 84;

const TITLE_SIZE = 17;
const DESCRIPTION_SIZE = 12;
// Bold letters are wider than others by this factor.
const BOLD = 1.15;
const SANS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif";

/** Frames a picture. `height` includes the margin below the content. */
export function picture(text: PictureText, width: number, height: number, ...content: readonly Svg[]): string {
  const { title, description } = text;
  const room = width - 2 * MARGIN;
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
    element("title", {}, title),
    element("desc", {}, description),
    element("rect", { x: 0.5, y: 0.5, width: width - 1, height: height - 1, rx: 8, fill: GROUND, stroke: LINE }),
    label(title, [MARGIN, 34], { "font-size": TITLE_SIZE, "font-weight": 600 }, room),
    label(description, [MARGIN, 56], { "font-size": DESCRIPTION_SIZE, fill: FAINT_INK }, room),
    ...content,
  );
  return `${whole.markup}\n`;
}

/** Width of a picture that does not cut its title and description. */
export function widthFor({ title, description }: PictureText, contentWidth: number): number {
  const texts = [textWidth(title, TITLE_SIZE) * BOLD, textWidth(description, DESCRIPTION_SIZE)];
  return Math.ceil(Math.max(contentWidth, ...texts)) + 2 * MARGIN;
}

/** Writes one line of text, cut where it would be wider than `maxWidth`. */
export function label(
  text: string,
  [x, y]: readonly [number, number],
  attributes: Attributes,
  maxWidth: number = Infinity,
): Svg {
  const size = Number(attributes["font-size"]);
  const room = attributes["font-weight"] === undefined ? maxWidth : maxWidth / BOLD;
  let shown = text;
  if (textWidth(text, size) > room) {
    const characters = Array.from(text);
    while (characters.length > 1 && textWidth(`${characters.join("")}…`, size) > room) characters.pop();
    shown = `${characters.join("").trimEnd()}…`;
  }
  return element("text", { x, y, ...attributes }, shown, ...(shown === text ? [] : [element("title", {}, text)]));
}

/** Estimates the width of a line of text, rather too wide than too narrow, since the reader's font is unknown. */
export function textWidth(text: string, fontSize: number): number {
  return stringWidth(printable(text)) * fontSize * 0.58;
}

export interface LegendEntry {
  readonly name: string;
  readonly colour: string;
  /** Colour of a line below the swatch. */
  readonly stripe?: string | undefined;
  /** Draws a piece of a line instead of a swatch. */
  readonly line?: "solid" | "dashed" | undefined;
}

const LEGEND_LINE = 20;
const LEGEND_GAP = 18;

/** Draws names beside their colours, from `TOP` down, in as many lines as are needed. */
export function legend(entries: readonly LegendEntry[], width: number): { readonly svg: Svg; readonly height: number } {
  let left = MARGIN;
  let y = TOP;
  const right = width - MARGIN;
  const parts = entries.map((entry) => {
    const sample = entry.line ? 26 : 12;
    const room = sample + 6 + textWidth(entry.name, 12);
    if (left > MARGIN && left + room > right) [left, y] = [MARGIN, y + LEGEND_LINE];
    const x = left;
    left += room + LEGEND_GAP;
    const name = label(entry.name, [x + sample + 6, y + 4], { "font-size": 12 }, right - x - sample - 6);
    return together(drawSample(entry, x, y, sample), name);
  });
  return { svg: together(...parts), height: y - TOP + LEGEND_LINE };
}

function drawSample({ colour, stripe, line }: LegendEntry, x: number, y: number, width: number): Svg {
  if (line) {
    const drawn = element("line", { x1: x, x2: x + width, y1: y, y2: y, ...stroke(colour, line) });
    return line === "dashed" ? drawn : together(drawn, dot(x + width / 2, y, colour));
  }
  const swatch = element("rect", { x, y: y - 6, width, height: 12, rx: 2, fill: colour });
  return stripe ? together(swatch, element("rect", { x, y: y + 3, width, height: 3, fill: stripe })) : swatch;
}

export function stroke(colour: string, line: "solid" | "dashed"): Attributes {
  const isDashed = line === "dashed";
  return { stroke: colour, "stroke-width": isDashed ? 1.5 : 2, "stroke-dasharray": isDashed ? "5 4" : undefined };
}

export function dot(cx: number, cy: number, colour: string): Svg {
  return element("circle", { cx, cy, r: 3.5, fill: colour, stroke: GROUND });
}

/** A scale from values to pixels: the part of d3's scales that pictures use, whose types the package does not ship. */
export interface NumberScale {
  (value: number): number;
  domain(): readonly number[];
  range(): readonly number[];
  ticks(count?: number): readonly number[];
  tickFormat(count?: number): (value: number) => string;
}

/** Area that a chart is drawn in. */
export interface Box {
  readonly left: number;
  readonly right: number;
  readonly top: number;
  readonly bottom: number;
}

export const NUMBERS: Attributes = { "font-size": 11, fill: FAINT_INK };
export const AXIS_TITLE: Attributes = { "font-size": 12, fill: FAINT_INK };

/** Draws grid lines across a box with their numbers, on its left or above it. The line at zero is darker. */
export function gridLines(
  scale: NumberScale,
  { left, right, top, bottom }: Box,
  side: "left" | "top",
  format: (tick: number) => string = scale.tickFormat(side === "left" ? 5 : 6),
): Svg {
  return together(
    ...scale.ticks(side === "left" ? 5 : 6).map((tick) => {
      const at = scale(tick);
      const line = side === "left" ? { x1: left, x2: right, y1: at, y2: at } : { x1: at, x2: at, y1: top, y2: bottom };
      const [x, y, anchor] = side === "left" ? [left - 8, at + 4, "end"] : [at, top - 6, "middle"];
      return together(
        element("line", { ...line, stroke: tick === 0 ? FAINT_INK : LINE }),
        label(format(tick), [x, y], { ...NUMBERS, "text-anchor": anchor }),
      );
    }),
  );
}
