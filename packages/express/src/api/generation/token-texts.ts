import type { Engine, EngineVocabulary, GeneratedToken } from "@readme-moe/core";

const knownTexts = new WeakMap<Engine, Map<number, string>>();

/** The text of each token by itself. Engines give it with the most likely tokens; the others are asked for once. */
export async function tokenTexts(engine: Engine, tokens: readonly GeneratedToken[]): Promise<readonly string[]> {
  const known = knownTexts.get(engine) ?? new Map<number, string>();
  knownTexts.set(engine, known);
  for (const { topLogprobs = [] } of tokens) for (const { id, text } of topLogprobs) known.set(id, text);
  return Promise.all(
    tokens.map(async ({ id }) => {
      const text = known.get(id) ?? (await engine.detokenize([id]));
      known.set(id, text);
      return text;
    }),
  );
}

/** The bytes of a token, which may be a part of a character. Tokens that steer the model have those of their spelling. */
export function tokenBytes({ bytes, offsets }: EngineVocabulary, id: number, text: string): number[] {
  const own = bytes.subarray(offsets[id] ?? 0, offsets[id + 1] ?? 0);
  return Array.from(own.length > 0 ? own : Buffer.from(text));
}

/** JSON has no infinity, and OpenAI says this instead. */
export function finiteLogprob(logprob: number | undefined): number {
  return Math.max(logprob ?? NEVER, NEVER);
}

const NEVER = -9999;
