// Every program on README.md and on the packages' own pages runs as it stands there, with what npm installed, unless the page
// says what it needs beside that.

import { once } from "node:events";
import { mkdir, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import ts from "typescript-api";
import { afterAll, beforeAll, expect, test } from "vitest";
import { isReady } from "../support/docs/is-ready.ts";
import { pages } from "../support/docs/markdown.ts";
import { programsOf, type Program } from "../support/docs/programs.ts";
import { runFolder, type RunFolder } from "../support/docs/run-folder.ts";
import { freePort } from "../support/free-port.ts";
import { followReadme } from "./follow-readme.ts";
import { FOLDER, node, OFFLINE, reached, startNode } from "./offline.ts";

/** Models and texts by the names that pages use. */
let data: RunFolder;
beforeAll(async () => {
  data = await runFolder();
});
afterAll(() => data?.[Symbol.asyncDispose]());

const readmes = pages().filter((page) => page.endsWith("/README.md") && !page.startsWith("docs"));

test("every package has a page with programs or commands", () => {
  expect(readmes.length).toBeGreaterThan(9);
  expect(readmes.flatMap(programsOf).length).toBeGreaterThan(9);
});

const programs = readmes.flatMap(programsOf).filter(({ checkedOnly }) => !checkedOnly?.startsWith("needs"));

test.each(programs)("$page: the program in line $line runs", (program) => runProgram(program));

test("README.md can be followed in a project", async () => {
  await symlink(join(data.path, "smollm2-135m"), join(FOLDER, "smollm2-135m"));
  const env = { ...OFFLINE, no_proxy: "127.0.0.1" };
  expect(await followReadme({ folder: FOLDER, program: ["node"], env })).toEqual({ programs: 2, commands: 1 });
});

test("nothing was asked of another machine", () => {
  expect(reached()).toEqual([]);
});

async function runProgram(program: Program): Promise<void> {
  const port = await freePort();
  const file = await writeModule(program, `${port}`);
  if (program.text.includes(".listen(8080)")) return askServer(file, port);
  // Engines that a program leaves open end with its process.
  const whole = `await import(${JSON.stringify(pathToFileURL(file).href)}); process.exit();`;
  const { code, everything } = await node(["--input-type=module", "--eval", whole], data.path);
  expect(code, everything).toBe(0);
}

/** The program as JavaScript, in the folder where it finds the packages. */
async function writeModule({ page, line, text }: Program, port: string): Promise<string> {
  const { outputText } = ts.transpileModule(text.replaceAll("8080", port), {
    compilerOptions: { module: ts.ModuleKind.ESNext, target: ts.ScriptTarget.ES2022 },
  });
  const folder = join(FOLDER, "examples");
  await mkdir(folder, { recursive: true });
  const file = join(folder, `${page.replaceAll(/\W/g, "-")}-${line}.mjs`);
  await writeFile(file, outputText);
  return file;
}

/** A program that serves: an answer of it, and of its operations. */
async function askServer(file: string, port: number): Promise<void> {
  const child = startNode([file], data.path);
  let told = "";
  child.stdout?.on("data", (text: Buffer) => (told += text.toString()));
  child.stderr?.on("data", (text: Buffer) => (told += text.toString()));
  const closed = once(child, "close");
  let isClosed = false;
  void closed.then(() => (isClosed = true));
  try {
    const url = `http://127.0.0.1:${port}`;
    while (!(await isReady(`${url}/readyz`))) expect(isClosed, told).toBe(false);
    const answer = await fetch(`${url}/v1/completions`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ model: "my-model", prompt: "The ship was", max_tokens: 4 }),
    });
    expect(answer.status, await answer.clone().text()).toBe(200);
    expect(await answer.json()).toMatchObject({ object: "text_completion", usage: { completion_tokens: 4 } });
  } finally {
    child.kill();
    await closed;
  }
}
