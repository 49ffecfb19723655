// Reads the problems of a language: a Markdown file with a section for each.

import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { transform } from "esbuild";
import type { Job } from "./sandbox.ts";

export type Language = "python" | "typescript";
export const LANGUAGES = ["python", "typescript"] as const satisfies readonly Language[];

const LEVELS = ["easy", "medium", "hard"] as const;
export type Level = (typeof LEVELS)[number];

export interface Problem {
  readonly language: Language;
  readonly name: string;
  readonly level: Level;
  /** Signature and docstring, up to where the solution begins. */
  readonly prompt: string;
  /** Rest of the reference program. */
  readonly solution: string;
  /** Whole programs that the tests must refuse. */
  readonly wrong: readonly string[];
  readonly tests: Job["tests"];
}

/** Reads the problems of a language. @throws {TypeError} naming the problem that is not complete */
export async function readProblems(language: Language): Promise<readonly Problem[]> {
  const text = await readFile(join(import.meta.dirname, `${language}.md`), "utf8");
  return text
    .split(/^## /m)
    .slice(1)
    .map((section) => parseProblem(language, section));
}

/**
 * Parses a section: `name (level)`, a block with the reference program, and a block of tests. A line `a ==> b` is a
 * test, after the lines above it that have no arrow; `~ a ==> b` makes a wrong program of the reference.
 */
function parseProblem(language: Language, section: string): Problem {
  const [, name = "", level] = /^(\S+) \((\w+)\)\n/.exec(section) ?? [];
  const [program, lines] = Array.from(section.matchAll(/^```\w+\n(.*?)^```$/gms), ([, block]) => block);
  const wrongOf = (why: string): TypeError => new TypeError(`${language}.md, ${name || section.slice(0, 40)}: ${why}`);
  const known = LEVELS.find((one) => one === level);
  if (known === undefined || program === undefined || lines === undefined)
    throw wrongOf("expected name, level and blocks");
  const head = language === "python" ? /^.*?""".*?"""\n/s : /^.*?\*\/\n.*?\{\n/s;
  const [prompt] = head.exec(program) ?? [];
  if (prompt === undefined) throw wrongOf("expected a docstring and a signature");
  const wrong: string[] = [];
  const tests: Job["tests"][number][] = [];
  let before = "";
  for (const line of lines.split("\n")) {
    const [, left = line, right] = /^(.*?) ==>(?: (.*))?$/.exec(line) ?? [];
    const hasArrow = left !== line;
    if (left.startsWith("~ ")) {
      const old = left.slice(2);
      if (!program.slice(prompt.length).includes(old)) throw wrongOf(`the solution has no ${old}`);
      wrong.push(prompt + program.slice(prompt.length).replace(old, () => right ?? ""));
    } else if (!hasArrow) before += `${line}\n`;
    else {
      tests.push({ before, actual: left, expected: right ?? "" });
      before = "";
    }
  }
  return { language, name, level: known, prompt, solution: program.slice(prompt.length), wrong, tests };
}

/** Turns a program into a job. @throws {Error} when TypeScript cannot be stripped of its types */
export async function jobOf({ language, tests }: Pick<Problem, "language" | "tests">, program: string): Promise<Job> {
  if (language === "python") return { code: program, tests };
  const { code } = await transform(program, { loader: "ts", format: "cjs", target: "node20", logLevel: "silent" });
  return { code, tests };
}

/** A problem's program with a gap. */
export interface Gap {
  readonly prefix: string;
  readonly suffix: string;
  readonly removed: string;
}

/**
 * Cuts lines out of the middle of a solution: about a third of it, at most three. Returns nothing for a solution of
 * fewer than four lines.
 */
export function gapOf({ prompt, solution }: Problem): Gap | undefined {
  const lines = solution.trimEnd().split("\n");
  if (lines.length < 4) return undefined;
  const count = Math.min(3, Math.ceil(lines.length / 3));
  const first = Math.floor((lines.length - count) / 2);
  const textOf = (from: number, to?: number): string =>
    lines
      .slice(from, to)
      .map((line) => `${line}\n`)
      .join("");
  return { prefix: prompt + textOf(0, first), removed: textOf(first, first + count), suffix: textOf(first + count) };
}

/** Finds the program in an answer: its first block of code, else the whole text. */
export function programOf({ prompt, name, language }: Problem, answer: string): string {
  const block = /^[ \t]*```[^\n]*\n(.*?)(?:^[ \t]*```|(?![^]))/ms.exec(answer)?.[1] ?? answer;
  const defines = language === "python" ? "(?:def|class)" : "(?:function\\*?|class|const|let|var)";
  return new RegExp(`\\b${defines}\\s+${name}\\b`).test(block) ? block : prompt + block;
}
