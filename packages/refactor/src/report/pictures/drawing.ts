// Draws the specifications of all pictures with Vega-Lite, in one look.

import stringWidth from "string-width";
import type { Config, TopLevelSpec } from "vega-lite";

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

/**
 * Replaces what XML cannot hold, such as control characters and halves of surrogate pairs, and marks that reorder text.
 */
export function printable(text: string): string {
  return text.replace(/(?!\u200D)[\p{Cc}\p{Cf}\p{Cs}\uFFFE\uFFFF]/gu, "\uFFFD");
}

/** Estimates the width of a line of text, rather too wide than too narrow, since the reader's font is unknown. */
export function textWidth(text: string, fontSize: number): number {
  return stringWidth(printable(text)) * fontSize * 0.58;
}

/** Width of the content of wide pictures. */
export const WIDTH = 812;
const MARGIN = 24;
const FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif";

const CONFIG: Config = {
  aria: false,
  font: "inherit",
  title: { anchor: "start", color: INK, fontSize: 17, fontWeight: 600, offset: 18 },
  view: { stroke: null },
  axis: {
    domain: false,
    ticks: false,
    gridColor: { condition: { test: "datum.value === 0", value: FAINT_INK }, value: LINE },
    labelColor: FAINT_INK,
    labelFontSize: 11,
    labelLimit: 300,
    labelPadding: 8,
    titleColor: FAINT_INK,
    titleFontSize: 12,
    titleFontWeight: "normal",
  },
  text: { color: INK },
  legend: {
    orient: "top",
    title: null,
    labelColor: INK,
    labelFontSize: 12,
    labelLimit: 0,
    symbolType: "square",
    symbolSize: 144,
    rowPadding: 6,
    offset: 14,
  },
};

/** Names beside their colours, in columns that are as wide as the widest name. */
export function legendColumns(names: readonly string[], width: number = WIDTH): number {
  const widest = Math.max(0, ...names.map((name) => textWidth(name, 12))) + 40;
  return Math.max(1, Math.min(names.length, Math.floor(width / widest)));
}

export interface PictureText {
  readonly title: string;
  /** Text below the title, also for readers who cannot see the picture. */
  readonly description: string;
}

/**
 * Draws an SVG document, the same for the same specification. Vega is loaded at the first picture.
 *
 * @throws {RangeError} when a number is not finite
 */
export async function draw({ title, description }: PictureText, spec: object): Promise<string> {
  const [vega, { compile }] = await Promise.all([import("vega"), import("vega-lite")]);
  // Measured by a canvas where one is installed, a text would not have the same width everywhere.
  const { textMetrics } = vega as unknown as { textMetrics: { width: (item: TextItem, text?: unknown) => number } };
  textMetrics.width = (item, text = item.text) =>
    textWidth(String(text), item.fontSize ?? 11) * (Number(item.fontWeight) >= 600 ? 1.15 : 1);
  const heading = {
    text: title,
    subtitle: description,
    subtitleColor: FAINT_INK,
    subtitleFontSize: 12,
    subtitlePadding: 8,
  };
  const whole = { ...spec, title: heading, background: null, padding: MARGIN, config: CONFIG };
  const { spec: compiled } = compile(JSON.parse(JSON.stringify(whole, checked)) as TopLevelSpec);
  const view = new vega.View(vega.parse(compiled), { renderer: "none", logLevel: vega.Error });
  const svg = await view.toSVG();
  view.finalize();
  const [root = "", ...sizes] = /^<svg[^>]* width="([\d.]+)" height="([\d.]+)"[^>]*>/.exec(svg) ?? [];
  const [width = 0, height = 0] = sizes.map((size) => Math.ceil(Number(size)));
  const head = [
    `<svg xmlns="http://www.w3.org/2000/svg" role="img" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" font-family="${FONT}">`,
    `<title>${escaped(title)}</title><desc>${escaped(description)}</desc>`,
    `<rect x="0.5" y="0.5" width="${width - 1}" height="${height - 1}" rx="8" fill="${GROUND}" stroke="${LINE}"/>`,
  ];
  return `${head.join("\n")}${svg.slice(root.length).replace(/<[^>]*>/g, withoutChance)}\n`;
}

/** Shortens numbers, whose last digits may differ between machines, and numbers that count a process's pictures. */
function withoutChance(tag: string): string {
  return tag
    .replace(/gradient_\d+/g, "gradient")
    .replace(/-?\d+\.\d{3,}(?:e-\d+)?/g, (number) => `${Math.round(Number(number) * 100) / 100}`);
}

interface TextItem {
  readonly text?: unknown;
  readonly fontSize?: number;
  readonly fontWeight?: number | string;
}

function checked(_: string, value: unknown): unknown {
  if (typeof value === "number" && !Number.isFinite(value)) {
    throw new RangeError(`Expected a picture's number to be finite, got \`${value}\``);
  }
  return typeof value === "string" ? printable(value) : value;
}

function escaped(text: string): string {
  return printable(text).replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);
}
