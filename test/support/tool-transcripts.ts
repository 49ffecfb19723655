// Calls of tools in the forms of model families, and the lines of their chat templates that show the form.

import type { ToolCallForm } from "@readme-moe/core";

type Written = readonly [name: string, args: object];

/** Answers that models write beside what their templates write, which test/fixtures/tool-calls has. */
export interface Transcript {
  readonly family: string;
  /** Lines of the family's chat template, where no template is recorded. */
  readonly template?: string;
  readonly form: ToolCallForm | undefined;
  /** Answers with what they mean. */
  readonly answers: readonly { readonly text: string; readonly content?: string; readonly calls: readonly Written[] }[];
}

function schemaOf(types: Readonly<Record<string, string>>): object {
  const entries = Object.entries(types).map(([name, type]) => [name, { type, description: name }] as const);
  return { type: "object", properties: Object.fromEntries(entries) };
}

/** Schemas of the arguments of the functions that the transcripts call. */
export const TRANSCRIPT_TOOLS: ReadonlyMap<string, object> = new Map([
  ["get_weather", schemaOf({ city: "string", days: "integer" })],
  ["write_file", schemaOf({ path: "string", content: "string" })],
  ["search", schemaOf({ filter: "object", tags: "array", exact: "boolean" })],
  ["now", schemaOf({})],
]);

const rome: Written = ["get_weather", { city: "Rome", days: 2 }];
const oslo: Written = ["get_weather", { city: "Oslo" }];
const now: Written = ["now", {}];
const file: Written = ["write_file", { path: "a.py", content: 'if a < b:\n    print("}</tool_call>")\n' }];
const json = ([name, args]: Written, key = "arguments"): string => `{"name": "${name}", "${key}": ${pythonic(args)}}`;

/** Writes JSON with the blanks of Python's `json.dumps`. */
function pythonic(args: object): string {
  return `{${Object.entries(args)
    .map(([name, value]) => `${JSON.stringify(name)}: ${JSON.stringify(value)}`)
    .join(", ")}}`;
}
const hermes = (call: Written): string => `<tool_call>\n${json(call)}\n</tool_call>`;
const xmlRome =
  "<function=get_weather>\n<parameter=city>\nRome\n</parameter>\n<parameter=days>\n2\n</parameter>\n</function>";

export const TRANSCRIPTS: readonly Transcript[] = [
  {
    family: "Qwen 2.5, Qwen 3, Hermes",
    form: "hermes",
    answers: [
      { text: `<tool_call>\n${json(oslo)}`, calls: [oslo] },
      { text: `<tool_call>\n${json(oslo)}\n${json(now)}\n</tool_call>`, calls: [oslo, now] },
    ],
  },
  {
    family: "Qwen 2.5 Coder",
    form: "hermes",
    answers: [
      { text: `\`\`\`json\n${json(rome)}\n\`\`\``, calls: [rome] },
      { text: `\`\`\`json\n${JSON.stringify({ name: oslo[0], arguments: oslo[1] }, null, 2)}\n\`\`\``, calls: [oslo] },
      { text: json(file), calls: [file] },
      { text: `Sure!\n\n${json(rome)}\n${json(now)}`, content: "Sure!\n\n", calls: [rome, now] },
      { text: `<tools>\n${json(rome)}\n</tools>`, calls: [rome] },
      { text: `\`\`\`xml\n<tool_call>\n${json(rome)}\n</tool_call>\n\`\`\``, calls: [rome] },
      { text: `\`\`\`json\n[${json(rome)}, ${json(now)}]\n\`\`\`\nDone.`, content: "Done.", calls: [rome, now] },
      {
        text: `{"type": "function", "function": {"name": "now", "arguments": "{}"}}`,
        calls: [now],
      },
    ],
  },
  {
    family: "Llama 3.1, 3.2, 3.3",
    form: "llama",
    answers: [
      { text: `<|python_tag|>${json(rome, "parameters")}`, calls: [rome] },
      { text: `${json(rome, "parameters")}; ${json(oslo, "parameters")}`, calls: [rome, oslo] },
      { text: `{"type": "function", "name": "now", "parameters": {}}`, calls: [now] },
    ],
  },
  {
    family: "Mistral 7B v0.3, Nemo",
    form: "mistral",
    answers: [
      { text: `[TOOL_CALLS] [${json(rome).slice(0, -1)}, "id": "abcdef123"}, ${json(oslo)}]`, calls: [rome, oslo] },
      { text: `[${json(rome)}]`, calls: [rome] },
    ],
  },
  {
    family: "Qwen 3 Coder",
    form: "qwen-coder",
    answers: [
      { text: hermes(rome), calls: [rome] },
      // Without the first mark.
      { text: `I ask.\n\n${xmlRome}\n</tool_call>`, content: "I ask.\n\n", calls: [rome] },
      { text: `${xmlRome}\n<function=now>\n</function>`, calls: [rome, now] },
    ],
  },
  {
    family: "Granite 3",
    template: `{{- '<|tool_call|>' ~ message['tool_calls'] | tojson }}`,
    form: "granite",
    answers: [
      { text: `<|tool_call|>[${json(rome)}]`, calls: [rome] },
      { text: `<tool_call>[${json(rome)}, ${json(now)}]`, calls: [rome, now] },
      { text: `[${json(oslo)}]`, calls: [oslo] },
    ],
  },
  {
    family: "Phi-4 mini",
    template: `{{ '<|' + message['role'] + '|>' + message['content'] + '<|tool|>' + message['tools'] + '<|/tool|>' + '<|end|>' }}`,
    form: "phi",
    answers: [
      { text: `<|tool_call|>[${json(rome)}]<|/tool_call|>`, calls: [rome] },
      { text: `functools[${json(rome)}, ${json(oslo)}]`, calls: [rome, oslo] },
    ],
  },
  {
    family: "Gemma 3",
    template: `{{ '<start_of_turn>' + role + '\\n' }}`,
    form: undefined,
    answers: [
      { text: '```tool_code\nget_weather(city="Rome", days=2)\n```', calls: [rome] },
      { text: "```tool_code\nprint(get_weather(city='Oslo'))\n```", calls: [oslo] },
      { text: `\`\`\`tool_call\n${json(rome)}\n\`\`\``, calls: [rome] },
    ],
  },
  {
    family: "FunctionGemma",
    template: `{{- '<start_function_call>call:' + function['name'] + '{' }}`,
    form: "function-gemma",
    answers: [
      {
        text: "<start_function_call>call:get_weather{city:<escape>Rome<escape>,days:2}<end_function_call>",
        calls: [rome],
      },
    ],
  },
  {
    family: "OLMo 3",
    template: `{{- "<function_calls>\\n" + tool_call.name + "(" }}`,
    form: undefined,
    answers: [
      { text: "<function_calls>\nget_weather(city='Rome', days=2)\nnow()\n</function_calls>", calls: [rome, now] },
    ],
  },
  {
    family: "SmolLM2",
    form: undefined,
    answers: [{ text: `<tool_call>[${json(rome)}]</tool_call>`, calls: [rome] }],
  },
  {
    family: "LFM2",
    form: "lfm",
    answers: [
      {
        text: '<|tool_call_start|>[get_weather(city="Rome", days=2), now()]<|tool_call_end|>I ask.',
        content: "I ask.",
        calls: [rome, now],
      },
    ],
  },
  {
    family: "gpt-oss",
    form: "harmony",
    answers: [
      {
        text: '<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{"city": "Oslo"}<|call|>',
        calls: [oslo],
      },
      {
        text: '<|start|>assistant to=functions.get_weather<|channel|>commentary json<|message|>{"city": "Oslo"}<|call|>',
        calls: [oslo],
      },
    ],
  },
];

/** Texts that only look like calls, for the same functions. */
export const LOOKALIKES: readonly string[] = [
  '```json\n{"name": "my-app", "version": "1.0.0"}\n```\nThat is package.json.',
  '{"name": "Ann", "age": 5}',
  '{"name": "get_weather", "description": "Tells the weather", "parameters": {"type": "object"}}',
  '{"name": "get_weathers", "arguments": {}}',
  '{"name": "get_weather"}',
  "[1, 2, 3]",
  '[{"a": 1}]',
  "{",
  "[",
  "```python\nget_weather(city='Rome')\n```",
  "```\nnow()\n```",
  '```json\n{"a": [1, 2]}\n```',
  '```json\n{"name": "now", "arguments": {}} // a comment\n```',
  "Write `<tool_call>` and then JSON.",
  '<tool_call>\n{"name": "other", "arguments": {}}\n</tool_call>',
  "<tool_call>no JSON</tool_call> more",
  "a <tool_cal",
  "[TOOL_CALLS] is a mark of Mistral",
  "The functools module has functools.reduce and functools[0].",
  'Say {"name": "now", "arguments": {}} to ask for the time.',
  "<tools>\n</tools>",
  "<function=now>",
  "<function=now>{} and more",
  "Go to=functions.now with it",
  "if (a < b) { return [a, b]; }",
  '{"name": "now", "arguments": {"a": tru}}',
  '{"name": "now", "arguments": [1]}',
  '{"name": "now", "arguments": {}} is what I would write',
];
