// Prompts and choices of one request as one stream of pieces, over scripted engines.

import {
  resolveSamplingParams,
  samplingParametersWith,
  wireName,
  type SamplingParameter,
  type AcceptedPrompt,
  type Engine,
  type EngineInfo,
  type GenerateChunk,
  type GenerateRequest,
  type Generation,
} from "@readme-moe/core";
import { describe, expect, test } from "vitest";
import {
  generateAll,
  generationSettings,
  routesOf,
  textTokens,
  type GenerateAllRequest,
  type GenerationSettings,
  type Piece,
} from "../../packages/express/src/api/generation.ts";
import { completionBody } from "../../packages/express/src/api/request-schemas.ts";
import { generationOf } from "../support/generation.ts";
import { servedInfo } from "../support/served-source.ts";

interface Script {
  readonly chunks: readonly GenerateChunk[];
  readonly accepted?: Promise<AcceptedPrompt>;
  /** Thrown after the chunks. */
  readonly failure?: unknown;
}

const chunk = (choice: number, text: string): GenerateChunk => ({ choice, text, tokens: [{ id: 5 }] });

async function* scripted({ chunks, failure }: Script, onEnd: () => void): AsyncGenerator<GenerateChunk, void> {
  try {
    yield* chunks;
    if (failure !== undefined) throw failure;
  } finally {
    onEnd();
  }
}

/** An engine that answers its n-th request with the n-th script. */
function engineOf(scripts: readonly Script[]) {
  const requests: GenerateRequest[] = [];
  const ended: number[] = [];
  const generate = (request: GenerateRequest): Generation => {
    const index = requests.push(request) - 1;
    const script = scripts[index];
    if (!script) throw new RangeError("Expected `prompt` to have at least one token");
    return generationOf(
      scripted(script, () => ended.push(index)),
      script.accepted,
    );
  };
  const engine = { generate, info: { path: "/models/tiny" } } as unknown as Engine;
  return { engine, requests, ended };
}

function start(engine: Engine, numPrompts: number, more: Partial<GenerateAllRequest> = {}) {
  const accepted: AcceptedPrompt[] = [];
  const pieces = generateAll({
    engine,
    settings: { id: "a", promptParam: "prompt", params: { maxTokens: 3, n: 2 }, expert: undefined },
    input: { prompts: Array.from({ length: numPrompts }, (_, index) => `prompt ${index}`), priority: 4 },
    client: "ann",
    signal: new AbortController().signal,
    cacheSalt: undefined,
    traceparent: undefined,
    isFollowed: false,
    onAccepted: (prompt) => accepted.push(prompt),
    onProgress: () => undefined,
    ...more,
  });
  return { pieces, accepted };
}

async function all(pieces: AsyncIterable<Piece>): Promise<readonly Piece[]> {
  const read: Piece[] = [];
  for await (const piece of pieces) read.push(piece);
  return read;
}

const promptOf = (promptTokens: number): AcceptedPrompt => ({ promptTokens, experts: new Uint16Array(promptTokens) });

test("pieces carry the index of their prompt, and of their choice among those of all prompts", async () => {
  const { engine, requests } = engineOf([{ chunks: [chunk(0, "a"), chunk(1, "b")] }, { chunks: [chunk(1, "c")] }]);
  const pieces = await all(start(engine, 2).pieces);
  const found = pieces.toSorted((a, b) => a.index - b.index);
  expect(found.map(({ text, prompt, index }) => [text, prompt, index])).toEqual([
    ["a", 0, 0],
    ["b", 0, 1],
    ["c", 1, 3],
  ]);
  expect(requests).toMatchObject([
    { id: "a.0", prompt: "prompt 0", priority: 4, client: "ann" },
    { id: "a.1", prompt: "prompt 1", priority: 4, client: "ann" },
  ]);
});

test("a request with one prompt has the answer's id and parameter", async () => {
  const { engine, requests } = engineOf([{ chunks: [], failure: new Error("broken") }]);
  await expect(all(start(engine, 1).pieces)).rejects.toThrow("broken");
  expect(requests[0]?.id).toBe("a");
  await expect(all(start(engineOf([]).engine, 1).pieces)).rejects.toMatchObject({ status: 400, param: "prompt" });
});

test.each([
  ["was unloaded", "legal", ["none", ""], { status: 404, code: "model_not_found", param: "model" }],
  ["is there", "legal", ["none", "legal"], { status: 400, code: "invalid_value", param: "prompt" }],
  ["is the router", "router", ["none", ""], { status: 400, param: "prompt" }],
  ["is none", 0, ["none"], { status: 400, param: "prompt" }],
])("a refusal of the engine while the expert %s is answered accordingly", async (_, expert, experts, answer) => {
  const { engine } = engineOf([]);
  Object.assign(engine.info, { experts, expertKind: "lora", hasRouter: true });
  const settings = { id: "a", promptParam: "prompt", params: { maxTokens: 3 }, expert } as const;
  await expect(all(start(engine, 1, { settings }).pieces)).rejects.toMatchObject(answer);
});

test("no piece comes before every prompt is accepted, and each is reported once", async () => {
  const accept: ((prompt: AcceptedPrompt) => void)[] = [];
  const late = new Promise<AcceptedPrompt>((resolve) => accept.push(resolve));
  const first = Promise.resolve(promptOf(7));
  const { engine } = engineOf([
    { chunks: [chunk(0, "a")], accepted: first },
    { chunks: [chunk(0, "b")], accepted: late },
  ]);
  const { pieces, accepted } = start(engine, 2);
  const next = pieces.next();
  const winner = await Promise.race([
    next.then(() => "piece"),
    new Promise((resolve) => setImmediate(resolve, "none")),
  ]);
  expect([winner, accepted]).toEqual(["none", [promptOf(7)]]);
  accept[0]?.(promptOf(9));
  expect((await next).value).toMatchObject({ text: "a" });
  expect(await all(pieces)).toMatchObject([{ text: "b" }]);
  expect(accepted).toEqual([promptOf(7), promptOf(9)]);
});

describe("an error", () => {
  test("of a prompt that is not accepted names the prompt and ends the others", async () => {
    const refusal = Promise.reject<AcceptedPrompt>(new TypeError("Expected token ids"));
    const { engine, ended } = engineOf([{ chunks: [chunk(0, "a")] }, { chunks: [], accepted: refusal }]);
    const { pieces } = start(engine, 2);
    await expect(all(pieces)).rejects.toMatchObject({ status: 400, param: "prompt[1]", message: "Expected token ids" });
    expect(ended).toEqual([]);
  });

  test("of an accepted prompt is the grammar's if there is one, and ends the other prompts", async () => {
    const scripts = [
      { chunks: [chunk(0, "a")], failure: new RangeError("too slow") },
      { chunks: Array.from({ length: 100 }, () => chunk(0, "b")) },
    ];
    const { engine, ended } = engineOf(scripts);
    const input = { prompts: ["x", "y"], priority: 0, newProcessor: () => () => undefined, constrainedBy: "tools" };
    const failed = all(start(engine, 2, { input }).pieces);
    await expect(failed).rejects.toMatchObject({ status: 400, code: "invalid_value", param: "tools" });
    expect(new Set(ended)).toEqual(new Set([0, 1]));
    await expect(all(start(engineOf(scripts).engine, 2).pieces)).rejects.toThrow(RangeError);
  });

  test("after an abort is the signal's reason", async () => {
    const controller = new AbortController();
    const { engine } = engineOf([{ chunks: [chunk(0, "a")], failure: new Error("aborted by the engine") }]);
    const { pieces } = start(engine, 1, { signal: controller.signal });
    expect((await pieces.next()).value).toMatchObject({ text: "a" });
    controller.abort("gone");
    await expect(pieces.next()).rejects.toBe("gone");
  });
});

test("leaving the iteration ends all generations", async () => {
  const endless = { chunks: Array.from({ length: 100 }, () => chunk(0, "a")) };
  const { engine, ended } = engineOf([endless, endless]);
  const { pieces } = start(engine, 2);
  await pieces.next();
  await pieces.return();
  expect(new Set(ended)).toEqual(new Set([0, 1]));
});

describe("the settings of a body", () => {
  const info = {
    contextTokens: 100,
    vocabSize: 50,
    experts: ["law", "code"],
    hasRouter: true,
  } as unknown as EngineInfo;
  const own = { id: "a", promptParam: "prompt", numPrompts: 1, maxTokens: 16, logprobs: undefined } as const;
  const settingsOf = (body: object, change: Partial<EngineInfo & typeof own> = {}): GenerationSettings =>
    generationSettings(completionBody.parse({ prompt: "x", ...body }), servedInfo({ ...info, ...change }), {
      ...own,
      ...change,
    });

  test("leave absent parameters and those that are null to the engine", () => {
    const names = [
      "temperature",
      "top_p",
      "top_k",
      "min_p",
      "seed",
      "stop",
      "n",
      "min_tokens",
      "ignore_eos",
      "read_me",
    ];
    for (const body of [{}, Object.fromEntries(names.map((name) => [name, null]))]) {
      const { params, created, ...others } = settingsOf(body);
      expect(created).toBeGreaterThan(1.7e9);
      expect(JSON.parse(JSON.stringify(params))).toEqual({ maxTokens: 16 });
      expect(others).toEqual({
        id: "a",
        promptParam: "prompt",
        numPrompts: 1,
        expert: undefined,
        priority: 0,
        includes: { routes: false, timings: false, progress: false, usage: false },
      });
    }
  });

  test("hold the expert, the priority and what the answer includes", () => {
    const read_me = { expert: "code", priority: -3, include: ["routes", "timings"] };
    expect(settingsOf({ stream_options: { include_usage: true }, read_me })).toMatchObject({
      expert: "code",
      priority: -3,
      includes: { routes: true, timings: true, progress: false, usage: true },
    });
    expect(settingsOf({ read_me: { include: ["timings"] } }).includes).toEqual({
      routes: false,
      timings: true,
      progress: false,
      usage: false,
    });
  });

  test.each([
    [16, 100, 16],
    [100, 100, 100],
    [101, 100, 100],
  ])("limit %i tokens in a context of %i to %i", (maxTokens, contextTokens, limit) => {
    expect(settingsOf({}, { maxTokens, contextTokens } as object).params.maxTokens).toBe(limit);
  });

  test.each([
    [undefined, undefined],
    [0, 1],
    [1, 1],
    [5, 5],
  ])("ask the engine for %s most likely tokens as %s", (logprobs, asked) => {
    expect(settingsOf({}, { logprobs } as object).params.logprobs).toBe(asked);
  });

  test.each([
    [{ min_tokens: 17 }, "min_tokens", "expected at most 16, the tokens that may be generated, got 17"],
    [{ stop_token_ids: [1, 50] }, "stop_token_ids", "expected token ids below 50, got 50"],
    [{ logit_bias: { 51: 1 } }, "logit_bias", "expected token ids below 50, got 51"],
    [{ stop: ["a", "\uD83C"] }, "stop", "expected whole characters, got a lone surrogate"],
    [{ stop: "\uDF0D" }, "stop", "expected whole characters, got a lone surrogate"],
    [{ read_me: { expert: "cook" } }, "read_me.expert", 'expected one of law, code, got `"cook"` (string)'],
    [{ read_me: { expert: 2 } }, "read_me.expert", "expected one of law, code, got `2` (number)"],
  ])("refuse %j", (body, param, message) => {
    const refused = expect.objectContaining({
      status: 400,
      param,
      message: expect.stringContaining(message) as unknown,
    });
    expect(() => settingsOf(body)).toThrow(refused);
  });

  test("take an expert by name or index, and the router where there is one", () => {
    for (const expert of ["law", "code", 0, 1, "router"]) {
      expect(settingsOf({ min_tokens: 16, stop: "🌍", read_me: { expert } }).expert).toBe(expert);
    }
    expect(() => settingsOf({ read_me: { expert: "router" } }, { hasRouter: false })).toThrow("law, code");
    expect(settingsOf({ read_me: { expert: "router" } }, { hasRouter: false, experts: ["router"] }).expert).toBe(
      "router",
    );
  });
});

describe("a piece", () => {
  const piece: Piece = { choice: 0, prompt: 0, index: 0, text: "ab", tokens: [{ id: 1, expert: 4 }, { id: 2 }] };

  test("has the text of its tokens, without the end token of the model", () => {
    expect(textTokens(piece)).toEqual(piece.tokens);
    expect(textTokens({ ...piece, finishReason: "length" })).toEqual(piece.tokens);
    expect(textTokens({ ...piece, finishReason: "stop" })).toEqual([{ id: 1, expert: 4 }]);
    expect(textTokens({ ...piece, finishReason: "stop", stop: "b" })).toEqual(piece.tokens);
  });

  test("has its routes on request, null for the last token of a choice", () => {
    expect(routesOf(piece, true)).toEqual({ read_me: { routes: [4, null] } });
    expect(routesOf(piece, false)).toEqual({});
    expect(routesOf({ ...piece, tokens: [] }, true)).toEqual({});
  });
});

const INFO = { vocabSize: 100, contextTokens: 64, experts: ["one"], hasRouter: false } as unknown as EngineInfo;
const OWN = { id: "a", promptParam: "prompt", numPrompts: 1, maxTokens: 32, logprobs: undefined } as const;

test.each([
  ["temperature", 0.25, { temperature: 0.25 }],
  ["top_p", 0.5, { topP: 0.5 }],
  ["top_k", 7, { topK: 7 }],
  ["top_k", -1, { topK: 0 }],
  ["min_p", 0.125, { minP: 0.125 }],
  ["repetition_penalty", 1.5, { repetitionPenalty: 1.5 }],
  ["presence_penalty", -1, { presencePenalty: -1 }],
  ["frequency_penalty", 2, { frequencyPenalty: 2 }],
  ["logit_bias", { 4: -100 }, { logitBias: { 4: -100 } }],
  ["seed", 9, { seed: 9 }],
  ["stop", ["end", "."], { stop: ["end", "."] }],
  ["stop_token_ids", [3, 5], { stopTokenIds: [3, 5] }],
  ["min_tokens", 4, { minTokens: 4 }],
  ["ignore_eos", true, { ignoreEos: true }],
  ["n", 3, { n: 3 }],
] as const)("the field %s of a body reaches the engine", (field, value, expected) => {
  const absent = generationSettings(completionBody.parse({ prompt: "a" }), servedInfo(INFO), OWN).params;
  const { params } = generationSettings(completionBody.parse({ prompt: "a", [field]: value }), servedInfo(INFO), OWN);
  expect(params).toEqual({ ...absent, ...expected });
  expect(resolveSamplingParams(params, INFO)).not.toEqual(
    field === "top_k" && value === -1 ? {} : resolveSamplingParams(absent, INFO),
  );
});

test.each(samplingParametersWith("http"))("a body has %s as the table of parameters says", (name, entry) => {
  const { kind, min, above = 0, max, maxItems = 0 }: SamplingParameter = { ...entry, ...entry.http };
  const field = wireName(name);
  const valid = (value: unknown): boolean => completionBody.safeParse({ prompt: "a", [field]: value }).success;
  expect([undefined, null].map(valid)).toEqual([true, true]);
  expect(valid({ other: "type" })).toBe(false);
  if (kind !== "number" && kind !== "integer") {
    expect(kind === "flag" || valid(Array.from({ length: maxItems + 1 }, () => 1))).toBe(kind === "flag");
    return;
  }
  const least = min ?? above + 1e-9;
  const { params } = generationSettings(completionBody.parse({ prompt: "a", [field]: least }), servedInfo(INFO), OWN);
  expect(params[name]).toBe(least < (entry.min ?? least) ? entry.default : least);
  expect([least - 1e-6, least - 1].map(valid)).toEqual([false, false]);
  if (max !== undefined) expect([max, max + 1].map(valid)).toEqual([true, false]);
});
