// Markup of SVG elements: text is escaped, numbers are checked and short.

/** Escaped markup, unlike a string. */
export class Svg {
  readonly markup: string;

  constructor(markup: string) {
    this.markup = markup;
  }
}

export type Attributes = Readonly<Record<string, string | number | undefined>>;

/** @param children - strings are text */
export function element(name: string, attributes: Attributes, ...children: readonly (Svg | string)[]): Svg {
  const written = Object.entries(attributes).map(([key, value]) =>
    value === undefined ? "" : ` ${key}="${typeof value === "number" ? short(value) : escaped(value)}"`,
  );
  const inner = children.map((child) => (typeof child === "string" ? escaped(child) : child.markup)).join("");
  return new Svg(inner === "" ? `<${name}${written.join("")}/>` : `<${name}${written.join("")}>${inner}</${name}>`);
}

/** Elements one after the other, as one. */
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

/** XML has no control characters and no halves of surrogate pairs; direction marks would reorder what follows. */
export function printable(text: string): string {
  return text.replace(/(?!\u200D)[\p{Cc}\p{Cf}\p{Cs}\uFFFE\uFFFF]/gu, "\uFFFD");
}
