// Predictions on their way to a sequence, and counts of drafts on their way to usage, events and statistics.

import type { EngineStats, GenerateChunk, GenerateRequest } from "@readme-moe/core";
import { ReadMeEngine, resolveEngineOptions } from "@readme-moe/engine";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { wireRequest } from "../../packages/engine/src/host/request.ts";
import { countDraft, type Sequence } from "../../packages/engine/src/sequence.ts";
import { openEngine } from "../../packages/engine/src/worker/open-engine.ts";
import { WorkerRequests, TimeSlices } from "../../packages/engine/src/worker/requests.ts";
import { completeAll } from "../support/complete.ts";
import { writeReadingModel } from "../support/reading-model.ts";
import { TINY_CONTEXT_TOKENS } from "../support/served-model.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

const PROMPT = "The ship was late, and the harbour";
const params = { maxTokens: 8, temperature: 1, seed: 3, ignoreEos: true } as const;

let path: string;
let engine: ReadMeEngine;
beforeAll(async () => {
  path = join(await persistentFolder(), "tiny");
  await writeReadingModel(path);
  engine = await ReadMeEngine.open(path, { precision: "fp32", threads: 1, isolation: "thread" });
});
afterAll(() => engine.dispose());

describe("a prediction", () => {
  test.each<[string, GenerateRequest["prediction"]]>([
    ["a text", "The ship was late"],
    ["token ids", [5, 900, 5, 900]],
    ["a typed array", Uint16Array.of(5, 900)],
    ["an empty text", ""],
    ["no token ids", []],
    ["as many token ids as the context has", Array.from({ length: TINY_CONTEXT_TOKENS }, () => 5)],
  ])("may be %s, and changes no token and no other count", async (_, prediction) => {
    const request = { prompt: PROMPT, params: { ...params, n: 2, logprobs: 2 } };
    const [without, withIt] = [
      await completeAll(engine, request),
      await completeAll(engine, { ...request, prediction }),
    ];
    expect(withIt.choices).toEqual(without.choices);
    const { promptTokens, completionTokens } = without.usage ?? {};
    expect(withIt.usage).toMatchObject({ promptTokens, completionTokens });
  });

  test.each<[unknown, string]>([
    [5, "Expected `prediction` to be a text or token ids, got `5`"],
    [null, "Expected `prediction` to be a text or token ids, got `null`"],
    [{ type: "content" }, "Expected `prediction` to be a text or token ids, got"],
    [true, "Expected `prediction` to be a text or token ids, got `true`"],
    [[5, -1], "Expected `prediction[1]` to be from 0 to 4095, got `-1`"],
    [[5, 1.5], "Expected `prediction[1]` to be an integer"],
    [[4096], "Expected `prediction[0]` to be from 0 to 4095, got `4096`"],
    [["5"], "Expected `prediction[0]` to be an integer"],
    [{ length: 2, 0: 5 }, "Expected `prediction[1]` to be an integer"],
    [
      Array.from({ length: TINY_CONTEXT_TOKENS + 1 }, () => 5),
      `Expected \`prediction\` to have at most ${TINY_CONTEXT_TOKENS} tokens, got ${TINY_CONTEXT_TOKENS + 1}`,
    ],
    [{ length: 1e12 }, `Expected \`prediction\` to have at most ${TINY_CONTEXT_TOKENS} tokens`],
  ])("%j is refused at once", (prediction, message) => {
    const request = { prompt: PROMPT, prediction } as GenerateRequest;
    expect(() => engine.generate(request)).toThrow(message);
  });

  test("with a text of more tokens than the context has is refused, and leaves nothing behind", async () => {
    for (const prediction of ["ship ".repeat(2 * TINY_CONTEXT_TOKENS), "ship ".repeat(1e6)]) {
      const generation = engine.generate({ prompt: PROMPT, prediction });
      const refusal = expect.objectContaining({
        name: "RangeError",
        message: expect.stringMatching(
          /^Expected `prediction` to have at most 256 tokens, got at least \d+$/,
        ) as unknown,
      }) as Error;
      await expect(generation.accepted).rejects.toEqual(refusal);
      await expect(generation.next()).rejects.toEqual(refusal);
    }
    expect(await engine.stats()).toMatchObject({ numRunning: 0, numWaiting: 0 });
    expect((await completeAll(engine, { prompt: PROMPT, params })).choices[0]?.ids).toHaveLength(8);
  });

  test("of a request that is aborted while it is tokenized does not stay", async () => {
    const abort = new AbortController();
    const generation = engine.generate({ prompt: PROMPT, prediction: "ship ".repeat(200), signal: abort.signal });
    abort.abort(new Error("gone"));
    await expect(generation.accepted).rejects.toThrow("gone");
    expect(await engine.stats()).toMatchObject({ numRunning: 0, numWaiting: 0 });
  });
});

/** Runs a request in this thread, without drafts of its own. @param change - changes sequences before their first step */
async function run(request: GenerateRequest, change: (sequence: Sequence) => void = () => undefined) {
  const events: { readonly name: string; readonly payload: object }[] = [];
  const sequences: Sequence[] = [];
  const chunks: GenerateChunk[] = [];
  const options = resolveEngineOptions({ threads: 1, speculation: false });
  const output = {
    reading: (): void => undefined,
    accepted: (sequence: Sequence): void => {
      sequences.push(sequence);
      change(sequence);
    },
    chunk: ({ requestId }: Sequence, chunk: GenerateChunk): void =>
      void chunks.push(requests.complete(requestId, chunk)),
    ask: (): void => undefined,
    failed: (_: Sequence, error: unknown): never => {
      throw error;
    },
    event: (name: string, payload: object): void => void events.push({ name, payload }),
  };
  const opened = await openEngine(path, options, output, () => undefined);
  const requests = new WorkerRequests({ ...opened, slices: new TimeSlices() }, (_, error) => {
    throw error;
  });
  try {
    const context = { info: opened.info, drawSeed: () => 1, processorOf: () => () => undefined };
    await requests.begin(wireRequest(request, "a", context).wire);
    const during: Omit<EngineStats, "residentBytes">[] = [];
    while (opened.core.hasWork) {
      await opened.core.step();
      during.push(opened.core.stats());
    }
    const finished = events.filter(({ name }) => name === "sequence:finished").map(({ payload }) => payload);
    return { sequences, usage: chunks.at(-1)?.usage, finished, during, stats: opened.core.stats() };
  } finally {
    await opened.close();
  }
}

describe("in the worker", () => {
  test("the choices of a request share its tokenized prediction", async () => {
    const text = "The ship was late";
    const { sequences } = await run({ prompt: PROMPT, prediction: text, params: { ...params, n: 2 } });
    const ids = await engine.tokenize(text, { addSpecialTokens: false });
    expect(sequences.map(({ prediction }) => prediction)).toEqual([ids, ids]);
    expect(sequences[0]?.prediction).toBe(sequences[1]?.prediction);
    const given = await run({ prompt: PROMPT, prediction: [7, 8, 9], params });
    expect(given.sequences[0]?.prediction).toEqual(Int32Array.of(7, 8, 9));
    const none = await run({ prompt: PROMPT, params });
    expect(none.sequences[0]?.prediction).toBeUndefined();
  });

  test("usage, events and statistics count a sequence's drafts, also before it ends", async () => {
    const outcome = await run({ prompt: PROMPT, params: { ...params, n: 2 } }, (sequence) => {
      const drafts = [
        [
          ["context", 3, 1],
          ["head", 3, 3],
          ["context", 1, 1],
        ],
        [
          ["recycled", 3, 0],
          ["context", 1, 0],
        ],
      ] as const;
      for (const [source, draftedTokens, acceptedDraftTokens] of drafts[sequence.choice] ?? []) {
        sequence.drafts = countDraft(sequence.drafts, source, { draftedTokens, acceptedDraftTokens });
      }
    });
    expect(outcome.usage).toMatchObject({ acceptedDraftTokens: 5, rejectedDraftTokens: 6 });
    expect(outcome.finished).toMatchObject([
      { sequenceId: "a/0", acceptedDraftTokens: 5, rejectedDraftTokens: 2 },
      { sequenceId: "a/1", acceptedDraftTokens: 0, rejectedDraftTokens: 4 },
    ]);
    expect(outcome.during.length).toBeGreaterThan(5);
    const draftsBySource = {
      context: { draftedTokens: 5, acceptedDraftTokens: 2 },
      head: { draftedTokens: 3, acceptedDraftTokens: 3 },
      recycled: { draftedTokens: 3, acceptedDraftTokens: 0 },
    };
    for (const stats of [...outcome.during, outcome.stats]) {
      expect(stats).toMatchObject({ draftedTokens: 11, acceptedDraftTokens: 5 });
      expect(stats.draftsBySource).toEqual(draftsBySource);
    }
  });

  test("all counts are 0 without drafts", async () => {
    const { usage, finished, stats } = await run({ prompt: PROMPT, prediction: PROMPT, params });
    expect(usage).toMatchObject({ acceptedDraftTokens: 0, rejectedDraftTokens: 0 });
    expect(finished).toMatchObject([{ acceptedDraftTokens: 0, rejectedDraftTokens: 0 }]);
    expect(stats).toMatchObject({ draftedTokens: 0, acceptedDraftTokens: 0, draftsBySource: {} });
  });
});
