// The command line, as npx starts it.

import { expect, test } from "vitest";
import { POCKET } from "../support/pocket.ts";
import { npx, reached } from "./offline.ts";

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

test("nothing was asked of another machine", () => {
  expect(reached()).toEqual([]);
});
