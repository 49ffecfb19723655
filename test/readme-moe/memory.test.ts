// Memory of a served model as a user sets and sees it.

import { join } from "node:path";
import { expect, test } from "vitest";
import { runCli } from "../support/run-cli.ts";
import { startReady } from "../support/serving-process.ts";
import { memoryLines } from "../../packages/readme-moe/src/serving/memory-lines.ts";

const POCKET = join(import.meta.dirname, "..", "..", "models", "pocket");

/** Serves the pocket model. @returns the plan in its log */
async function plannedOf(...args: readonly string[]): Promise<Readonly<Record<string, unknown>>> {
  const { logged, child, outcome } = await startReady(POCKET, { args });
  const { time: _, event: __, ...planned } = await logged("memory:planned");
  child.kill("SIGTERM");
  await outcome;
  return planned;
}

test("serve logs the memory that it plans, and keeps to its flags", async () => {
  const [contextTokens, bytesPerToken] = [1024, 3072];
  expect(await plannedOf()).toMatchObject({
    model: "pocket",
    contextTokens,
    kvCapacityTokens: 32 * contextTokens,
    kvCacheBytes: 32 * contextTokens * bytesPerToken,
    modelContextTokens: contextTokens,
    contextBound: "model",
  });
  const sizes = ["--kv-cache", "3MB", "--prefix-cache", "1MiB", "--context", "512", "--kv-precision", "int8"];
  const perByte = (64 + 4) * 2 * 2 * 6;
  expect(await plannedOf(...sizes)).toMatchObject({
    contextTokens: 512,
    kvCapacityTokens: Math.floor(3e6 / perByte / 64) * 64,
    prefixCacheBytes: 1 << 20,
    contextBound: "option",
  });
});

test("serve takes the flags that plan prints, and has the memory that it counts", async () => {
  const args = ["plan", POCKET, "--memory", "150MB", "--sequences", "3", "--context", "320"];
  const [text, json] = [await runCli(args), await runCli([...args, "--json"])];
  const [, flags = ""] = /^flags of serve: (.*)$/m.exec(text.stdout) ?? [];
  const { kv_cache_bytes: kvCacheBytes, placements } = JSON.parse(json.stdout) as {
    readonly kv_cache_bytes: number;
    readonly placements: readonly { readonly other: Readonly<Record<string, number>> }[];
  };
  expect(await plannedOf(...flags.split(" "), "--memory", "150MB")).toMatchObject({
    contextTokens: 320,
    kvCapacityTokens: 3 * 320,
    kvCacheBytes,
    prefixCacheBytes: placements[0]?.other["prefix_cache"],
  });
});

test.each([
  [
    ["--memory", "10MB"],
    /^error: Expected `memoryBytes` \(--memory\) to be at least \d+, .* of weights, .*; got `10000000`/,
  ],
  [["--context", "2048"], /^error: Expected `contextTokens` to be from 1 to 1024, got `2048`/],
  [["--expert-cache", "1MB"], /^error: Expected `expertCacheBytes` \(--expert-cache\) for a model with experts/],
  [["--kv-cache", "1KB"], /^error: Expected `kvCacheBytes` to be at least \d+, got `1000`/],
  [
    ["--prefix-cache", "1000000GB"],
    /^error: Expected `kvCacheBytes` \(--kv-cache\) and `prefixCacheBytes` .* got `\d+`/,
  ],
  [["--kv-cache", "much"], /Expected a size, such as 150MB/],
])("generate refuses %j of the pocket model", async (flags, message) => {
  const { code, stderr } = await runCli(["generate", POCKET, "--prompt", "x", ...flags]);
  expect(stderr).toMatch(message);
  expect(code).toBe(2);
});

test("a context below the model's is told with what makes it longer, unless it was asked for", () => {
  const memory = {
    weightBytes: 1.12e9,
    processBytes: 2e8,
    kvCacheBytes: 1.88e9,
    prefixCacheBytes: 1.03e9,
    kvPrecision: "fp16",
    modelContextTokens: 32_768,
    contextBound: "model",
  } as const;
  const info = { contextTokens: 32_768, kvCapacityTokens: 65_536, memory };
  const line =
    "memory: 1.12 GB of weights, 1.88 GB of keys and values (65,536 tokens: 2 conversations of 32,768), 1.03 GB of prefixes";
  expect(memoryLines(info)).toEqual([line]);
  const onDisk = { ...memory, prefixDiskBytes: 4e9 };
  expect(memoryLines({ ...info, memory: onDisk })).toEqual([`${line} and up to 4.00 GB on disk`]);
  const linesOf = (contextBound: "memory" | "option" | "usual", contextTokens: number): readonly string[] =>
    memoryLines({ contextTokens, kvCapacityTokens: contextTokens, memory: { ...memory, contextBound } });
  expect(linesOf("option", 18_688)).toHaveLength(1);
  expect(linesOf("memory", 18_688)).toEqual([
    expect.stringContaining("(18,688 tokens: 1 conversation of 18,688)"),
    expect.stringMatching(
      /^note: the context is 18,688 of the model's 32,768 tokens: more memory \(--memory, --kv-cache\)/,
    ),
  ]);
  expect(linesOf("memory", 18_688)[1]).toContain("--kv-precision int8");
  expect(linesOf("usual", 4096)[1]).toContain("4,096 of the model's 32,768 tokens; --context 32768 makes it longer");
  expect(memoryLines({ ...info, memory: undefined })).toEqual([]);
  expect(memoryLines({ ...info, memory: { ...memory, freeBytes: 4.23e9 } })).toEqual([line]);
  expect(memoryLines({ ...info, memory: { ...memory, freeBytes: 4.22e9 } })).toEqual([
    line,
    "note: all of this may take 4.23 GB, and 4.22 GB were free; --memory sets a limit",
  ]);
});
