// Colours that people with colour blindness can tell apart: those of Okabe and Ito, on a white ground.

import { interpolateBlues, interpolateOranges } from "d3-scale-chromatic";

export const GROUND = "#ffffff";
export const INK = "#1b1f24";
export const FAINT_INK = "#59636e";
export const LINE = "#d9dee3";

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

/** @param place - tells methods apart that have no colour of their own */
export function methodColour(id: string, place: number): string {
  return METHODS[id] ?? (OTHERS[place % OTHERS.length] as string);
}

const EXPERTS = ["#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#f0e442", "#0072b2", "#d55e00", "#999999"];

/** Behind dark text. Experts from the ninth on have a stripe besides, as there are no more colours to tell apart. */
export function expertColour(expert: number): { readonly fill: string; readonly stripe: string | undefined } {
  const colour = EXPERTS[expert % EXPERTS.length] as string;
  return { fill: tint(colour), stripe: expert < EXPERTS.length ? undefined : colour };
}

/** From none (0) to much (1). */
export type Shades = (amount: number) => { readonly fill: string; readonly ink: string };

export const blues: Shades = (amount) => withInk(interpolateBlues(amount * 0.85));
export const oranges: Shades = (amount) => withInk(interpolateOranges(amount * 0.8));

/** @param fill - as d3 writes it, `rgb(r, g, b)` */
function withInk(fill: string): { readonly fill: string; readonly ink: string } {
  const [red = 0, green = 0, blue = 0] = Array.from(fill.matchAll(/\d+/g), ([channel]) =>
    linear(Number(channel) / 255),
  );
  const luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  // Where black and white have the same contrast by the Web Content Accessibility Guidelines.
  return { fill, ink: luminance > 0.179 ? INK : GROUND };
}

function linear(channel: number): number {
  return channel <= 0.04045 ? channel / 12.92 : ((channel + 0.055) / 1.055) ** 2.4;
}

/** Mixed with white, so that dark text is readable on it. */
function tint(colour: string): string {
  const channels = [1, 3, 5].map((from) => Number.parseInt(colour.slice(from, from + 2), 16));
  return `#${channels
    .map((channel) =>
      Math.round(255 - (255 - channel) * 0.5)
        .toString(16)
        .padStart(2, "0"),
    )
    .join("")}`;
}
