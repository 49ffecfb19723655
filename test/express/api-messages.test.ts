// Anthropic's Messages API with an unmodified client, Anthropic's SDK.

import Anthropic, {
  APIUserAbortError,
  AuthenticationError,
  BadRequestError,
  InternalServerError,
  NotFoundError,
} from "@anthropic-ai/sdk";
import type { ReadMeEngine } from "@readme-moe/engine";
import express from "express";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { messageAnswer, messageEvent, messagesError } from "../../packages/express/src/messages/schemas.ts";
import { readMe } from "../support/border.ts";
import { complete } from "../support/complete.ts";
import { endlessAnswers } from "../support/endless-answers.ts";
import { CITY, LIGHT, LIGHT_PARAMETERS } from "../support/light-tool.ts";
import { postJson } from "../support/post-json.ts";
import {
  ENDLESS,
  ENDLESS_TOKENS,
  listen,
  openClientsEngine,
  openTinyEngine,
  type RunningServer,
} from "../support/served-model.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

const folder = await persistentFolder();
let engine: ReadMeEngine;
let server: RunningServer;
let anthropic: Anthropic;
/** Forbids the end token, so that answers have text. */
let bias: Record<string, number>;

beforeAll(async () => {
  engine = await openClientsEngine(folder, ENDLESS);
  const { onRequest, ...endless } = await endlessAnswers(engine);
  bias = endless.logitBias;
  const app = express();
  app.use(readMe({ models: { tiny: engine }, onRequest, keys: { ann: "secret" } }));
  server = await listen(app);
  anthropic = new Anthropic({ apiKey: "secret", baseURL: server.url, maxRetries: 0 });
});
afterAll(async () => {
  await server[Symbol.asyncDispose]();
  await engine.dispose();
});

const model = "tiny";
const few = { model, max_tokens: 12, temperature: 0 } as const;
const hello = [{ role: "user" as const, content: "Hello there" }];
const light = { ...LIGHT, input_schema: LIGHT_PARAMETERS };

async function right(messages: readonly { readonly role: string; readonly content: string }[]): Promise<string> {
  return (await complete(engine, { prompt: { messages }, params: { maxTokens: 12, temperature: 0, logitBias: bias } }))
    .text;
}

function textOf({ content }: Anthropic.Message): string {
  return content.map((block) => (block.type === "text" ? block.text : "")).join("");
}

describe("Anthropic's SDK", () => {
  test("receives the engine's answer to a chat, with its usage", async () => {
    const answer = await anthropic.messages.create({ ...few, system: "Be kind", messages: hello });
    const messages = [{ role: "system", content: "Be kind" }, ...hello];
    expect(textOf(answer)).toBe(await right(messages));
    const own = Object.fromEntries(Object.entries(answer).filter(([name]) => !name.startsWith("_")));
    expect(messageAnswer.parse(own)).toMatchObject({ stop_reason: "max_tokens", model });
    expect(answer.usage.output_tokens).toBe(12);
    // oxlint-disable-next-line no-underscore-dangle -- the SDK names it so
    expect(answer._request_id).toMatch(/^[\w-]{36}$/);
    const { input_tokens: counted } = await anthropic.messages.countTokens({
      model,
      system: "Be kind",
      messages: hello,
    });
    expect(answer.usage.input_tokens + (answer.usage.cache_read_input_tokens ?? 0)).toBe(counted);
  });

  test("sends blocks of every kind of text", async () => {
    const cache = { cache_control: { type: "ephemeral" as const } };
    const answer = await anthropic.messages.create({
      ...few,
      system: [{ type: "text", text: "Be kind", ...cache }],
      messages: [
        { role: "user", content: [{ type: "text", text: "One", ...cache }] },
        { role: "assistant", content: [{ type: "text", text: "Two" }] },
        { role: "user", content: "Three" },
      ],
    });
    const messages = [
      { role: "system", content: "Be kind" },
      { role: "user", content: "One" },
      { role: "assistant", content: "Two" },
      { role: "user", content: "Three" },
    ];
    expect(textOf(answer)).toBe(await right(messages));
  });

  test("may ask for earlier thinking to be cleared, as Claude Code does, and for nothing else", async () => {
    const headers = { "content-type": "application/json", "x-api-key": "secret" };
    const ask = async (edit: object): Promise<Response> => {
      const body = JSON.stringify({ ...few, messages: hello, context_management: { edits: [edit] } });
      return fetch(`${server.url}/v1/messages?beta=true`, { method: "POST", headers, body });
    };
    const cleared = await ask({ type: "clear_thinking_20251015", keep: "all" });
    expect(textOf((await cleared.json()) as Anthropic.Message)).toBe(await right(hello));
    const refused = await ask({ type: "clear_tool_uses_20250919" });
    expect(refused.status).toBe(400);
    expect(await refused.json()).toMatchObject({ error: { param: expect.stringContaining("context_management") } });
  });

  test("joins the events of a stream to the whole answer", async () => {
    const whole = await anthropic.messages.create({ ...few, messages: hello });
    const stream = anthropic.messages.stream({ ...few, messages: hello });
    const pieces: string[] = [];
    stream.on("text", (piece) => pieces.push(piece));
    const final = await stream.finalMessage();
    expect(textOf(final)).toBe(textOf(whole));
    expect(pieces.join("")).toBe(textOf(whole));
    expect([final.stop_reason, final.usage.output_tokens]).toEqual(["max_tokens", 12]);
  });

  test("gets events in the documented order", async () => {
    const stream = await anthropic.messages.create({ ...few, messages: hello, stream: true });
    const types: string[] = [];
    for await (const event of stream) types.push(messageEvent.parse(event).type);
    expect(types.filter((type, index) => type !== types[index - 1])).toEqual([
      "message_start",
      "content_block_start",
      "content_block_delta",
      "content_block_stop",
      "message_delta",
      "message_stop",
    ]);
  });

  test("learns which stop sequence ended the answer", async () => {
    const whole = await right(hello);
    const stop = whole.slice(4, 8);
    const request = { ...few, messages: hello, stop_sequences: ["\n\n\n", stop] };
    const answer = await anthropic.messages.create(request);
    expect([answer.stop_reason, answer.stop_sequence]).toEqual(["stop_sequence", stop]);
    expect(textOf(answer)).toBe(whole.slice(0, whole.indexOf(stop)));
    const streamed = await anthropic.messages.stream(request).finalMessage();
    expect([streamed.stop_reason, streamed.stop_sequence]).toEqual(["stop_sequence", stop]);
  });

  test.each([
    ["any", { type: "any", disable_parallel_tool_use: true }],
    ["one by its name", { type: "tool", name: "light" }],
  ] as const)("calls tools, whole and streamed: %s", async (_, toolChoice) => {
    const request = { model, max_tokens: 1000, messages: hello, tools: [light], tool_choice: toolChoice };
    for (const answer of [
      await anthropic.messages.create(request),
      await anthropic.messages.stream(request).finalMessage(),
    ]) {
      expect(answer.stop_reason).toBe("tool_use");
      expect(answer.content).toMatchObject([
        { type: "tool_use", name: "light", input: { on: expect.any(Boolean) as boolean } },
      ]);
    }
  });

  test("continues with the results of its calls", async () => {
    const call = { type: "tool_use" as const, id: "call_1", name: "light", input: { on: true } };
    const results = [
      { type: "tool_result" as const, tool_use_id: "call_1", content: [{ type: "text" as const, text: "done" }] },
      { type: "text" as const, text: "And now?" },
    ];
    const messages = [
      ...hello,
      { role: "assistant" as const, content: [call] },
      { role: "user" as const, content: results },
    ];
    const answer = await anthropic.messages.create({ ...few, tools: [light], tool_choice: { type: "none" }, messages });
    const expected = await fetch(`${server.url}/v1/chat/completions`, {
      method: "POST",
      headers: { "content-type": "application/json", authorization: "Bearer secret" },
      body: JSON.stringify({
        max_tokens: 12,
        temperature: 0,
        tools: [
          {
            type: "function",
            function: { name: "light", description: light.description, parameters: light.input_schema },
          },
        ],
        tool_choice: "none",
        messages: [
          ...hello,
          {
            role: "assistant",
            content: "",
            tool_calls: [{ id: "call_1", type: "function", function: { name: "light", arguments: '{"on":true}' } }],
          },
          { role: "tool", tool_call_id: "call_1", content: "done" },
          { role: "user", content: "And now?" },
        ],
      }),
    });
    const { choices } = (await expected.json()) as { choices: { message: { content: string } }[] };
    expect(textOf(answer)).toBe(choices[0]?.message.content);
  });

  test("gets answers under a schema", async () => {
    const answer = await anthropic.messages.create({
      model,
      max_tokens: 1000,
      messages: hello,
      output_config: { format: { type: "json_schema", schema: CITY } },
    });
    expect(["Rome", "Oslo"]).toContain((JSON.parse(textOf(answer)) as { readonly city: string }).city);
  });

  test("leaves a stream, whose place is freed", async () => {
    const request = { model, max_tokens: ENDLESS_TOKENS, messages: hello, logit_bias: bias };
    const stream = anthropic.messages.stream(request);
    stream.once("text", () => stream.abort());
    await expect(stream.finalMessage()).rejects.toThrow(APIUserAbortError);
    await expect.poll(async () => (await engine.stats()).numRunning).toBe(0);
  });

  test("maps errors to its own classes", async () => {
    const hot = { ...few, temperature: 7 };
    const errors: readonly (readonly [Promise<unknown>, new (...args: never[]) => Error, string])[] = [
      [
        anthropic.withOptions({ apiKey: "wrong" }).messages.create({ ...few, messages: hello }),
        AuthenticationError,
        "authentication_error",
      ],
      [anthropic.messages.create({ ...few, model: "other", messages: hello }), NotFoundError, "not_found_error"],
      [anthropic.messages.create({ ...hot, messages: hello }), BadRequestError, "invalid_request_error"],
      [
        anthropic.messages.create({ ...few, messages: [{ role: "user", content: "word ".repeat(70_000) }] }),
        BadRequestError,
        "invalid_request_error",
      ],
    ];
    for (const [asked, kind, type] of errors) {
      const error = await asked.then(
        () => undefined,
        (reason: unknown) => reason,
      );
      expect(error).toBeInstanceOf(kind);
      expect(messagesError.parse((error as { readonly error: unknown }).error).error.type).toBe(type);
    }
  });

  test("lists and finds models", async () => {
    const { data } = await anthropic.models.list();
    expect(data).toMatchObject([{ type: "model", id: "tiny", display_name: "tiny" }]);
    expect((await anthropic.models.retrieve("tiny")).id).toBe("tiny");
    await expect(anthropic.models.retrieve("other")).rejects.toThrow(/Served are|does not exist.*`tiny`/);
  });

  test("throws while it reads a stream whose engine fails", async () => {
    const failing = await openTinyEngine(await persistentFolder(), { isolation: "thread" }, ENDLESS);
    const app = express().use(readMe.api({ models: { tiny: failing } }));
    const own = await listen(app);
    const client = new Anthropic({ apiKey: "any", baseURL: own.url, maxRetries: 0 });
    const request = { model, max_tokens: ENDLESS_TOKENS, messages: hello, logit_bias: bias };
    const stream = client.messages.stream(request);
    stream.once("text", () => void failing.dispose());
    const error = await stream.finalMessage().then(
      () => undefined,
      (reason: unknown) => reason,
    );
    expect(messagesError.parse((error as { readonly error: unknown }).error).error).toMatchObject({
      code: "shutting_down",
    });
    await expect(client.messages.create({ ...few, messages: hello })).rejects.toThrow(InternalServerError);
    await own[Symbol.asyncDispose]();
  });
});

describe("a request", () => {
  const image = { type: "image", source: { type: "base64", media_type: "image/png", data: "" } };

  test.each<[string, object, string]>([
    ["images", { messages: [{ role: "user", content: [image] }] }, "messages[0].content[0].type"],
    [
      "images in results",
      { messages: [{ role: "user", content: [{ type: "tool_result", tool_use_id: "a", content: [image] }] }] },
      "messages[0].content[0].content[0].type",
    ],
    ["no blocks", { messages: [{ role: "user", content: [] }] }, "messages[0].content"],
    [
      "server tools",
      { messages: hello, tools: [{ type: "web_search_20260209", name: "web_search" }] },
      "tools[0].type",
    ],
    [
      "a budget beyond its tokens",
      { messages: hello, thinking: { type: "enabled", budget_tokens: 12 } },
      "thinking.budget_tokens",
    ],
    ["no limit", { messages: hello, max_tokens: undefined }, "max_tokens"],
    [
      "a wrong schema",
      { messages: hello, output_config: { format: { type: "json_schema", schema: { not: {} } } } },
      "output_config.format.schema",
    ],
    ["an unknown parameter", { messages: hello, max_completion_tokens: 3 }, "max_completion_tokens"],
  ])("with %s is refused by the parameter's name", async (_, fields, param) => {
    const { status, body, headers } = await postJson(
      `${server.url}/v1/messages`,
      { ...few, ...fields },
      { "x-api-key": "secret" },
    );
    expect([status, body]).toMatchObject([400, { type: "error", error: { type: "invalid_request_error", param } }]);
    expect(headers.get("request-id")).toBe(body["request_id"]);
  });

  test("of another version, without a key, or for another method is refused in the API's shape", async () => {
    const url = `${server.url}/v1/messages`;
    const headers = { "content-type": "application/json", "x-api-key": "secret" };
    const answers = [
      await fetch(url, { method: "POST", headers: { ...headers, "anthropic-version": "2023-01-01" }, body: "{}" }),
      await fetch(url, { method: "POST", headers: { "content-type": "application/json" }, body: "{}" }),
      await fetch(url, { headers }),
      await fetch(`${url}/batches`, { headers }),
      await fetch(url, { method: "POST", headers, body: "{" }),
      await fetch(url, { method: "POST", headers: { ...headers, "content-type": "text/plain" }, body: "{}" }),
    ];
    expect(answers.map(({ status }) => status)).toEqual([400, 401, 405, 404, 400, 415]);
    for (const answer of answers) messagesError.parse(await answer.json());
  });
});
