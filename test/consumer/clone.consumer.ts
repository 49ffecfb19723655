// A fresh clone, whose `npm start` installs less than `npm test` needs.

import { existsSync } from "node:fs";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { outcomeOf, run } from "../../tools/packages/run.ts";
import { ROOT } from "../../tools/packages/workspace.ts";
import { writeChattingPocket } from "../support/chatting-pocket.ts";
import { followReadme } from "./follow-readme.ts";

let clone = "";

beforeAll(async () => {
  clone = join(await mkdtemp(join(tmpdir(), "readme-moe-clone-")), "clone");
  await run("git", ["clone", "--quiet", "--no-hardlinks", ROOT, clone], { cwd: tmpdir() });
});
afterAll(() => rm(join(clone, ".."), { recursive: true, force: true }));

const has = (name: string): boolean => existsSync(join(clone, "node_modules", name));

test("npm start finds all that it imports without what only tests need", async () => {
  const { code, output, everything } = await outcomeOf("npm", ["start", "--", "--help"], { cwd: clone });
  expect(code, everything).toBe(0);
  expect(output).toContain("Usage: npm start");
  expect(has("tsx")).toBe(true);
  expect(has("vitest")).toBe(false);
});

test("README.md can be followed after npm start", async () => {
  await run("npm", ["start", "--", "--help"], { cwd: clone });
  await writeChattingPocket(join(clone, "smollm2-135m"));
  const env = { README_MOE_CACHE: join(clone, "..", "cache"), HF_HUB_OFFLINE: "1" };
  const program = ["npm", "run", "-s", "node"] as const;
  expect(await followReadme({ folder: clone, program, env })).toEqual({ programs: 2, commands: 1 });
});

test("setup adds what is missing without asking, and npm start takes nothing away again", async () => {
  await run("npm", ["run", "setup"], { cwd: clone });
  expect(has("vitest")).toBe(true);
  await run("npm", ["start", "--", "--help"], { cwd: clone });
  expect(has("vitest")).toBe(true);
});

test("a registry that does not answer is named, and nothing runs", async () => {
  // Nothing is asked of the registry while all is installed.
  await rm(join(clone, "node_modules"), { recursive: true });
  const env = {
    npm_config_registry: "http://127.0.0.1:9",
    npm_config_cache: join(clone, "..", "empty"),
    npm_config_fetch_retries: "0",
    // This suite may itself run under `npm run --silent`.
    npm_config_loglevel: "notice",
  };
  const { code, everything } = await outcomeOf("npm", ["start", "--", "--help"], { cwd: clone, env });
  expect(code).not.toBe(0);
  expect(everything).toContain("the registry http://127.0.0.1:9/ does not answer");
});

test("npm start replaces modules that npm installed", async () => {
  await rm(join(clone, "node_modules"), { recursive: true, force: true });
  await mkdir(join(clone, "node_modules", "ms"), { recursive: true });
  await writeFile(join(clone, "node_modules", ".package-lock.json"), "{}");
  const { code, output, everything } = await outcomeOf("npm", ["start", "--", "--help"], { cwd: clone });
  expect(code, everything).toBe(0);
  expect(everything).toContain("node_modules was made by another package manager: removing it");
  expect(output).toContain("Usage: npm start");
});

test("two calls of npm start at the same time both work", async () => {
  await rm(join(clone, "node_modules"), { recursive: true });
  const call = () => outcomeOf("npm", ["start", "--", "--help"], { cwd: clone });
  const [first, second] = await Promise.all([call(), call()]);
  for (const { code, everything } of [first, second]) expect(code, everything).toBe(0);
  expect(first.everything + second.everything).toContain("installs into the same folder: waiting");
});
