// `readme-moe export` as a user calls it.

import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { fixture } from "../support/fixtures.ts";
import { madeTokenizer, writeModelGguf } from "../support/gguf/convert-model.ts";
import { withModel } from "../support/mixture-folder.ts";
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

test("writes a GGUF file in fewer bits, which the engine opens", async () => {
  const folder = await temporaryFolder();
  const [source, out] = [join(folder, "pocket.gguf"), join(folder, "small.gguf")];
  await withModel(POCKET, async (model) => writeModelGguf(model, source, "F16", await madeTokenizer(model)));
  const text = join(POCKET, "calibration", "github.jsonl");
  const outcome = await exportModel(source, "--format", "gguf", "--type", "q4_k_m", "--calibrate", text, "--out", out);
  expect(outcome).toMatchObject({ code: 0, stderr: "" });
  expect(outcome.stdout).toMatch(/small\.gguf {2}[45]\.\d MB/);
  const told = await runCli(["generate", out, "--prompt", "The", "--max-new-tokens", "4"]);
  expect(told).toMatchObject({ code: 0 });
  const again = await exportModel(source, "--format", "gguf", "--type", "q4_k_m", "--out", out);
  expect(again.stderr).toContain("exists already");
});

test("refuses mixtures and unknown options", async () => {
  const out = join(await temporaryFolder(), "out");
  const mixture = await exportModel(fixture("official-fused-residual"), "--out", out);
  expect(mixture).toMatchObject({ code: 1, stdout: "" });
  expect(mixture.stderr).toMatch(/mixture of 7 experts.*ERR_MODEL_UNSUPPORTED/);
  for (const [args, message] of [
    [[POCKET], /required option '--out/],
    [[POCKET, "--out", out, "--dtype", "q5"], /--dtype.*fp32, q8, q4/],
    [[POCKET, "--out", out, "--format", "onnx"], /--format.*transformers\.js, gguf/],
    [[POCKET, "--out", out, "--format", "gguf"], /required option '--type/],
    [[POCKET, "--out", out, "--format", "gguf", "--type", "q9"], /--type.*q3_k_m/],
    [
      [POCKET, "--out", out, "--format", "gguf", "--type", "q8_0", "--dtype", "q8"],
      /'--dtype' is not for the format gguf/,
    ],
    [[POCKET, "--out", out, "--calibrate", "x"], /'--calibrate' is not for the format transformers\.js/],
  ] as const) {
    const outcome = await exportModel(...args);
    expect(outcome).toMatchObject({ code: 2, stdout: "" });
    expect(outcome.stderr).toMatch(message);
  }
});
