// Reasoning in the three APIs that chat, over a model that has its marks.

import Anthropic from "@anthropic-ai/sdk";
import type { ReadMeEngine } from "@readme-moe/engine";
import express from "express";
import OpenAI from "openai";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { readMe } from "../support/border.ts";
import { complete } from "../support/complete.ts";
import { scripted } from "../support/chatbot.ts";
import { CHANNELS_TEMPLATE, END_ID, openReasoningEngine, THINK_ID } from "../support/reasoning-engine.ts";
import { listen, type RunningServer } from "../support/served-model.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

const folder = await persistentFolder();
let engine: ReadMeEngine;
let server: RunningServer;
let openai: OpenAI;
let anthropic: Anthropic;

beforeAll(async () => {
  engine = await openReasoningEngine(folder);
  server = await listen(express().use(readMe({ models: { tiny: engine } })));
  openai = new OpenAI({ apiKey: "any", baseURL: `${server.url}/v1`, maxRetries: 0 });
  anthropic = new Anthropic({ apiKey: "any", baseURL: server.url, maxRetries: 0 });
});
afterAll(async () => {
  await server[Symbol.asyncDispose]();
  await engine.dispose();
});

const model = "tiny";
const messages = [{ role: "user" as const, content: "Hello there" }];
/** The prompt opens the reasoning, and neither the end of it nor of the answer comes by itself. */
const open = {
  chat_template_kwargs: { opens: true },
  logit_bias: { 0: -100, [THINK_ID]: -100, [END_ID]: -100 },
} as const;
const schema = { type: "object", properties: { city: { enum: ["Rome", "Oslo"] } }, required: ["city"] };

interface Message {
  readonly content: string;
  readonly reasoning_content?: string;
}

const chat = async (more: object): Promise<{ readonly message: Message; readonly reasoning: number | undefined }> => {
  const request = { model, messages, max_tokens: 40, temperature: 0, ...open, ...more };
  const answer = await openai.chat.completions.create(request as OpenAI.ChatCompletionCreateParamsNonStreaming);
  const details = answer.usage?.completion_tokens_details;
  return { message: answer.choices[0]?.message as unknown as Message, reasoning: details?.reasoning_tokens };
};

/** Returns the engine's own text after a prompt that opens the reasoning. */
async function right(maxTokens: number): Promise<string> {
  const params = { maxTokens, temperature: 0, logitBias: open.logit_bias };
  return (await complete(engine, { prompt: { messages, template: { opens: true } }, params })).text;
}

describe("chat completions", () => {
  test("end reasoning at its budget, and count its tokens", async () => {
    const { message, reasoning } = await chat({ thinking_token_budget: 5 });
    expect(message.reasoning_content).toBe((await right(5)).trim());
    expect(message.content).not.toBe("");
    expect(message.content).not.toContain("</think>");
    // The budget, and the line break and the mark that end it.
    expect(reasoning).toBe(7);
  });

  test("give an effort its share of the tokens", async () => {
    expect((await chat({ reasoning_effort: "low", max_tokens: 50 })).reasoning).toBe(10 + 2);
    expect((await chat({ reasoning_effort: "medium", max_tokens: 50 })).reasoning).toBe(25 + 2);
  });

  test("do not reason where the request forbids it", async () => {
    for (const more of [{ reasoning_effort: "none" }, { chat_template_kwargs: { enable_thinking: false } }]) {
      const { message } = await chat(more);
      expect(message.reasoning_content).toBeUndefined();
      expect(message.content).not.toBe("");
    }
  });

  test("have no content if their tokens end within the reasoning", async () => {
    const { message } = await chat({ max_tokens: 6 });
    expect(message).toMatchObject({ content: "", reasoning_content: (await right(6)).trim() });
  });

  test("stream reasoning before content", async () => {
    const request = {
      model,
      messages,
      max_tokens: 40,
      temperature: 0,
      ...open,
      thinking_token_budget: 5,
      stream: true,
    };
    const stream = await openai.chat.completions.create(request as OpenAI.ChatCompletionCreateParamsStreaming);
    const kinds: string[] = [];
    let [thought, text] = ["", ""];
    for await (const { choices } of stream) {
      const delta = (choices[0]?.delta ?? {}) as Partial<Message>;
      if (delta.reasoning_content !== undefined) kinds.push("reasoning");
      if (delta.content) kinds.push("content");
      thought += delta.reasoning_content ?? "";
      text += delta.content ?? "";
    }
    const { message } = await chat({ thinking_token_budget: 5 });
    expect([thought, text]).toEqual([message.reasoning_content, message.content]);
    expect(kinds.indexOf("content")).toBe(kinds.lastIndexOf("reasoning") + 1);
  });

  test("bind the content behind the reasoning to a schema", async () => {
    const format = { type: "json_schema", json_schema: { name: "trip", schema } };
    const { message } = await chat({ thinking_token_budget: 4, response_format: format, max_tokens: 80 });
    expect(message.reasoning_content).toBe((await right(4)).trim());
    expect(["Rome", "Oslo"]).toContain((JSON.parse(message.content) as { readonly city: string }).city);
  });

  test("may begin reasoning themselves, also if the content is bound", async () => {
    const bias = { 0: -100, [THINK_ID]: 100, [END_ID]: -100 };
    const request = {
      chat_template_kwargs: {},
      logit_bias: bias,
      thinking_token_budget: 3,
      guided_choice: ["yes", "no"],
    };
    const { message } = await chat(request);
    expect(["yes", "no"]).toContain(message.content);
    expect(message.reasoning_content).toBe("<think>".repeat(3));
  });

  test("call tools behind the reasoning", async () => {
    const light = {
      name: "light",
      parameters: { type: "object", properties: { on: { type: "boolean" } }, required: ["on"] },
    };
    const request = {
      thinking_token_budget: 3,
      tools: [{ type: "function", function: light }],
      tool_choice: "required",
    };
    const { message } = await chat({ ...request, parallel_tool_calls: false, max_tokens: 120 });
    expect(message).toMatchObject({ content: null, tool_calls: [{ function: { name: "light" } }] });
    expect(message.reasoning_content).toMatch(/^(?!.*think>).+$/s);
  });

  test("are the same, token by token, with a budget that is not reached", async () => {
    const free = await chat({ max_tokens: 12 });
    expect((await chat({ max_tokens: 12, thinking_token_budget: 1000 })).message).toEqual(free.message);
  });
});

describe("the Responses API", () => {
  const request = { model, input: "Hello there", max_output_tokens: 40, temperature: 0, ...open } as const;

  test("has reasoning as an item, whole and streamed, and takes it back", async () => {
    const asked = { ...request, thinking_token_budget: 5 };
    const answer = await openai.responses.create(asked);
    const thought = (await right(5)).trim();
    expect(answer.output).toMatchObject([
      { type: "reasoning", summary: [], content: [{ type: "reasoning_text", text: thought }] },
      { type: "message" },
    ]);
    expect(answer.usage?.output_tokens_details.reasoning_tokens).toBe(7);
    const stream = await openai.responses.create({ ...asked, stream: true });
    let streamed = "";
    for await (const event of stream) if (event.type === "response.reasoning_text.delta") streamed += event.delta;
    expect(streamed).toBe(thought);
    const next = { ...request, input: "And now?", max_output_tokens: 5 };
    const chained = await openai.responses.create({ ...next, previous_response_id: answer.id });
    const history = { role: "assistant", content: answer.output_text, reasoning_content: thought };
    const all = [...messages, history, { role: "user", content: "And now?" }];
    const counted = await engine.tokenize({ messages: all, template: { opens: true } });
    expect(chained.usage?.input_tokens).toBe(counted.length);
  });

  test("has reasoning as its summary if that is asked for", async () => {
    const asked = { ...request, thinking_token_budget: 5, reasoning: { summary: "auto" } } as const;
    const answer = await openai.responses.create(asked);
    const summary = [{ type: "summary_text", text: (await right(5)).trim() }];
    expect(answer.output[0]).toMatchObject({ type: "reasoning", summary });
  });
});

describe("the Messages API", () => {
  test("has reasoning as a block, whole and streamed, within its budget", async () => {
    const cold = { temperature: 0 };
    const request = { model, messages, max_tokens: 40, ...cold, ...open } as const;
    const asked = { ...request, thinking: { type: "enabled", budget_tokens: 5 } } as const;
    const thought = (await right(5)).trim();
    const whole = await anthropic.messages.create(asked);
    const streamed = await anthropic.messages.stream(asked).finalMessage();
    for (const { content, usage } of [whole, streamed]) {
      expect(content).toMatchObject([{ type: "thinking", thinking: thought, signature: "unsigned" }, { type: "text" }]);
      expect(usage.output_tokens_details?.thinking_tokens).toBe(7);
    }
    const further = [...messages, { role: "assistant" as const, content: whole.content }, ...messages];
    expect((await anthropic.messages.create({ ...asked, messages: further })).usage.input_tokens).toBeGreaterThan(0);
    const off = await anthropic.messages.create({ ...request, thinking: { type: "disabled" } });
    expect(off.content.map(({ type }) => type)).toEqual(["text"]);
    const omitted = await anthropic.messages.create({ ...asked, thinking: { ...asked.thinking, display: "omitted" } });
    expect(omitted.content[0]).toMatchObject({ type: "thinking", thinking: "" });
  });
});

const ask = (content: string) => ({ model: "tiny", messages: [{ role: "user" as const, content }], max_tokens: 200 });

const callOf = (id: string, city: string) => ({
  id,
  type: "function",
  function: { name: "weather", arguments: { city } },
});
const written = (city: string, result: string): string =>
  `<|start|>assistant to=functions.weather<|channel|>commentary json<|message|>{"city": "${city}"}<|call|>` +
  `<|start|>functions.weather to=assistant<|channel|>commentary<|message|>"${result}"<|end|>`;
const thought = (text: string): string => `<|start|>assistant<|channel|>analysis<|message|>${text}<|end|>`;

const analysis = "<|channel|>analysis<|message|>Look it up.<|end|><|start|>assistant";
const answers: Readonly<Record<string, string>> = {
  plain: `${analysis}<|channel|>final<|message|>It is warm.`,
  call: `${analysis}<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{"city": "Rome"}<|call|>`,
  named: `${analysis} to=functions.weather<|channel|>commentary json<|message|>{"city": "Rome"}`,
};
async function* writeChannels(prompt: string): AsyncGenerator<string> {
  const text = answers[prompt] ?? "";
  for (let at = 0; at < text.length; at += 5) yield text.slice(at, at + 5);
}

describe("a model whose answers have channels", () => {
  const tools = [
    {
      type: "function" as const,
      function: { name: "weather", parameters: { type: "object", properties: { city: { type: "string" } } } },
    },
  ];
  let tiny: ReadMeEngine;
  let served: RunningServer;

  beforeAll(async () => {
    tiny = await openReasoningEngine(folder, CHANNELS_TEMPLATE);
    served = await listen(express().use(readMe({ models: { tiny: scripted(tiny, writeChannels) } })));
  });
  afterAll(async () => {
    await served[Symbol.asyncDispose]();
    await tiny.dispose();
  });

  test("says so", () => {
    expect(tiny.info).toMatchObject({ reasoningForm: "harmony", toolCallForm: "harmony" });
  });

  test("reasons in chat completions, and answers", async () => {
    const client = new OpenAI({ apiKey: "any", baseURL: `${served.url}/v1`, maxRetries: 0 });
    const { choices } = await client.chat.completions.create(ask("plain"));
    expect(choices[0]?.message).toMatchObject({ reasoning_content: "Look it up.", content: "It is warm." });
    for (const kind of ["call", "named"]) {
      const stream = client.chat.completions.stream({ ...ask(kind), tools });
      let reasoning = "";
      for await (const {
        choices: [choice],
      } of stream)
        reasoning += (choice?.delta as { reasoning_content?: string } | undefined)?.reasoning_content ?? "";
      const [whole] = (await stream.finalChatCompletion()).choices;
      expect([reasoning, whole?.finish_reason, whole?.message.content || null]).toEqual([
        "Look it up.",
        "tool_calls",
        null,
      ]);
      const [call] = whole?.message.tool_calls ?? [];
      expect(call).toMatchObject({
        function: { name: "weather", arguments: expect.stringContaining("Rome") as string },
      });
    }
  });

  test("thinks and calls in messages", async () => {
    const client = new Anthropic({ apiKey: "any", baseURL: served.url, maxRetries: 0 });
    const { content, stop_reason: reason } = await client.messages.create({
      ...ask("call"),
      tools: [{ name: "weather", input_schema: { type: "object", properties: { city: { type: "string" } } } }],
    });
    expect(content).toMatchObject([
      { type: "thinking", thinking: "Look it up." },
      { type: "tool_use", name: "weather", input: { city: "Rome" } },
    ]);
    expect(reason).toBe("tool_use");
  });

  test("reads its reasoning before calls again, and a message with several calls as one for each", async () => {
    const history = [
      { role: "user", content: "Where?" },
      {
        role: "assistant",
        content: "",
        reasoning_content: "Look.",
        tool_calls: [callOf("a", "Rome"), callOf("b", "Oslo")],
      },
      { role: "tool", tool_call_id: "b", content: "cold" },
      { role: "tool", tool_call_id: "a", content: "warm" },
      { role: "assistant", content: "Rome.", reasoning_content: "So." },
      { role: "assistant", content: "I look.", reasoning_content: "Again.", tool_calls: [callOf("c", "Bari")] },
      { role: "tool", tool_call_id: "c", content: "hot" },
      { role: "assistant", content: "Bari.", tool_calls: [] },
    ];
    expect(await tiny.applyTemplate(history, { reasoning_effort: "low" })).toBe(
      `<|start|>user<|message|>Reasoning: low. 0 tools. Where?<|end|>${thought("Look.")}${written("Rome", "warm")}` +
        `${written("Oslo", "cold")}<|start|>assistant<|channel|>final<|message|>Rome.<|end|>${thought("I look.")}` +
        `${written("Bari", "hot")}<|start|>assistant<|channel|>final<|message|>Bari.<|end|><|start|>assistant`,
    );
  });
});
