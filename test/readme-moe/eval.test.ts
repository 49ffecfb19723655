// `readme-moe eval` as a user calls it; the numbers themselves are tested in test/engine/evaluation.test.ts.

import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { beforeAll, describe, expect, test } from "vitest";
import { readQuestions } from "../../packages/readme-moe/src/evaluation/choice-requests.ts";
import { plainLogProbs } from "../oracles/plain-log-probs.ts";
import { routeOf, writeReadingModel } from "../support/reading-model.ts";
import { expectReadMeError } from "../support/rejection.ts";
import { runCli } from "../support/run-cli.ts";
import { runningModel } from "../support/running-model.ts";
import { persistentFolder, temporaryFolder } from "../support/temporary-folder.ts";

let folder: string;
let model: string;

const at = (name: string): string => join(folder, name);

function request(documentId: number, index: number, label: number, context: string, continuation: string): string {
  return JSON.stringify({ request: { context, continuation }, doc_id: documentId, idx: index, label });
}

const REQUESTS = [
  request(7, 1, 1, "The ship was", " found by the crew"),
  request(7, 0, 1, "The ship was", " lost"),
  request(9, 0, 0, "The cat sat on", " a mat"),
  request(9, 1, 0, "The cat sat on", " the sea, and sailed away"),
  "",
  request(8, 0, 1, "One and two are", " three"),
  request(8, 1, 1, "One and two are", " four"),
];

const TEXTS = { sea: "The ship was lost at sea. ".repeat(30), cats: "A cat sat on a mat. ".repeat(20) };

beforeAll(async () => {
  folder = await persistentFolder();
  model = at("model");
  await writeReadingModel(model);
  await writeReadingModel(at("unrouted"), { hasRouter: false });
  await writeFile(at("sea.txt"), TEXTS.sea);
  await writeFile(at("cats.jsonl.gz"), gzipSync(`${JSON.stringify({ text: TEXTS.cats })}\n`));
  await writeFile(at("plain.jsonl"), `${REQUESTS.join("\n")}\n`);
  // Two gzip members, as tools that append write them; the name does not tell the format.
  const halves = [REQUESTS.slice(0, 3), REQUESTS.slice(3)].map((lines) => gzipSync(`${lines.join("\n")}\n`));
  await writeFile(at("zipped"), Buffer.concat(halves));
});

interface Result {
  readonly files: Readonly<Record<string, Readonly<Record<string, unknown>>>>;
  readonly requests: Readonly<Record<string, Readonly<Record<string, unknown>>>>;
  readonly [key: string]: unknown;
}

async function evaluated(...args: readonly string[]): Promise<Result> {
  const { code, stdout, stderr } = await runCli(["eval", model, "--threads", "2", "--json", ...args]);
  expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
  return JSON.parse(stdout) as Result;
}

/** Share of tokens that keep the expert before, in two sequences of 32 tokens. */
async function plainLocality(text: string): Promise<number> {
  await using reading = await runningModel(model);
  const { tokenizer } = await reading.model.loadText();
  const ids = Array.from(tokenizer.encode(text, { addSpecialTokens: false }));
  const isKept: boolean[] = [];
  for (const from of [0, 32]) {
    // The last token is not run, since nothing follows it.
    const route = Array.from(await routeOf(reading, ids.slice(from, from + 31)));
    isKept.push(...route.slice(1).map((expert, index) => expert === route[index]));
  }
  return isKept.filter(Boolean).length / isKept.length;
}

describe("text", () => {
  const sizes = ["--sequence-length", "32", "--max-sequences", "2"];

  test("reports each expert's loss, the best expert, and the router's cost", async () => {
    const files = ["--data", at("sea.txt"), at("cats.jsonl.gz")];
    const result = await evaluated(...files, ...sizes, "--per-expert");
    const plain = await evaluated(...files, ...sizes);
    const second = await evaluated(...files, ...sizes, "--expert", "domain-1");
    expect(Object.keys(result.files)).toEqual(["sea", "cats"]);
    for (const [name, file] of Object.entries(result.files)) {
      const losses = file["expert_losses"] as Record<string, number>;
      const best = Math.min(...Object.values(losses));
      expect(losses["domain-1"]).toBe(second.files[name]?.["loss"]);
      expect(file).toMatchObject({ ...plain.files[name], tokens: 62, oracle_loss: best });
      expect(losses[file["best_expert"] as string]).toBe(best);
      expect(file["router_cost"]).toBe((file["loss"] as number) - best);
      const shares = Object.values(file["expert_shares"] as Record<string, number>);
      expect(shares.reduce((sum, share) => sum + share, 0)).toBeCloseTo(1, 9);
      expect(file["locality"]).toBeCloseTo(await plainLocality(TEXTS[name as keyof typeof TEXTS]), 12);
    }
    expect(result["mean_loss"]).toBe(plain["mean_loss"]);
    expect((result["mean_expert_losses"] as Record<string, number>)["domain-1"]).toBe(second["mean_loss"]);
  });

  test("prints losses by expert as text, also without a router", async () => {
    const args = ["--data", at("sea.txt"), ...sizes, "--per-expert"];
    const { stdout } = await runCli(["eval", model, ...args]);
    expect(stdout).toMatch(
      /^sea {2}62 tokens\n {2}router +loss [\d.]+ .*to the best expert.*keeps the expert [\d.]+ %\n/,
    );
    expect(stdout.match(/^\* domain-\d .*share/gm)).toHaveLength(1);
    expect(stdout).toMatch(/mean, router .*\nmean, best per file .*\nmean, domain-\d .*\n$/);
    const unrouted = await runCli(["eval", at("unrouted"), ...args]);
    expect(unrouted).toMatchObject({ code: 0, stderr: "" });
    expect(unrouted.stdout).toMatch(/^sea {2}62 tokens\n[* ] domain-0 +loss [\d.]+\n/);
  });

  test("predicts every token but the first with a stride, up to the last window", async () => {
    const data = ["--data", at("sea.txt"), "--sequence-length", "32"];
    const all = await evaluated(...data, "--stride", "16", "--max-sequences", "1000");
    const three = await evaluated(...data, "--stride", "16", "--max-sequences", "3");
    expect(all.files["sea"]?.["tokens"]).toBeGreaterThan(150);
    expect(three.files["sea"]?.["tokens"]).toBe(31 + 2 * 16);
  });
});

/** The documents of `REQUESTS`: their answers by `idx`, and the right one. */
const QUESTIONS = [
  { context: "The ship was", answers: [" lost", " found by the crew"], label: 1 },
  { context: "The cat sat on", answers: [" a mat", " the sea, and sailed away"], label: 0 },
  { context: "One and two are", answers: [" three", " four"], label: 1 },
];

/** Computes the shares of right answers from the full logits of a plain decoder. */
async function plainAccuracies(): Promise<{ readonly acc: number; readonly accNorm: number }> {
  await using reading = await runningModel(model);
  const { tokenizer } = await reading.model.loadText();
  const encode = (text: string): number[] => Array.from(tokenizer.encode(text, { addSpecialTokens: false }));
  let [right, rightByLength] = [0, 0];
  for (const { context, answers, label } of QUESTIONS) {
    const sums = [];
    for (const answer of answers) {
      const ids = encode(context + answer);
      const route = await routeOf(reading, ids.slice(0, -1));
      const logProbs = await plainLogProbs(reading.model, ids, route, encode(context).length);
      sums.push(logProbs.reduce((sum, logProb) => sum + logProb, 0));
    }
    // Harnesses count lengths without the blank before the answer.
    const byLength = sums.map((sum, index) => sum / (answers[index]?.trimStart().length ?? NaN));
    for (const [one = NaN, other = NaN] of [sums, byLength]) expect(Math.abs(one - other)).toBeGreaterThan(0.01);
    if (sums.indexOf(Math.max(...sums)) === label) right++;
    if (byLength.indexOf(Math.max(...byLength)) === label) rightByLength++;
  }
  return { acc: right / QUESTIONS.length, accNorm: rightByLength / QUESTIONS.length };
}

describe("requests", () => {
  test("are grouped by document, plain or compressed, with accuracies and their errors", async () => {
    const { requests, files } = await evaluated("--requests", at("plain.jsonl"), at("zipped"));
    expect(files).toBeUndefined();
    expect(requests["plain"]).toEqual(requests["zipped"]);
    expect(requests["plain"]).toMatchObject({ documents: 3, cut_requests: 0 });
    const { acc, accNorm } = await plainAccuracies();
    expect(requests["plain"]?.["acc"]).toBeCloseTo(acc, 12);
    expect(requests["plain"]?.["acc_norm"]).toBeCloseTo(accNorm, 12);
    // Of three values of 0 or 1.
    expect(requests["plain"]?.["acc_stderr"]).toBeCloseTo(Math.sqrt((acc * (1 - acc)) / 2), 12);
    expect(requests["plain"]?.["acc_norm_stderr"]).toBeCloseTo(Math.sqrt((accNorm * (1 - accNorm)) / 2), 12);
  });

  test("are limited by --limit, and are printed beside text", async () => {
    const args = ["--requests", at("plain.jsonl"), "--limit", "1", "--data", at("sea.txt"), "--sequence-length", "5"];
    const outcome = await runCli(["eval", model, ...args]);
    expect(outcome.stdout).toMatch(/sea .*\nmean .*\nplain +acc [01]\.0000 {2}acc_norm [01]\.0000 {2}1 documents\n$/);
    expect(outcome.stderr).toBe("note: plain: 1 requests were cut to their last 5 tokens\n");
  });

  test("become questions: choices ordered by `idx`, documents by their first line", async () => {
    const questions = await readQuestions(at("plain.jsonl"));
    expect(questions.map(({ answer }) => answer)).toEqual([1, 0, 1]);
    expect(questions[0]?.choices.map(({ continuation }) => continuation)).toEqual([" lost", " found by the crew"]);
    expect(await readQuestions(at("zipped"), 2)).toEqual(questions.slice(0, 2));
  });
});

describe("a bad file of requests is refused by name and line", () => {
  const good = request(1, 0, 0, "a", "b");
  test.each([
    [[good, "{"], ":2: is not JSON"],
    [[good, "", "[]"], ":3: expected an object"],
    [['{"request":["a","b"],"doc_id":1,"idx":0,"label":0}'], ":1: expected `request` to be an object"],
    [['{"request":{"context":1,"continuation":"b"},"doc_id":1,"idx":0,"label":0}'], ":1: expected `request.context`"],
    [[request(1, 0, 0, "a", "")], ":1: expected `request.continuation` to be a string that is not empty"],
    [[good.replace('"doc_id":1', '"doc_id":null')], ":1: expected `doc_id`"],
    [[good.replace('"idx":0', '"idx":0.5')], ":1: expected `idx` to be an integer from 0 up, got `0.5`"],
    [[good.replace('"label":0', '"label":"A"')], ':1: expected `label` to be an integer from 0 up, got `"A"`'],
    [[good, request(2, 0, 0, "a", "b"), good], ":3: document 1 has the choice 0 in line 1 already"],
    [[good, request(1, 1, 1, "a", "c")], ":2: document 1 has the label 1 here and 0 in line 1"],
    [[request(2, 0, 0, "a", "b"), request(1, 0, 3, "a", "b")], ":2: document 1 has the label 3, which is none"],
    [["", " "], ":1: expected at least one request"],
  ])("%j", async (lines, message) => {
    const path = join(await temporaryFolder(), "bad.jsonl");
    await writeFile(path, lines.join("\n"));
    await expectReadMeError(readQuestions(path), "ERR_FILE_CORRUPT", path + message);
    await writeFile(path, gzipSync(lines.join("\n")));
    await expectReadMeError(readQuestions(path), "ERR_FILE_CORRUPT", path + message);
  });

  test("also a missing file, a damaged file, and one that is not text", async () => {
    const path = join(await temporaryFolder(), "bad.gz");
    await expectReadMeError(readQuestions(path), "ERR_FILE_NOT_FOUND", path);
    await writeFile(path, gzipSync(REQUESTS.join("\n")).subarray(0, -12));
    await expectReadMeError(readQuestions(path), "ERR_FILE_CORRUPT", path, "cannot be decompressed");
    await writeFile(path, Buffer.from([0x22, 0xff, 0x22]));
    await expectReadMeError(readQuestions(path), "ERR_FILE_CORRUPT", path, "not UTF-8");
    await expectReadMeError(readQuestions(folder), "ERR_FILE_UNREADABLE", folder, "is a folder");
    const outcome = await runCli(["eval", model, "--requests", path]);
    expect(outcome).toMatchObject({ code: 1, stdout: "" });
    expect(outcome.stderr).toMatch(/^error: .*bad\.gz: is not UTF-8 text \(ERR_FILE_CORRUPT\)\n$/);
  });
});

test.each([
  [[], /required option '--data <file...>' or '--requests/],
  [["--requests", "x", "--per-expert"], /'--per-expert' needs '--data/],
  [["--requests", "x", "--stride", "4"], /'--stride' needs '--data/],
  [["--data", "x", "--limit", "4"], /'--limit' needs '--requests/],
  [["--data", "x", "--per-expert", "--expert", "0"], /'--per-expert' cannot be used with option '--expert/],
  [["--data", "package.json", "--stride", "512"], /`stride` to be from 1 to 255/],
])("eval %j is refused with exit code 2", async (args, message) => {
  const outcome = await runCli(["eval", model, ...args]);
  expect(outcome).toMatchObject({ code: 2, stdout: "" });
  expect(outcome.stderr).toMatch(message);
});
