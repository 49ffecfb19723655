// Requests of the benchmark of speculation.

import type { SamplingParams } from "@readme-moe/core";
import type { JsonSchema } from "@readme-moe/grammar";

/** Kinds of requests: answers that repeat their prompt, that also name the text to repeat, JSON, free ones, programs, noise. */
export const KINDS = ["quote", "predicted", "json", "chat", "code", "random"] as const;
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
  /** Text that the answer is expected to repeat. */
  readonly prediction?: string | undefined;
  /** The answer is JSON that is valid under it. */
  readonly schema?: { readonly name: string; readonly schema: JsonSchema };
}

/** Greedy decoding. */
export const GREEDY = { temperature: 0 } as const satisfies SamplingParams;

/** Seeded sampling as chats use it. */
export function sampled(seed: number, temperature = 0.7): SamplingParams {
  return { temperature, seed };
}
