// Requests of the benchmark of speculation.

import type { SamplingParams } from "@readme-moe/core";
import type { JsonSchema } from "@readme-moe/grammar";

export const KINDS = ["quote", "json", "chat", "random"] as const;
export type Kind = (typeof KINDS)[number];

/** One turn of a chat. */
export interface Turn {
  readonly role: "user" | "assistant";
  readonly content: string;
}

/** A request before its prompt has tokens. */
export interface DraftedRequest {
  readonly kind: Kind;
  /** Task and document, such as `spelling wikipedia#13`; unique in its kind. */
  readonly name: string;
  /** A chat, a text to continue, or tokens. */
  readonly prompt: readonly Turn[] | string | readonly number[];
  readonly params: SamplingParams;
  /** The answer is JSON that is valid under it. */
  readonly schema?: { readonly name: string; readonly schema: JsonSchema };
}

/** Greedy decoding. */
export const GREEDY = { temperature: 0 } as const satisfies SamplingParams;

/** Seeded sampling as chats use it. */
export function sampled(seed: number, temperature = 0.7): SamplingParams {
  return { temperature, seed };
}
