// The benchmark of speculation: its requests, its judgement of answers, and its measurements on the pocket model.

import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { beforeAll, describe, expect, test } from "vitest";
import { answerOf } from "../../bench/speculation/answer.ts";
import { byTurns, codeOf, type Documents, oddDocuments, readOddDocuments } from "../../bench/speculation/documents.ts";
import { SCHEMAS } from "../../bench/speculation/json-requests.ts";
import { openEngines } from "../../bench/speculation/engines.ts";
import { AnswerDiffers, batchesOf, batchTimes, checkAnswer, measureRounds } from "../../bench/speculation/measure.ts";
import { speculationOptions } from "../../bench/speculation/options.ts";
import { judgeAnswer, planRequests, quotedShareOf } from "../../bench/speculation/plan.ts";
import { misspelled } from "../../bench/speculation/quote-requests.ts";
import { type CellFigures, cellFigures } from "../../bench/speculation/report.ts";
import { GREEDY, KINDS } from "../../bench/speculation/request.ts";
import { requestsOf } from "../../bench/speculation/requests.ts";
import { firstDifference, lengthBeforeLoop, quotedShare } from "../../bench/speculation/tokens.ts";
import * as fc from "../support/fast-check.ts";
import { outcomeOf, startNode } from "../support/node-process.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const ROOT = join(import.meta.dirname, "..", "..");
const CALIBRATION = join(ROOT, "models", "pocket", "calibration");

const processorOf = (): undefined => undefined;

const fewTokens = fc.array(fc.nat(2), { maxLength: 90 });

/** Repeats a motif after other tokens, which random tokens alone hardly ever do. */
const looping = fc
  .tuple(fewTokens, fc.array(fc.nat(5), { minLength: 1, maxLength: 36 }), fc.integer({ min: 1, max: 90 }))
  .map(([start, motif, count]) => [
    ...start,
    ...Array.from({ length: count }, (_, at) => motif[at % motif.length] ?? 0),
  ]);

/** Tries every end and period. */
function plainLengthBeforeLoop(tokenIds: readonly number[]): number {
  for (let end = 1; end <= tokenIds.length; end++) {
    for (let period = 1; period <= 32; period++) {
      const length = Math.max(24, 3 * period);
      const tail = tokenIds.slice(end - length, end);
      if (end < length || tail.some((id, at) => at >= period && id !== tail[at - period])) continue;
      return end - length + period;
    }
  }
  return tokenIds.length;
}

describe("answers", () => {
  test("a loop is found where trying every end and period finds it", () => {
    fc.assert(
      fc.property(fc.oneof(fewTokens, looping), (tokenIds) => {
        expect(lengthBeforeLoop(tokenIds)).toBe(plainLengthBeforeLoop(tokenIds));
      }),
    );
  });

  test("the share of foretold tokens counts what follows the same three tokens in the prompt", () => {
    fc.assert(
      fc.property(fewTokens, fewTokens, (promptIds, tokenIds) => {
        const isFollowed = (end: number): boolean =>
          promptIds.some(
            (_, at) => at >= 3 && [0, 1, 2, 3].every((back) => promptIds[at - back] === tokenIds[end - back]),
          );
        const tried = Array.from(tokenIds.keys()).filter((at) => at >= 3);
        expect(quotedShare(promptIds, tokenIds)).toBe(tried.filter(isFollowed).length / tried.length);
      }),
    );
  });

  test("two answers differ at the first token that is another one or missing", () => {
    expect(firstDifference([1, 2, 3], [1, 2, 3])).toBeUndefined();
    expect(firstDifference([1, 2, 3], [1, 4, 3])).toBe(1);
    expect(firstDifference([1, 2], [1, 2, 3])).toBe(2);
    expect(firstDifference([1, 2, 3], [1, 2])).toBe(2);
  });

  const ready = { kind: "chat", name: "one", prompt: "", params: GREEDY, promptIds: [1], maxTokens: 64 } as const;
  const counting = Array.from({ length: 40 }, (_, index) => index);
  const judged = (tokenIds: readonly number[], finishReason: "stop" | "length") =>
    judgeAnswer(ready, { tokenIds, finishReason, text: "" });

  test("an answer is cut before its loop, and left out if that is in its first half", () => {
    const cut = judged([...counting, ...Array.from({ length: 24 }, () => 7)], "length");
    expect(cut).toMatchObject({ verdict: "usable", request: { maxTokens: 41 } });
    expect(cut.request.expected).toEqual({ tokenIds: [...counting, 7], finishReason: "length" });
    expect(judged([...counting.slice(0, 20), ...Array.from({ length: 44 }, () => 7)], "length").verdict).toBe(
      "looping",
    );
  });

  test("an answer that ends by itself is used unless it is short", () => {
    expect(judged(counting, "stop")).toMatchObject({ verdict: "usable", request: { maxTokens: 64 } });
    expect(judged(counting.slice(0, 15), "stop").verdict).toBe("short");
  });

  test("the share of a plan weighs answers by their tokens", () => {
    const answers = [[0, 1, 2, 3, 4], [9, 9, 9, 9], [1]];
    const requests = answers.map((tokenIds) => ({ ...judged(tokenIds, "stop").request, promptIds: [0, 1, 2, 3, 4] }));
    expect(quotedShareOf({ requests })).toBe(2 / 3);
  });
});

describe("requests", () => {
  let documents: Documents;
  beforeAll(async () => {
    documents = await readOddDocuments(CALIBRATION);
  });

  test("only documents with an odd index are read", () => {
    const lines = ["a", "b", "c", "d"].map((text) => JSON.stringify({ text })).join("\n");
    expect(oddDocuments("book", `${lines}\n`)).toEqual([
      { name: "book#1", text: "b" },
      { name: "book#3", text: "d" },
    ]);
    for (const { name } of [...documents.prose, ...documents.code]) expect(name).toMatch(/^[\w]+#\d*[13579]$/);
  });

  test.each(KINDS)("there are enough requests of kind %s, all different, and the same every time", (kind) => {
    const facts = { documents, vocabSize: 4096, seed: 1 };
    const requests = requestsOf(kind, facts);
    expect(requests.length).toBeGreaterThanOrEqual(24);
    expect(new Set(requests.map(({ name }) => name)).size).toBe(requests.length);
    expect(new Set(requests.map(({ prompt }) => JSON.stringify(prompt))).size).toBe(requests.length);
    expect(requestsOf(kind, facts)).toEqual(requests);
    for (const { schema, prediction } of requests) {
      expect(schema !== undefined).toBe(kind === "json");
      expect(prediction !== undefined).toBe(kind === "predicted");
    }
  });

  test("every schema and every task takes part", () => {
    const facts = { documents, vocabSize: 4096, seed: 1 };
    const tasks = requestsOf("quote", facts).map(({ name }) => name.split(" ")[0]);
    expect(new Set(tasks.slice(0, 5))).toEqual(new Set(["spelling", "rename", "extract", "comment", "summary"]));
    const schemas = requestsOf("json", facts).map(({ schema }) => schema?.name);
    expect(new Set(schemas.slice(0, 4))).toEqual(new Set(Object.keys(SCHEMAS)));
  });

  test("lists take turns until all are empty", () => {
    expect(byTurns([[1, 2, 3], [], [4], [5, 6]])).toEqual([1, 4, 5, 2, 6, 3]);
  });

  test("code has a name that several of its lines use", () => {
    for (const document of documents.code) {
      const passage = codeOf(document, 10);
      if (!passage) continue;
      expect(
        document.text
          .split("\n")
          .map((line) => line.trimEnd())
          .join("\n"),
      ).toContain(passage.lines.join("\n"));
      expect(passage.lines.filter((line) => line.includes(passage.name)).length).toBeGreaterThanOrEqual(3);
    }
  });

  test("misspelled words have the same letters", () => {
    const text = "several important sentences without mistakes, because nobody changed their letters";
    const wrong = misspelled(text, 3);
    expect(wrong).not.toBe(text);
    expect(wrong.split(" ").map((word) => Array.from(word).toSorted())).toEqual(
      text.split(" ").map((word) => Array.from(word).toSorted()),
    );
  });
});

describe("measuring", () => {
  test("tokens are timed from the last first token on", () => {
    const times = batchTimes([
      { startMs: 10, tokenMs: [20, 30, 40] },
      { startMs: 11, tokenMs: [35, 45, 45, 60] },
    ]);
    expect(times).toEqual({ allMs: 50, tokens: 7, decodeMs: 25, decodeTokens: 4, firstMs: [10, 24] });
  });

  test("batches have answers of similar length, and no request twice", () => {
    const requests = [9, 2, 7, 4, 5].map((length) => ({
      ...judgeAnswer(
        { kind: "chat", name: `${length}`, prompt: "", params: GREEDY, promptIds: [1], maxTokens: 64 },
        { tokenIds: Array.from({ length }, (_, at) => at), finishReason: "stop", text: "" },
      ).request,
    }));
    expect(batchesOf(requests, 2).map((batch) => batch.map(({ name }) => name))).toEqual([
      ["2", "4"],
      ["5", "7"],
    ]);
  });

  test("an answer with another token, length or end is a failure that names its place", () => {
    const { request } = judgeAnswer(
      { kind: "chat", name: "one", prompt: "", params: GREEDY, promptIds: [1], maxTokens: 4 },
      { tokenIds: [5, 6, 7], finishReason: "stop", text: "" },
    );
    expect(() => checkAnswer(request, { tokenIds: [5, 6, 7], finishReason: "stop" })).not.toThrow();
    expect(() => checkAnswer(request, { tokenIds: [5, 6, 8], finishReason: "stop" })).toThrow(
      /one: Expected token 7 at 2/,
    );
    expect(() => checkAnswer(request, { tokenIds: [5, 6], finishReason: "stop" })).toThrow(/got none/);
    expect(() => checkAnswer(request, { tokenIds: [5, 6, 7], finishReason: "length" })).toThrow(
      /Expected to end by stop/,
    );
  });

  test("real engines give the expected answers, and steps are counted; a wrong expectation fails", async () => {
    const options = speculationOptions(["--threads", "1"]);
    const open = () => openEngines(join(ROOT, "models", "pocket"), "all", options);
    await using planning = await open();
    const { without } = planning;
    const documents = await readOddDocuments(CALIBRATION);
    const facts = { documents, vocabSize: without.info.vocabSize, seed: 1 };
    const plan = await planRequests(without, requestsOf("random", facts), { count: 4, tokens: 12, processorOf });
    const rounds = await measureRounds({ open, requests: plan.requests, atOnce: 2, rounds: 2, processorOf });
    for (const figures of [...rounds.without, ...rounds.with]) {
      expect(figures.tokens).toBe(plan.requests.reduce((sum, { expected }) => sum + expected.tokenIds.length, 0));
      // Each answer's first token comes from its prompt; a later one without a draft takes a step.
      const numFirst = figures.firstMs.length;
      expect(numFirst).toBe(4);
      expect(figures.counts.decodes + figures.counts.acceptedDraftTokens).toBe(figures.tokens - numFirst);
    }
    const cell = cellFigures({ memory: "all", kind: "random", atOnce: 2, rounds });
    expect(cell.target).toBeUndefined();
    expect(cell.tokensPerStep.without).toBe(1);

    const [first] = plan.requests;
    if (!first) throw new Error("There is no request");
    const { tokenIds } = await answerOf(without, first, processorOf);
    expect(tokenIds).toEqual(first.expected.tokenIds);
    const wrong = { ...first, expected: { ...first.expected, tokenIds: tokenIds.with(5, (tokenIds[5] ?? 0) + 1) } };
    await expect(measureRounds({ open, requests: [wrong], atOnce: 1, rounds: 1, processorOf })).rejects.toThrow(
      AnswerDiffers,
    );
  });
});

test("options are checked", () => {
  expect(speculationOptions(["model", "--kinds", "chat,json", "--requests", "1,2", "--per-kind", "2"])).toMatchObject({
    model: "model",
    kinds: ["chat", "json"],
    requests: [1, 2],
    perKind: 2,
    data: CALIBRATION,
  });
  expect(() => speculationOptions(["--kinds", "talk"])).toThrow(
    /`--kinds` to be of quote, predicted, json, chat, code, random, got `talk`/,
  );
  expect(() => speculationOptions(["--rounds", "0"])).toThrow(/`--rounds` to be whole numbers from 1 up, got `0`/);
  expect(() => speculationOptions(["--requests", "4", "--per-kind", "2"])).toThrow(/at most 2 at once, got `4`/);
});

test("the command measures, writes a report, and refuses a wrong call", async () => {
  const out = join(await temporaryFolder(), "report.json");
  const run = (args: readonly string[]): ReturnType<typeof outcomeOf> =>
    outcomeOf(startNode([join(ROOT, "bench", "speculation", "main.ts"), ...args]));
  const sizes = ["--requests", "1,2", "--per-kind", "2", "--rounds", "1", "--tokens", "12", "--threads", "1"];
  const { code, stdout } = await run([
    join(ROOT, "models", "pocket"),
    "--kinds",
    "json,random",
    ...sizes,
    "--out",
    out,
  ]);
  expect(code).toBe(0);
  expect(stdout).toMatch(/\| json +\| +2 \|/);
  expect(stdout).toMatch(/\| random +\| +1 \|.*0\.98: /);
  const report = JSON.parse(await readFile(out, "utf8")) as { readonly cells: readonly CellFigures[] };
  expect(report.cells.map(({ kind, requests }) => `${kind} ${requests}`)).toEqual([
    "json 1",
    "json 2",
    "random 1",
    "random 2",
  ]);
  for (const { tokensPerSecond, ratio } of report.cells) {
    expect(tokensPerSecond.without.median).toBeGreaterThan(0);
    expect(ratio.median).toBeGreaterThan(0);
  }
  expect(await readFile(out.replace(/json$/, "md"), "utf8")).toContain(stdout);
  const wrong = await run(["--kinds", "talk"]);
  expect(wrong.code).toBe(1);
  expect(wrong.stderr).toMatch(/^error: Expected `--kinds`/m);
});
