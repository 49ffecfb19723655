// The shape of the code: which package may know which, and how long a file may grow.

import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { basename, join, relative, sep } from "node:path";
import { expect, test } from "vitest";
import { testsWithoutAssertion } from "../tools/house/assertions.ts";
import { countSources, sourceFiles, type SourceCounts } from "../tools/house/source-counts.ts";
import { LAB, workspacePackages } from "../tools/packages/workspace.ts";
import { skipReasons } from "./support/summary-reporter.ts";
import { temporaryFolder } from "./support/temporary-folder.ts";
import config from "../vitest.config.ts";

const ROOT = join(import.meta.dirname, "..");

/** What each package may import, from the bottom up. */
const ALLOWED: Readonly<Record<string, readonly string[]>> = {
  core: [],
  model: ["core"],
  kernel: ["core", "model"],
  router: ["core", "model", "kernel"],
  engine: ["core", "model", "kernel", "router", "grammar"],
  adapter: ["core", "model", "engine"],
  grammar: ["core"],
  express: ["core", "grammar"],
  fleet: ["core", "grammar"],
  "readme-moe": ["core", "model", "kernel", "router", "engine", "express", "fleet"],
  refactor: ["core", "kernel", "model", "router", "engine", "fleet", "readme-moe"],
};

const sourcesOf = (folder: string): readonly string[] =>
  readdirSync(folder, { recursive: true, encoding: "utf8" })
    .filter((name) => name.endsWith(".ts"))
    .map((name) => join(folder, name));

const packages = workspacePackages().map(({ folder }) => basename(folder));

test("every package is in the list of who may import whom", () => {
  expect(packages.toSorted()).toEqual(Object.keys(ALLOWED).toSorted());
});

test.each(packages)("%s imports only packages below it, and through their public names", (name) => {
  for (const path of sourcesOf(join(ROOT, "packages", name, "src"))) {
    for (const [, specifier] of readFileSync(path, "utf8").matchAll(/from\s+"([^"]+)"/g)) {
      const where = `${relative(ROOT, path)} imports ${specifier}`;
      const own = /^(?:@readme-moe\/)?(readme-moe|(?<=@readme-moe\/)[^/]*)/.exec(specifier ?? "")?.[1];
      if (own !== undefined) expect(ALLOWED[name], where).toContain(own);
      if (specifier?.startsWith(".")) expect(specifier, where).not.toContain("packages");
    }
  }
  const manifest = JSON.parse(readFileSync(join(ROOT, "packages", name, "package.json"), "utf8")) as {
    dependencies?: Record<string, string>;
  };
  const own = Object.keys(manifest.dependencies ?? {}).filter((dependency) => dependency.startsWith("@readme-moe/"));
  expect(ALLOWED[name]).toEqual(
    expect.arrayContaining(own.map((dependency) => dependency.slice("@readme-moe/".length))),
  );
});

test("no package of the runtime loads one of the lab, or depends on it", () => {
  for (const name of packages.filter((one) => !LAB.includes(one))) {
    for (const path of sourcesOf(join(ROOT, "packages", name, "src"))) {
      const imported = /(?:from|import\()\s*"@readme-moe\/refactor/.exec(readFileSync(path, "utf8"));
      expect(imported, relative(ROOT, path)).toBeNull();
    }
  }
  const needing = workspacePackages().filter(({ manifest: { dependencies, peerDependencies } }) =>
    Object.keys({ ...dependencies, ...peerDependencies }).some((one) => one === "@readme-moe/refactor"),
  );
  expect(needing).toEqual([]);
});

test("examples use packages as their users do, by their public names", () => {
  const files = readdirSync(join(ROOT, "examples"), { recursive: true, encoding: "utf8" })
    .filter((name) => /\.(m?ts|tsx|mjs)$/.test(name) && !/node_modules|dist/.test(name))
    .map((name) => join(ROOT, "examples", name));
  expect(files.length).toBeGreaterThan(50);
  for (const path of files) {
    for (const [, specifier = ""] of readFileSync(path, "utf8").matchAll(/from\s+"([^"]+)"/g)) {
      const where = `${relative(ROOT, path)} imports ${specifier}`;
      if (specifier.startsWith(".")) {
        expect(join(path, "..", specifier), where).toContain(join(ROOT, "examples"));
      } else if (specifier.startsWith("@readme-moe/")) {
        expect(specifier, where).toMatch(/^@readme-moe\/(\w+|adapter\/(huggingface|xenova))$/);
      }
    }
  }
});

// Of the middleware, from what everything stands on to what stands on everything.
const EXPRESS_FOLDERS = ["http", "tools", "reasoning", "edge", "api", "responses", "batches", "messages", "ollama"];

test("the middleware's folders import from those below them only", () => {
  const root = join(ROOT, "packages", "express", "src");
  for (const [height, folder] of EXPRESS_FOLDERS.entries()) {
    for (const path of sourcesOf(join(root, folder))) {
      for (const [, specifier = ""] of readFileSync(path, "utf8").matchAll(/from\s+"(\.[^"]+)"/g)) {
        const [target = ""] = relative(root, join(path, "..", specifier)).split(sep);
        const isAbove = EXPRESS_FOLDERS.slice(height + 1).includes(target);
        expect(isAbove, `${relative(ROOT, path)} imports ${specifier}`).toBe(false);
      }
    }
  }
});

test("only one file touches the inference runtime", () => {
  const users = packages
    .flatMap((name) => sourcesOf(join(ROOT, "packages", name, "src")))
    .filter((path) => readFileSync(path, "utf8").includes('"onnxruntime-node"'));
  expect(users.map((path) => relative(ROOT, path))).toEqual([
    join("packages", "refactor", "src", "graphs", "session.ts"),
  ]);
});

/** Where the wall clock is right, since what is asked for is a date, or the age of a file. */
const WALL_CLOCK: Readonly<Record<string, string>> = {
  "engine/src/calibration.ts": "is part of a text",
  "engine/src/saved-prompts.ts": "a file's time says when a prompt was last used",
  "express/src/api/generation.ts": "`created` of an answer is a date",
  "express/src/ollama/routes.ts": "`created_at` of an answer is a date",
  "express/src/edge/models/model-entry.ts": "`created` of a model is a date",
  "model/src/cache/cache-folder.ts": "the age of a file; a clock that is set back makes it wait",
  "model/src/cache/cached-data.ts": "the age of a file; a clock that is set back makes it be read whole again",
  "model/src/cache/model-index.ts": "a file's time says when a model was last used, and whether its writer runs",
  "model/src/hub/hub-client.ts": "`retry-after` may be a date",
  "model/src/lora/change-set.ts": "the age of a file; a clock that is set back makes it wait",
  "model/src/text/chat-template.ts": "templates ask for the date",
  "readme-moe/src/commands/serve.ts": "the start of a server is a date",
  "readme-moe/src/serving/event-log.ts": "the time of a log line",
};

test("durations and waits go by a clock that is never set: the wall clock is read only for dates", () => {
  const readers = packages
    .flatMap((name) => sourcesOf(join(ROOT, "packages", name, "src")))
    .filter((path) => /\bDate\.now\b|\bnew Date\(\)/.test(readFileSync(path, "utf8")))
    .map((path) => relative(join(ROOT, "packages"), path).split(sep).join("/"));
  expect(readers.toSorted()).toEqual(Object.keys(WALL_CLOCK).toSorted());
});

test("no source file has more than 500 lines", () => {
  const long = packages
    .flatMap((name) => sourcesOf(join(ROOT, "packages", name, "src")))
    .filter((path) => readFileSync(path, "utf8").split("\n").length > 500);
  expect(long).toEqual([]);
});

const counts = countSources(
  ROOT,
  packages.flatMap((name) => sourcesOf(join(ROOT, "packages", name, "src"))),
);

/** Most files and lines of both groups of packages. Raising a limit is a decision: its commit says what it is worth. */
const SIZE_LIMITS = { runtime: { files: 391, lines: 83_540 }, lab: { files: 116, lines: 23_200 } };

test.each(["runtime", "lab"] as const)("the %s grows in files and lines by decision only", (group) => {
  const names = packages.filter((name) => LAB.includes(name) === (group === "lab"));
  const paths = names.flatMap((name) => sourcesOf(join(ROOT, "packages", name, "src")));
  const lines = paths.reduce((sum, path) => sum + readFileSync(path, "utf8").split("\n").length - 1, 0);
  expect(paths.length).toBeLessThanOrEqual(SIZE_LIMITS[group].files);
  expect(lines).toBeLessThanOrEqual(SIZE_LIMITS[group].lines);
});

/** Lists places so that a failure shows each with its file, line and text. */
function linesOf(places: SourceCounts["casts"]): readonly string[] {
  return places.map(({ file, line, text }) => `${file}:${line}: ${text}`);
}

test("imports form no circles", () => {
  expect(counts.circles.map((files) => files.join(" -> "))).toEqual([]);
});

/** Declarations of functions in C, which take their arguments by position. */
const NATIVE_CALLS = ["packages/kernel/src/native-kernel.ts", "packages/kernel/src/wasm-calls.ts"];

test("functions take at most four parameters by position", () => {
  expect(linesOf(counts.manyParameters.filter(({ file }) => !NATIVE_CALLS.includes(file)))).toEqual([]);
});

test("docstrings begin with a verb or a noun", () => {
  expect(linesOf(counts.danglingComments)).toEqual([]);
});

test("comments are no wider than the code", () => {
  expect(linesOf(counts.wideComments)).toEqual([]);
});

test("every test asserts something", () => {
  const files = sourceFiles(join(ROOT, "test")).filter((path) => path.endsWith(".test.ts"));
  expect(files.length).toBeGreaterThan(300);
  expect(testsWithoutAssertion(ROOT, files)).toEqual([]);
});

test("a test without an assertion is found, whatever its helpers are called", async () => {
  const path = join(await temporaryFolder(), "some.test.ts");
  const lines = [
    'const check = () => expect(1).toBe(1); const run = () => open(); test("a", () => check());',
    'test("b", () => run());',
    'test.each([expect])("c", async () => { await open(); });',
    'describe("d", () => { it("e", async function () { await run(); }, PATIENCE_MS); });',
    'test("f", () => expectReadMeError(open()));',
  ];
  writeFileSync(path, lines.join("\n"));
  const places = testsWithoutAssertion(join(path, ".."), [path]);
  expect(places).toEqual([2, 3, 4].map((line) => `some.test.ts:${line}`));
});

test("a run says why it has skipped tests, the most frequent reason first", () => {
  const skipped = [
    { fullName: "a" },
    { fullName: "a fleet (skipped where valkey-server is absent) > b" },
    { fullName: "c", note: "shared/data is not beside the repository" },
    { fullName: "a fleet (skipped where valkey-server is absent) > d" },
  ];
  expect(skipReasons(skipped)).toEqual([
    "2 skipped: where valkey-server is absent",
    "1 skipped: without a reason: a",
    "1 skipped: shared/data is not beside the repository",
  ]);
});

// A project that has not the mode of its run starts workers that compile the sources again, five times as slowly.
test("every project of the tests has the mode of the run", () => {
  const { test: settings } = config({ mode: "built", command: "serve" });
  const modes = settings?.projects?.map((project) => typeof project === "object" && "mode" in project && project.mode);
  expect(modes).toEqual(["built", "built", "built"]);
});
