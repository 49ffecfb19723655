// The engine as callers use it: a worker, messages, streams. With the pocket model, in both isolations.

import { join } from "node:path";
import { ReadMeError, type GenerateRequest, type ReadMeEvents } from "@readme-moe/core";
import { ReadMeEngine, type OpenOptions } from "@readme-moe/engine";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { complete, completeAll } from "../support/complete.ts";
import { fixture, golden } from "../support/fixtures.ts";
import { expectReadMeError } from "../support/rejection.ts";

const POCKET = join(import.meta.dirname, "..", "..", "models", "pocket");

interface Golden {
  readonly cases: readonly {
    readonly text: string;
    readonly input_ids: readonly number[];
    readonly greedy_32: readonly number[];
  }[];
}

const { cases } = golden("pocket") as Golden;
const greedy = { temperature: 0, maxTokens: 32, ignoreEos: true } as const;

function openPocket(options: OpenOptions = {}): Promise<ReadMeEngine> {
  return ReadMeEngine.open(POCKET, { precision: "fp32", threads: 2, ...options });
}

describe.each(["thread", "process"] as const)("in a %s", (isolation) => {
  let engine: ReadMeEngine;
  beforeAll(async () => {
    engine = await openPocket({ isolation });
  });
  afterAll(() => engine.dispose());

  test("describes its model", () => {
    expect(engine.info).toMatchObject({
      modelType: "llama",
      precision: "fp32",
      vocabSize: 4096,
      contextTokens: 1024,
      experts: ["dense"],
      hasRouter: false,
      hasChatTemplate: false,
    });
  });

  test("gives concurrent requests the tokens that PyTorch gives each alone", async () => {
    const requests = cases.flatMap((one) => [one, one, one]);
    const completed = await Promise.all(requests.map(({ text }) => complete(engine, { prompt: text, params: greedy })));
    expect(completed.map(({ ids }) => ids)).toEqual(requests.map((one) => one.greedy_32));
    expect(completed.every(({ finishReason }) => finishReason === "length")).toBe(true);
  });

  test("streams text that is the text of its tokens, piece by piece", async () => {
    const pieces: string[] = [];
    const ids: number[] = [];
    // Drawn tokens are seldom foreseen, so few of them come together.
    const drawn = { ...greedy, temperature: 2, seed: 1 };
    for await (const chunk of engine.generate({ prompt: "The ship was", params: drawn })) {
      pieces.push(chunk.text);
      ids.push(...chunk.tokens.map((token) => token.id));
    }
    expect(pieces.length).toBeGreaterThan(16);
    expect(pieces.join("")).toBe(await engine.detokenize(ids));
  });

  test("tokenizes, and takes ids, texts and nothing else for a prompt", async () => {
    const ids = await engine.tokenize(cases[0]?.text ?? "");
    expect(Array.from(ids)).toEqual(cases[0]?.input_ids);
    const byIds = await complete(engine, { prompt: ids, params: greedy });
    expect(byIds.ids).toEqual(cases[0]?.greedy_32);
    expect(await engine.route("The ship was")).toEqual({ tokenIds: ids, experts: new Uint16Array(ids.length) });
    await expectReadMeError(engine.applyTemplate([{ role: "user", content: "Hi" }]), "ERR_CHAT_TEMPLATE", POCKET);
    // @ts-expect-error a caller without types
    expect(() => engine.generate({ prompt: 7 })).toThrow(/`prompt`.*got `7` \(number\)/);
  });

  test("fails requests when its worker is killed, restarts, and serves as before", async () => {
    const doomed = await openPocket({ isolation });
    const failures: string[] = [];
    doomed.events.on("engine:failed", ({ code }) => failures.push(code));
    const long = { ...greedy, maxTokens: 900 };
    const waiting = [complete(doomed, { prompt: "a", params: long }), complete(doomed, { prompt: "b", params: long })];
    const first = doomed.generate({ prompt: "c", params: long });
    await first.next();
    await killWorker(doomed);
    for (const one of waiting) await expectReadMeError(one, "ERR_ENGINE_FAILED", "worker is gone");
    await expectReadMeError(drain(first), "ERR_ENGINE_FAILED");
    await expectReadMeError(complete(doomed, { prompt: "d" }), "ERR_ENGINE_FAILED");
    await expectReadMeError(doomed.stats(), "ERR_ENGINE_FAILED");
    expect(failures).toEqual(["ERR_ENGINE_FAILED"]);
    await doomed.restart();
    expect((await complete(doomed, { prompt: cases[0]?.text ?? "", params: greedy })).ids).toEqual(cases[0]?.greedy_32);
    await expect(doomed.restart()).rejects.toThrow(TypeError);
    await doomed.dispose();
    await expectReadMeError(complete(doomed, { prompt: "e" }), "ERR_DISPOSED");
    await expect(doomed.restart()).rejects.toThrow(TypeError);
  });
});

describe("a request", () => {
  let engine: ReadMeEngine;
  beforeAll(async () => {
    engine = await openPocket();
  });
  afterAll(() => engine.dispose());

  test("has `n` completions with draws of their own, the same for the same seed", async () => {
    const request: GenerateRequest = { prompt: "Once", params: { n: 3, seed: 11, temperature: 1, maxTokens: 12 } };
    const [first, second] = [await completeAll(engine, request), await completeAll(engine, request)];
    expect(first.choices.map(({ ids }) => ids)).toEqual(second.choices.map(({ ids }) => ids));
    expect(new Set(first.choices.map(({ text }) => text)).size).toBe(3);
    const completionTokens = first.choices.reduce((sum, { ids }) => sum + ids.length, 0);
    expect(first.usage).toMatchObject({ completionTokens });
    const other = await completeAll(engine, { ...request, params: { ...request.params, seed: 12 } });
    expect(other.choices.map(({ ids }) => ids)).not.toEqual(first.choices.map(({ ids }) => ids));
  });

  test("draws the same tokens beside any other requests", async () => {
    const request: GenerateRequest = { prompt: "In the", params: { seed: 5, topP: 0.9, maxTokens: 24, logprobs: 2 } };
    const alone = await complete(engine, request);
    const strangers = cases.map(({ text }, index) =>
      complete(engine, { prompt: text, params: { maxTokens: 9 + index } }),
    );
    const together = await complete(engine, request);
    await Promise.all(strangers);
    expect(together).toEqual(alone);
  });

  test("ends before a stop string, and shows no part of it", async () => {
    const whole = await complete(engine, { prompt: cases[0]?.text ?? "", params: greedy });
    const stop = whole.text.slice(10, 15);
    const pieces: string[] = [];
    let last;
    for await (const chunk of engine.generate({ prompt: cases[0]?.text ?? "", params: { ...greedy, stop } })) {
      pieces.push(chunk.text);
      last = chunk;
    }
    expect(pieces.join("")).toBe(whole.text.slice(0, whole.text.indexOf(stop)));
    expect(last).toMatchObject({ finishReason: "stop", stop });
  });

  test("reports log-probabilities of the model's own distribution", async () => {
    const { tokens } = await complete(engine, {
      prompt: "The ship was",
      params: { ...greedy, maxTokens: 4, logprobs: 3 },
    });
    for (const { id, logprob = 1, topLogprobs = [] } of tokens) {
      expect(topLogprobs).toHaveLength(3);
      expect(topLogprobs[0]).toMatchObject({ id, logprob });
      expect(logprob).toBeLessThanOrEqual(0);
      expect(typeof topLogprobs[1]?.text).toBe("string");
    }
  });

  test("follows bias and penalties", async () => {
    const [first] = cases;
    const banned = first?.greedy_32[0] as number;
    const params = { ...greedy, maxTokens: 8, logitBias: { [banned]: -100 } };
    expect((await complete(engine, { prompt: first?.text ?? "", params })).ids).not.toContain(banned);
    const penalised = { ...greedy, repetitionPenalty: 1.5, frequencyPenalty: 1 };
    const { ids } = await complete(engine, { prompt: first?.text ?? "", params: penalised });
    expect(new Set(ids).size).toBeGreaterThan(new Set(first?.greedy_32).size);
  });

  test("frees its memory within a step when it is left early or aborted", async () => {
    const controller = new AbortController();
    const long = { ...greedy, maxTokens: 900 };
    const aborted = engine.generate({ prompt: "a", params: long, signal: controller.signal });
    const left = engine.generate({ prompt: "b", params: long });
    await aborted.next();
    await left.next();
    const finished = new Promise<void>((resolve) => {
      let count = 0;
      engine.events.on("sequence:finished", ({ reason }) => {
        if (reason === "abort" && ++count === 2) resolve();
      });
    });
    controller.abort(new Error("enough"));
    await left.return?.();
    await expect(drain(aborted)).rejects.toThrow("enough");
    await finished;
    expect(await engine.stats()).toMatchObject({ numRunning: 0, numWaiting: 0, kvUsedTokens: 0 });
    const already = engine.generate({ prompt: "c", signal: AbortSignal.abort(new Error("too late")) });
    await expect(already.next()).rejects.toThrow("too late");
    engine.events.removeAllListeners();
  });

  test("ends when it fills the context, and is refused if the prompt leaves no room", async () => {
    const full = await complete(engine, { prompt: Array.from({ length: 1020 }, () => 5), params: greedy });
    expect(full).toMatchObject({ finishReason: "length" });
    expect(full.ids).toHaveLength(4);
    const tooLong = complete(engine, { prompt: Array.from({ length: 1024 }, () => 5), params: greedy });
    await expectReadMeError(tooLong, "ERR_CONTEXT_LENGTH", "1024");
  });

  const bad: Readonly<Record<string, [unknown, RegExp]>> = {
    "no request": [undefined, /request \{ prompt/],
    "an unknown field": [{ prompt: "x", parms: {} }, /`parms`.*did you mean `params`/],
    "an unknown parameter": [{ prompt: "x", params: { temprature: 1 } }, /`temprature`.*did you mean `temperature`/],
    "a temperature that is no number": [{ prompt: "x", params: { temperature: Number.NaN } }, /`temperature`.*NaN/],
    "ten thousand stops": [
      { prompt: "x", params: { stop: Array.from({ length: 10_000 }, (_, index) => `s${index}`) } },
      /`stop`.*64/,
    ],
    "an id outside the vocabulary": [{ prompt: [1, 4096] }, /`prompt\[1\]`.*from 0 to 4095/],
    "an unknown expert": [{ prompt: "x", expert: "github" }, /`expert`.*dense/],
    "a priority that is no number": [{ prompt: "x", priority: "high" }, /`priority`/],
  };
  test.each(Object.entries(bad))(
    "with %s is refused at once, and other requests go on",
    async (_, [request, message]) => {
      const neighbour = complete(engine, { prompt: cases[1]?.text ?? "", params: greedy });
      expect(() => engine.generate(request as GenerateRequest)).toThrow(message);
      expect((await neighbour).ids).toEqual(cases[1]?.greedy_32);
    },
  );

  test("without a token is refused, and other requests go on", async () => {
    const neighbour = complete(engine, { prompt: cases[1]?.text ?? "", params: greedy });
    await expect(complete(engine, { prompt: "" })).rejects.toThrow(/at least one token/);
    await expect(complete(engine, { prompt: [] })).rejects.toThrow(RangeError);
    const chat = { messages: [{ role: "user", content: "Hi" }] };
    await expectReadMeError(complete(engine, { prompt: chat }), "ERR_CHAT_TEMPLATE");
    expect((await neighbour).ids).toEqual(cases[1]?.greedy_32);
  });
});

test("emits every decision as an event, in order", async () => {
  const engine = await openPocket();
  const seen: string[] = [];
  const names = [
    "sequence:queued",
    "router:routed",
    "batch:scheduled",
    "token:generated",
    "batch:completed",
    "sequence:finished",
  ] as const;
  for (const name of names) engine.events.on(name, () => seen.push(name));
  engine.events.on("token:generated", () => {
    throw new Error("a listener's own trouble");
  });
  const failed: (keyof ReadMeEvents)[] = [];
  engine.events.on("listener:failed", ({ source }) => failed.push(source));
  await complete(engine, { prompt: "Hello", params: { ...greedy, maxTokens: 2 } });
  await engine.stats();
  expect(seen).toEqual([
    "router:routed",
    "sequence:queued",
    "batch:scheduled",
    "router:routed",
    "token:generated",
    "batch:completed",
    "batch:scheduled",
    "token:generated",
    "sequence:finished",
    "batch:completed",
  ]);
  expect(failed).toEqual(["token:generated", "token:generated"]);
  await engine.dispose();
});

test("a full queue refuses requests until one ends", async () => {
  const engine = await openPocket({ maxNumRequests: 2 });
  const long = { ...greedy, maxTokens: 900 };
  const [a, b] = [engine.generate({ prompt: "a", params: long }), engine.generate({ prompt: "b", params: long })];
  await expectReadMeError(complete(engine, { prompt: "c" }), "ERR_QUEUE_FULL", "2");
  await a.return?.();
  expect((await complete(engine, { prompt: "d", params: { ...greedy, maxTokens: 2 } })).ids).toHaveLength(2);
  await b.return?.();
  await engine.dispose();
});

test("disposing rejects everything that waits, and can be repeated", async () => {
  const engine = await openPocket();
  const request = { prompt: "a", params: { ...greedy, maxTokens: 900 } };
  const waiting = expectReadMeError(complete(engine, request), "ERR_DISPOSED");
  const asked = engine.tokenize("text").catch((error: unknown) => expect(error).toBeInstanceOf(ReadMeError));
  await Promise.all([engine.dispose(), engine.dispose()]);
  await Promise.all([waiting, asked]);
  await expectReadMeError(engine.stats(), "ERR_DISPOSED");
});

describe("opening", () => {
  test.each([
    [{ threads: 0 }, /`threads`/],
    [{ isolation: "proces" }, /`isolation`.*did you mean "process"/],
    [{ maxNumSeq: 3 }, /`maxNumSeq`.*did you mean `maxNumSeqs`/],
    [{ maxNumSeqs: 4, maxNumBatchedSeqs: 5 }, /`maxNumBatchedSeqs`.*from 1 to 4/],
    [{ chunkTokens: 100 }, /`chunkTokens`.*multiple of 64/],
    [{ chunkTokens: 256, maxNumBatchedTokens: 128 }, /`maxNumBatchedTokens`/],
  ])("with %j is refused", async (options, message) => {
    await expect(ReadMeEngine.open(POCKET, options as OpenOptions)).rejects.toThrow(message);
  });

  test("too little KV memory, an unknown expert and a wrong path are refused with the reason", async () => {
    await expect(openPocket({ kvCacheBytes: 1000 })).rejects.toThrow(/`kvCacheBytes`.*at least/);
    await expect(openPocket({ expert: "github" })).rejects.toThrow(/`expert`/);
    await expectReadMeError(ReadMeEngine.open("no/such/model"), "ERR_FILE_NOT_FOUND", "no/such/model");
    await expectReadMeError(ReadMeEngine.open(fixture("families/qwen3")), "ERR_FILE_NOT_FOUND", "tokenizer.json");
    await expect(ReadMeEngine.open("")).rejects.toThrow(TypeError);
    await expect(openPocket({ signal: AbortSignal.abort(new Error("never mind")) })).rejects.toThrow("never mind");
  });
});

async function drain(stream: AsyncIterable<unknown>): Promise<void> {
  for await (const _ of stream);
}

/** Kills the worker, as a crash would. */
async function killWorker(engine: ReadMeEngine): Promise<void> {
  const failed = new Promise((resolve) => engine.events.once("engine:failed", resolve));
  engine.kill();
  await failed;
}
