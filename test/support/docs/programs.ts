// Programs that pages have: a block, and the blocks that continue it. Each becomes a file whose lines are where they are on
// the page, so that messages name the page's own lines.

import { mkdir, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { blocksOf, noteOf, type Block } from "./markdown.ts";

export interface Program {
  readonly page: string;
  /** Of its first line, from 1. */
  readonly line: number;
  readonly language: "ts" | "js";
  readonly text: string;
  /** Why it is not run, where it is not. */
  readonly checkedOnly: string | undefined;
}

/**
 * Notes of a block, in comments before it: `continues` (the program of the block before), `checked only: why` (not run), and
 * `given: code` (TypeScript that readers have by then).
 */
export function programsOf(page: string): readonly Program[] {
  const programs: Block[][] = [];
  for (const block of blocksOf(page)) {
    if (block.language !== "ts" && block.language !== "js") continue;
    const last = programs.at(-1);
    if (!noteOf(block, "continues")) programs.push([block]);
    else if (last) last.push(block);
    else throw new Error(`${page}:${block.line}: continues nothing`);
  }
  return programs.map(programOf);
}

function programOf(blocks: readonly Block[]): Program {
  const [first] = blocks as readonly [Block];
  const lines: string[] = [];
  for (const block of blocks) {
    const given = noteOf(block, "given:");
    if (given) putLines(lines, given.line, given.text.replace("given:", "").split("\n"));
    putLines(lines, block.line, block.lines);
  }
  // Without this, a block that imports nothing would be a script.
  const text = `${lines.join("\n")}\nexport {};\n`;
  const checkedOnly = blocks.map((block) => noteOf(block, "checked only:")).find((note) => note !== undefined);
  const language = first.language === "js" ? "js" : "ts";
  const why = checkedOnly?.text.replace("checked only:", "").trim();
  return { page: first.page, line: first.line, language, text, checkedOnly: why };
}

function putLines(lines: string[], line: number, added: readonly string[]): void {
  while (lines.length < line - 1) lines.push("");
  lines.splice(line - 1, added.length, ...added);
}

/** Where a program is put in `folder`. */
function fileOf(folder: string, { page, line, language }: Program): string {
  return join(folder, page, `line-${line}.${language === "ts" ? "ts" : "mjs"}`);
}

/** @param change - what a program's text becomes */
export async function writeProgram(
  folder: string,
  program: Program,
  change: (text: string) => string = (text) => text,
): Promise<string> {
  const file = fileOf(folder, program);
  await mkdir(dirname(file), { recursive: true });
  await writeFile(file, change(program.text));
  return file;
}
