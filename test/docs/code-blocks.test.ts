// Every block of code on our pages works: TypeScript is type-checked and run with the pocket model, commands are parsed by the
// program that they call, JSON is JSON. How blocks say what they need: CONTRIBUTING.md.

import { existsSync, readFileSync } from "node:fs";
import { mkdir, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { checkPrograms } from "../support/docs/check-programs.ts";
import { complaintAbout } from "../support/docs/complaint.ts";
import { argumentsOf, commandLines, plainCalls, scriptOf, shellWords } from "../support/docs/commands.ts";
import { blocksOf, noteOf, pages, ROOT, type Block } from "../support/docs/markdown.ts";
import { programsOf, writeProgram, type Program } from "../support/docs/programs.ts";
import { runFolder, type RunFolder } from "../support/docs/run-folder.ts";
import { runPrograms, runShell } from "../support/docs/run-programs.ts";
import { freePort } from "../support/free-port.ts";

/** Below the repository, so that packages are found. */
const FOLDER = join(ROOT, "node_modules", ".cache", `docs-blocks-${process.pid}`);
const LANGUAGES = ["ts", "js", "sh", "json", "jsonl", "mermaid", "nginx", "ini", "yaml", "dockerfile", "text"];

/** Programs of others run beside these: what takes seconds alone may take a minute. */
const PATIENCE_MS = 240_000;

const wrong = (line: number, text: string): Program => ({
  page: "wrong.md",
  line,
  language: "ts",
  text,
  checkedOnly: undefined,
});
const WRONG = [
  wrong(1, 'import { ReadMeEngine } from "@readme-moe/engine";\nawait ReadMeEngine.open("x", { maxNumSeq: 1 });'),
  wrong(2, 'import { noSuchName } from "@readme-moe/core";'),
];

const blocks = pages().flatMap(blocksOf);
const programs = pages().flatMap(programsOf);
const shellBlocks = blocks.filter(({ language }) => language === "sh");

let folder: RunFolder;
beforeAll(async () => {
  await mkdir(FOLDER, { recursive: true });
  await writeFile(join(FOLDER, "package.json"), '{ "type": "module" }');
  folder = await runFolder();
});
afterAll(async () => {
  await rm(FOLDER, { recursive: true, force: true });
  await folder?.[Symbol.asyncDispose]();
});

test("every block says its language, and has notes that mean something", () => {
  for (const { page, line, language, notes } of blocks) {
    expect(LANGUAGES, `${page}:${line}`).toContain(language);
    for (const { text } of notes) {
      expect(text.trim(), `${page}:${line}`).toMatch(
        /^(continues$|checked only: \w|given:|runs$|asks the server$|up to here$)/,
      );
    }
  }
});

test(
  "TypeScript and JavaScript on all pages pass the compiler, and mistakes do not",
  async () => {
    const files = await Promise.all([...programs, ...WRONG].map((program) => writeProgram(FOLDER, program)));
    expect(programs.length).toBeGreaterThan(20);
    const messages = await checkPrograms(FOLDER, files);
    expect(messages.filter((message) => !isWanted(message))).toEqual([]);
    expect(messages.filter(isWanted).map((message) => /line-(\d)\.ts\((\d)/.exec(message)?.slice(1))).toEqual([
      ["1", "2"],
      ["2", "1"],
    ]);
  },
  PATIENCE_MS,
);

test("a block that throws does not pass", async () => {
  const file = await writeProgram(FOLDER, wrong(3, 'throw new Error("no");'));
  expect([...(await runPrograms([file], folder)).values()]).toEqual([expect.stringContaining("Error: no")]);
});

/** Packages' own pages are run where the packages are installed. */
const running = pages().filter(
  (page) => !page.startsWith("packages/") && (runsIn(page).length > 0 || shellRunsIn(page).length > 0),
);

test.each(running)(
  "%s: what is to run runs",
  async (page) => {
    for (const block of shellRunsIn(page)) {
      expect(await runShell(plainCalls(block), folder), `${page}:${block.line}`).toBeUndefined();
    }
    // Programs of one page run at once, so that each has a port of its own.
    const files = await Promise.all(
      runsIn(page).map(async (program) => {
        const port = `${await freePort()}`;
        return writeProgram(join(FOLDER, "run"), program, (text) => textToRun(text, port));
      }),
    );
    const failures = await runPrograms(files, folder);
    expect(Object.fromEntries(failures)).toEqual({});
  },
  PATIENCE_MS,
);

test("commands of ours are parsed by the program itself", async () => {
  const refused: string[] = [];
  let parsed = 0;
  for (const block of shellBlocks) {
    for (const { line, words } of commandLines(block)) {
      const args = argumentsOf(words);
      if (args === undefined) continue;
      parsed++;
      const complaint = await complaintAbout(args);
      if (complaint !== undefined) refused.push(`${block.page}:${line}: ${complaint}`);
    }
  }
  expect(refused).toEqual([]);
  expect(parsed).toBeGreaterThan(15);
});

test("a command with a mistake is refused", async () => {
  expect(await complaintAbout(["generate", "models/pocket", "--promt", "x"])).toContain("unknown option '--promt'");
  expect(await complaintAbout(["generate", "models/pocket", "--precision", "int3"])).toContain("int3");
  expect(await complaintAbout(["generat", "models/pocket"])).toContain("unknown command 'generat'");
  expect(shellWords(`a "b c" 'd e'f x=1 # g`)).toEqual(["a", "b c", "d ef", "x=1"]);
});

test("scripts and files that commands name exist", () => {
  const { scripts } = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8")) as { scripts: object };
  for (const block of shellBlocks) {
    for (const { line, words } of commandLines(block)) {
      const script = scriptOf(words);
      if (script !== undefined) expect(Object.keys(scripts), `${block.page}:${line}`).toContain(script);
      if (words[0] !== "npx" || words[1] !== "vitest") continue;
      for (const path of words.filter((word) => word.startsWith("test/"))) {
        expect(existsSync(join(ROOT, path)), `${block.page}:${line}: ${path}`).toBe(true);
      }
    }
  }
});

test("JSON is JSON, line by line or whole", () => {
  for (const { page, line, lines } of blocks.filter(({ language }) => language.startsWith("json"))) {
    const isLines = lines.length > 1 && lines.every((one) => one.startsWith("{") && one.endsWith("}"));
    for (const text of isLines ? lines : [lines.join("\n")])
      expect(() => void JSON.parse(text), `${page}:${line}`).not.toThrow();
  }
});

/** A page's servers listen where nobody else does. */
function textToRun(text: string, port: string): string {
  return text.replaceAll("8080", port);
}

function runsIn(page: string): readonly Program[] {
  return programs.filter((program) => program.page === page && program.checkedOnly === undefined);
}

function shellRunsIn(page: string): readonly Block[] {
  return shellBlocks.filter((block) => block.page === page && noteOf(block, "runs"));
}

function isWanted(message: string): boolean {
  return message.startsWith("wrong.md");
}
