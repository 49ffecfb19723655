// Compares generations of the APIs of OpenAI and Anthropic field by field, whole and streamed, and sends answers back.

import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { exact } from "../support/exact-bodies.ts";
import { startExactServer, type ExactServer } from "../support/exact-server.ts";
import { LIGHT, LIGHT_PARAMETERS } from "../support/light-tool.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

const folder = await persistentFolder();
let { ask, whole, streamed } = {} as ExactServer;
let server: ExactServer;
beforeAll(async () => {
  server = await startExactServer(folder);
  ({ ask, whole, streamed } = server);
});
afterAll(() => server[Symbol.asyncDispose]());

const messages = [{ role: "user", content: "x" }] as const;
const { name, description } = LIGHT;
const tools = [{ type: "function", function: { name, description, parameters: LIGHT_PARAMETERS } }] as const;

const USED = { prompt_tokens: 10, completion_tokens: 3, total_tokens: 13, prompt_tokens_details: { cached_tokens: 4 } };
const REASONED = {
  completion_tokens_details: { accepted_prediction_tokens: 0, rejected_prediction_tokens: 0, reasoning_tokens: 3 },
};
const SYSTEM = { created: "now", model: "scripted", system_fingerprint: "readme-moe-int8" };

const callOf = (id: string) => ({ id, type: "function", function: { name: "light", arguments: '{"on": true}' } });

const entry = (token: string, logprob: number) => ({ token, logprob, bytes: [...Buffer.from(token)] });

describe("/v1/chat/completions", () => {
  const asked = { model: "scripted", messages, tools };
  const head = { id: "chatcmpl-#1", ...SYSTEM };
  const message = { role: "assistant", content: "I do.", reasoning_content: "Hm", refusal: null };

  test("whole, and sent back", async () => {
    const answer = await whole("/v1/chat/completions", asked);
    const tool_calls = [callOf("call_#2")];
    expect(exact(answer)).toStrictEqual([
      {
        ...head,
        object: "chat.completion",
        choices: [{ index: 0, message: { ...message, tool_calls }, logprobs: null, finish_reason: "tool_calls" }],
        usage: { ...USED, ...REASONED },
      },
    ]);
    const { choices } = answer as { choices: readonly { message: { tool_calls: readonly { id: string }[] } }[] };
    const [said] = choices.map((one) => one.message);
    const result = { role: "tool", tool_call_id: said?.tool_calls[0]?.id, content: "done" };
    const next = await ask("/v1/chat/completions", { ...asked, messages: [...messages, said, result] });
    expect(next.status).toBe(200);
  });

  test("streamed", async () => {
    const chunk = (delta: object, finish_reason: string | null = null, logprobs: object | null = null): object => ({
      ...head,
      object: "chat.completion.chunk",
      choices: [{ index: 0, delta, logprobs, finish_reason }],
      usage: null,
    });
    const usage = { ...head, object: "chat.completion.chunk", choices: [] };
    const include = { stream_options: { include_usage: true } };
    expect(await streamed("/v1/chat/completions", { ...asked, ...include })).toStrictEqual([
      chunk({ role: "assistant", content: "" }),
      chunk({ reasoning_content: "Hm" }),
      chunk({ content: "I do." }),
      chunk({
        tool_calls: [
          { index: 0, ...callOf("call_#2"), function: { name: "light", arguments: "" } },
          { index: 0, function: { arguments: '{"on": true}' } },
        ],
      }),
      chunk({}, "tool_calls"),
      { ...usage, usage: { ...USED, ...REASONED } },
      "[DONE]",
    ]);
  });

  test("with log-probabilities", async () => {
    const top_logprobs = [entry("H", -0.5), entry("I", -1)];
    const content = [
      { ...entry("H", -0.5), top_logprobs },
      { ...entry("i", -2), top_logprobs },
    ];
    const withTop = { model: "scripted", messages, logprobs: true, top_logprobs: 2, reasoning_effort: "none" };
    expect(exact(await whole("/v1/chat/completions", withTop))).toMatchObject([
      { choices: [{ message: { content: "Hi" }, logprobs: { content, refusal: null }, finish_reason: "length" }] },
    ]);
    const chunks = (await streamed("/v1/chat/completions", withTop)) as readonly {
      choices?: { logprobs: unknown }[];
    }[];
    const known = chunks.flatMap(({ choices = [] }) => choices.map(({ logprobs }) => logprobs)).filter(Boolean);
    expect(known).toStrictEqual(content.map((one) => ({ content: [one], refusal: null })));
  });
});

const COMPLETION = { id: "cmpl-#1", object: "text_completion", ...SYSTEM };
const TOP = { H: -0.5, I: -1 };

const completionChunk = (text: string, logprob: number, more: object = {}): object => ({
  ...COMPLETION,
  choices: [
    {
      index: 0,
      text,
      logprobs: {
        tokens: [text],
        token_logprobs: [logprob],
        top_logprobs: [{ ...TOP, [text]: logprob }],
        text_offset: [text === "H" ? 0 : 1],
      },
      finish_reason: null,
      ...more,
    },
  ],
});

describe("/v1/completions", () => {
  const asked = { model: "scripted", prompt: "x", logprobs: 2 };

  test("whole", async () => {
    const logprobs = {
      tokens: ["H", "i"],
      token_logprobs: [-0.5, -2],
      top_logprobs: [TOP, { ...TOP, i: -2 }],
      text_offset: [0, 1],
    };
    expect(exact(await whole("/v1/completions", asked))).toStrictEqual([
      { ...COMPLETION, choices: [{ index: 0, text: "Hi", logprobs, finish_reason: "length" }], usage: USED },
    ]);
  });

  test("streamed", async () => {
    expect(await streamed("/v1/completions", asked)).toStrictEqual([
      completionChunk("H", -0.5),
      completionChunk("i", -2, { finish_reason: "length" }),
      "[DONE]",
    ]);
  });
});

describe("/v1/responses", () => {
  const tool = { type: "function", name, description, parameters: LIGHT_PARAMETERS };
  const asked = { model: "scripted", input: "x", tools: [tool] };
  const response = {
    id: "resp_#1",
    object: "response",
    created_at: "now",
    completed_at: "now",
    status: "completed",
    background: false,
    error: null,
    incomplete_details: null,
    instructions: null,
    max_output_tokens: null,
    max_tool_calls: null,
    model: "scripted",
    parallel_tool_calls: true,
    previous_response_id: null,
    prompt_cache_key: null,
    reasoning: { effort: null, summary: null },
    safety_identifier: null,
    service_tier: "default",
    store: true,
    temperature: null,
    text: { format: { type: "text" }, verbosity: "medium" },
    tool_choice: "auto",
    tools: [{ ...tool, strict: null }],
    top_logprobs: 0,
    top_p: null,
    truncation: "disabled",
    usage: {
      input_tokens: 10,
      input_tokens_details: { cached_tokens: 4 },
      output_tokens: 3,
      output_tokens_details: { reasoning_tokens: 3 },
      total_tokens: 13,
    },
    user: null,
    metadata: {},
  };
  const part = { type: "output_text", text: "I do.", annotations: [] };
  const thought = { type: "reasoning_text", text: "Hm" };
  const items = [
    { id: "rs_#2", type: "reasoning", status: "completed", summary: [], content: [thought] },
    { id: "msg_#3", type: "message", status: "completed", role: "assistant", content: [part] },
    { id: "fc_#4", type: "function_call", status: "completed", call_id: "call_#5", name, arguments: '{"on": true}' },
  ] as const;

  test("whole, kept, and sent back", async () => {
    const answer = await whole("/v1/responses", asked);
    expect(exact(answer)).toStrictEqual([{ ...response, output: items }]);
    const { id, output } = answer as { id: string; output: readonly { call_id?: string }[] };
    expect(await whole(`/v1/responses/${id}`)).toStrictEqual(answer);
    const result = { type: "function_call_output", call_id: output.at(-1)?.call_id, output: "done" };
    const input = [{ role: "user", content: "x" }, ...output, result];
    expect((await ask("/v1/responses", { ...asked, input })).status).toBe(200);
    expect((await ask("/v1/responses", { ...asked, input: [result], previous_response_id: id })).status).toBe(200);
    expect(await whole(`/v1/responses/${id}`, undefined, "DELETE")).toStrictEqual({
      id,
      object: "response",
      deleted: true,
    });
  });

  test("streamed", async () => {
    const begun = { ...response, completed_at: null, status: "in_progress", output: [], usage: null };
    const [reasoning, message, call] = items;
    const opened = { status: "in_progress", content: [] };
    const of = (output_index: number) => ({ item_id: items[output_index]?.id, output_index });
    const within = (output_index: number) => ({ ...of(output_index), content_index: 0 });
    const events = [
      { type: "response.created", response: begun },
      { type: "response.in_progress", response: begun },
      { type: "response.output_item.added", output_index: 0, item: { ...reasoning, ...opened } },
      { type: "response.content_part.added", ...within(0), part: { ...thought, text: "" } },
      { type: "response.reasoning_text.delta", ...within(0), delta: "Hm" },
      { type: "response.reasoning_text.done", ...within(0), text: "Hm" },
      { type: "response.content_part.done", ...within(0), part: thought },
      { type: "response.output_item.done", output_index: 0, item: reasoning },
      { type: "response.output_item.added", output_index: 1, item: { ...message, ...opened } },
      { type: "response.content_part.added", ...within(1), part: { ...part, text: "" } },
      { type: "response.output_text.delta", ...within(1), delta: "I do.", logprobs: [] },
      { type: "response.output_text.done", ...within(1), text: "I do.", logprobs: [] },
      { type: "response.content_part.done", ...within(1), part },
      { type: "response.output_item.done", output_index: 1, item: message },
      {
        type: "response.output_item.added",
        output_index: 2,
        item: { ...call, status: "in_progress", arguments: "" },
      },
      { type: "response.function_call_arguments.delta", ...of(2), delta: '{"on": true}' },
      { type: "response.function_call_arguments.done", ...of(2), name, arguments: '{"on": true}' },
      { type: "response.output_item.done", output_index: 2, item: call },
      { type: "response.completed", response: { ...response, output: items } },
    ];
    expect(await streamed("/v1/responses", asked)).toStrictEqual(
      events.map((event, sequence_number) => ({ ...event, sequence_number })),
    );
  });
});

const used = (input: number, read: number, output: number, thinking: number) => ({
  input_tokens: input,
  cache_creation_input_tokens: 0,
  cache_read_input_tokens: read,
  output_tokens: output,
  output_tokens_details: { thinking_tokens: thinking },
});

const delta = (index: number, type: string, value: object): object => ({
  type: "content_block_delta",
  index,
  delta: { type, ...value },
});

const begin = (index: number, content_block: object): object => ({
  type: "content_block_start",
  index,
  content_block,
});

const stop = (index: number): object => ({ type: "content_block_stop", index });

describe("/v1/messages", () => {
  const tool = { name, description, input_schema: LIGHT_PARAMETERS };
  const asked = { model: "scripted", max_tokens: 9, messages, tools: [tool] };
  const message = {
    id: "msg_#1",
    type: "message",
    role: "assistant",
    model: "scripted",
    container: null,
    stop_sequence: null,
    stop_details: null,
  };
  const call = { type: "tool_use", id: "call_#2", name, input: { on: true }, caller: { type: "direct" } };

  test("whole, and sent back", async () => {
    const answer = await whole("/v1/messages", asked);
    expect(exact(answer)).toStrictEqual([
      {
        ...message,
        content: [{ type: "thinking", thinking: "Hm", signature: "unsigned" }, { type: "text", text: "I do." }, call],
        stop_reason: "tool_use",
        usage: used(6, 4, 3, 3),
      },
    ]);
    const { role, content } = answer as { role: string; content: readonly { id?: string }[] };
    const results = [{ type: "tool_result", tool_use_id: content.at(-1)?.id, content: "done" }];
    const said = [...messages, { role, content }, { role: "user", content: results }];
    expect((await ask("/v1/messages", { ...asked, messages: said })).status).toBe(200);
    expect(await whole("/v1/messages/count_tokens", { model: "scripted", messages: said })).toStrictEqual({
      input_tokens: 2,
    });
  });

  test("streamed", async () => {
    const start = { ...message, content: [], stop_reason: null, usage: used(10, 0, 1, 0) };
    const end = { stop_reason: "tool_use", stop_sequence: null, stop_details: null };
    expect(await streamed("/v1/messages", asked)).toStrictEqual([
      { type: "message_start", message: start },
      begin(0, { type: "thinking", thinking: "", signature: "" }),
      delta(0, "thinking_delta", { thinking: "Hm" }),
      delta(0, "signature_delta", { signature: "unsigned" }),
      stop(0),
      begin(1, { type: "text", text: "" }),
      delta(1, "text_delta", { text: "I do." }),
      stop(1),
      begin(2, { ...call, input: {} }),
      delta(2, "input_json_delta", { partial_json: '{"on": true}' }),
      stop(2),
      { type: "message_delta", delta: end, usage: used(6, 4, 3, 3) },
      { type: "message_stop" },
    ]);
  });
});
