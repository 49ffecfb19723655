// Answers over scripted engines: the order of choices, usage, timings, routes and charges.

import { ReadMeError, type AcceptedPrompt, type GenerateChunk, type RoutedPrompt, type Usage } from "@readme-moe/core";
import { Admission, readMe, type Entrant, type Ticket } from "@readme-moe/express";
import express, { type RequestHandler } from "express";
import { describe, expect, onTestFinished, test } from "vitest";
import { identify, localsOf } from "../../packages/express/src/http/request.ts";
import { postJson } from "../support/post-json.ts";
import { scriptedEngine, type ScriptedEngineOptions } from "../support/scripted-engine.ts";
import { listen } from "../support/served-model.ts";
import { chunksOf, parseEvents } from "../support/sse.ts";

const USAGE: Usage = { promptTokens: 10, completionTokens: 3, cachedTokens: 4, queuedMs: 0 };
const chunk = (choice: number, text: string, more: Partial<GenerateChunk> = {}): GenerateChunk => ({
  choice,
  text,
  tokens: [{ id: 5, expert: 1 }],
  ...more,
});
const tick = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

interface Serving {
  readonly admission?: Admission;
  readonly before?: RequestHandler;
}

/** Serves an engine. @returns the URL of completions */
async function serve(options: ScriptedEngineOptions, { admission, before }: Serving = {}): Promise<string> {
  const app = express();
  if (before) app.use(identify, before);
  app.use(readMe.api({ engine: scriptedEngine(options), ...(admission ? { admission } : {}) }));
  const server = await listen(app);
  onTestFinished(() => server[Symbol.asyncDispose]());
  return `${server.url}/v1/completions`;
}

/** An engine that gives these chunks, each in its own turn of the event loop. */
function chunksInTurns(...chunks: readonly GenerateChunk[]): ScriptedEngineOptions {
  return {
    async *answer() {
      for (const one of chunks) {
        await tick();
        yield one;
      }
    },
    route: async () => ROUTED,
  };
}

const accept = async (): Promise<AcceptedPrompt> => ({ promptTokens: 10, experts: new Uint16Array(10) });
const ROUTED: RoutedPrompt = { tokenIds: Int32Array.of(7, 8, 9), experts: Uint16Array.of(0, 1, 1) };

const JSON_TYPE = { "content-type": "application/json" };

async function streamText(url: string, body: object): Promise<string> {
  const response = await fetch(url, {
    method: "POST",
    headers: JSON_TYPE,
    body: JSON.stringify({ prompt: "x", ...body, stream: true }),
  });
  return response.text();
}

test("choices of a whole answer are in the order of their indices, and each has all its text", async () => {
  const url = await serve(
    chunksInTurns(
      chunk(2, "c"),
      chunk(0, "a"),
      chunk(2, "cc", { finishReason: "length" }),
      chunk(1, "b", { finishReason: "length" }),
      chunk(0, "aa", { finishReason: "length", usage: USAGE }),
    ),
  );
  const { body } = await postJson(url, { prompt: "x", n: 3 });
  expect(body).toMatchObject({
    object: "text_completion",
    system_fingerprint: "readme-moe-int8",
    choices: [
      { index: 0, text: "aaa" },
      { index: 1, text: "b" },
      { index: 2, text: "ccc" },
    ],
  });
  expect(Object.keys(body).toSorted()).toEqual(
    ["choices", "created", "id", "model", "object", "system_fingerprint", "usage"].toSorted(),
  );
});

test("usage sums over prompts, and counts a prompt's cached tokens once, however many choices took them", async () => {
  const usages = [USAGE, { promptTokens: 7, completionTokens: 5, cachedTokens: 21, queuedMs: 2 }];
  const url = await serve({
    async *answer({ prompt }) {
      yield chunk(0, "a", { finishReason: "length", usage: usages[prompt === "first" ? 0 : 1] as Usage });
    },
  });
  const { body } = await postJson(url, { prompt: ["first", "second"] });
  expect(body["usage"]).toEqual({
    prompt_tokens: 17,
    completion_tokens: 8,
    total_tokens: 25,
    prompt_tokens_details: { cached_tokens: 4 + 7 },
  });
});

describe("timings", () => {
  type Figures = Readonly<Record<string, number | null>>;
  interface Timed {
    readonly timings: Figures;
    readonly read_me: { readonly timings: Figures };
  }

  /** Asks for timings. @returns them with the time that the client waited */
  async function timed(usage: Usage) {
    const url = await serve(chunksInTurns(chunk(0, "a"), chunk(0, "b", { finishReason: "length", usage })));
    const startMs = performance.now();
    const { body } = await postJson(url, { prompt: "x", read_me: { include: ["timings"] } });
    const waitedMs = performance.now() - startMs;
    const { timings, read_me } = body as unknown as Timed;
    return { timings, own: read_me.timings, waitedMs };
  }

  test("divide the time of a request into queue, prefill and decoding", async () => {
    const { timings, own, waitedMs } = await timed(USAGE);
    const [promptMs, predictedMs] = [timings["prompt_ms"] ?? -1, timings["predicted_ms"] ?? -1];
    expect(Math.min(promptMs, predictedMs)).toBeGreaterThan(0);
    expect(promptMs + predictedMs).toBeLessThanOrEqual(waitedMs);
    expect(own).toEqual({ queue_ms: 0, prefill_ms: promptMs, decode_ms: predictedMs });
    expect(timings).toEqual({
      cache_n: 4,
      prompt_n: 6,
      prompt_ms: promptMs,
      prompt_per_token_ms: promptMs / 6,
      prompt_per_second: 6000 / promptMs,
      predicted_n: 3,
      predicted_ms: predictedMs,
      predicted_per_token_ms: predictedMs / 3,
      predicted_per_second: 3000 / predictedMs,
    });
  });

  test("count no longer in the queue than until the first token", async () => {
    const { timings, own, waitedMs } = await timed({ ...USAGE, queuedMs: 1e9 });
    expect(own["queue_ms"]).toBeGreaterThan(0);
    expect(own["queue_ms"]).toBeLessThanOrEqual(waitedMs);
    expect(own).toMatchObject({ prefill_ms: 0 });
    expect(timings).toMatchObject({ prompt_ms: 0, prompt_per_token_ms: 0, prompt_per_second: null });
  });

  test("have no rate of no tokens", async () => {
    const { timings } = await timed({ promptTokens: 5, completionTokens: 0, cachedTokens: 5, queuedMs: 0 });
    expect(timings).toMatchObject({
      cache_n: 5,
      prompt_n: 0,
      prompt_per_token_ms: null,
      prompt_per_second: 0,
      predicted_n: 0,
      predicted_per_token_ms: null,
      predicted_per_second: 0,
    });
  });
});

describe("the chunks of a stream", () => {
  const script = chunksInTurns(chunk(0, "a"), chunk(0, "b", { finishReason: "length", usage: USAGE }));
  const ask = async (body: object) => chunksOf(await streamText(await serve(script), body));

  test("end with timings, without usage, if only timings are asked for", async () => {
    const chunks = await ask({ read_me: { include: ["timings"] } });
    expect(chunks.map(({ choices }) => choices.length)).toEqual([1, 1, 0]);
    expect(chunks.map((one) => "timings" in one)).toEqual([false, false, true]);
    expect(chunks.at(-1)).toMatchObject({ timings: { prompt_n: 6 }, read_me: { timings: { queue_ms: 0 } } });
    expect(chunks.some((one) => "usage" in one)).toBe(false);
  });

  test("end with usage alone if only usage is asked for", async () => {
    const last = (await ask({ stream_options: { include_usage: true } })).at(-1) ?? {};
    expect(last).toMatchObject({ choices: [], usage: { prompt_tokens: 10, total_tokens: 13 } });
    expect(Object.keys(last).filter((key) => key === "timings" || key === "read_me")).toEqual([]);
  });

  test("begin with the routes of the prompt if routes are asked for", async () => {
    const chunks = await ask({ read_me: { include: ["routes"] } });
    expect(chunks.map((one) => "read_me" in one)).toEqual([true, false]);
    expect(chunks[0]).toMatchObject({
      read_me: { experts: ["law", "code"], prompt_routes: [[0, 1, 1]] },
      choices: [{ read_me: { routes: [1] } }],
    });
  });
});

describe("a prompt that the engine cannot route", () => {
  const refusal = new ReadMeError("ERR_CONTEXT_LENGTH", "/models/scripted: The prompt is too long");
  const route = (): Promise<never> => Promise.reject(refusal);

  test("is refused even if its generation has begun", async () => {
    const url = await serve({ ...chunksInTurns(chunk(0, "a")), route });
    expect(await postJson(url, { prompt: "x", read_me: { include: ["routes"] } })).toMatchObject({
      status: 400,
      body: { error: { code: "context_length_exceeded", param: "prompt", message: "The prompt is too long" } },
    });
  });

  test("is reported once, with the error of its generation", async () => {
    const url = await serve({
      // eslint-disable-next-line require-yield -- it fails at once
      async *answer() {
        await tick();
        throw new ReadMeError("ERR_QUEUE_FULL", "The queue is full");
      },
      route,
    });
    const answer = await postJson(url, { prompt: "x", read_me: { include: ["routes"] } });
    expect(answer).toMatchObject({ status: 503, body: { error: { code: "server_overloaded" } } });
  });
});

/** Posts a body. @returns the charges of its request */
async function charged(body: object, options: ScriptedEngineOptions): Promise<readonly number[]> {
  const spent: number[] = [];
  const url = await serve(options, {
    before: (_, response, next) => {
      localsOf(response).spendTokens = (tokens) => spent.push(tokens);
      next();
    },
  });
  await (await fetch(url, { method: "POST", headers: JSON_TYPE, body: JSON.stringify(body) })).text();
  return spent;
}

describe("tokens are charged", () => {
  test("once for all prompts and their tokens", async () => {
    const script = chunksInTurns(
      chunk(0, "a", { tokens: [{ id: 4 }, { id: 5 }] }),
      chunk(0, "b", { finishReason: "length", usage: USAGE }),
    );
    expect(await charged({ prompt: ["x", "y"] }, { ...script, accept })).toEqual([2 * (10 + 3)]);
  });

  test("for those of a request that fails, too", async () => {
    const script: ScriptedEngineOptions = {
      async *answer() {
        yield chunk(0, "a");
        throw new ReadMeError("ERR_ENGINE_FAILED", "Gone");
      },
      accept,
    };
    expect(await charged({ prompt: "x" }, script)).toEqual([11]);
    expect(await charged({ prompt: "x", stream: true }, script)).toEqual([11]);
  });
});

test("admission learns of a request's size, of its prompts one by one, and of its first token", async () => {
  const learnt: unknown[] = [];
  class Remembering extends Admission {
    override enter(entrant: Entrant): Ticket {
      const ticket = super.enter(entrant);
      const { bytes, choices, maxCompletionTokens, priority, model } = entrant;
      learnt.push({ bytes, choices, maxCompletionTokens, priority, model });
      return {
        ...ticket,
        started: () => void learnt.push("started"),
        correct: (tokens) => void learnt.push(tokens),
        release: () => {
          learnt.push("released");
          ticket.release();
        },
      };
    }
  }
  const script = chunksInTurns(chunk(0, "a"), chunk(0, "b", { finishReason: "length", usage: USAGE }));
  const url = await serve({ ...script, accept }, { admission: new Remembering() });
  const body = { prompt: ["x", "y"], n: 2, max_tokens: 5, read_me: { priority: -2 } };
  expect((await postJson(url, body)).status).toBe(200);
  const bytes = JSON.stringify(body).length;
  expect(learnt).toEqual([
    { bytes, choices: 4, maxCompletionTokens: 5, priority: -2, model: "scripted" },
    10,
    20,
    "started",
    "released",
  ]);
});

test("a stream that fails after it has begun ends with the error, and not with the mark of its end", async () => {
  const url = await serve({
    async *answer() {
      yield chunk(0, "a");
      throw new ReadMeError("ERR_ENGINE_FAILED", "/models/scripted: Gone");
    },
  });
  const { data } = parseEvents(await streamText(url, {}));
  expect(data).toHaveLength(2);
  expect(JSON.parse(data[1] ?? "")).toMatchObject({ error: { code: "engine_failed", type: "server_error" } });
});
