import { Grammars } from "@readme-moe/grammar";
import { ChatTemplate } from "@readme-moe/model";
import { Ajv2020 } from "ajv/dist/2020.js";
import type { ChatMessage, ToolCallForm } from "@readme-moe/core";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { chatOf } from "../../../packages/express/src/ollama/translate.ts";
import { jsonStyles } from "../../../packages/express/src/tools/call-bodies.ts";
import { formReader } from "../../../packages/express/src/tools/call-forms.ts";
import { joinToolCalls } from "../../../packages/express/src/tools/tool-call-parser.ts";
import { ApiError } from "../../../packages/express/src/http/errors.ts";
import { compileOutput, structuredOutput } from "../../../packages/express/src/api/structured-output.ts";
import {
  type CallContext,
  constrainCalls,
  presentTools,
  type ToolDefinition,
  type ToolFields,
} from "../../../packages/express/src/tools/tools.ts";
import { allowedAfter, smallVocabulary, textOf, writeBound } from "../../support/bound-text.ts";
import { RUNS_LONG_TESTS } from "../../support/long-tests.ts";
import { seededRandom } from "../../support/random.ts";

const vocabulary = smallVocabulary(["<tool_call>", "</tool_call>", '{"name": "']);
let grammars: Grammars;
beforeAll(async () => {
  grammars = await Grammars.open(vocabulary);
});
afterAll(() => grammars.dispose());

const weather: ToolDefinition = {
  type: "function",
  function: {
    name: "weather",
    description: "Tells the weather",
    parameters: {
      type: "object",
      properties: { city: { type: "string", maxLength: 6 }, days: { type: "integer", minimum: 1, maximum: 9 } },
      required: ["city"],
    },
  },
};
const clock: ToolDefinition = { type: "function", function: { name: "clock" } };
const odd: ToolDefinition = { type: "function", function: { name: "odd", parameters: { type: "object", not: {} } } };
const tools = [weather, clock];
const user: ChatMessage = { role: "user", content: "Hello" };
const history: readonly ChatMessage[] = [
  { role: "system", content: "Be kind" },
  user,
  {
    role: "assistant",
    tool_calls: [
      { id: "c1", type: "function", function: { name: "weather", arguments: '{"city": "Rom"}' } },
      { id: "c2", type: "function", function: { name: "clock", arguments: "{}" } },
    ],
  },
  { role: "tool", tool_call_id: "c1", content: "sunny" },
  { role: "tool", tool_call_id: "c2", content: [{ type: "text", text: "noon" }] },
];

interface PlanOptions extends Partial<CallContext> {
  readonly messages?: readonly ChatMessage[];
}

async function plan(fields: ToolFields, { messages = [user], ...options }: PlanOptions = {}) {
  const context = { chatTemplateKnowsTools: options.toolCallForm !== undefined, toolsStrict: false, ...options };
  const presented = presentTools(fields, messages, context);
  return { ...presented, ...(await constrainCalls(fields, context, (answers) => grammars.tagged(answers))) };
}

async function calls({ constraint, newParser }: Awaited<ReturnType<typeof constrainCalls>>, seed: number) {
  if (!constraint || !newParser) throw new Error("Expected answers to be bound");
  const { text, isWhole } = await writeBound(constraint, vocabulary, seededRandom(seed), {
    patience: 10,
    maxTokens: 400,
  });
  let numCalls = 0;
  const parser = newParser(() => `call_${String(numCalls++).padStart(24, "0")}`);
  const parts = [...Array.from(text, (character) => parser.push(character)), parser.end()];
  const made = joinToolCalls(parts.flatMap(({ toolCalls }) => toolCalls)) as readonly {
    id: string;
    function: { name: string; arguments: string };
  }[];
  return {
    isWhole,
    text,
    content: parts.map(({ content }) => content).join(""),
    made,
    calledTools: parser.calledTools,
  };
}

const validate = new Ajv2020({ strict: false }).compile(weather.function.parameters ?? {});

describe("required calls", () => {
  test("name an existing tool and have valid arguments", async () => {
    const required = await plan({ tools, tool_choice: "required" });
    let numWhole = 0;
    const names = new Set<string>();
    for (let seed = 0; seed < 25; seed++) {
      const { isWhole, made, content, calledTools } = await calls(required, seed);
      if (!isWhole) continue;
      numWhole++;
      expect(content).toBe("");
      expect(calledTools).toBe(true);
      expect(made.length).toBeGreaterThan(0);
      for (const { id, function: called } of made) {
        names.add(called.name);
        expect(id).toMatch(/^call_\w{24}$/);
        const args: unknown = JSON.parse(called.arguments);
        if (called.name === "weather") expect(validate(args), called.arguments).toBe(true);
        else expect([called.name, args]).toEqual(["clock", {}]);
      }
    }
    expect(numWhole).toBeGreaterThan(15);
    expect(names).toEqual(new Set(["weather", "clock"]));
  });

  test("consist of one call of the named tool", async () => {
    const named = await plan({ tools, tool_choice: { type: "function", function: { name: "clock" } } });
    for (let seed = 0; seed < 5; seed++) {
      const { made, isWhole } = await calls(named, seed);
      expect(isWhole).toBe(true);
      expect(made.map((one) => one.function)).toEqual([
        { name: "clock", arguments: expect.stringMatching(/^\{\s*\}$/) as string },
      ]);
    }
  });
});

test("a call that the model chooses to make follows free text and is valid", async () => {
  const auto = await plan({ tools, parallel_tool_calls: false });
  const [constraint, parser] = [auto.constraint, auto.newParser?.(() => "call")];
  if (!constraint || !parser) throw new Error("Expected answers to be bound");
  const begun = Array.from(Buffer.from("I see. <tool_call>"));
  const { text } = await writeBound(constraint, vocabulary, seededRandom(2), { patience: 20, ids: begun });
  const { content, toolCalls } = parser.push(text);
  expect(content).toBe("I see. ");
  expect(["weather", "clock"]).toContain(toolCalls[0]?.function.name);
});

test("a tool with an unsupported schema gets any object, unless it is required or strict", async () => {
  const { constraint, newParser } = await plan({ tools: [odd, weather], parallel_tool_calls: false });
  const parser = newParser?.(() => "call");
  if (!constraint || !parser) throw new Error("Expected answers to be bound");
  const begun = Array.from(Buffer.from('<tool_call>\n{"name": "odd"'));
  const { text } = await writeBound(constraint, vocabulary, seededRandom(4), { patience: 20, ids: begun });
  const [call] = joinToolCalls([...parser.push(text).toolCalls, ...parser.end().toolCalls]);
  expect(call?.function.name).toBe("odd");
  expect(JSON.parse(call?.function.arguments ?? "")).toBeTypeOf("object");
  const strict: ToolDefinition = { ...odd, function: { ...odd.function, strict: true } };
  for (const [fields, toolsStrict] of [
    [{ tools: [odd], tool_choice: "required" }, false],
    [{ tools: [weather, strict] }, false],
    [{ tools: [weather, odd] }, true],
  ] as const) {
    await expect(plan(fields, { toolsStrict })).rejects.toMatchObject({ status: 400, param: "tools" });
    await expect(plan(fields, { toolsStrict })).rejects.toThrow(/function 'odd': .*`not`/);
  }
});

const FORMS = (
  "hermes mistral mistral-named harmony deepseek qwen-coder glm lfm function-gemma gemma phi granite functools " +
  "llama"
).split(" ") as readonly ToolCallForm[];

describe.each(FORMS)("calls of the form %s", (toolCallForm) => {
  test("are written and read where they are required", async () => {
    const required = await plan({ tools, tool_choice: "required" }, { toolCallForm });
    let numWhole = 0;
    for (let seed = 0; seed < 2; seed++) {
      const { isWhole, made, content, text } = await calls(required, seed);
      if (!isWhole) continue;
      numWhole++;
      expect(content, text).toBe("");
      expect(made.length).toBeGreaterThan(0);
      for (const { function: called } of made) {
        const args: unknown = JSON.parse(called.arguments);
        if (called.name === "weather") expect(validate(args), called.arguments).toBe(true);
        else expect([called.name, args]).toEqual(["clock", {}]);
      }
    }
    expect(numWhole).toBeGreaterThan(0);
  });

  const isUsual = ["hermes", "llama", "mistral-named", "glm"].includes(toolCallForm);
  test.skipIf(!isUsual && !RUNS_LONG_TESTS)(
    "are bound in any form where a tool is strict (skipped for rare forms)",
    async () => {
      const strict: ToolDefinition = { ...weather, function: { ...weather.function, strict: true } };
      const fields: ToolFields = { tools: [strict, clock], parallel_tool_calls: false };
      const { constraint, newParser } = await plan(fields, { toolCallForm });
      if (!constraint || !newParser) throw new Error("Expected answers to be bound");
      const key = toolCallForm === "llama" ? "parameters" : "arguments";
      const own = formReader(toolCallForm).form.written;
      const marks = own.trigger === undefined ? [] : [own.trigger];
      const begun = [
        '{"name": "weather"',
        '{"name":"weather"',
        '\n{\n  "name": "weather"',
        '```json\n{"name": ',
        ...marks,
      ];
      for (const [seed, begin] of begun.entries()) {
        const ids = Array.from(Buffer.from(begin));
        const { text, isWhole } = await writeBound(constraint, vocabulary, seededRandom(seed), { patience: 40, ids });
        const parser = newParser(() => "call");
        const parts = [parser.push(text), parser.end()];
        const [call] = joinToolCalls(parts.flatMap(({ toolCalls }) => toolCalls));
        if (!isWhole && !parser.calledTools) continue;
        expect(call, text).toBeDefined();
        const args: unknown = JSON.parse(call?.function.arguments ?? "");
        if (call?.function.name === "weather") expect(validate(args), text).toBe(true);
        else expect(args).toEqual({});
      }
      // A name of no tool stays free.
      const free = Array.from(Buffer.from(`Say {"name": "weathers", "${key}`));
      expect((await allowedAfter(constraint, vocabulary, free)).length).toBeGreaterThan(200);
    },
  );
});

test.each<readonly [ToolCallForm, string, isBound: boolean]>([
  ["hermes", 'I ask.\n<tool_call>\n{"name": "', true],
  ["mistral-named", "[TOOL_CALLS]", true],
  ["hermes", '```json\n{"name": "', true],
  ["llama", 'I ask.\n```json\n{"name": "', true],
  ["llama", '{"name": "', true],
  ["llama", '{"name":"', true],
  // Files such as package.json begin so, and answers about JSON.
  ["hermes", '```json\n{\n  "name": "', false],
  ["llama", 'I ask.\n{"name": "', false],
  ["llama", '{ "name": "', false],
  ["hermes", '{"name": "', false],
])("beside a strict function, a name in the form %s after %j is bound: %s", async (toolCallForm, text, isBound) => {
  const strict: ToolDefinition = { ...weather, function: { ...weather.function, strict: true } };
  const { constraint } = await plan({ tools: [strict, clock] }, { toolCallForm });
  if (!constraint) throw new Error("Expected answers to be bound");
  const allowed = await allowedAfter(constraint, vocabulary, Array.from(Buffer.from(text)));
  if (isBound) expect(allowed).toEqual(Array.from(Buffer.from("cw")));
  else expect(allowed.length).toBeGreaterThan(200);
});

test.each<readonly [ToolCallForm, string]>(
  (["hermes", "llama"] as const).flatMap((form) =>
    ["", "I ask.\n", "```json\n", "I ask.\n```json\n", 'So {"name": "x"}\n', "````json\n", '{\n  {"'].map(
      (before) => [form, before] as const,
    ),
  ),
)("beside a strict function, arguments in the form %s after %j are bound in all layouts", async (form, before) => {
  const strict: ToolDefinition = { ...weather, function: { ...weather.function, strict: true } };
  const { constraint } = await plan({ tools: [strict, clock] }, { toolCallForm: form });
  if (!constraint) throw new Error("Expected answers to be bound");
  const key = form === "llama" ? "parameters" : "arguments";
  for (const { begin } of jsonStyles("weather", key)) {
    const text = `${before}${begin}{`;
    const allowed = await allowedAfter(constraint, vocabulary, Array.from(Buffer.from(text)));
    const texts = allowed.map((id) => textOf(vocabulary, [id]).trimStart());
    expect(new Set(texts.filter((one) => one !== "")), text).toEqual(new Set(['"']));
  }
});

test.each<readonly [ToolFields, string]>([
  [{ tool_choice: "required" }, "tool_choice"],
  [{ tools: [], tool_choice: { type: "function", function: { name: "a" } } }, "tool_choice"],
  [{ tools, tool_choice: { type: "function", function: { name: "a" } } }, "tool_choice"],
  [{ tools: [clock, clock] }, "tools"],
])("%j is refused for `%s`", async (fields, param) => {
  await expect(plan(fields)).rejects.toBeInstanceOf(ApiError);
  await expect(plan(fields)).rejects.toMatchObject({ status: 400, param });
});

test("answers are free if no tool can be called", async () => {
  for (const fields of [{}, { tools: null }, { tools, tool_choice: "none" }, { tool_choice: "auto" }] as const) {
    const { constraint, newParser, messages } = await plan(fields);
    expect([constraint, newParser, messages]).toEqual([undefined, undefined, [user]]);
  }
});

describe("the messages of a chat with tools", () => {
  const QWEN =
    "{%- if tools %}T:{{ tools | tojson }}{% endif %}{% for m in messages %}|{{ m.role }}:{{ m.content }}{% for c in m.tool_calls or [] %}[{{ c.function.name }} {{ c.function.arguments | tojson }}]{% endfor %}{% endfor %}";
  const PLAIN = "{% for m in messages %}|{{ m.role }}:{{ m.content }}{% endfor %}";
  const tokens = { bosToken: undefined, eosToken: undefined, unkToken: undefined, padToken: undefined };
  const knows = (source: string, toolUse?: string): boolean =>
    new ChatTemplate({ default: source, toolUse }, tokens).knowsTools;

  test("templates report whether they support tools", () => {
    const sources = [
      QWEN,
      PLAIN,
      "tools {{ messages }}",
      "{{ m['tools'] }}{% if 'tools' in m %}{{ m.tools }}{% endif %}",
    ];
    expect(sources.map((source) => knows(source))).toEqual([true, false, false, false]);
    expect(knows(PLAIN, QWEN)).toBe(true);
  });

  test("a template that supports tools gets definitions, and arguments as values", async () => {
    const { messages, template } = await plan(
      { tools, tool_choice: "none" },
      { chatTemplateKnowsTools: true, messages: history },
    );
    const text = new ChatTemplate(QWEN, tokens).render(messages, template);
    expect(text).toContain('"name": "weather"');
    expect(text).toContain('|assistant:[weather {"city": "Rom"}][clock {}]|tool:sunny');
  });

  test("other templates get definitions, calls and results as text", async () => {
    const { messages, template } = await plan({ tools }, { messages: history });
    const text = new ChatTemplate(PLAIN, tokens).render(messages, template);
    expect(text).toMatch(/^\|system:Be kind\n\nYou may call/);
    expect(text).toContain(`<tools>\n${JSON.stringify(weather)}\n`);
    expect(text).toContain(
      '|assistant:<tool_call>\n{"name": "weather", "arguments": {"city": "Rom"}}\n</tool_call>\n<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>' +
        "|user:<tool_response>\nsunny\n</tool_response>\n<tool_response>\nnoon\n</tool_response>",
    );
    const alone = await plan({ tools });
    expect(alone.messages.map(({ role }) => role)).toEqual(["system", "user"]);
  });
});

const compile = (fields: Parameters<typeof structuredOutput>[0]) => {
  const output = structuredOutput(fields);
  return output && compileOutput(output, grammars);
};
const isSchemas = (text: string): boolean => [1, 2].includes((JSON.parse(text) as { readonly a: number }).a);
const isObject = (text: string): boolean => typeof JSON.parse(text) === "object";

describe("a structured output", () => {
  const schema = { type: "object", properties: { a: { enum: [1, 2] } }, required: ["a"] };
  test("is absent where any text is allowed", () => {
    expect([structuredOutput({ response_format: { type: "text" } }), structuredOutput({ guided_json: null })]).toEqual([
      undefined,
      undefined,
    ]);
  });

  test.each<[string, Parameters<typeof structuredOutput>[0], (text: string) => boolean]>([
    ["response_format", { response_format: { type: "json_object" } }, isObject],
    ["response_format", { response_format: { type: "json_schema", json_schema: { name: "x", schema } } }, isSchemas],
    ["guided_json", { guided_json: schema }, isSchemas],
    ["guided_json as a text", { guided_json: JSON.stringify(schema) }, isSchemas],
    ["structured_outputs.json", { structured_outputs: { json: schema } }, isSchemas],
    ["structured_outputs.json_object", { structured_outputs: { json_object: true } }, isObject],
    ["guided_regex", { guided_regex: "[ab]{3}-\\d" }, (text) => /^[ab]{3}-\d$/.test(text)],
    ["structured_outputs.regex", { structured_outputs: { regex: "x+y" } }, (text) => /^x+y$/.test(text)],
    ["guided_choice", { guided_choice: ["yes", "no"] }, (text) => ["yes", "no"].includes(text)],
    [
      "structured_outputs.choice",
      { structured_outputs: { choice: ["a b", "é"] } },
      (text) => ["a b", "é"].includes(text),
    ],
    ["guided_grammar", { guided_grammar: 'root ::= "a" [0-9] "b"' }, (text) => /^a\db$/.test(text)],
    ["grammar", { grammar: 'root ::= ("x" | "y") "z"' }, (text) => /^[xy]z$/.test(text)],
    ["structured_outputs.grammar", { structured_outputs: { grammar: 'root ::= "q"' } }, (text) => text === "q"],
  ])("by %s constrains answers", async (_, fields, isRight) => {
    const constraint = await compile(fields);
    if (!constraint) throw new Error("Expected answers to be bound");
    for (const seed of [1, 2, 3]) {
      const { text } = await writeBound(constraint, vocabulary, seededRandom(seed), { patience: 5 });
      expect(text).toSatisfy(isRight);
    }
  });

  test.each<[Parameters<typeof structuredOutput>[0], string]>([
    [
      { response_format: { type: "json_schema", json_schema: { name: "x", schema: { not: {} } } } },
      "response_format.json_schema.schema",
    ],
    [{ guided_json: "{" }, "guided_json"],
    [{ guided_json: "[]" }, "guided_json"],
    [{ structured_outputs: { json: { not: {} } } }, "structured_outputs.json"],
    [{ guided_regex: "(?<=a)b" }, "guided_regex"],
    [{ grammar: 'root ::= "a' }, "grammar"],
  ])("that is wrong or not supported is refused: %j", async (fields, param) => {
    await expect(compile(fields)).rejects.toMatchObject({ status: 400, param });
  });

  test("beside another one is refused", () => {
    const two = { guided_regex: "a", response_format: { type: "json_object" } } as const;
    expect(() => structuredOutput(two)).toThrow(expect.objectContaining({ status: 400, param: "guided_regex" }));
  });
});

const ollamaCall = (city: string, id?: string) => ({
  ...(id === undefined ? {} : { id }),
  function: { name: "weather", arguments: { city } },
});
const ollamaResult = (content: string, tool_call_id?: string) => ({ role: "tool" as const, content, tool_call_id });
const called = (id: string, city: string) => ({
  id,
  type: "function",
  function: { name: "weather", arguments: JSON.stringify({ city }) },
});
const answered = (tool_call_id: string, content: string) => ({
  role: "tool",
  content,
  tool_call_id,
  name: undefined,
});

test("results of Ollama's API without ids belong to the calls in their order", () => {
  const said = [
    { role: "user" as const, content: "Weather?" },
    { role: "assistant" as const, tool_calls: [ollamaCall("Rome"), ollamaCall("Oslo", "own"), ollamaCall("Bern")] },
    ollamaResult("cold", "own"),
    ollamaResult("hot"),
    ollamaResult("mild"),
    { role: "assistant" as const, content: "And", tool_calls: [ollamaCall("Rome"), ollamaCall("Rome")] },
    ollamaResult("hotter"),
    ollamaResult("coldest"),
  ];
  expect(chatOf({ model: "tiny", messages: said }).messages).toStrictEqual([
    { role: "user", content: "Weather?" },
    {
      role: "assistant",
      content: null,
      tool_calls: [called("call_1_0", "Rome"), called("own", "Oslo"), called("call_1_2", "Bern")],
    },
    answered("own", "cold"),
    answered("call_1_0", "hot"),
    answered("call_1_2", "mild"),
    { role: "assistant", content: "And", tool_calls: [called("call_5_0", "Rome"), called("call_5_1", "Rome")] },
    answered("call_5_0", "hotter"),
    answered("call_5_1", "coldest"),
  ]);
  const tooMany = [...said, ollamaResult("one more")];
  expect(() => chatOf({ model: "tiny", messages: tooMany })).toThrow("messages[8]");
});
