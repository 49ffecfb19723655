// The command line, as npx starts it.

import { existsSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { folderBytes } from "../../tools/packages/workspace.ts";
import { POCKET } from "../support/pocket.ts";
import { npx, reached, RUNTIME_FOLDER } from "./offline.ts";

test("--help lists the commands", async () => {
  const { code, output } = await npx(["readme-moe", "--help"]);
  expect(code).toBe(0);
  for (const command of ["refactor", "eval", "generate", "chat", "serve", "plan"]) expect(output).toContain(command);
});

test("inspect reads a model", async () => {
  const { code, output, everything } = await npx(["readme-moe", "inspect", POCKET, "--json"]);
  expect(code, everything).toBe(0);
  expect(JSON.parse(output)).toMatchObject({ kind: "dense", config: { modelType: "llama", numLayers: 6 } });
});

test("generate runs a model", async () => {
  const args = ["readme-moe", "generate", POCKET, "--prompt", "The ship was", "--max-new-tokens", "6", "--json"];
  const { code, output, everything } = await npx([...args, "--temperature", "0"]);
  expect(code, everything).toBe(0);
  expect(JSON.parse(output)).toMatchObject({ finish_reason: "length", usage: { completion_tokens: 6 } });
});

test("a wrong command says so", async () => {
  const { code, everything } = await npx(["readme-moe", "generat", POCKET]);
  expect(code).toBe(2);
  expect(everything).toContain("unknown command");
});

test("without the lab, the command line takes at most 40 MB, and says how to get the lab's commands", async () => {
  const modules = join(RUNTIME_FOLDER, "node_modules");
  for (const name of [
    "onnxruntime-node",
    "onnxruntime-common",
    "vega",
    "vega-lite",
    "bullmq",
    "@readme-moe/refactor",
  ]) {
    expect(existsSync(join(modules, name)), name).toBe(false);
  }
  expect(folderBytes(modules) / 1e6).toBeLessThan(40);
  const help = await npx(["readme-moe", "--help"], RUNTIME_FOLDER);
  expect(help.code, help.everything).toBe(0);
  expect(help.output).toContain("npm install @readme-moe/refactor");
  const refused = await npx(["readme-moe", "refactor", POCKET, "--out", "x"], RUNTIME_FOLDER);
  expect(refused.code).toBe(2);
  expect(refused.everything.trim()).toMatch(
    /^error: `readme-moe refactor` comes with .*: npm install @readme-moe\/refactor$/,
  );
  const planned = await npx(["readme-moe", "plan", POCKET, "--memory", "200MB"], RUNTIME_FOLDER);
  expect(planned.code, planned.everything).toBe(0);
});

test("nothing was asked of another machine", () => {
  expect(reached()).toEqual([]);
});
