// Answers over scripted engines: the order of choices, usage, routes and charges.

import { ReadMeError, type Usage } from "@readme-moe/core";
import { Admission, type Entrant, type Ticket } from "@readme-moe/express";
import { describe, expect, test } from "vitest";
import { localsOf } from "../../packages/express/src/http/request.ts";
import { postJson } from "../support/post-json.ts";
import {
  acceptTen,
  chunkOf,
  chunksInTurns,
  nextTurn,
  serveScripted,
  USAGE,
  type ScriptedEngineOptions,
} from "../support/scripted-engine.ts";
import { chunksOf, parseEvents } from "../support/sse.ts";

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
  const url = await serveScripted(
    chunksInTurns(
      chunkOf(2, "c"),
      chunkOf(0, "a"),
      chunkOf(2, "cc", { finishReason: "length" }),
      chunkOf(1, "b", { finishReason: "length" }),
      chunkOf(0, "aa", { finishReason: "length", usage: USAGE }),
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
  const usages = [
    USAGE,
    {
      promptTokens: 7,
      completionTokens: 5,
      cachedTokens: 21,
      queuedMs: 2,
      acceptedDraftTokens: 0,
      rejectedDraftTokens: 0,
    },
  ];
  const url = await serveScripted({
    async *answer({ prompt }) {
      yield chunkOf(0, "a", { finishReason: "length", usage: usages[prompt === "first" ? 0 : 1] as Usage });
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

describe("the chunks of a stream", () => {
  const script = chunksInTurns(chunkOf(0, "a"), chunkOf(0, "b", { finishReason: "length", usage: USAGE }));
  const ask = async (body: object) => chunksOf(await streamText(await serveScripted(script), body));

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

  test("have the routes of the prompt once, where one piece of a chat is two chunks", async () => {
    const url = (await serveScripted(script)).replace("/completions", "/chat/completions");
    const messages = [{ role: "user", content: "x" }];
    const chunks = chunksOf(await streamText(url, { messages, prompt: undefined, read_me: { include: ["routes"] } }));
    expect(chunks.map((one) => "read_me" in one)).toEqual([true, ...chunks.slice(1).map(() => false)]);
    expect(chunks.map(({ choices }) => Object.keys(choices[0]?.delta ?? {}))).toEqual([
      ["role", "content"],
      ["content"],
      ["content"],
      [],
    ]);
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
    const url = await serveScripted({ ...chunksInTurns(chunkOf(0, "a")), route });
    expect(await postJson(url, { prompt: "x", read_me: { include: ["routes"] } })).toMatchObject({
      status: 400,
      body: { error: { code: "context_length_exceeded", param: "prompt", message: "The prompt is too long" } },
    });
  });

  test("is reported once, with the error of its generation", async () => {
    const url = await serveScripted({
      // eslint-disable-next-line require-yield -- it fails at once
      async *answer() {
        await nextTurn();
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
  const url = await serveScripted(options, {
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
      chunkOf(0, "a", { tokens: [{ id: 4 }, { id: 5 }] }),
      chunkOf(0, "b", { finishReason: "length", usage: USAGE }),
    );
    expect(await charged({ prompt: ["x", "y"] }, { ...script, accept: acceptTen })).toEqual([2 * (10 + 3)]);
  });

  test("for those of a request that fails, too", async () => {
    const script: ScriptedEngineOptions = {
      async *answer() {
        yield chunkOf(0, "a");
        throw new ReadMeError("ERR_ENGINE_FAILED", "Gone");
      },
      accept: acceptTen,
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
  const script = chunksInTurns(chunkOf(0, "a"), chunkOf(0, "b", { finishReason: "length", usage: USAGE }));
  const url = await serveScripted({ ...script, accept: acceptTen }, { admission: new Remembering() });
  const body = { prompt: ["x", "y"], n: 2, max_tokens: 5, read_me: { priority: -2 } };
  expect((await postJson(url, body)).status).toBe(200);
  const bytes = JSON.stringify(body).length;
  await expect
    .poll(() => learnt)
    .toEqual([
      { bytes, choices: 4, maxCompletionTokens: 5, priority: -2, model: "scripted" },
      10,
      20,
      "started",
      "released",
    ]);
});

test("a stream that fails after it has begun ends with the error, and not with the mark of its end", async () => {
  const url = await serveScripted({
    async *answer() {
      yield chunkOf(0, "a");
      throw new ReadMeError("ERR_ENGINE_FAILED", "/models/scripted: Gone");
    },
  });
  const { data } = parseEvents(await streamText(url, {}));
  expect(data).toHaveLength(2);
  expect(JSON.parse(data[1] ?? "")).toMatchObject({ error: { code: "engine_failed", type: "server_error" } });
});
