// Calls of tools in the forms of model families, and the lines of their chat templates that show the form.

import type { ToolCallForm } from "@readme-moe/core";

type Written = readonly [name: string, args: object];

export interface Transcript {
  readonly family: string;
  /** Lines of the family's chat template. */
  readonly template: string;
  readonly form: ToolCallForm | undefined;
  /** Answers with what they mean. */
  readonly answers: readonly { readonly text: string; readonly content?: string; readonly calls: readonly Written[] }[];
}

/** Schemas of the arguments of the functions that the transcripts call. */
export const TRANSCRIPT_TOOLS: ReadonlyMap<string, object> = new Map([
  ["get_weather", { type: "object", properties: { city: { type: "string" }, days: { type: "integer" } } }],
  ["write_file", { type: "object", properties: { path: { type: "string" }, content: { type: "string" } } }],
  ["now", { type: "object", properties: {} }],
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

export const TRANSCRIPTS: readonly Transcript[] = [
  {
    family: "Qwen 2.5, Qwen 3, Hermes",
    template: `within <tool_call></tool_call> XML tags:\\n<tool_call>\\n{\\"name\\": <function-name>, \\"arguments\\": <args-json-object>}\\n</tool_call>`,
    form: "hermes",
    answers: [
      { text: hermes(rome), calls: [rome] },
      { text: `I look.\n${hermes(rome)}\n${hermes(now)}`, content: "I look.\n", calls: [rome, now] },
      { text: hermes(file), calls: [file] },
      { text: `<tool_call>\n${json(oslo)}`, calls: [oslo] },
      { text: `<tool_call>\n${json(oslo)}\n${json(now)}\n</tool_call>`, calls: [oslo, now] },
    ],
  },
  {
    family: "Qwen 2.5 Coder",
    template: `<tools>\\n</tools> … <tool_call>\\n{\\"name\\": <function-name>`,
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
    template: `{{- 'Respond in the format {"name": function name, "parameters": dictionary of argument name and its value}.' }}{{- '"parameters": ' }}`,
    form: "llama",
    answers: [
      { text: json(rome, "parameters"), calls: [rome] },
      { text: `<|python_tag|>${json(rome, "parameters")}`, calls: [rome] },
      { text: `${json(rome, "parameters")}; ${json(oslo, "parameters")}`, calls: [rome, oslo] },
      { text: `{"type": "function", "name": "now", "parameters": {}}`, calls: [now] },
    ],
  },
  {
    family: "Mistral 7B v0.3, Nemo",
    template: `{{- "[TOOL_CALLS][" }}{{- ', "id": "' + tool_call.id + '"}' }}`,
    form: "mistral",
    answers: [
      { text: `[TOOL_CALLS][${json(rome)}]`, calls: [rome] },
      { text: `[TOOL_CALLS] [${json(rome).slice(0, -1)}, "id": "abcdef123"}, ${json(oslo)}]`, calls: [rome, oslo] },
      { text: `[${json(rome)}]`, calls: [rome] },
    ],
  },
  {
    family: "Mistral Small 3.2, Ministral 3",
    template: `{{- '[TOOL_CALLS]' + tool.function.name + '[ARGS]' + arguments }}`,
    form: "mistral-named",
    answers: [
      { text: `[TOOL_CALLS]get_weather[ARGS]${pythonic(rome[1])}`, calls: [rome] },
      {
        text: `[TOOL_CALLS]get_weather[CALL_ID]a1b2c3d4e[ARGS]{"city": "Oslo"}[TOOL_CALLS]now[ARGS]{}`,
        calls: [oslo, now],
      },
    ],
  },
  {
    family: "Qwen 3 Coder",
    template: `<tool_call>\\n<function=example_function_name>\\n<parameter=example_parameter_1>\\nvalue_1\\n</parameter>`,
    form: "qwen-coder",
    answers: [
      {
        text: "Let me see.\n<tool_call>\n<function=get_weather>\n<parameter=city>\nRome\n</parameter>\n<parameter=days>\n2\n</parameter>\n</function>\n</tool_call>",
        content: "Let me see.\n",
        calls: [rome],
      },
      {
        text: `<tool_call>\n<function=write_file>\n<parameter=path>\na.py\n</parameter>\n<parameter=content>\n${(file[1] as { content: string }).content}\n</parameter>\n</function>\n</tool_call>\n<tool_call>\n<function=now>\n</function>\n</tool_call>`,
        calls: [file, now],
      },
      { text: hermes(rome), calls: [rome] },
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
    family: "Gemma 4",
    template: `{{- '<|tool_call>call:' + function['name'] + '{' }}`,
    form: "gemma",
    answers: [{ text: '<|tool_call>call:get_weather{city:<|"|>Rome<|"|>,days:2}<tool_call|>', calls: [rome] }],
  },
  {
    family: "SmolLM2",
    template: `{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' }}`,
    form: undefined,
    answers: [{ text: `<tool_call>[${json(rome)}]</tool_call>`, calls: [rome] }],
  },
  {
    family: "SmolLM3",
    template: `{{- '<tool_call>\\n{"name": <function-name>, "arguments": <args-json-object>}\\n</tool_call>' }}`,
    form: "hermes",
    answers: [{ text: hermes(rome), calls: [rome] }],
  },
  {
    family: "DeepSeek V3, R1",
    template: `{{'<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>' + tool['type'] + '<｜tool▁sep｜>' + tool['function']['name']}}`,
    form: "deepseek",
    answers: [
      {
        text: `<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n\`\`\`json\n${pythonic(rome[1])}\n\`\`\`<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n\`\`\`json\n{}\n\`\`\`<｜tool▁call▁end｜><｜tool▁calls▁end｜>`,
        calls: [rome, now],
      },
      {
        text: `Hm.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{"city": "Oslo"}<｜tool▁call▁end｜><｜tool▁calls▁end｜>`,
        content: "Hm.",
        calls: [oslo],
      },
    ],
  },
  {
    family: "GLM 4.5",
    template: `<tool_call>{function-name}\\n<arg_key>{arg-key-1}</arg_key>\\n<arg_value>{arg-value-1}</arg_value>`,
    form: "glm",
    answers: [
      {
        text: "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Rome</arg_value>\n<arg_key>days</arg_key>\n<arg_value>2</arg_value>\n</tool_call>\n<tool_call>now\n</tool_call>",
        calls: [rome, now],
      },
    ],
  },
  {
    family: "LFM2",
    template: `{{- "<|tool_call_start|>" + tool_calls + "<|tool_call_end|>" }}`,
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
    template: `{{- "<|start|>assistant to=functions." + name + "<|channel|>commentary json<|message|>" }}<|constrain|>`,
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
  "if (a < b) { return [a, b]; }",
  '{"name": "now", "arguments": {"a": tru}}',
  '{"name": "now", "arguments": [1]}',
  '{"name": "now", "arguments": {}} is what I would write',
];
