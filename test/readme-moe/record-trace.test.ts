// Traces of a real engine, from the command that runs it to the one that replays them.

import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { readTrace } from "@readme-moe/refactor/simulation";
import type { ExpertCacheCounters } from "@readme-moe/core";
import { beforeAll, expect, test } from "vitest";
import { openEngine } from "../../packages/readme-moe/src/models.ts";
import { complete } from "../support/complete.ts";
import { runCli } from "../support/run-cli.ts";
import { persistentFolder, temporaryFolder } from "../support/temporary-folder.ts";
import { WITH_TOKENIZER, writeTinyReadMe } from "../support/tiny-read-me.ts";

const NUM_EXPERTS = 4;
/** One layer of all experts: units have 4,096 and 8,192 bytes. */
const LEAST_BYTES = NUM_EXPERTS * 8960;

const folder = persistentFolder();
let model: string;
beforeAll(async () => {
  model = join(await folder, "model");
  await writeTinyReadMe(model, { ...WITH_TOKENIZER, numExperts: NUM_EXPERTS });
});

async function tracePath(): Promise<string> {
  return join(await temporaryFolder(), "trace.jsonl");
}

test("`generate --record-trace` writes each sequence with its experts, and each step", async () => {
  const file = await tracePath();
  const prompts = ["the quick brown fox", "a"];
  const args = ["--max-new-tokens", "6", "--temperature", "0", "--json", "--record-trace", file];
  const { code, stdout, stderr } = await runCli(["generate", model, "--prompt", ...prompts, ...args]);
  expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
  const answers = JSON.parse(stdout) as readonly { usage: { prompt_tokens: number; completion_tokens: number } }[];
  const { layout, sequences, steps } = readTrace(await readFile(file, "utf8"), file);
  expect(layout).toEqual({ numExperts: NUM_EXPERTS, layerBytes: [6912, 8960] });
  const lengths = answers.map(({ usage }) => ({
    promptTokens: usage.prompt_tokens,
    tokens: usage.prompt_tokens + usage.completion_tokens - 1,
  }));
  const recorded = sequences.map(({ promptTokens, experts }) => ({ promptTokens, tokens: experts.length }));
  expect(new Set(recorded)).toEqual(new Set(lengths));
  const counts = Array.from({ length: NUM_EXPERTS }, () => 0);
  for (const { experts } of sequences) for (const expert of experts) counts[expert] = (counts[expert] ?? 0) + 1;
  const inSteps = counts.map((_, expert) => steps.reduce((sum, step) => sum + (step.tokensPerExpert[expert] ?? 0), 0));
  expect(inSteps).toEqual(counts);
});

test.each(["belady", "lru"] as const)(
  "a replay of %s has the counters of the engine that was recorded",
  async (policy) => {
    const file = await tracePath();
    const runtime = {
      precision: "int8",
      isolation: "thread",
      threads: 1,
      cacheFolder: join(await folder, "cache"),
    } as const;
    const flags = { ...runtime, expertCache: LEAST_BYTES, expertCachePolicy: policy, recordTrace: file };
    const { engine, close } = await openEngine(model, flags, new AbortController().signal);
    let counters: ExpertCacheCounters | undefined;
    try {
      const prompts = ["one", "two words", "three words more", "and a fourth one that is longer than the others"];
      const params = { maxTokens: 12, temperature: 1, seed: 3, ignoreEos: true };
      await Promise.all(prompts.map((prompt) => complete(engine, { prompt, params })));
      counters = (await engine.stats()).expertCache;
    } finally {
      await close();
    }
    const args = ["--replay", "--trace", file, "--memory", `${LEAST_BYTES}`, "--policy", policy, "--json"];
    const { code, stdout, stderr } = await runCli(["simulate", ...args]);
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    const [replay] = (JSON.parse(stdout) as { replays: readonly Readonly<Record<string, unknown>>[] }).replays;
    expect(counters?.uses).toBeGreaterThan(20);
    expect(counters?.evictions).toBeGreaterThan(0);
    expect(replay).toMatchObject({
      uses: counters?.uses,
      hits: counters?.hits,
      loads: counters?.loads,
      evictions: counters?.evictions,
      wasted_loads: counters?.wastedLoads,
      bytes_read: counters?.bytesRead,
    });
  },
);

test("a file that cannot be written is refused before anything is generated", async () => {
  const file = join(await temporaryFolder(), "no", "folder", "trace.jsonl");
  const { code, stdout, stderr } = await runCli(["generate", model, "--prompt", "a", "--record-trace", file]);
  expect({ code, stdout }).toEqual({ code: 1, stdout: "" });
  expect(stderr).toMatch(/trace\.jsonl: cannot be written \(ENOENT.*\(ERR_WRITE_FAILED\)\n$/);
});
