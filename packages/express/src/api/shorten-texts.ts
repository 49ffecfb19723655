import type { Engine } from "@readme-moe/core";
import { LIMITS } from "../limits.ts";

/** Engine of the texts, and what goes with them. */
interface ShortenOptions {
  readonly engine: Pick<Engine, "info" | "tokenize">;
  /** Text before each of them. */
  readonly prefix: string;
  readonly signal: AbortSignal;
}

/**
 * Leaves out the ends of texts that are longer than the context, but not the end token that the model expects.
 *
 * @returns the texts; token ids, prefix included, where a text was shortened
 * @throws {ReadMeError} `ERR_CONTEXT_LENGTH` on a text that takes too long to shorten
 */
export async function shortenTexts(
  texts: readonly (string | readonly number[])[],
  { engine, prefix, signal }: ShortenOptions,
): Promise<readonly (string | readonly number[])[]> {
  const { contextTokens, eosTokenIds } = engine.info;
  const shortened: (string | readonly number[])[] = [];
  for (const text of texts) {
    // No text has more tokens than bytes.
    if (typeof text !== "string" || Buffer.byteLength(text) + Buffer.byteLength(prefix) <= contextTokens) {
      shortened.push(text);
      continue;
    }
    // oxlint-disable-next-line no-await-in-loop -- long texts take memory, one after the other
    const ids = await engine.tokenize(prefix + text, { maxTokens: LIMITS.tokenIds.value, signal });
    const last = ids.at(-1) ?? 0;
    const numKept = eosTokenIds.includes(last) ? contextTokens - 1 : contextTokens;
    const isLong = ids.length > contextTokens;
    shortened.push(isLong ? [...ids.subarray(0, numKept), last].slice(0, contextTokens) : text);
  }
  return shortened;
}
