// Parts of `npm run bench -- paper,quality` whose errors would not be noticed in their results.

import { expect, test } from "vitest";
import { hitRatiosTable } from "../../bench/paper/hit-ratios.ts";
import { equalSizeTable } from "../../bench/paper/losses.ts";
import { localityTable } from "../../bench/paper/schedulers.ts";
import { contendersOf } from "../../bench/quality/contenders.ts";
import { heldOut } from "../../bench/quality/held-out.ts";
import { accuraciesTable, lossesTable } from "../../bench/quality/tables.ts";
import { prepareDomain } from "../../packages/refactor/src/job/prepare-domain.ts";
import { openModel } from "@readme-moe/model";
import { POCKET } from "../support/pocket.ts";

const cache = (capacity: number, policy: string, hit: number, layer?: number) => ({
  capacity,
  policy,
  hit_ratio: hit,
  horizon_hit_ratio: 0.8,
  belady_hit_ratio: 0.9,
  layer_hit_ratio: layer ?? null,
});

test("shows hits beside the paper's by policy and capacity, and a dash for missing ones", () => {
  const alone = [cache(2, "lru", 0.1, 0.3)];
  const { columns, rows } = hitRatiosTable({
    alone,
    onDemand: [cache(2, "lru", 0.11)],
    ahead: [cache(2, "lru", 0.12)],
  });
  expect(columns).toEqual(["policy", "2"]);
  const found = Object.fromEntries(rows.map(([name = "", value]) => [name, value]));
  expect(found).toMatchObject({
    "lru, paper": "33.9",
    "lru, one layer alone": "30.0",
    "lru, layers share, on demand": "11.0",
    "lru, layers share, one layer ahead": "12.0",
    "belady, paper": "44.2",
    "belady, one layer alone": "–",
  });
});

test("locality is the share of tokens that follow a token of the same expert", () => {
  const lines = [
    { type: "model", num_experts: 3, layer_bytes: [10] },
    { type: "sequence", id: "a", arrival_step: 0, prompt_tokens: 2, experts: [0, 0, 1, 1] },
    { type: "sequence", id: "b", arrival_step: 0, prompt_tokens: 2, experts: [2, 1, 1] },
  ];
  const [row] = localityTable(lines.map((line) => `${JSON.stringify(line)}\n`).join("")).rows;
  expect(row?.at(-1)).toBe("60.0 %");
});

const row = (id: string, label: string, arxiv: number) => ({
  id,
  label,
  ffn_share: 0.5,
  losses: { arxiv },
  mean: arxiv,
  above_dense: arxiv - 1,
});

test("takes perplexities of equal size from the report, with their difference in nats", () => {
  const { rows } = equalSizeTable({ losses: [row("dense", "d", 1), row("static", "s", 1.5), row("ours", "o", 1.25)] });
  expect(rows).toEqual([["arxiv", "5.63", "4.18", "0.298", "4.48", "3.49", "0.250"]]);
  const without = equalSizeTable({ losses: [row("dense", "d", 1), row("ours", "o", 1.25)] });
  expect(without.rows[0]?.slice(4)).toEqual(["–", "3.49", "–"]);
  expect(without.notes?.[0]).toContain("without baselines");
});

test("holds out the same documents as a refactoring", async () => {
  const model = await openModel(POCKET);
  const { tokenizer } = await model.loadText();
  const documents = Array.from({ length: 30 }, (_, index) => `${index} `.repeat(40));
  const domain = { name: "numbers", files: [], documents };
  const options = { sequenceTokens: 16, calibrationTokens: 16, routerTokens: 16, evaluationSequences: 2, seed: 1 };
  const prepared = prepareDomain(domain, tokenizer, { ...options, endOfText: 0 });
  await model.close();
  const own = heldOut(documents);
  expect(own).toEqual([documents[11], documents[23]]);
  expect(prepared.heldOutDocuments).toBe(own.length);
  const beginnings = prepared.evaluation.map((ids) => tokenizer.decode(Array.from(ids)).slice(0, 3));
  expect(["11 ", "23 "]).toContain(beginnings[0]);
});

test("holds out the last of a few documents", () => {
  expect(heldOut(["a", "b"])).toEqual(["b"]);
});

test("lists the dense model first, and other refactorings whose folders are given", () => {
  const settings = {
    model: "ours",
    dense: "base",
    data: [],
    quick: true,
    rounds: 1,
    seed: 1,
    threads: 1,
    cacheFolder: undefined,
  };
  const names = contendersOf({ ...settings, set: { tuned: "better" } }).map(({ name, path }) => `${name}: ${path}`);
  expect(names).toEqual([
    "dense, fp32: base",
    "dense, int8: base",
    "dense, int4: base",
    "ours, tuned, int8: better",
    "ours, int8: ours",
  ]);
});

test("compares losses with the first model, and names better ones in no more memory", () => {
  const table = lossesTable([
    measuredQuality("dense", 30, 2),
    measuredQuality("small", 10, 2.5),
    measuredQuality("ours", 20, 2.75),
  ]);
  expect(table.rows.at(-1)).toEqual(["ours", "20", "2.750", "0.750", "2.750"]);
  expect(table.notes).toEqual(["Models with less loss in no more memory than ours: small."]);
});

test("shows accuracies with their errors, and no table without questions", () => {
  const accuracies = { acc: 0.5, acc_stderr: 0.05, acc_norm: 0.625, acc_norm_stderr: null, documents: 8 };
  const table = accuraciesTable([{ name: "ours", megabytes: 1, evaluated: { requests: { arc: accuracies } } }]);
  expect(table?.rows).toEqual([["ours", "50.0 ± 5.0; 62.5"]]);
  expect(accuraciesTable([{ name: "ours", megabytes: 1, evaluated: {} }])).toBeUndefined();
});

function measuredQuality(name: string, megabytes: number, loss: number) {
  return {
    name,
    megabytes,
    evaluated: { files: { code: { loss } }, mean_loss: loss },
  };
}
