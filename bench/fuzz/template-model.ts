// A copy of a model with a chat template: models without one reject every chat.

import { cp, mkdtemp, rm, stat, writeFile } from "node:fs/promises";
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
  return { path, [Symbol.asyncDispose]: () => rm(folder, { recursive: true, force: true }) };
}
