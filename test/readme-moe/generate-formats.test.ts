// Formats and sampling defaults on the command line.

import { cp, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { beforeAll, describe, expect, test } from "vitest";
import { POCKET } from "../support/pocket.ts";
import { runCli } from "../support/run-cli.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

let folder: string;
let model: string;
beforeAll(async () => {
  folder = await persistentFolder();
  model = join(folder, "model");
  await cp(POCKET, model, { recursive: true });
  const generation = { eos_token_id: 0, do_sample: true, temperature: 0.7, top_k: 30, max_new_tokens: 9 };
  await writeFile(join(model, "generation_config.json"), JSON.stringify(generation));
  await writeFile(join(folder, "schema.json"), JSON.stringify({ enum: ["red", "green"] }));
  await writeFile(join(folder, "broken.json"), "{");
  await writeFile(join(folder, "colour.gbnf"), 'root ::= "blue" | "red"');
});

async function generate(...args: readonly string[]) {
  const { code, stdout, stderr } = await runCli(["generate", model, "--prompt", "The sea was ", "--json", ...args]);
  return {
    code,
    stderr,
    answer: stdout === "" ? undefined : (JSON.parse(stdout) as { text: string; tokens: number[] }),
  };
}

describe("generate", () => {
  test.each<[args: () => readonly string[], pattern: RegExp]>([
    [() => ["--json-schema", join(folder, "schema.json")], /^"(red|green)"$/],
    [() => ["--regex", "[0-9]{4}"], /^\d{4}$/],
    [() => ["--choice", "calm", "very rough"], /^(calm|very rough)$/],
    [() => ["--grammar", join(folder, "colour.gbnf")], /^(blue|red)$/],
  ])("binds an answer to a format", async (args, pattern) => {
    const { code, answer } = await generate(...args(), "--max-new-tokens", "40", "--seed", "4");
    expect(code).toBe(0);
    expect(answer?.text).toMatch(pattern);
  });

  test("refuses two formats, and a file without JSON", async () => {
    const both = await generate("--regex", "a", "--choice", "b");
    expect([both.code, both.stderr]).toEqual([2, expect.stringContaining("cannot be used with option")]);
    const broken = await generate("--json-schema", join(folder, "broken.json"));
    expect([broken.code, broken.stderr]).toEqual([2, expect.stringContaining("Expected --json-schema to name a file")]);
  });

  test("samples as the model's files recommend, unless it is told otherwise", async () => {
    const { answer } = await generate("--seed", "5");
    expect(answer?.tokens).toHaveLength(9);
    const same = ["--temperature", "0.7", "--top-k", "30", "--max-new-tokens", "9"];
    expect((await generate("--seed", "5", ...same)).answer).toEqual(answer);
    const none = await generate("--sampling-defaults", "none", "--max-new-tokens", "9");
    expect(none.answer).toEqual((await generate("--temperature", "0", "--top-k", "0", "--max-new-tokens", "9")).answer);
  });
});

test("inspect shows what the files recommend", async () => {
  const { stdout } = await runCli(["inspect", model, "--json"]);
  expect(JSON.parse(stdout)).toMatchObject({ sampling_defaults: { temperature: 0.7, topK: 30, maxTokens: 9 } });
});
