// Reads SVG documents as what they show: texts and marks, with their places on the whole picture.

import { DOMParser, type Document, type Element } from "@xmldom/xmldom";

/** Parses a document that has to be well-formed XML. */
export function parseSvg(svg: string): Document {
  return new DOMParser({ onError: refuse }).parseFromString(svg, "image/svg+xml");
}

function refuse(level: string, message: string): void {
  if (level !== "warning") throw new Error(`${level}: ${message}`);
}

export function elementsOf(parent: Document | Element, name: string): readonly Element[] {
  return Array.from(parent.getElementsByTagName(name));
}

/** One line of text. `x` is the place of its `anchor`. */
export interface ShownText {
  readonly text: string;
  readonly x: number;
  /** Height of its base line. */
  readonly y: number;
  readonly size: number;
  readonly anchor: string;
  readonly isTurned: boolean;
}

/** Lists all lines of text. */
export function textsOf(document: Document): readonly ShownText[] {
  return elementsOf(document, "text").flatMap((element) => {
    const [x, y] = placeOf(element);
    const size = Number.parseFloat(element.getAttribute("font-size") ?? "0");
    const anchor = element.getAttribute("text-anchor") ?? "start";
    const isTurned = (element.getAttribute("transform") ?? "").includes("rotate");
    const lines = elementsOf(element, "tspan");
    let down = 0;
    return (lines.length > 0 ? lines : [element]).map((line) => {
      down += Number(line.getAttribute("dy") ?? 0);
      return { text: line.textContent ?? "", x, y: y + down, size, anchor, isTurned };
    });
  });
}

/** One drawn mark: its place, and the numbers of its path from there. */
export interface ShownMark {
  readonly x: number;
  readonly y: number;
  readonly path: readonly number[];
  readonly fill: string | undefined;
  readonly stroke: string | undefined;
  readonly label: string | undefined;
}

/** Lists the marks of one kind: `rect` (whose path is x, y, width, height, width), `line`, `area` or `symbol`. */
export function marksOf(document: Document, kind: string): readonly ShownMark[] {
  return elementsOf(document, "g")
    .filter((group) => (group.getAttribute("class") ?? "").startsWith(`mark-${kind} role-mark`))
    .flatMap((group) => elementsOf(group, "path"))
    .map((element) => {
      const [x, y] = placeOf(element);
      return {
        x,
        y,
        path: Array.from((element.getAttribute("d") ?? "").matchAll(/-?[\d.]+/g), ([number]) => Number(number)),
        fill: element.getAttribute("fill") ?? undefined,
        stroke: element.getAttribute("stroke") ?? undefined,
        label: element.getAttribute("aria-label") ?? undefined,
      };
    });
}

function placeOf(element: Element): readonly [x: number, y: number] {
  let [x, y] = [0, 0];
  for (let at: Element | null = element; at?.nodeName.match(/^(g|text|path)$/); at = at.parentNode as Element | null) {
    const [, left = 0, down = 0] = /translate\(([-\d.]+),([-\d.]+)\)/.exec(at.getAttribute("transform") ?? "") ?? [];
    [x, y] = [x + Number(left), y + Number(down)];
  }
  return [x, y];
}
