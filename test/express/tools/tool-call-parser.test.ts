import { toolCallFormOf, type ToolCallForm } from "@readme-moe/core";
import { describe, expect, test } from "vitest";
import { callText } from "../../../packages/express/src/tools/call-forms.ts";
import { parsedArguments } from "../../../packages/express/src/tools/call-input.ts";
import {
  joinToolCalls,
  ToolCallParser,
  type ToolCallParserOptions,
} from "../../../packages/express/src/tools/tool-call-parser.ts";
import * as fc from "../../support/fast-check.ts";
import { golden } from "../../support/fixtures.ts";
import { RUNS_LONG_TESTS } from "../../support/long-tests.ts";
import { LOOKALIKES, TRANSCRIPT_TOOLS, TRANSCRIPTS } from "../../support/tool-transcripts.ts";

/** Texts that chat templates write for an assistant's turns; `null` for a turn that a template does not write. */
interface RecordedTemplates {
  readonly turns: readonly {
    readonly content: string;
    readonly calls: readonly { name: string; arguments: object }[];
  }[];
  readonly families: readonly {
    readonly template: string;
    readonly form?: ToolCallForm;
    /** Marks that the template has. */
    readonly marks: string;
    /** Text behind the turn. */
    readonly end: string;
    /** Texts of the turns. */
    readonly answers: readonly (string | null)[];
  }[];
}
const recorded = golden("tool-calls") as RecordedTemplates;

const FORMS = [...new Set([...TRANSCRIPTS, ...recorded.families].map(({ form }) => form))];

function parse(pieces: readonly string[], options: Partial<ToolCallParserOptions> = {}) {
  let count = 0;
  const parser = new ToolCallParser({
    tools: TRANSCRIPT_TOOLS,
    bound: "none",
    newId: () => `call_${count++}`,
    ...options,
  });
  const parts = [...pieces.map((piece) => parser.push(piece)), parser.end()];
  const deltas = parts.flatMap(({ toolCalls }) => toolCalls);
  const calls = joinToolCalls(deltas).map(({ function: { name, arguments: args } }) => [name, args] as const);
  const content = parts.map((part) => part.content).join("");
  return { content, calls, calledTools: parser.calledTools, isOver: parser.isOver, deltas };
}

/** Returns every place of a text, or every fifth one where tests have to be quick. */
function placesIn(text: string): readonly number[] {
  const places = Array.from(text, (_character, index) => index);
  return RUNS_LONG_TESTS ? places : places.filter((index) => index % 5 === text.length % 5);
}

/** Parses a text in one piece, and in all or random cuts, which have to give the same. */
function parseCut(text: string, options: Partial<ToolCallParserOptions> = {}, cuts?: readonly number[]) {
  const { deltas: _, ...whole } = parse([text], options);
  const places = cuts ?? placesIn(text);
  for (const at of places) expect(parse([text.slice(0, at), text.slice(at)], options)).toMatchObject(whole);
  const ends = [...new Set(places.filter((_place, index) => cuts !== undefined || index % 3 === 0))];
  const split = [...ends.toSorted((a, b) => a - b), text.length];
  const pieces = split.map((end, index) => text.slice(split[index - 1] ?? 0, end));
  for (const more of [pieces, text.split("")]) expect(parse(more, options)).toMatchObject(whole);
  return whole;
}

const parsed = (calls: readonly (readonly [string, string])[]) =>
  calls.map(([name, args]) => [name, JSON.parse(args) as object]);

describe.each(recorded.families)("the text of $template", ({ form, marks, end, answers }) => {
  const written = answers.flatMap((text, index) => {
    const { content = "", calls = [] } = recorded.turns[index] ?? {};
    return text === null ? [] : [{ text, content, calls: calls.map((call) => [call.name, call.arguments] as const) }];
  });

  test("is of the form that the template shows", () => {
    expect(toolCallFormOf(marks)).toBe(form);
    expect(written.length).toBeGreaterThan(2);
  });

  test.each(written)("is read in any cut, with and without the turn's end: $text", ({ text, content, calls }) => {
    for (const whole of [text, `${text}${end}`]) {
      const found = parseCut(whole, { form });
      expect(parsed(found.calls)).toEqual(calls);
      expect(found.content.replace(end.trim(), "").trim()).toBe(content);
      expect(found.calledTools).toBe(true);
    }
  });

  test.each(written)("has no wrong call wherever it ends: $text", ({ text, calls }) => {
    for (const at of placesIn(text)) {
      const found = parse([text.slice(0, at)], { form });
      expect(parsed(found.calls)).toEqual(calls.slice(0, found.calls.length));
      if (found.calls.length === 0) expect(found.content).toBe(text.slice(0, at));
    }
  });

  test("is content where no function has such a name", () => {
    const tools = new Map([["other", {}]]);
    for (const { text } of written) expect(parseCut(text, { form, tools })).toMatchObject({ content: text, calls: [] });
  });
});

test("a template that is not recorded shows its form", () => {
  for (const { template, form } of TRANSCRIPTS) if (template) expect(toolCallFormOf(template)).toBe(form);
});

describe.each(TRANSCRIPTS)("calls of $family", ({ form, answers }) => {
  test.each(answers)("are read in any cut of $text", ({ text, content = "", calls }) => {
    const found = parseCut(text, { form });
    expect({ ...found, calls: parsed(found.calls) }).toStrictEqual({
      content,
      calls,
      calledTools: true,
      isOver: false,
    });
  });

  test("become content where the function is not among the tools", () => {
    const tools = new Map([["other", {}]]);
    for (const { text } of answers) {
      expect(parseCut(text, { form, tools })).toMatchObject({ content: text, calls: [], calledTools: false });
    }
  });
});

test.each(LOOKALIKES)("text that only looks like a call stays as it is: %j", (text) => {
  for (const form of FORMS) {
    expect(parseCut(text, { form })).toMatchObject({ content: text, calls: [], calledTools: false });
  }
});

/** Lookalikes without an open list, which a call on the next line would belong to. */
const closed = LOOKALIKES.filter((text) => text !== "[");

/** Parts of an answer, and what they mean: text, or a call of the first tool. */
const segments = fc.array(
  fc.oneof(
    fc.constantFrom(...closed, "Hello", "<", "``", "`", "\\", '"', "}", "<|", "<tool_call", "é中").map((text) => ({
      text,
      args: undefined,
    })),
    fc
      .tuple(
        fc.constantFrom("hermes", "fence", "bare", "list", "tools"),
        fc.dictionary(fc.string(), fc.jsonValue({ maxDepth: 2 }), { maxKeys: 3 }),
      )
      .map(([style, args]) => ({ text: inStyle(style, JSON.stringify(args)), args })),
  ),
  { maxLength: 8 },
);

function inStyle(style: string, args: string): string {
  const call = `{"name": "now", "arguments": ${args}}`;
  switch (style) {
    case "hermes":
      return callText("now", args);
    case "fence":
      return `\`\`\`json\n${call}\n\`\`\``;
    case "list":
      return `[${call}]`;
    case "tools":
      return `<tools>${call}</tools>`;
    default:
      return call;
  }
}

test("calls are found between any other text, and the rest stays as it is, however the text is cut", () => {
  fc.assert(
    fc.property(segments, fc.array(fc.nat(), { maxLength: 6 }), (parts, cuts) => {
      // A line of its own for each part, since calls without marks begin a line.
      const text = parts.map((part) => `${part.text}\n`).join("");
      const found = parseCut(
        text,
        {},
        cuts.map((cut) => cut % (text.length + 1)),
      );
      let content = "";
      for (const [index, { text: own, args }] of parts.entries()) {
        // White space behind a call is left out.
        if (args === undefined) content += `${parts[index - 1]?.args === undefined ? own : own.trimStart()}\n`;
      }
      expect(found.content).toBe(content);
      expect(parsed(found.calls)).toEqual(parts.flatMap(({ args }) => (args ? [["now", args]] : [])));
    }),
    { numRuns: RUNS_LONG_TESTS ? 1500 : 500 },
  );
});

const MARKS =
  '<tool_call> </tool_call> <tool {} } [ ] " \\ ``` json [TOOL_CALLS] now [ARGS] now( a=1 ) <function=now> </function> ' +
  "<parameter=a> </parameter> <arg_key> </arg_key> <|tool_call|> <｜tool▁call▁begin｜> <｜tool▁sep｜> <|message|> call:now{ " +
  "<escape> : , ; ' True";
const noise = fc.constantFrom(
  ...MARKS.split(" "),
  '{"name": "now", "arguments": ',
  "\n",
  " ",
  "```json\n",
  "<|channel|>commentary to=functions.",
);

test.each(["none", "own", "all"] as const)("the cut of a text does not change the result (bound: %s)", (bound) => {
  fc.assert(
    fc.property(
      fc.array(noise, { maxLength: 14, size: "max" }),
      fc.array(fc.nat(), { maxLength: 6 }),
      fc.constantFrom(...FORMS),
      fc.boolean(),
      (parts, cuts, form, isSingle) => {
        const text = parts.join("");
        const places = cuts.map((cut) => cut % (text.length + 1));
        const { calls } = parseCut(text, { form, bound, isSingle }, places);
        for (const [name, args] of calls) {
          expect(TRANSCRIPT_TOOLS.has(name)).toBe(true);
          if (bound === "none") expect(parsedArguments(args)).toBeDefined();
        }
        if (isSingle) expect(calls.length).toBeLessThan(2);
      },
    ),
    { numRuns: RUNS_LONG_TESTS ? 1500 : 500 },
  );
});

/** Texts that could be read again whenever they grow: a head, and a part that is repeated. */
const REPEATED: Readonly<Record<string, readonly [head: string, part: string, form?: ToolCallForm]>> = {
  "begin marks": ["", "<tool_call>"],
  "end marks within a call": ["<tool_call>", "</tool_call>"],
  "end marks within a string": ['<tool_call>{"name": "now", "arguments": {"a": "', "</tool_call>"],
  "blanks within a call": ["<tool_call>", " "],
  "brackets of objects": ["", "{"],
  "brackets of lists": ["", "[\n"],
  "bracketed lines": ["", '{"name": "x"}\n'],
  "a long name": ['<tool_call>{"name": "', "a"],
  "a long key": ['{"', "a"],
  "lookalikes without arguments": ["", '{"name": "now"}\n'],
  "functions in each other": ["", '{"function": '],
  fences: ["", "```"],
  "fences with blanks": ["```json", "\n"],
  "open fences": ["", '```json\n{"name": "now", "arguments": {}}\n'],
  "values without an end": ['{"name": "now", "arguments": ', '{"a": ['],
  escapes: ['{"name": "now", "arguments": {"a": "', '\\"'],
  "line breaks in a string": ['{"name": "now", "arguments": {"a": "', "\n"],
  "values of XML": ["<tool_call><function=now><parameter=a>", "</paramete", "qwen-coder"],
  "parameters of XML": ["<tool_call><function=now>", "<parameter=a>1</parameter>", "qwen-coder"],
  pairs: ["<tool_call>now", "<arg_key>a</arg_key><arg_value>1</arg_value>", "glm"],
  "brackets in Python": ["<|tool_call_start|>[now(a=", "(", "lfm"],
  "strings in Python": ["<|tool_call_start|>[now(a=", "'\\'", "lfm"],
  "words in Python": ["<|tool_call_start|>[now(", "aaaa", "lfm"],
  "quotes of Gemma": ["<start_function_call>call:now{", "<escape>a", "function-gemma"],
  "words of Gemma": ["<start_function_call>call:now{", "aa bb", "function-gemma"],
  "headers of gpt-oss": ["<|channel|>commentary to=functions.now", " <|constrain|>", "harmony"],
  "calls of DeepSeek": ["<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>now<｜tool▁sep｜>{}", "deepseek"],
};

describe.each(Object.entries(REPEATED))("many %s", (_, [head, part, form]) => {
  test.each([
    ["none", RUNS_LONG_TESTS ? 1_000_000 : 300_000],
    ["all", 100_000],
  ] as const)("are read one character at a time (bound: %s, characters: %i)", (bound, length) => {
    const text = head + part.repeat(Math.ceil(length / part.length));
    const parser = new ToolCallParser({ form, tools: TRANSCRIPT_TOOLS, bound, newId: () => "" });
    const found = { content: 0, calls: 0 };
    const count = ({ content, toolCalls }: ReturnType<ToolCallParser["push"]>): void => {
      found.content += content.length;
      found.calls += toolCalls.filter(({ id }) => id !== undefined).length;
    };
    // A parser that reads what it holds back again for each character would take hours.
    for (let at = 0; at < text.length; at++) count(parser.push(text.charAt(at)));
    count(parser.end());
    const whole = parse([text], { form, bound });
    expect(found).toStrictEqual({ content: whole.content.length, calls: whole.calls.length });
    expect(whole.content === text || whole.calls.length > 0 || bound !== "none").toBe(true);
  });
});

describe("a bound call", () => {
  test("is passed on as its arguments arrive; id, type and name only once", () => {
    const pieces = ['<tool_call>\n{"name": "now", "argu', 'ments": {"a"', ": 1}", "}\n</tool_call>"];
    const { deltas, calledTools } = parse(pieces, { bound: "own" });
    expect(deltas).toEqual([
      { index: 0, id: "call_0", type: "function", function: { name: "now", arguments: "" } },
      { index: 0, function: { arguments: '{"a"' } },
      { index: 0, function: { arguments: ": 1}" } },
    ]);
    expect(calledTools).toBe(true);
  });

  test("that is cut short is passed on, but does not count as a call", () => {
    const { calls, calledTools } = parse([callText("now", '{"a": "b"}').slice(0, -16)], { bound: "own" });
    expect(calls).toEqual([["now", '{"a": "b']]);
    expect(calledTools).toBe(false);
  });

  test("that is cut short before its arguments is no content", () => {
    const found = parse(['I look. <tool_call>\n{"name": "n'], { bound: "own" });
    expect(found).toMatchObject({ content: "I look. ", calls: [], calledTools: false });
  });

  test("is read only as the grammar writes it", () => {
    const text = '{"arguments": {}, "name": "now"}';
    expect(parse([text], { bound: "all" })).toMatchObject({ content: text, calls: [] });
    expect(parse([text], { bound: "own" })).toMatchObject({ content: "", calls: [["now", "{}"]] });
  });

  test.each([
    '{"name": "now", "arguments": {"a": 1}}',
    '{"name":"now","arguments":{"a": 1}}',
    '{\n  "name": "now",\n  "arguments": {"a": 1}\n}',
    '{\n    "name": "now",\n    "arguments": {"a": 1}\n}',
  ])("without marks is taken out of a block of code: %j", (call) => {
    const found = parseCut(`I look.\n\`\`\`json\n${call}\n\`\`\`\nDone.`, { bound: "all" });
    expect(found).toMatchObject({ content: "I look.\nDone.", calls: [["now", '{"a": 1}']], calledTools: true });
  });
});

test("an answer with a single call ends behind it, and tells when the model goes on", () => {
  const text = `${callText("now", "{}")}\n`;
  const options = { isSingle: true } as const;
  expect(parseCut(text, options)).toMatchObject({ content: "", calls: [["now", "{}"]], isOver: false });
  for (const more of ["I wait.", callText("now", "{}")]) {
    expect(parseCut(text + more, options)).toMatchObject({ content: "", calls: [["now", "{}"]], isOver: true });
  }
  expect(parseCut('```json\n[{"name": "now"}]\n```', options)).toMatchObject({ calls: [] });
});

test("line breaks and tabs in strings need no escape", () => {
  const found = parseCut('{"name": "write_file", "arguments": {"content": "a\n\tb"}}');
  expect(parsed(found.calls)).toEqual([["write_file", { content: "a\n\tb" }]]);
});

test("arguments that are nested too deeply to be written make no call", () => {
  const deep = `${"[".repeat(100_000)}${"]".repeat(100_000)}`;
  for (const [form, call] of [
    ["hermes", `{"name": "search", "arguments": {"tags": ${deep}}}`],
    ["qwen-coder", `<function=search>\n<parameter=tags>\n${deep}\n</parameter>\n</function>`],
    ["glm", `search\n<arg_key>tags</arg_key>\n<arg_value>${deep}</arg_value>`],
  ] as const) {
    const text = `<tool_call>\n${call}\n</tool_call>`;
    expect(parse([text], { form })).toMatchObject({ content: text, calls: [] });
    expect(parsedArguments(`{"tags": ${deep}}`)).toBeUndefined();
  }
});
