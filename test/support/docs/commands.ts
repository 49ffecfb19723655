// Command lines in blocks for shells.

import type { Block } from "./markdown.ts";

export interface CommandLine {
  /** Of the page, from 1. */
  readonly line: number;
  readonly words: readonly string[];
}

/** Lines of a block, those that go on after a backslash joined, without comments. */
export function commandLines({ lines, line }: Pick<Block, "lines" | "line">): readonly CommandLine[] {
  const commands: CommandLine[] = [];
  let text = "";
  let from = line;
  for (const [index, one] of lines.entries()) {
    if (text === "") from = line + index;
    if (one.endsWith("\\")) {
      text += `${one.slice(0, -1)} `;
      continue;
    }
    const words = shellWords(text + one);
    if (words.length > 0) commands.push({ line: from, words });
    text = "";
  }
  return commands;
}

/** What stands before a command of ours. */
const CALLS = [
  ["npm", "run", "-s", "readme-moe", "--"],
  ["npm", "run", "readme-moe", "--"],
  ["pnpm", "readme-moe"],
  ["npx", "readme-moe"],
  ["readme-moe"],
];

/** What `readme-moe` is called with, or nothing where something else is called. */
export function argumentsOf(words: readonly string[]): readonly string[] | undefined {
  const call = CALLS.find((one) => one.every((word, index) => words[index] === word));
  return call && words.slice(call.length);
}

/** A script of package.json that is called. */
export function scriptOf(words: readonly string[]): string | undefined {
  const [program, command, ...rest] = words;
  if (program !== "npm") return undefined;
  if (command === "start" || command === "test") return command;
  return command === "run" ? rest.find((word) => !word.startsWith("-")) : undefined;
}

/** Words as a POSIX shell makes them, without expansions. */
export function shellWords(text: string): readonly string[] {
  const words: string[] = [];
  for (const [word] of text.matchAll(/#.*$|(?:[^\s"'#]|"[^"]*"|'[^']*'|(?<=\S)#)+/g)) {
    if (word.startsWith("#")) break;
    words.push(word.replaceAll(/"([^"]*)"|'([^']*)'/g, "$1$2"));
  }
  return words;
}

/** A block's text with `readme-moe` called by its name. */
export function plainCalls(block: Block): string {
  return block.lines
    .join("\n")
    .replaceAll(/\b(?:npm run (?:-s )?readme-moe --|pnpm readme-moe|npx readme-moe)(?=\s)/g, "readme-moe");
}
