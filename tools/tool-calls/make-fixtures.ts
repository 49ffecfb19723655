// Records what chat templates write for an assistant's turns with calls of tools. Templates are the families' own, as
// llama.cpp keeps them in models/templates. Run by hand, with this folder:
//
//   npm run --silent node -- tools/tool-calls/make-fixtures.ts FOLDER > test/fixtures/tool-calls/golden.json

import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { ChatMessage } from "@readme-moe/core";
import { ChatTemplate } from "@readme-moe/model";
import { TRANSCRIPT_TOOLS } from "../../test/support/tool-transcripts.ts";

/** Template of a family, and the texts around an assistant's turn. */
interface Recorded {
  readonly file: string;
  readonly start: string;
  readonly end: string;
  /** Turn, by its place, of which the template writes something else. @default none */
  readonly omits?: number;
}

const CHATML = { start: "<|im_start|>assistant\n", end: "<|im_end|>\n" };
const LLAMA = { start: "<|start_header_id|>assistant<|end_header_id|>\n\n", end: "<|eot_id|>" };
const MISTRAL = { start: "[/INST]", end: "</s>" };
const DEEPSEEK = { start: "<｜Assistant｜>", end: "<｜end▁of▁sentence｜>" };

const TEMPLATES: readonly Recorded[] = [
  { file: "Qwen-Qwen2.5-7B-Instruct.jinja", ...CHATML },
  { file: "Qwen-Qwen3-0.6B.jinja", ...CHATML, start: `${CHATML.start}<think>\n\n</think>\n\n` },
  { file: "Qwen3-Coder.jinja", ...CHATML },
  { file: "NousResearch-Hermes-3-Llama-3.1-8B-tool_use.jinja", ...CHATML },
  { file: "meta-llama-Llama-3.1-8B-Instruct.jinja", ...LLAMA },
  { file: "meetkai-functionary-medium-v3.1.jinja", ...LLAMA, end: "<|eom_id|>" },
  { file: "fireworks-ai-llama-3-firefunction-v2.jinja", ...LLAMA },
  { file: "mistralai-Mistral-Nemo-Instruct-2407.jinja", ...MISTRAL },
  { file: "Mistral-Small-3.2-24B-Instruct-2506.jinja", ...MISTRAL },
  { file: "mistralai-Ministral-3-14B-Reasoning-2512.jinja", ...MISTRAL },
  {
    file: "ibm-granite-granite-4.0.jinja",
    start: "<|start_of_role|>assistant<|end_of_role|>",
    end: "<|end_of_text|>\n",
  },
  // Text beside a call is reasoning.
  { file: "NVIDIA-Nemotron-Nano-v2.jinja", start: "<SPECIAL_11>Assistant\n", end: "<SPECIAL_12>\n", omits: 2 },
  { file: "MiniMax-M1.jinja", start: "<beginning_of_sentence>ai name=assistant\n", end: "<end_of_sentence>\n" },
  { file: "llama-cpp-deepseek-r1.jinja", ...DEEPSEEK },
  { file: "deepseek-ai-DeepSeek-V3.1.jinja", ...DEEPSEEK, start: "</think>" },
  { file: "GLM-4.6.jinja", start: "<|assistant|>\n<think></think>\n", end: "" },
  { file: "GLM-4.7-Flash.jinja", start: "<|assistant|></think>", end: "" },
  // Strings have no escapes.
  { file: "LFM2.5-8B-A1B.jinja", ...CHATML, omits: 3 },
  { file: "google-gemma-4-31B-it.jinja", start: "<|turn>model\n", end: "<|tool_response>" },
  // Text beside a call is reasoning.
  { file: "openai-gpt-oss-120b.jinja", start: "<|start|>assistant", end: "<|call|>", omits: 2 },
];

const ROME = { name: "get_weather", arguments: { city: "Rome", days: 2 } };
const NOW = { name: "now", arguments: {} };
const TURNS = [
  { content: "", calls: [ROME] },
  { content: "", calls: [ROME, NOW] },
  { content: "I look.", calls: [NOW] },
  {
    content: "",
    calls: [
      {
        name: "write_file",
        arguments: { path: "a b.py", content: 'if a < b:\n\tprint("{é中😀}</tool_call>\\n")\n' },
      },
    ],
  },
  {
    content: "",
    calls: [
      {
        name: "search",
        arguments: {
          filter: { name: 'x "y"', limits: [1, -2.5], deep: { none: {} } },
          tags: ["a", "b'c"],
          exact: true,
        },
      },
    ],
  },
];

const QUESTION = "Which one?";
const [, , folder = ""] = process.argv;
const token = (text: string) => ({ text, id: 0 });
const names = { bosToken: token("<s>"), eosToken: token("</s>"), unkToken: undefined, padToken: undefined };

/** Returns the text of an assistant's turn; `undefined` for one that the template refuses, or writes in part. */
function written(template: ChatTemplate, { start, end }: Recorded, { content, calls }: (typeof TURNS)[0]) {
  const toolCalls = calls.map((call, index) => ({ id: `abcdefgh${index}`, type: "function", function: call }));
  const messages: ChatMessage[] = [
    { role: "user", content: QUESTION },
    { role: "assistant", content, tool_calls: toolCalls },
  ];
  const tools = calls.map(({ name }) => ({
    type: "function",
    function: { name, description: name, parameters: TRANSCRIPT_TOOLS.get(name) },
  }));
  let text: string;
  try {
    text = template.render(messages, { tools, datetime: "now", functions: "", addGenerationPrompt: false });
  } catch (error) {
    process.stderr.write(`${String(error)}\n`);
    return undefined;
  }
  const asked = text.indexOf(QUESTION);
  const from = text.indexOf(start, asked) + start.length;
  const to = text.lastIndexOf(end);
  if (asked < 0 || from < start.length || to < from) throw new Error(`Expected ${start} and ${end} in ${text}`);
  const isWhole = [content, ...calls.map(({ name }) => name)].every((part) => text.includes(part, from));
  // Calls of templates that take one are several turns.
  const isOneTurn = !text.slice(from, to).includes(start);
  return isWhole && isOneTurn ? text.slice(from, to) : undefined;
}

const MARKS = /<[^<>\s]*(?:tool|call|func|arg_|channel)[^<>\s]*>|\[(?:TOOL_CALLS|ARGS)\]|"parameters": |functools/g;

const families = TEMPLATES.map((recorded) => {
  const source = readFileSync(join(folder, recorded.file), "utf8");
  const template = new ChatTemplate(source, names);
  const answers = TURNS.map((turn, index) =>
    index === recorded.omits ? null : (written(template, recorded, turn) ?? null),
  );
  const marks = [...new Set(source.match(MARKS))].toSorted().join(" ");
  return { template: recorded.file, form: template.toolCallForm, marks, end: recorded.end, answers };
});
const source = "models/templates of llama.cpp in llama_cpp_python 0.3.36, rendered by ChatTemplate";
console.log(JSON.stringify({ source, turns: TURNS, families }, null, 2));
