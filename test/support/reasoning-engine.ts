// A tiny model whose vocabulary has the marks of reasoning.

import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { ReadMeEngine } from "@readme-moe/engine";
import { writeReadingModel } from "./reading-model.ts";

/** Ids of `<think>` and `</think>`. */
export const [THINK_ID, END_ID] = [4096, 4097];

const TEMPLATE = `{% for m in messages %}[{{ m.role }}] {% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content }}
{% endfor %}{% if add_generation_prompt %}[assistant]{% if enable_thinking is defined and not enable_thinking %}<think>

</think>

{% elif opens %}<think>
{% endif %}{% endif %}`;

interface TokenizerFile {
  added_tokens: object[];
}

/** Template that writes messages as gpt-oss' does: the first call of a message alone, with the reasoning before it. */
export const CHANNELS_TEMPLATE = `{% set last = namespace(name=none) %}{% for m in messages %}{% if m.role == "assistant" and m.tool_calls %}{% if m.content and m.thinking %}{{ raise_exception("both content and thinking") }}{% elif m.content or m.thinking %}<|start|>assistant<|channel|>analysis<|message|>{{ m.content or m.thinking }}<|end|>{% endif %}{% set call = m.tool_calls[0].function %}<|start|>assistant to=functions.{{ call.name }}<|channel|>commentary json<|message|>{{ call.arguments | tojson }}<|call|>{% set last.name = call.name %}{% elif m.role == "assistant" %}<|start|>assistant<|channel|>final<|message|>{{ m.content }}<|end|>{% elif m.role == "tool" %}<|start|>functions.{{ last.name }} to=assistant<|channel|>commentary<|message|>{{ m.content | tojson }}<|end|>{% else %}<|start|>{{ m.role }}<|message|>{% if loop.first %}Reasoning: {{ reasoning_effort or "medium" }}. {{ (tools or []) | length }} tools. {% endif %}{{ m.content }}<|end|>{% endif %}{% endfor %}{% if add_generation_prompt %}<|start|>assistant{% endif %}`;

/** Opens the model. Its prompts open the reasoning where the template's variable `opens` is true. */
export async function openReasoningEngine(folder: string, template = TEMPLATE): Promise<ReadMeEngine> {
  const path = join(folder, template === TEMPLATE ? "reasoning" : "channels");
  await writeReadingModel(path, { vocabSize: 4098, config: { max_position_embeddings: 4096 } });
  const file = join(path, "tokenizer.json");
  const tokenizer = JSON.parse(await readFile(file, "utf8")) as TokenizerFile;
  const flags = { special: false, normalized: false, single_word: false, lstrip: false, rstrip: false };
  tokenizer.added_tokens.push(
    { id: THINK_ID, content: "<think>", ...flags },
    { id: END_ID, content: "</think>", ...flags },
  );
  await writeFile(file, JSON.stringify(tokenizer));
  await writeFile(join(path, "chat_template.jinja"), template);
  return ReadMeEngine.open(path, { precision: "fp32", isolation: "thread", threads: 1 });
}
