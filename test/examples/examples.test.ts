// Every example, run by the commands of its README on a refactored pocket model.

import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { beforeAll, describe, expect, test } from "vitest";
import { ReadMeEngine } from "@readme-moe/engine";
import { openModel, writeExpertSet } from "@readme-moe/model";
import { trainExperts } from "../../examples/experts-by-customer/train.ts";
import { EXAMPLES, runExample, startProgram } from "../support/examples.ts";
import { POCKET } from "../support/pocket.ts";
import { writePocketExperts } from "../support/pocket-experts.ts";
import { postJson } from "../support/post-json.ts";
import { tinySet } from "../support/tiny-set.ts";
import { persistentFolder, temporaryFolder } from "../support/temporary-folder.ts";

let experts: string;
beforeAll(async () => {
  experts = join(await persistentFolder(), "experts");
  await writePocketExperts(experts);
});

describe("drop-in", () => {
  test("changes one line", async () => {
    const [before, after] = await Promise.all(
      ["before.mjs", "after.mjs"].map(async (name) =>
        (await readFile(join(EXAMPLES, "drop-in", name), "utf8")).split("\n"),
      ),
    );
    expect(after).toHaveLength(before?.length ?? NaN);
    expect(after?.filter((line, index) => line !== before?.[index])).toEqual([
      'import { pipeline } from "@readme-moe/adapter/huggingface";',
    ]);
  });

  test("gives the same text before and after", async () => {
    const { code, stdout, stderr } = await runExample("drop-in", POCKET);
    expect(code, stderr).toBe(0);
    const [, before] = /^before: (".*")$/m.exec(stdout) ?? [];
    const [, after] = /^after: {2}(".*")$/m.exec(stdout) ?? [];
    expect(before).toMatch(/^"The ship was .{20}/);
    expect(after).toBe(before);
  });
});

test("express-minimal serves the API and a page of the app", async () => {
  const { printed } = startProgram([join(EXAMPLES, "run.ts"), "express-minimal", experts], { PORT: "0" });
  const [, port] = await printed(/port: (\d+)/);
  const url = `http://127.0.0.1:${port}`;
  expect(await (await fetch(`${url}/hello`)).text()).toBe("A page of your own");
  const { status, body } = await postJson(`${url}/v1/completions`, { prompt: "The ship", max_tokens: 5 });
  expect(status).toBe(200);
  expect(body["usage"]).toMatchObject({ completion_tokens: 5 });
  expect((await fetch(`${url}/health`)).status).toBe(200);
});

test("custom-router routes each text to the expert of its rule", async () => {
  const { code, stdout, stderr } = await runExample("custom-router", experts);
  expect(code, stderr).toBe(0);
  const ruled = [...stdout.matchAll(/our rule by text: +(.*) \(with the answer\)/g)].map(([, counts = ""]) =>
    counts.replace(/\d+/, "n"),
  );
  expect(ruled).toEqual(["github n", "arxiv n", "book n"]);
  const answers = [...stdout.matchAll(/answer: (".*")/g)].map(([, text = ""]) => JSON.parse(text) as string);
  expect(answers.map((text) => text.length > 20)).toEqual([true, true, true]);
  // The rule by token routes the same tokens as the model's router.
  const tokens = (line: RegExp): readonly number[] =>
    [...stdout.matchAll(line)].map(([, counts = ""]) => sum((counts.match(/\d+/g) ?? []).map(Number)));
  expect(tokens(/a rule by token: +(.*)/g)).toEqual(tokens(/the model's router: +(.*)/g));
});

test(
  "custom-policy runs its own decisions beside the engine's, to the same answers",
  { timeout: 300_000 },
  async () => {
    const { code, stdout, stderr } = await runExample("custom-policy", experts);
    expect(code, stderr).toBe(0);
    const rows = stdout.split("\n").flatMap((line) => {
      const cells = line.split("│").map((cell) => cell.trim());
      return /^\d+$/.test(cells[1] ?? "") ? [cells.slice(2, -1)] : [];
    });
    expect(rows.map(([scheduler, cache]) => [scheduler, cache])).toEqual([
      ["'cost-aware'", "'belady'"],
      ["'followTheFirst (ours)'", "'belady'"],
      ["'fcfs'", "'belady'"],
      ["'fcfs'", "'lru'"],
      ["'fcfs'", "'longestIdle (ours)'"],
    ]);
    expect(rows.flatMap((row) => row.slice(2)).every((cell) => Number(cell) >= 0)).toBe(true);
    // Steps of sequences with the same experts need fewer experts than steps in the order of arrival.
    const [, ours, fcfs] = rows.map(([, , numExperts]) => Number(numExperts));
    expect(ours).toBeLessThan(fcfs ?? 0);
    expect(stdout).toContain("All gave the same answers.");
  },
);

test("swap-model completes all answers while a model is swapped", async () => {
  const { code, stdout, stderr } = await runExample("swap-model", experts, POCKET);
  expect(code, stderr).toBe(0);
  expect(stdout).toMatch(/model:swapped \{[^}]*name: 'pocket'/);
  expect(stdout).toContain(`previousPath: '${POCKET}'`);
  expect(stdout.match(/begun before the swap: 120 tokens by the dense model: ".+"/g)).toHaveLength(3);
  expect(stdout.match(/begun after the swap: {2}50 tokens by 3 experts: ".+"/g)).toHaveLength(3);
  expect(stdout).toContain("the dense model's memory is free again");
  // The swap is printed before the answers that began before it have ended.
  expect(stdout.indexOf("model:swapped")).toBeLessThan(stdout.indexOf("begun before the swap"));
});

test("experts-by-customer gives each customer its expert, and hides those of others", async () => {
  const set = join(await temporaryFolder(), "set");
  const model = await openModel(POCKET);
  const names = ["law", "recipes", "sea"];
  const adapters = Object.fromEntries(names.map((name, seed) => [name, { seed, size: 0.05 }]));
  await writeExpertSet(set, await tinySet(model.config, adapters, 1));
  await model.close();
  const { code, stdout, stderr } = await runExample("experts-by-customer", set, POCKET);
  expect(code, stderr).toBe(0);
  expect(stdout).toContain("chambers sees base, base:law\n");
  expect(stdout).toContain("kitchen sees base, base:recipes\n");
  expect(stdout).toMatch(/"The captain ordered", by base:sea: ".+"/);
  expect(stdout).toContain("kitchen asks for base:law: 404 model_not_found");
  const routes = stdout.slice(stdout.indexOf("The office")).match(/^".*": (.*)$/gm) ?? [];
  expect(routes).toHaveLength(3);
  for (const route of routes) expect(route).toMatch(/(none|law|recipes|sea) \d+$/);
});

test("experts-by-customer trains an expert for each customer, from few tokens here", async () => {
  const out = join(await temporaryFolder(), "experts");
  const few = ["--tokens", "3072", "--router-steps", "10", "--router-tokens", "256"];
  await trainExperts(POCKET, out, [...few, "--evaluations", "1", "--evaluation-sequences", "1"]);
  await using engine = await ReadMeEngine.open(POCKET, { loras: { customers: out } });
  expect(engine.info.experts).toEqual(["none", "law", "recipes", "sea"]);
  expect(engine.info.hasRouter).toBe(true);
  const route = await engine.route("FISH SOUP.\n\nINGREDIENTS.--2 lbs. of fish, 1 onion, 1 oz. of butter.");
  expect(new Set(route.experts)).not.toEqual(new Set([0]));
});

test("an unknown example is refused with the names of the examples", async () => {
  const { code, stderr } = await runExample("drop-out");
  expect(code).toBe(2);
  expect(stderr).toMatch(
    /chatbot, custom-policy, custom-router, drop-in, experts-by-customer, express-minimal, observability, retrieval, swap-model/,
  );
});

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
