// Answers of `/v1/messages`, for the OpenAPI document and for tests that check answers against it.

import { z } from "zod";

const block = z.discriminatedUnion("type", [
  z.strictObject({ type: z.literal("thinking"), thinking: z.string(), signature: z.string() }),
  z.strictObject({ type: z.literal("text"), text: z.string() }),
  z.strictObject({
    type: z.literal("tool_use"),
    id: z.string(),
    name: z.string(),
    input: z.record(z.string(), z.unknown()),
    caller: z.strictObject({ type: z.literal("direct") }),
  }),
]);

const usage = z.strictObject({
  input_tokens: z.int().min(0).describe("Tokens of the prompt that were not cached"),
  cache_creation_input_tokens: z.int().min(0),
  cache_read_input_tokens: z.int().min(0).describe("Tokens of the prompt that were cached"),
  output_tokens: z.int().min(0),
  output_tokens_details: z.strictObject({ thinking_tokens: z.int().min(0) }),
});

export const messageAnswer = z.strictObject({
  id: z.string(),
  type: z.literal("message"),
  role: z.literal("assistant"),
  model: z.string(),
  container: z.null(),
  content: z.array(block),
  stop_reason: z.enum(["end_turn", "max_tokens", "stop_sequence", "tool_use"]).nullable(),
  stop_sequence: z.string().nullable(),
  stop_details: z.null(),
  usage,
});

export type MessageAnswer = z.infer<typeof messageAnswer>;
export type MessageBlock = z.infer<typeof block>;

/** An event of a stream. Fields beside its type depend on it. */
export const messageEvent = z.looseObject({ type: z.string() });

export const countTokensAnswer = z.strictObject({ input_tokens: z.int().min(0) });

export const messagesError = z.strictObject({
  type: z.literal("error"),
  error: z.strictObject({
    type: z.string(),
    message: z.string(),
    param: z.string().nullable(),
    code: z.string().nullable(),
  }),
  request_id: z.string(),
});
