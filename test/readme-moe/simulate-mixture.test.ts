// `readme-moe simulate` with mixtures that have a router in every layer, as a user calls it.

import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { runCli, type Outcome } from "../support/run-cli.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const MIXTURE = ["--experts", "8", "--experts-per-token", "2", "--sequences", "8", "--output-tokens", "8"];

function simulate(...args: readonly string[]): Promise<Outcome> {
  return runCli(["simulate", ...args]);
}

test("prints a row on demand for each policy, one with a forecast and one of a pre-gating router", async () => {
  const { code, stdout, stderr } = await simulate(...MIXTURE, "--layers", "4", "--policy", "lru,lfu");
  expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
  const [first, head, ...rows] = stdout.trimEnd().split("\n");
  expect(first).toBe("8 sequences, 2 of 8 experts in each of 4 layers, 32.0 MB; cost-aware");
  expect(head).toMatch(/cache +routes +policy +hits % +ready % +loads +ahead +right +wasted/);
  const names = rows.map((row) =>
    row
      .trim()
      .split(/\s{2,}/)
      .slice(0, 3)
      .join(" "),
  );
  expect(names).toEqual(
    ["2", "4", "6"].flatMap((capacity) => [
      `${capacity} on demand lru`,
      `${capacity} on demand lfu`,
      `${capacity} forecast belady`,
      `${capacity} pre-gated belady`,
    ]),
  );
  expect(new Set([head, ...rows].map((row) => row?.length)).size).toBe(1);
});

test("writes the drawn trace, and gives the same figures when it is read again", async () => {
  const file = join(await temporaryFolder(), "mixture.jsonl");
  const args = ["--memory", "20MB", "--seed", "3", "--json"];
  const drawn = await simulate(...MIXTURE, ...args, "--coupling", "0.9", "--skew", "1", "--write-trace", file);
  expect(drawn).toMatchObject({ code: 0, stderr: "" });
  expect((await readFile(file, "utf8")).split("\n", 1)[0]).toBe(
    `{"type":"mixture","num_experts":8,"experts_per_token":2,"layer_bytes":[${Array(6).fill(1_000_000).join(",")}]}`,
  );
  const read = await simulate("--trace", file, ...args);
  expect(JSON.parse(read.stdout)).toEqual(JSON.parse(drawn.stdout));
  const { runs } = JSON.parse(read.stdout) as {
    runs: readonly { routes: string; ready_ratio: number; budget_bytes: number; forecast: unknown }[];
  };
  expect(runs.map(({ routes }) => routes)).toEqual(["none", "none", "none", "forecast", "pre-gated"]);
  expect(runs.every(({ budget_bytes }) => budget_bytes === 20e6)).toBe(true);
  expect(runs.map(({ forecast }) => forecast !== null)).toEqual([false, false, false, true, false]);
  // The forecast is ready more often than any policy on demand.
  const [ready, ...onDemand] = [runs[3], ...runs.slice(0, 3)].map((run) => run?.ready_ratio ?? 0);
  expect(ready).toBeGreaterThan(Math.max(...onDemand));
});

test.each([
  [["--skew", "1"], /'--skew' needs '--experts-per-token <n>'/],
  [["--experts", "4", "--experts-per-token", "5"], /'--experts-per-token' must not exceed '--experts'/],
  [[...MIXTURE, "--lookahead-layers", "1"], /'--lookahead-layers' cannot be used with a mixture/],
  [[...MIXTURE, "--memory", "1MB"], /`budgetBytes`.*at least/],
])("rejects %j", async (args, message) => {
  const { code, stderr } = await simulate(...args);
  expect(code).not.toBe(0);
  expect(stderr).toMatch(message);
});

test("names the line of a broken trace", async () => {
  const file = join(await temporaryFolder(), "broken.jsonl");
  const model = '{"type":"mixture","num_experts":4,"experts_per_token":2,"layer_bytes":[1,1]}';
  await writeFile(
    file,
    `${model}\n{"type":"sequence","id":"a","arrival_step":0,"prompt_tokens":1,"routes":[[0,0,1,2]]}\n`,
  );
  const { code, stderr } = await simulate("--trace", file);
  expect(code).not.toBe(0);
  expect(stderr).toContain("broken.jsonl:2: expected token 0 to have 2 different experts in each layer");
});
