// `readme-moe export` as a user calls it.

import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { fixture } from "../support/fixtures.ts";
import { runCli, type Outcome } from "../support/run-cli.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const POCKET = join(import.meta.dirname, "..", "..", "models", "pocket");

function exportModel(...args: readonly string[]): Promise<Outcome> {
  return runCli(["export", ...args]);
}

test("writes the requested graphs, and lists the written files", async () => {
  const out = join(await temporaryFolder(), "pocket");
  const outcome = await exportModel(POCKET, "--format", "transformers.js", "--out", out, "--dtype", "q8, q4", "--json");
  expect(outcome).toMatchObject({ code: 0, stderr: "" });
  const { files } = JSON.parse(outcome.stdout) as { files: { name: string; bytes: number }[] };
  expect(files.find(({ name }) => name === "onnx/model_q4.onnx")?.bytes).toBeGreaterThan(1e6);
  expect((await readdir(out)).toSorted()).toEqual([
    "config.json",
    "generation_config.json",
    "onnx",
    "tokenizer.json",
    "tokenizer_config.json",
  ]);
  const again = await exportModel(POCKET, "--out", out);
  expect(again).toMatchObject({ code: 1, stdout: "" });
  expect(again.stderr).toContain("not empty");
});

test("refuses mixtures and unknown options", async () => {
  const out = join(await temporaryFolder(), "out");
  const mixture = await exportModel(fixture("official-fused-residual"), "--out", out);
  expect(mixture).toMatchObject({ code: 1, stdout: "" });
  expect(mixture.stderr).toMatch(/mixture of 7 experts.*ERR_MODEL_UNSUPPORTED/);
  for (const [args, message] of [
    [[POCKET], /required option '--out/],
    [[POCKET, "--out", out, "--dtype", "q5"], /--dtype.*fp32, q8, q4/],
    [[POCKET, "--out", out, "--format", "gguf"], /--format.*transformers\.js/],
  ] as const) {
    const outcome = await exportModel(...args);
    expect(outcome).toMatchObject({ code: 2, stdout: "" });
    expect(outcome.stderr).toMatch(message);
  }
});
