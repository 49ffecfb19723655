// The lab's commands beside the command line: installed, missing, and broken.

import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { commandLine, openLab, reportError } from "readme-moe";
import { expect, test } from "vitest";
import { temporaryFolder } from "../support/temporary-folder.ts";

type Lab = Awaited<ReturnType<typeof openLab>>;

const COMMANDS = "answer, refactor, tune, pack, apply, export, simulate";
const INSTALL = "@readme-moe/refactor, which is not installed here: npm install @readme-moe/refactor";

/** A place that has a package by the lab's name, with this module. */
async function placeWith(module: string): Promise<string> {
  const folder = await temporaryFolder();
  const own = join(folder, "node_modules", "@readme-moe", "refactor");
  await mkdir(own, { recursive: true });
  const manifest = { name: "@readme-moe/refactor", type: "module", exports: { "./commands": "./commands.js" } };
  await writeFile(join(own, "package.json"), JSON.stringify(manifest));
  if (module !== "") await writeFile(join(own, "commands.js"), module);
  return join(folder, "package.json");
}

const emptyPlace = async (): Promise<string> => join(await temporaryFolder(), "package.json");

/** Calls the command line. @returns what it throws or prints */
async function call(lab: Lab, ...args: readonly string[]): Promise<{ readonly error: unknown; readonly text: string }> {
  const program = commandLine(new AbortController().signal, lab);
  let text = "";
  const write = (more: string): void => void (text += more);
  program.configureOutput({ writeOut: write, writeErr: write });
  const error: unknown = await program.parseAsync(args, { from: "user" }).then(
    () => undefined,
    (reason: unknown) => reason,
  );
  return { error, text };
}

test("the lab of this repository has all commands", async () => {
  const lab = await openLab();
  const { text } = await call(lab, "--help");
  for (const name of COMMANDS.split(", ")) expect(text).toMatch(new RegExp(`^ {2}${name} `, "m"));
  expect(text).not.toContain("npm install");
});

test("without the lab, its commands say in one line how to get it, whatever their arguments are", async () => {
  const lab = await openLab([await emptyPlace(), await emptyPlace()]);
  for (const name of COMMANDS.split(", ")) {
    for (const rest of [[], ["model", "--out", "x"], ["--help"]]) {
      const { error, text } = await call(lab, name, ...rest);
      expect(error).toStrictEqual(new TypeError(`\`readme-moe ${name}\` comes with ${INSTALL}`));
      expect(text).toBe("");
      expect(reportError(error)).toBe(2);
    }
  }
});

test("without the lab, the help has one line on it and not its commands", async () => {
  const { text } = await call(await openLab([await emptyPlace()]), "--help");
  expect(text.split("\n").filter((line) => line.includes("refactor"))).toEqual([
    `Commands that make and study models (${COMMANDS}) come with ${INSTALL}`,
  ]);
});

test.each([
  ["throws", 'throw new Error("no such library\\nmore");', /cannot be loaded: no such library$/],
  [
    "needs what is not there",
    'import "nothing-by-this-name";',
    /cannot be loaded: Cannot find package 'nothing-by-this-name'/,
  ],
  ["is not there", "", /cannot be loaded: Cannot find module/],
])("a lab that %s is reported with its cause, not as missing", async (_, module, message) => {
  const place = await placeWith(module);
  const lab = await openLab([place]);
  const { error } = await call(lab, "refactor", "model");
  expect(error).toMatchObject({ code: "ERR_MODULE", message: expect.stringMatching(message) });
  expect(error).toHaveProperty("cause");
  expect(reportError(error)).toBe(1);
  const { text } = await call(lab, "--help");
  expect(text).toContain("is installed, and cannot be loaded: ");
  expect(text).not.toContain("npm install");
});

test("the first place that has a lab counts", async () => {
  const found = 'export const labCommands = () => { throw new Error("found"); };';
  const [working, broken] = [await placeWith(found), await placeWith("throw new Error();")];
  expect(await openLab([await emptyPlace(), working, broken])).toHaveProperty("module");
  expect(await openLab([broken, working])).toHaveProperty("failure");
});

const named = (name: string, more: object): Error => Object.assign(new Error("x"), { name, ...more });

test("errors of a lab with classes of its own have the usual exit codes", () => {
  expect(reportError(named("ReadMeError", { code: "ERR_MEMORY" }))).toBe(1);
  expect(reportError(named("CommanderError", { exitCode: 0 }))).toBe(0);
  expect(reportError(named("CommanderError", { exitCode: 1 }))).toBe(2);
});
