// The Responses API with an unmodified client, the OpenAI SDK.

import type { ReadMeEngine } from "@readme-moe/engine";
import express from "express";
import OpenAI, { APIUserAbortError, BadRequestError, NotFoundError } from "openai";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { responseAnswer, responseEvent } from "../../packages/express/src/responses/schemas.ts";
import { readMe } from "../support/border.ts";
import { complete } from "../support/complete.ts";
import { endlessAnswers } from "../support/endless-answers.ts";
import { CITY, LIGHT, LIGHT_PARAMETERS } from "../support/light-tool.ts";
import { postJson } from "../support/post-json.ts";
import { ENDLESS, listen, openClientsEngine, openTinyEngine, type RunningServer } from "../support/served-model.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

const folder = await persistentFolder();
let [engine, endless] = [] as unknown as [ReadMeEngine, ReadMeEngine];
let server: RunningServer;
let openai: OpenAI;
/** Forbids the end token, so that answers have text. */
let bias: Record<string, number>;

beforeAll(async () => {
  engine = await openClientsEngine(folder, { config: { max_position_embeddings: 4096 } });
  endless = await openTinyEngine(`${folder}/endless`, {}, ENDLESS);
  const { onRequest, logitBias } = await endlessAnswers(engine);
  bias = logitBias;
  // A real model takes its time to read a whole context.
  const [app, admission] = [express(), { maxQueueMs: 120_000 }];
  app.use(readMe({ models: { tiny: engine, endless }, onRequest, admission, keys: { ann: "secret", bob: "other" } }));
  server = await listen(app);
  openai = new OpenAI({ apiKey: "secret", baseURL: `${server.url}/v1`, maxRetries: 0 });
});
afterAll(async () => {
  await server[Symbol.asyncDispose]();
  await Promise.all([engine.dispose(), endless.dispose()]);
});

const model = "tiny";
const few = { model, max_output_tokens: 12, temperature: 0 } as const;
const unending = () => ({ model: "endless", input: "Count", stream: true, logit_bias: bias }) as const;

async function right(messages: readonly { readonly role: string; readonly content: string }[]): Promise<string> {
  return (await complete(engine, { prompt: { messages }, params: { maxTokens: 12, temperature: 0, logitBias: bias } }))
    .text;
}

const light = { type: "function", strict: true, ...LIGHT, parameters: LIGHT_PARAMETERS } as const;

describe("the OpenAI SDK", () => {
  test("receives the engine's answer to a text, with its usage", async () => {
    const answer = await openai.responses.create({ ...few, input: "Hello there", instructions: "Be kind" });
    const messages = [
      { role: "system", content: "Be kind" },
      { role: "user", content: "Hello there" },
    ];
    expect(answer.output_text).toBe(await right(messages));
    expect(responseAnswer.parse(withoutText(answer))).toMatchObject({ status: "incomplete", store: true });
    expect(answer.incomplete_details).toEqual({ reason: "max_output_tokens" });
    const { usage } = answer;
    expect(usage?.output_tokens).toBe(12);
    expect(usage?.total_tokens).toBe((usage?.input_tokens ?? 0) + 12);
  });

  test("reads items of every kind of text as one conversation", async () => {
    const answer = await openai.responses.create({
      ...few,
      input: [
        { role: "developer", content: "Be kind" },
        { role: "user", content: [{ type: "input_text", text: "One" }] },
        {
          type: "message",
          id: "msg_1",
          role: "assistant",
          status: "completed",
          content: [{ type: "output_text", text: "Two", annotations: [] }],
        },
        { role: "user", content: "Three" },
      ],
    });
    const messages = [
      { role: "system", content: "Be kind" },
      { role: "user", content: "One" },
      { role: "assistant", content: "Two" },
      { role: "user", content: "Three" },
    ];
    expect(answer.output_text).toBe(await right(messages));
  });

  test("joins the events of a stream to the whole answer", async () => {
    const own = { model, max_output_tokens: 12, input: "Hello there", seed: 4, logit_bias: bias };
    const { output_text: text } = await openai.responses.create(own);
    // The SDK's `finalResponse` knows completed responses only.
    const request = { ...own, stop: [text.slice(-3)] };
    const whole = await openai.responses.create(request);
    const stream = openai.responses.stream(request);
    const deltas: string[] = [];
    stream.on("response.output_text.delta", ({ delta }) => deltas.push(delta));
    const final = await stream.finalResponse();
    expect(final.status).toBe("completed");
    expect(final.output).toMatchObject([{ content: [{ text: whole.output_text }] }]);
    expect(deltas.join("")).toBe(whole.output_text);
    expect(final.usage?.output_tokens).toBe(whole.usage?.output_tokens);
  });

  test("gets events in the documented order, numbered without gaps", async () => {
    const stream = await openai.responses.create({ ...few, input: "Hello there", stream: true, store: false });
    const events = [];
    for await (const event of stream) events.push(responseEvent.parse(event));
    expect(events.map((event) => event.sequence_number)).toEqual(events.map((_, index) => index));
    const types = events.map(({ type }) => type).filter((type) => type !== "response.output_text.delta");
    expect(types).toEqual([
      "response.created",
      "response.in_progress",
      "response.output_item.added",
      "response.content_part.added",
      "response.output_text.done",
      "response.content_part.done",
      "response.output_item.done",
      "response.incomplete",
    ]);
    expect(responseAnswer.parse(events.at(-1)?.["response"]).output).toHaveLength(1);
  });

  test("calls tools, and the answer continues with their results", async () => {
    const asked = { model, temperature: 0, max_output_tokens: 200 } as const;
    const first = await openai.responses.create({
      ...asked,
      input: "Light, please",
      tools: [light],
      tool_choice: "required",
      parallel_tool_calls: false,
    });
    const call = first.output.find((item) => item.type === "function_call");
    if (!call) throw new Error("Expected a call");
    expect(first.status).toBe("completed");
    expect(typeof (JSON.parse(call.arguments) as { readonly on: boolean }).on).toBe("boolean");
    const result = { type: "function_call_output", call_id: call.call_id, output: "done" } as const;
    const chained = await openai.responses.create({
      ...few,
      previous_response_id: first.id,
      input: [result],
      tools: [light],
    });
    const explicit = await openai.responses.create({
      ...few,
      input: [{ role: "user", content: "Light, please" }, call, result],
      tools: [light],
    });
    expect(chained.output_text).toBe(explicit.output_text);
    expect(chained.previous_response_id).toBe(first.id);
  });

  test("streams the arguments of a call", async () => {
    const stream = openai.responses.stream({
      model,
      input: "Light, please",
      tools: [light],
      tool_choice: { type: "function", name: "light" },
      max_output_tokens: 1000,
    });
    let args = "";
    stream.on("response.function_call_arguments.delta", ({ delta }) => (args += delta));
    const final = await stream.finalResponse();
    const call = final.output.find((item) => item.type === "function_call");
    expect(call?.arguments).toBe(args);
    expect(JSON.parse(args)).toEqual({ on: expect.any(Boolean) as boolean });
  });

  test("gets answers under a schema", async () => {
    const answer = await openai.responses.create({
      model,
      input: "A city",
      max_output_tokens: 1000,
      text: { format: { type: "json_schema", name: "trip", schema: CITY } },
    });
    expect(["Rome", "Oslo"]).toContain((JSON.parse(answer.output_text) as { readonly city: string }).city);
  });

  test("gets log-probabilities if it includes them", async () => {
    const top = { top_logprobs: 2 };
    const answer = await openai.responses.create({
      ...few,
      max_output_tokens: 3,
      input: "Hi",
      include: ["message.output_text.logprobs"],
      ...top,
    });
    const [item] = answer.output;
    const part = item?.type === "message" ? item.content[0] : undefined;
    const logprobs = part?.type === "output_text" ? (part.logprobs ?? []) : [];
    expect(logprobs).toHaveLength(3);
    expect(logprobs.map(({ token }) => token).join("")).toBe(answer.output_text);
    for (const { top_logprobs: likely } of logprobs) expect(likely).toHaveLength(2);
  });

  test("continues a conversation by the id of its last response", async () => {
    const one = await openai.responses.create({ ...few, input: "One", instructions: "Only for the first" });
    const two = await openai.responses.create({ ...few, input: "Two", previous_response_id: one.id });
    const three = await openai.responses.create({ ...few, input: "Three", previous_response_id: two.id });
    const messages = [
      { role: "user", content: "One" },
      { role: "assistant", content: one.output_text },
      { role: "user", content: "Two" },
      { role: "assistant", content: two.output_text },
      { role: "user", content: "Three" },
    ];
    expect(three.output_text).toBe(await right(messages));
    const { data } = await openai.responses.inputItems.list(three.id, { order: "asc" });
    expect(data).toHaveLength(5);
    expect((await openai.responses.inputItems.list(three.id, { limit: 2 })).data.map(({ id }) => id)).toEqual(
      data
        .toReversed()
        .slice(0, 2)
        .map(({ id }) => id),
    );
  });

  test("reads and removes responses of its own key only", async () => {
    const { id } = await openai.responses.create({ ...few, input: "One" });
    const bob = openai.withOptions({ apiKey: "other" });
    expect((await openai.responses.retrieve(id)).id).toBe(id);
    await expect(bob.responses.retrieve(id)).rejects.toThrow(NotFoundError);
    await expect(bob.responses.delete(id)).rejects.toThrow(NotFoundError);
    await expect(bob.responses.create({ ...few, input: "x", previous_response_id: id })).rejects.toMatchObject({
      status: 400,
      code: "previous_response_not_found",
      param: "previous_response_id",
    });
    await expect(openai.responses.cancel(id)).rejects.toThrow(BadRequestError);
    await openai.responses.delete(id);
    await expect(openai.responses.retrieve(id)).rejects.toThrow(NotFoundError);
    const unkept = await openai.responses.create({ ...few, input: "One", store: false });
    await expect(openai.responses.retrieve(unkept.id)).rejects.toThrow(NotFoundError);
  });

  test("cancels a response that is being generated", async () => {
    const stream = await openai.responses.create(unending());
    let last;
    let cancelled: OpenAI.Responses.Response | undefined;
    for await (const event of stream) {
      if (event.type === "response.created") {
        expect((await openai.responses.retrieve(event.response.id)).status).toBe("in_progress");
        await expect(openai.withOptions({ apiKey: "other" }).responses.cancel(event.response.id)).rejects.toThrow(
          NotFoundError,
        );
        cancelled = await openai.responses.cancel(event.response.id);
      }
      last = event;
    }
    expect(cancelled?.status).toBe("cancelled");
    expect(last).toMatchObject({ type: "response.incomplete", response: { status: "cancelled", id: cancelled?.id } });
    await expect.poll(async () => (await endless.stats()).numRunning).toBe(0);
    expect((await openai.responses.retrieve(cancelled?.id ?? "")).status).toBe("cancelled");
  });

  test("leaves a stream, whose place is freed", async () => {
    const controller = new AbortController();
    const stream = await openai.responses.create(unending(), { signal: controller.signal });
    const reading = (async () => {
      for await (const _ of stream) controller.abort();
    })();
    await reading.catch((error: unknown) => expect(error).toBeInstanceOf(APIUserAbortError));
    await expect.poll(async () => (await endless.stats()).numRunning).toBe(0);
  });

  test("has the oldest turns left out if it asks for that", async () => {
    const { contextTokens } = engine.info;
    const long = Array.from({ length: Math.ceil(contextTokens / 100) }, (_, index) => [
      { role: "user" as const, content: `Question ${index} ${"word ".repeat(100)}` },
      { role: "assistant" as const, content: `Answer ${index}` },
    ]).flat();
    const request = { ...few, instructions: "Be kind", input: [...long, { role: "user" as const, content: "Last" }] };
    await expect(openai.responses.create(request)).rejects.toMatchObject({
      status: 400,
      code: "context_length_exceeded",
      param: "input",
    });
    const answer = await openai.responses.create({ ...request, truncation: "auto" });
    const tokens = answer.usage?.input_tokens ?? 0;
    expect(tokens).toBeLessThanOrEqual(contextTokens - 12);
    // One turn more would not have fitted.
    expect(tokens).toBeGreaterThan(contextTokens - 12 - 400);
  });

  test.each<[string, object, string]>([
    [
      "images",
      { input: [{ role: "user", content: [{ type: "input_image", image_url: "data:", detail: "auto" }] }] },
      "input[0].content[0].type",
    ],
    ["built-in tools", { input: "x", tools: [{ type: "web_search" }] }, "tools[0].type"],
    ["an unknown parameter", { input: "x", max_tokens: 3 }, "max_tokens"],
    ["work in the background", { input: "x", background: true }, "background"],
    [
      "a wrong schema",
      { input: "x", text: { format: { type: "json_schema", name: "x", schema: { not: {} } } } },
      "text.format.schema",
    ],
    ["a reference to nothing", { input: [{ type: "item_reference", id: "msg_x" }] }, "input"],
    ["no input", {}, "input"],
  ])("is refused %s by the parameter's name", async (_, fields, param) => {
    const headers = { authorization: "Bearer secret" };
    const { status, body } = await postJson(`${server.url}/v1/responses`, { model, ...fields }, headers);
    expect([status, body]).toMatchObject([
      param === "input" && "input" in fields ? 404 : 400,
      { error: { param, type: "invalid_request_error" } },
    ]);
  });
});

/** Removes what the SDK adds to an answer. */
function withoutText({ output_text: _text, ...answer }: OpenAI.Responses.Response): object {
  const own = Object.entries(answer).filter(([name]) => !name.startsWith("_"));
  return Object.fromEntries(own);
}
