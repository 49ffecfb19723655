// Bodies and answers of `/v1/responses`. A field that is `null` counts as absent.

import { isRecord } from "@readme-moe/core";
import { z } from "zod";
import {
  functionName,
  inertFields,
  jsonSchema,
  requestFields,
  samplingFields,
  structuredFields,
  templateVariables,
} from "../api/request-schemas.ts";
import { pageAnswer } from "../http/pages.ts";
import { LIMITS } from "../limits.ts";
import { REASONING_EFFORTS } from "../reasoning/reasoning.ts";

const itemId = z.string().max(256).nullish();
const status = z.enum(["in_progress", "completed", "incomplete"]).nullish();

const inputText = z.strictObject({ type: z.literal("input_text"), text: z.string() });
const outputText = z.strictObject({
  type: z.literal("output_text"),
  text: z.string(),
  annotations: z.array(z.null()).max(0).nullish(),
  logprobs: z.array(z.unknown()).nullish(),
});
const messageParts = z.array(z.discriminatedUnion("type", [inputText, outputText]));

const messageItem = z.strictObject({
  type: z.literal("message"),
  id: itemId,
  status,
  role: z.enum(["user", "assistant", "system", "developer"]),
  content: z.union([z.string(), messageParts]),
  phase: z.string().max(64).nullish(),
});

const callItem = z.strictObject({
  type: z.literal("function_call"),
  id: itemId,
  status,
  call_id: z.string().min(1).max(256),
  name: z.string().min(1).max(256),
  arguments: z.string().describe("JSON"),
});

const callOutputItem = z.strictObject({
  type: z.literal("function_call_output"),
  id: itemId,
  status,
  call_id: z.string().min(1).max(256),
  output: z.union([z.string(), z.array(inputText)]),
});

const reasoningItem = z.strictObject({
  type: z.literal("reasoning"),
  id: itemId,
  status,
  summary: z.array(z.strictObject({ type: z.literal("summary_text"), text: z.string() })),
  content: z.array(z.strictObject({ type: z.literal("reasoning_text"), text: z.string() })).nullish(),
  encrypted_content: z.null().optional(),
});

const referenceItem = z.strictObject({
  type: z.literal("item_reference"),
  id: z.string().min(1).max(256).describe("Id of an item of a stored response"),
});

const items = [messageItem, callItem, callOutputItem, reasoningItem, referenceItem] as const;

/** An item of a conversation, with its type. */
export type ConversationItem = Exclude<z.infer<(typeof items)[number]>, { type: "item_reference" }>;

const functionTool = z.strictObject({
  type: z.literal("function"),
  name: functionName,
  description: z.string().nullish(),
  parameters: jsonSchema.nullish().describe("JSON Schema"),
  strict: z.boolean().nullish(),
});

const textFormat = z.discriminatedUnion("type", [
  z.strictObject({ type: z.literal("text") }),
  z.strictObject({ type: z.literal("json_object") }),
  z.strictObject({
    type: z.literal("json_schema"),
    name: z.string().min(1).max(64),
    description: z.string().nullish(),
    schema: jsonSchema,
    strict: z.boolean().nullish(),
  }),
]);

const { n: _, ...ownSampling } = samplingFields;
const { stream_options: __, ...ownFields } = requestFields;

export const responsesBody = z.strictObject({
  input: z
    .union([z.string(), z.array(z.discriminatedUnion("type", items)).min(1)])
    .describe("A text, or items. An item without `type` is a message"),
  instructions: z.string().nullish(),
  ...ownFields,
  ...ownSampling,
  max_output_tokens: z.int().min(1).nullish(),
  top_logprobs: z.int().min(0).max(20).nullish().describe("Needs `message.output_text.logprobs` in `include`"),
  include: z
    .array(z.enum(["message.output_text.logprobs", "reasoning.encrypted_content"]))
    .max(8)
    .nullish(),
  tools: z.array(functionTool).max(LIMITS.tools.value).nullish(),
  tool_choice: z
    .union([z.enum(["none", "auto", "required"]), z.strictObject({ type: z.literal("function"), name: functionName })])
    .nullish(),
  parallel_tool_calls: z.boolean().nullish(),
  max_tool_calls: z.int().min(1).nullish().describe("Without effect: it bounds built-in tools, which do not exist"),
  text: z.strictObject({ format: textFormat.nullish(), verbosity: z.literal("medium").nullish() }).nullish(),
  reasoning: z
    .strictObject({
      effort: z.enum(REASONING_EFFORTS).nullish(),
      summary: z.enum(["auto", "concise", "detailed"]).nullish().describe("Gives the reasoning as its summary"),
      generate_summary: z.enum(["auto", "concise", "detailed"]).nullish(),
    })
    .nullish(),
  thinking_token_budget: z.int().min(0).nullish().describe("Largest number of tokens of reasoning"),
  chat_template_kwargs: templateVariables.describe("Variables of the model's chat template"),
  previous_response_id: z.string().min(1).max(256).nullish(),
  truncation: z.enum(["auto", "disabled"]).nullish(),
  stream_options: z.strictObject({ include_obfuscation: z.literal(false).nullish() }).nullish(),
  background: z.literal(false).nullish(),
  conversation: z.null().optional(),
  prompt: z.null().optional(),
  context_management: z.null().optional(),
  ...structuredFields,
  ...inertFields,
  store: z.boolean().nullish().describe("Whether the response can be named later. @default true"),
});

export type ResponsesBody = z.infer<typeof responsesBody>;

/** Gives items without a type that of messages, as OpenAI does. Other values are left to the schema. */
export function withItemTypes(body: unknown): unknown {
  if (!isRecord(body) || !Array.isArray(body["input"])) return body;
  const typed = body["input"].map((item: unknown) =>
    isRecord(item) && item["type"] === undefined && "role" in item ? { type: "message", ...item } : item,
  );
  return { ...body, input: typed };
}

const itemStatus = z.enum(["in_progress", "completed", "incomplete"]);

const logprob = { token: z.string(), logprob: z.number(), bytes: z.array(z.int().min(0).max(255)).nullable() };
const answerOutputText = z.strictObject({
  type: z.literal("output_text"),
  text: z.string(),
  annotations: z.array(z.never()),
  logprobs: z.array(z.strictObject({ ...logprob, top_logprobs: z.array(z.strictObject(logprob)) })).optional(),
});

const answerReasoningItem = z.strictObject({
  id: z.string(),
  type: z.literal("reasoning"),
  status: itemStatus,
  summary: z.array(z.strictObject({ type: z.literal("summary_text"), text: z.string() })),
  content: z.array(z.strictObject({ type: z.literal("reasoning_text"), text: z.string() })).optional(),
});

const answerMessageItem = z.strictObject({
  id: z.string(),
  type: z.literal("message"),
  status: itemStatus,
  role: z.literal("assistant"),
  content: z.array(answerOutputText),
});

const answerCallItem = z.strictObject({
  id: z.string(),
  type: z.literal("function_call"),
  status: itemStatus,
  call_id: z.string(),
  name: z.string(),
  arguments: z.string(),
});

const outputItem = z.discriminatedUnion("type", [answerReasoningItem, answerMessageItem, answerCallItem]);

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
export type OutputLogprobs = NonNullable<z.infer<typeof answerOutputText>["logprobs"]>;

/** An event of a stream. Fields beside these depend on its type. */
export const responseEvent = z.looseObject({ type: z.string(), sequence_number: z.int().min(0) });

export const deletedResponse = z.strictObject({
  id: z.string(),
  object: z.literal("response"),
  deleted: z.literal(true),
});

export const inputItemsAnswer = pageAnswer(z.looseObject({ type: z.string(), id: z.string() }));
