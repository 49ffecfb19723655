// Answers of `/v1/responses`, for the OpenAPI document and for tests that check answers against it.

import { z } from "zod";

const itemStatus = z.enum(["in_progress", "completed", "incomplete"]);

const logprob = { token: z.string(), logprob: z.number(), bytes: z.array(z.int().min(0).max(255)).nullable() };
const outputText = z.strictObject({
  type: z.literal("output_text"),
  text: z.string(),
  annotations: z.array(z.never()),
  logprobs: z.array(z.strictObject({ ...logprob, top_logprobs: z.array(z.strictObject(logprob)) })).optional(),
});

const reasoningItem = z.strictObject({
  id: z.string(),
  type: z.literal("reasoning"),
  status: itemStatus,
  summary: z.array(z.strictObject({ type: z.literal("summary_text"), text: z.string() })),
  content: z.array(z.strictObject({ type: z.literal("reasoning_text"), text: z.string() })).optional(),
});

const messageItem = z.strictObject({
  id: z.string(),
  type: z.literal("message"),
  status: itemStatus,
  role: z.literal("assistant"),
  content: z.array(outputText),
});

const callItem = z.strictObject({
  id: z.string(),
  type: z.literal("function_call"),
  status: itemStatus,
  call_id: z.string(),
  name: z.string(),
  arguments: z.string(),
});

const outputItem = z.discriminatedUnion("type", [reasoningItem, messageItem, callItem]);

const usage = z.strictObject({
  input_tokens: z.int().min(0),
  input_tokens_details: z.strictObject({ cached_tokens: z.int().min(0) }),
  output_tokens: z.int().min(0),
  output_tokens_details: z.strictObject({ reasoning_tokens: z.int().min(0) }),
  total_tokens: z.int().min(0),
});

export const responseAnswer = z.strictObject({
  id: z.string(),
  object: z.literal("response"),
  created_at: z.int(),
  completed_at: z.int().nullable(),
  status: z.enum(["in_progress", "completed", "incomplete", "failed", "cancelled"]),
  background: z.literal(false),
  error: z.strictObject({ code: z.string(), message: z.string() }).nullable(),
  incomplete_details: z.strictObject({ reason: z.enum(["max_output_tokens"]) }).nullable(),
  instructions: z.string().nullable(),
  max_output_tokens: z.int().nullable(),
  max_tool_calls: z.int().nullable(),
  model: z.string(),
  output: z.array(outputItem),
  parallel_tool_calls: z.boolean(),
  previous_response_id: z.string().nullable(),
  prompt_cache_key: z.string().nullable(),
  reasoning: z.strictObject({ effort: z.string().nullable(), summary: z.string().nullable() }),
  safety_identifier: z.string().nullable(),
  service_tier: z.string(),
  store: z.boolean(),
  temperature: z.number().nullable(),
  text: z.strictObject({ format: z.looseObject({ type: z.string() }), verbosity: z.literal("medium") }),
  tool_choice: z.union([z.string(), z.looseObject({ type: z.string() })]),
  tools: z.array(z.looseObject({ type: z.literal("function") })),
  top_logprobs: z.int(),
  top_p: z.number().nullable(),
  truncation: z.enum(["auto", "disabled"]),
  usage: usage.nullable(),
  user: z.string().nullable(),
  metadata: z.record(z.string(), z.string()),
});

export type ResponseAnswer = z.infer<typeof responseAnswer>;
export type OutputItem = z.infer<typeof outputItem>;
export type OutputLogprobs = NonNullable<z.infer<typeof outputText>["logprobs"]>;

/** An event of a stream. Fields beside these depend on its type. */
export const responseEvent = z.looseObject({ type: z.string(), sequence_number: z.int().min(0) });

export const deletedResponse = z.strictObject({
  id: z.string(),
  object: z.literal("response"),
  deleted: z.literal(true),
});

export const inputItemsAnswer = z.strictObject({
  object: z.literal("list"),
  data: z.array(z.looseObject({ type: z.string(), id: z.string() })),
  first_id: z.string().nullable(),
  last_id: z.string().nullable(),
  has_more: z.boolean(),
});
