// Embeddings in Ollama's API.

import { checkBody } from "../api/check-body.ts";
import { listed, serveEmbeddings } from "../api/pooling.ts";
import type { RequestParts } from "../api/serve-generation.ts";
import { servedName } from "./named-model.ts";
import { ollamaEmbedBody, ollamaEmbedOneBody } from "./request-schemas.ts";

/** Answers `POST /api/embed`. */
export async function ollamaEmbed(parts: RequestParts): Promise<void> {
  const { model, input, dimensions, truncate } = checkBody(ollamaEmbedBody, parts.request.body);
  const startMs = performance.now();
  const body = { model: servedName(model, parts), input, dimensions };
  await serveEmbeddings(parts, body, {
    endpoint: "/api/embed",
    shortens: truncate ?? true,
    answer: async (results, usage) => ({
      model,
      embeddings: await listed(results, (values) => Array.from(values)),
      total_duration: Math.round((performance.now() - startMs) * 1e6),
      load_duration: 0,
      prompt_eval_count: usage.prompt_tokens,
    }),
  });
}

/** Answers `POST /api/embeddings`, the older route for one text. */
export async function ollamaEmbedOne(parts: RequestParts): Promise<void> {
  const { model, prompt } = checkBody(ollamaEmbedOneBody, parts.request.body);
  const body = { model: servedName(model, parts), input: prompt };
  await serveEmbeddings(parts, body, {
    endpoint: "/api/embeddings",
    shortens: true,
    answer: ([values = new Float32Array()]) => ({ embedding: Array.from(values) }),
  });
}
