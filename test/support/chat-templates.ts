// Chat templates in the styles of several models, and tokenizers with control tokens.

import type { JsonObject } from "../../packages/model/src/files/read-file.ts";
import type { TokenizerSource } from "../../packages/model/src/text/tokenizer.ts";
import { bpeModel, byteLevelDefinition, byteLevelTokens } from "./tokenizer-definitions.ts";

/** Control tokens of a template. */
export interface TemplateTokens {
  readonly start: string;
  readonly end: string;
}

/** Makes templates by their peculiarities, with these control tokens. */
export function chatTemplates({ start, end }: TemplateTokens): Readonly<Record<string, string>> {
  const answer = `{% if add_generation_prompt %}{{ '${start}assistant\n' }}{% endif %}`;
  return {
    // SmolLM2, Qwen 2: strings joined with `+`.
    chatml: `{% for message in messages %}{{ '${start}' + message['role'] + '\n' + message['content'] + '${end}' + '\n' }}{% endfor %}${answer}`,
    // Llama 3: contents are trimmed, and follow the BOS token.
    trimming: `{{ bos_token }}{% for m in messages %}{{ '${start}' + m.role + '${end}\n\n' + m.content | trim + '${end}' }}{% endfor %}${answer}`,
    // Gemma 3: parts one after another, each trimmed.
    parts: `{% for message in messages %}${start}{{ message.role }}
{% if message.content is string %}{{ message.content | trim }}{% else %}{% for item in message.content %}{{ item.text | trim }}{% endfor %}{% endif %}${end}
{% endfor %}${answer}`,
    // The template has half of a control token's spelling, the role the other half.
    "halves around the role": `{% for m in messages %}{{ '${start.slice(0, 2)}' + m.role + '${end.slice(-1)}' + m.content }}{{ '${start.slice(0, -1)}' }}{{ m.content }}{% endfor %}`,
    // Qwen 3: looks into contents, splits them, and writes tools as JSON.
    qwen3: `{% if tools %}${start}system\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}${end}\n{% endif %}
{%- for message in messages %}{% set content = message.content if message.content is string else '' %}
{%- if message.role == "assistant" %}{% set reasoning = '' %}{% if '</think>' in content %}{% set reasoning = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}{% set content = content.split('</think>')[-1].lstrip('\\n') %}{% endif %}
{{- '${start}assistant\n<think>\n' + reasoning + '\n</think>\n\n' + content }}{% if message.tool_calls %}{% for call in message.tool_calls %}<tool_call>{{ call.function.name }} {{ call.function.arguments if call.function.arguments is string else call.function.arguments | tojson }}</tool_call>{% endfor %}{% endif %}{{ '${end}\n' }}
{%- elif message.role == "tool" %}{{ '${start}user\n<tool_response>\n' + content + '\n</tool_response>${end}\n' }}
{%- else %}{% if not (content.startswith('<tool_response>') and content.endswith('</tool_response>')) %}{{ '${start}' + message.role + (' name=' + message.name if message.name else '') + '\n' + content + '${end}\n' }}{% else %}{{ '${start}old' + content + '${end}' }}{% endif %}{% endif %}
{%- endfor %}{{ style }}${answer}`,
    // The tests' served model: no control tokens.
    plain:
      "{% for message in messages %}[{{ message.role }}] {{ message.content }}\n{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}",
  };
}

function controlToken(content: string, id: number): JsonObject {
  return { content, id, special: true, normalized: false };
}

function ordinaryToken(content: string, id: number): JsonObject {
  return { content, id, special: false, normalized: false };
}

/** Makes tokenizers with control tokens beside ordinary ones, made by merges, and searched for in normalized text. */
export function chatTokenizers(): (TokenizerSource & { readonly name: string })[] {
  const merges = ["< |", "<| i", "<|i m", "| >", "< /", "</ s", "</s >", "s >", "< s", "<s >", "Ġ Ġ", "h e", "l l"];
  const tokens = byteLevelTokens(merges);
  const chatml = [controlToken("<|im_end|>", 900), controlToken("<|im_start|>", 901), controlToken("<|im_|>", 902)];
  return [
    {
      name: "beside ordinary tokens",
      path: "test",
      tokenizer: byteLevelDefinition([], {
        model: bpeModel(tokens, merges),
        added_tokens: [
          ...chatml,
          ordinaryToken("<think>", 903),
          ordinaryToken("</think>", 904),
          ordinaryToken("\n\n", 905),
        ],
      }),
    },
    {
      name: "made by merges",
      path: "test",
      tokenizer: byteLevelDefinition([], {
        model: bpeModel(tokens, merges),
        added_tokens: [controlToken("<s>", tokens.indexOf("<s>")), controlToken("</s>", tokens.indexOf("</s>"))],
      }),
    },
    {
      name: "normalized",
      path: "test",
      tokenizer: byteLevelDefinition([], {
        model: bpeModel(tokens, merges),
        normalizer: { type: "NFKC" },
        added_tokens: chatml.map((token) => ({ ...token, normalized: true })),
      }),
    },
  ];
}
