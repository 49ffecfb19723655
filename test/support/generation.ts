import type { AcceptedPrompt, GenerateChunk, Generation } from "@readme-moe/core";

/** Chunks as an engine's answer. @param accepted - default: a prompt without tokens, at once */
export function generationOf(
  chunks: AsyncIterableIterator<GenerateChunk>,
  accepted: Promise<AcceptedPrompt> = Promise.resolve({ promptTokens: 0, experts: new Uint16Array() }),
): Generation {
  return Object.assign(chunks, { accepted });
}
