// Reference pages say what the code says, and the other pages name nothing that the code does not have.

import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { commandLine, openLab } from "readme-moe";
import { resolveSamplingParams } from "@readme-moe/core";
import { expect, test } from "vitest";
import { errorCodes } from "../../docs/generate/errors.ts";
import { regionOf, replaceRegion, withoutPadding } from "../../docs/generate/markdown.ts";
import { drawSimulation, POCKET_PICTURES, SIMULATION } from "../../docs/generate/pictures.ts";
import { membersIn, membersOf } from "../../docs/generate/read-members.ts";
import { REGIONS } from "../../docs/generate/regions.ts";
import { drawTuningCurves, TUNING_CURVES, TUNING_PICTURE } from "../../docs/generate/tuning-curves.ts";
import { anchorsOf, pages, proseOf, readPage, ROOT } from "../support/docs/markdown.ts";
import { sourcesOf } from "../support/docs/sources.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

test.each(REGIONS)("$page has $name as the code has them (else: npm run docs)", async ({ page, name, make }) => {
  const written = regionOf(readPage(join("docs", "reference", page)), name);
  expect(withoutPadding(written)).toBe(withoutPadding(await make()));
});

test("members are read with comments, defaults and types of several lines", () => {
  const body = `
    /** First; has a { brace. @default none */
    readonly one?: string | undefined;
    // Not a comment of two.
    readonly "two:three": (event: {
      /** Inside. */
      readonly four: number;
    }) => void;
    method(five: number): void;
  }
  readonly after: string;`;
  const [one, two, ...others] = membersIn(body);
  expect(one).toEqual({
    name: "one",
    type: "string",
    isOptional: true,
    text: "First; has a { brace.",
    fallback: "none",
  });
  expect(two).toMatchObject({ name: "two:three", isOptional: false, text: "" });
  expect(two?.type).toContain("readonly four: number;");
  expect(others).toEqual([]);
});

test("the last member of a type on one line is read, too", () => {
  expect(membersIn(" readonly one: number; readonly two: string }").map(({ name }) => name)).toEqual(["one", "two"]);
});

test("sampling parameters have the defaults that their docstrings name", async () => {
  const resolved: object = resolveSamplingParams({}, { vocabSize: 10 });
  const members = await membersOf("packages/core/src/sampling/sampling-params.ts", "SAMPLING_PARAMETERS");
  expect(members.length).toBeGreaterThan(10);
  for (const { name, fallback = "" } of members) {
    const value: unknown = Reflect.get(resolved, name);
    const isNone = value === undefined || (typeof value === "object" && Object.keys(value ?? {}).length === 0);
    if (isNone) expect(fallback, name).toMatch(/^none/);
    else expect(JSON.stringify(value), name).toBe(fallback);
  }
});

test("a region is replaced and nothing else", () => {
  const page = "before\n\n<!-- npm run docs writes this: x -->\n\nold\n\n<!-- up to here -->\n\nafter";
  const replaced = replaceRegion(page, "x", "new");
  expect(replaced).toBe(page.replace("old", "new"));
  expect(regionOf(replaced, "x")).toBe("new");
  expect(() => regionOf(page, "y")).toThrow("Expected a region");
});

test("every error code has a section on what to do, and every section a code", async () => {
  const codes = (await errorCodes()).map(({ name }) => name);
  expect(codes.length).toBeGreaterThan(10);
  const sections = [...anchorsOf(join("docs", "how-to", "troubleshoot.md"))].filter((one) => one.startsWith("err_"));
  expect(sections.toSorted()).toEqual(codes.map((name) => name.toLowerCase()).toSorted());
});

test("pages name error codes that exist", async () => {
  const codes = new Set((await errorCodes()).map(({ name }) => name));
  for (const page of pages()) {
    for (const [name] of readPage(page).matchAll(/\bERR_[A-Z_]+\b/g)) expect([...codes], page).toContain(name);
  }
});

const lab = await openLab();
const { commands: topCommands } = commandLine(new AbortController().signal, lab);
/** Commands, and those that they consist of, by their whole names. */
const commands = topCommands.flatMap((command) => [
  { name: command.name(), options: command.options },
  ...command.commands.map((child) => ({ name: `${command.name()} ${child.name()}`, options: child.options })),
]);

test("every command that prints JSON says what it prints", () => {
  const reference = proseOf(join("docs", "reference", "command-line.md"));
  const printing = reference.slice(0, reference.indexOf("## Environment"));
  for (const command of commands.filter(({ options }) => options.some(({ long }) => long === "--json"))) {
    expect(printing).toContain(`\`${command.name}\``);
  }
});

test("pages name options that exist", () => {
  const names = commands.map(({ name }) => name);
  const known = new Set([...commands.flatMap(({ options }) => options.map(({ long }) => long)), ...OTHERS]);
  for (const page of pages()) {
    for (const [, inline = ""] of proseOf(page).matchAll(/`([^`\n]+)`/g)) {
      // What begins with another word calls another program.
      const [first = ""] = inline.split(" ");
      if (!first.startsWith("--") && !inline.includes("readme-moe ") && !names.includes(first)) continue;
      const named = inline.match(/(?<![\w-])--[a-z][a-z-]*[a-z]/g) ?? [];
      for (const option of named) expect([...known], `${page}: ${inline}`).toContain(option);
    }
  }
});

/** Options of other programs in pages: of all of them, our chatbot and benchmarks, `npm run docs`, Docker. */
const OTHERS = [
  ..."--help --model --memory-mb --batch --dense --shape --pictures --quick --rounds --set --show".split(" "),
  ..."--ignore-scripts --dev --repository --stop-timeout --cpus --cpuset-cpus --cpu-shares".split(" "),
];

test("pages name events that exist", async () => {
  const events = await membersOf("packages/core/src/events.ts", "ReadMeEvents");
  const names = new Set(events.map(({ name }) => name));
  // What `serve --json` logs beside events.
  for (const name of ["server:listening", "server:draining", "server:ended"]) names.add(name);
  for (const page of pages()) {
    for (const [, name = ""] of proseOf(page).matchAll(
      /`((?:router|sequence|batch|token|expert|model|engine|request|listener|server):[a-z]+)`/g,
    )) {
      expect([...names], page).toContain(name);
    }
  }
});

test("the API's error codes are the ones of express.md", async () => {
  const page = readPage(join("docs", "express.md"));
  const tableOf = /\| status \| `code`[\s\S]*?\n\n/.exec(page)?.[0] ?? "";
  const documented = [...tableOf.matchAll(/`([a-z]+(?:_[a-z]+)+)`/g)].map(([, name]) => name as string);
  expect(documented.length).toBeGreaterThan(15);
  const sources = (await sourcesOf("packages/express/src")).join("\n");
  for (const name of documented) expect(sources).toContain(`"${name}"`);
  const used = [...sources.matchAll(/\bcode: "([a-z_]+)"/g)].map(([, name]) => name as string);
  expect(used.length).toBeGreaterThan(10);
  for (const name of used) expect(documented, name).toContain(name);
});

test("environment variables are those that the code reads", async () => {
  const sources = (await sourcesOf("packages")).join("\n");
  const read = new Set([...sources.matchAll(/\bREADME_MOE_[A-Z0-9_]*[A-Z0-9]\b/g)].map(([name]) => name));
  const documented = new Set([...byHand().matchAll(/\bREADME_MOE_[A-Z0-9_]*[A-Z0-9]\b/g)].map(([name]) => name));
  expect([...documented].toSorted()).toEqual([...read].toSorted());
});

test("the table of JSON has every command that prints it", () => {
  const program = commandLine(new AbortController().signal, lab);
  const all = program.commands.flatMap((one) => [one, ...one.commands]);
  const printing = all.filter(({ options }) => options.some(({ long }) => long === "--json"));
  const names = printing.map((one) => (one.parent?.parent ? `${one.parent.name()} ${one.name()}` : one.name()));
  const [, table = ""] = byHand().split("`--json`");
  const listed = [...table.matchAll(/^\| (`.*?) +\|/gm)].flatMap(([, cell = ""]) =>
    Array.from(cell.matchAll(/`([a-z ]+)`/g), ([, name = ""]) => name),
  );
  expect(listed.toSorted()).toEqual(names.toSorted());
});

/** Returns the part of the page on the command line that is not generated. */
function byHand(): string {
  return readPage(join("docs", "reference", "command-line.md")).split("<!-- npm run docs")[0] ?? "";
}

test("the simulated picture is what the command draws", async () => {
  const file = join(await temporaryFolder(), "picture.svg");
  await drawSimulation(file);
  expect(await readFile(file, "utf8")).toBe(await readFile(join(ROOT, SIMULATION), "utf8"));
});

test("the picture of tuning shows the curves that were measured", async () => {
  const file = join(await temporaryFolder(), "curves.svg");
  await drawTuningCurves(join(ROOT, TUNING_CURVES), file);
  expect(await readFile(file, "utf8")).toBe(await readFile(join(ROOT, TUNING_PICTURE), "utf8"));
});

test.each(Object.values(POCKET_PICTURES))("%s is a picture", async (picture) => {
  expect(await readFile(join(ROOT, picture), "utf8")).toMatch(/^<svg[\s\S]+<\/svg>\s*$/);
});
