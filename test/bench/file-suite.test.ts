// `npm run bench -- file`: a small file from its opening to the ratios, beside a peer of known speed.

import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { openModel } from "@readme-moe/model";
import { expect, test } from "vitest";
import { decodeSpeed, fileSuite } from "../../bench/file/file-suite.ts";
import type { BenchSettings } from "../../bench/kit/suite.ts";
import { runSuites } from "../../bench/kit/run-suites.ts";
import { writeQ8Gguf } from "../support/gguf/convert-model.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const ROOT = join(import.meta.dirname, "..", "..");
const POCKET = join(ROOT, "models", "pocket");

/** Peer that answers at once, each prompt as far from the beginning as its index. */
const PEER = `export const open = async () => ({
  generate: async (prompts) => prompts.map((_, index) => index),
  logProbabilities: async (sequences) => sequences.map(() => -1),
  dispose: async () => undefined,
});`;
const spec = { engine: "peer", variant: "file", module: `data:text/javascript,${encodeURIComponent(PEER)}`, files: {} };

function settingsOf(model: string, cacheFolder: string): BenchSettings {
  const set = {
    precisions: "file+int8",
    concurrency: "1",
    contexts: "32",
    "loss-sequences": "1",
    "loss-tokens": "32",
    instructions: "plain",
  };
  return { model, dense: undefined, data: [], quick: true, rounds: 1, seed: 1, threads: 2, cacheFolder, set };
}

const OURS = "readme-moe file+int8";

const suite = fileSuite({
  peers: () => Promise.resolve([spec]),
  data: () => Promise.resolve([join(ROOT, "README.md"), join(ROOT, "docs", "engine.md")]),
});

test("adds up the speeds of requests after their first tokens", () => {
  expect(decodeSpeed({ elapsedMs: 1100, firstMs: [100, 600] }, 11)).toBe(10 + 20);
});

test("measures a file's opening, memory, losses, decode and prefill by turns, and leaves no packed weights", async () => {
  const folder = await temporaryFolder();
  const path = join(folder, "pocket.gguf");
  const pocket = await openModel(POCKET);
  await writeQ8Gguf(pocket, path);
  await pocket.close();
  const out = join(folder, "out");
  const settings = settingsOf(path, join(folder, "cache"));
  const { summary, failed } = await runSuites([suite], { folder: out, settings, say: () => undefined });
  expect(failed).toStrictEqual([]);
  expect(summary).not.toContain("not measured");
  const titles = Array.from(summary.matchAll(/^\*\*(.*)\*\*$/gm), ([, title]) => title);
  expect(titles).toStrictEqual([
    "Opening, s",
    "Peak memory, MB",
    "Peak memory beside the plan, MB",
    "Written to the cache folder by the first opening, MB",
    "Loss",
    "Decode, tokens a second by requests at once (behind 64 tokens of prompt each)",
    "New tokens a second, with the time of the prompts",
    "Prefill, tokens a second to the first new token",
    "Decode behind a prompt, tokens a second",
    "Weights that one request's decode reads, beside reading memory on 2 threads, GB/s",
    "Steps of one sequence beside reading memory, by turns",
  ]);
  for (const row of ["plain", OURS, "peer file", `${OURS} / peer file`, `${OURS} / memory`]) {
    expect(summary).toMatch(new RegExp(`^\\| ${row.replace("+", "\\+")} +\\|`, "m"));
  }
  // One sequence of each of two files: 31 tokens at one nat in all.
  expect(summary).toMatch(/^\| peer file +\| +0\.0323 \|$/m);
  expect((await readdir(join(out, "file"))).toSorted()).toStrictEqual([
    "measurements.jsonl",
    "report.md",
    "samples.csv",
  ]);
});

test("says that it needs a GGUF file", async () => {
  const folder = await temporaryFolder();
  const settings = settingsOf(POCKET, folder);
  const { summary } = await runSuites([suite], { folder, settings, say: () => undefined });
  expect(summary).toContain(`not measured: ${POCKET} is not a GGUF file`);
});
