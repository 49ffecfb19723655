// The text around what embeddings and scores are computed of.

import type { ModelConfig } from "../config/model-config.ts";
import { unsupported } from "../files/errors.ts";
import { ChatTemplate } from "./chat-template.ts";
import type { ModelText } from "./load-text.ts";

/** Instruction of Qwen's embeddings and rerankers where none is given. */
const INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query";

/** Text that Qwen3-Reranker was trained on. Its chat template is that of Qwen3, and knows nothing of documents. */
const QWEN3_RERANKER = `
{%- set given = messages | selectattr("role", "equalto", "system") | list -%}
{%- set query = messages | selectattr("role", "equalto", "query") | map(attribute="content") | first -%}
{%- set document = messages | selectattr("role", "equalto", "document") | map(attribute="content") | first -%}
{{ "<|im_start|>system\\nJudge whether the Document meets the requirements based on the Query and the Instruct provided. " }}
{{- 'Note that the answer can only be "yes" or "no".<|im_end|>\\n<|im_start|>user\\n<Instruct>: ' }}
{{- given[0].content if given | length > 0 else "${INSTRUCTION}" }}
{{- "\\n<Query>: " + query + "\\n<Document>: " + document }}
{{- "<|im_end|>\\n<|im_start|>assistant\\n<think>\\n\\n</think>\\n\\n" }}`;

/**
 * Chooses the template of a model that gives scores: its own if it has the roles `query` and `document`, else
 * Qwen3-Reranker's. Models that give embeddings have no template: their inputs are texts.
 *
 * @throws {ReadMeError} `ERR_MODEL_UNSUPPORTED` for scores of a family whose text is not known
 */
export function poolingText(path: string, { pooling, modelType }: ModelConfig, text: ModelText): ModelText {
  if (pooling === undefined) return text;
  const { tokenizer, chatTemplate } = text;
  if (pooling.kind === "embedding") return { tokenizer, chatTemplate: undefined };
  if (chatTemplate?.knowsPairs) return text;
  if (modelType === "qwen3") return { tokenizer, chatTemplate: new ChatTemplate(QWEN3_RERANKER, tokenizer) };
  throw unsupported(path, "gives scores, but its chat template has no messages of the roles `query` and `document`");
}
