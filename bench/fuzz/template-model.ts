// A copy of a model with a chat template, without which it rejects every chat, and with marks to fill gaps with.

import { cp, mkdtemp, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, join, resolve } from "node:path";

/** Template that reads all parts of a message, and optional variables. */
const TEMPLATE = `{%- if tools %}{% for tool in tools %}{{ tool | tojson }}
{% endfor %}{% endif -%}
{%- if enable_thinking is defined and enable_thinking %}think {% endif -%}
{%- for document in documents or [] %}{{ document.title }}: {{ document.text }}
{% endfor -%}
{%- for message in messages -%}
{{ message.role | upper if shout else message.role }}: {% if message.content is string %}{{ message.content | trim }}{% else %}{% for part in message.content or [] %}{{ part.text }}{% endfor %}{% endif %}
{%- for call in message.tool_calls or [] %}<tool_call>{{ call.function.name }} {{ call.function.arguments | tojson }}</tool_call>{% endfor %}
{% endfor -%}
{%- if add_generation_prompt %}assistant: {% endif -%}`;

const MARKS = ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|file_sep|>", "<|repo_name|>"];

/** Parts of a tokenizer.json with byte pairs. */
interface TokenizerFile {
  readonly added_tokens: readonly object[];
  readonly model: { readonly vocab: Readonly<Record<string, number>>; readonly merges?: readonly unknown[] };
}

/** Puts marks in the place of the tokens of the last merges, which no other merge needs. */
function withMarks(file: TokenizerFile): object {
  const { vocab, merges = [] } = file.model;
  const byId = Object.entries(vocab).toSorted(([, a], [, b]) => a - b);
  const [kept, replaced] = [byId.slice(0, -MARKS.length), byId.slice(-MARKS.length)];
  const flags = { special: false, normalized: false, single_word: false, lstrip: false, rstrip: false };
  const marks = replaced.map(([, id], index) => ({ id, content: MARKS[index], ...flags }));
  const model = { ...file.model, vocab: Object.fromEntries(kept), merges: merges.slice(0, -MARKS.length) };
  return { ...file, added_tokens: [...file.added_tokens, ...marks], model };
}

export interface TemplateModel extends AsyncDisposable {
  readonly path: string;
}

export async function withTemplate(model: string): Promise<TemplateModel> {
  const has = await stat(join(model, "chat_template.jinja")).catch(() => undefined);
  if (has) return { path: model, [Symbol.asyncDispose]: () => Promise.resolve() };
  const folder = await mkdtemp(join(tmpdir(), "readme-moe-fuzz-"));
  const path = join(folder, basename(resolve(model)));
  await cp(model, path, { recursive: true });
  await writeFile(join(path, "chat_template.jinja"), TEMPLATE);
  const tokenizer = join(path, "tokenizer.json");
  await writeFile(tokenizer, JSON.stringify(withMarks(JSON.parse(await readFile(tokenizer, "utf8")) as TokenizerFile)));
  return { path, [Symbol.asyncDispose]: () => rm(folder, { recursive: true, force: true }) };
}
