// Markdown pages as tests read them: their blocks of code, links and places that can be linked to.

import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";

export const ROOT: string = join(import.meta.dirname, "..", "..", "..");

// Dependencies, what is built or made, and texts of others.
const SKIPPED = /(^|\/)(node_modules|dist|coverage|pocket-experts[^/]*|bench-results|fixtures|shared|\.[^/]+)$/;

/** Paths of all Markdown files, from the root of the repository. */
export function markdownFiles(folder = ""): readonly string[] {
  return readdirSync(join(ROOT, folder), { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) return SKIPPED.test(path) ? [] : markdownFiles(path);
    return entry.name.endsWith(".md") ? [path] : [];
  });
}

/** The pages that documentation is: README.md, packages' own, and everything in docs. */
export function pages(): readonly string[] {
  return markdownFiles().filter((path) => /^(README\.md$|docs\/|packages\/)/.test(path));
}

export const readPage = (path: string): string => readFileSync(join(ROOT, path), "utf8");

/** A fenced block of a page. */
export interface Block {
  readonly page: string;
  /** What stands behind the fence: `ts`, `sh` … */
  readonly language: string;
  /** Of its first line of code, from 1. */
  readonly line: number;
  readonly lines: readonly string[];
  /** Comments right before it that say how it is to be checked, such as `continues`, `checked only: why`. */
  readonly notes: readonly Note[];
}

export interface Note {
  readonly text: string;
  /** Of its first line, from 1. */
  readonly line: number;
}

export function blocksOf(page: string): readonly Block[] {
  const lines = readPage(page).split("\n");
  const blocks: Block[] = [];
  let notes: Note[] = [];
  for (let at = 0; at < lines.length; at++) {
    const line = lines[at] as string;
    const fence = /^( *)(`{3,})(\w*)/.exec(line);
    if (fence) {
      const [, indent = "", ticks = "", language = ""] = fence;
      const end = lines.findIndex((other, index) => index > at && other.trim() === ticks);
      if (end < 0) throw new Error(`${page}:${at + 1}: a block without an end`);
      const content = lines.slice(at + 1, end).map((text) => text.slice(text.startsWith(indent) ? indent.length : 0));
      blocks.push({ page, language, line: at + 2, lines: content, notes });
      notes = [];
      at = end;
    } else if (line.startsWith("<!--")) {
      const end = lines.findIndex((other, index) => index >= at && other.includes("-->"));
      const text = lines
        .slice(at, end + 1)
        .join("\n")
        .replace("<!--", "")
        .replace("-->", "");
      notes.push({ text, line: at + 1 });
      at = end;
    } else if (line.trim() !== "") notes = [];
  }
  return blocks;
}

/** The text of a block's note that begins so, without this beginning. */
export function noteOf(block: Block, beginning: string): Note | undefined {
  return block.notes.find(({ text }) => text.trim().startsWith(beginning));
}

/** A page without its blocks and comments, line by line. */
export function proseOf(page: string): string {
  return readPage(page)
    .replaceAll(/^( *)(`{3,})[\s\S]*?^\1\2 *$/gm, (block) => block.replaceAll(/[^\n]/g, ""))
    .replaceAll(/<!--[\s\S]*?-->/g, (comment) => comment.replaceAll(/[^\n]/g, ""));
}

export interface Link {
  readonly target: string;
  readonly line: number;
}

/** Links and pictures. */
export function linksOf(page: string): readonly Link[] {
  return proseOf(page)
    .split("\n")
    .flatMap((line, index) =>
      // What is code is no link.
      [...line.replaceAll(/`[^`]*`/g, "").matchAll(/\]\(<?([^)>\s]+)>?(?: "[^"]*")?\)|<img[^>]* src="([^"]+)"/g)].map(
        ([, target, source]) => ({ target: (target ?? source) as string, line: index + 1 }),
      ),
    );
}

/** Ids of the page's headings, as GitHub makes them. */
export function anchorsOf(page: string): ReadonlySet<string> {
  const anchors = new Set<string>();
  for (const [, heading = ""] of proseOf(page).matchAll(/^#{1,6} +(.+?) *#*$/gm)) {
    const words = heading.replaceAll(/!?\[([^\]]*)\]\([^)]*\)/g, "$1").replaceAll(/[`*]/g, "");
    const plain = words
      .toLowerCase()
      .replaceAll(/[^\p{L}\p{M}\p{N}\p{Pc}\- ]/gu, "")
      .replaceAll(" ", "-");
    let anchor = plain;
    for (let count = 1; anchors.has(anchor); count++) anchor = `${plain}-${count}`;
    anchors.add(anchor);
  }
  return anchors;
}

/** A link's file, from the root of the repository. */
export function resolveLink(page: string, target: string): string {
  return relative(ROOT, join(ROOT, dirname(page), decodeURIComponent(target)));
}
