// `readme-moe cache`, and the limit that engines keep.

import { appendFile, cp } from "node:fs/promises";
import { join } from "node:path";
import { expect, test, vi } from "vitest";
import { POCKET } from "../support/pocket.ts";
import { runCli } from "../support/run-cli.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

interface Listed {
  readonly folder: string;
  readonly bytes: number;
  readonly limit_bytes: number;
  readonly entries: readonly { readonly bytes: number; readonly models: readonly string[] }[];
}

async function listed(): Promise<Listed> {
  const outcome = await runCli(["cache", "list", "--json"]);
  expect(outcome).toMatchObject({ code: 0, stderr: "" });
  return JSON.parse(outcome.stdout) as Listed;
}

async function open(model: string, precision: string): Promise<void> {
  const args = ["generate", model, "--precision", precision, "--prompt", "The", "--max-new-tokens", "1"];
  expect((await runCli(args)).code).toBe(0);
}

test("cache lists packed weights, keeps them below the limit, and cleans", async () => {
  const folder = await temporaryFolder();
  vi.stubEnv("README_MOE_CACHE", folder);
  await open(POCKET, "int8");
  await open(POCKET, "int4");
  const both = await listed();
  expect(both).toMatchObject({ folder, limit_bytes: 50e9 });
  expect(both.entries.map(({ models }) => models)).toEqual([[POCKET], [POCKET]]);
  expect(both.bytes).toBe(both.entries.reduce((sum, { bytes }) => sum + bytes, 0));
  // Another model makes room: only its own may stay.
  vi.stubEnv("README_MOE_CACHE_BYTES", "1");
  const copy = join(await temporaryFolder(), "copy");
  await cp(POCKET, copy, { recursive: true });
  await appendFile(join(copy, "config.json"), " ");
  await open(copy, "fp32");
  expect((await listed()).entries.map(({ models }) => models)).toEqual([[copy]]);
  const text = await runCli(["cache", "list"]);
  expect(text.stdout).toContain(copy);
  expect(text.stdout).toMatch(/ of at most \S+ \S* ?in /);
  const cleaned = await runCli(["cache", "clean"]);
  expect(cleaned.stdout).toMatch(/^dropped \d+(\.\d+)? MB of packed weights\n$/);
  expect((await listed()).entries).toEqual([]);
  vi.unstubAllEnvs();
});
