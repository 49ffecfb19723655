// Bodies of `/v1/responses`. A field that is `null` counts as absent.

import { z } from "zod";
import { inertFields, jsonSchema, requestFields, samplingFields, structuredFields } from "../api/request-fields.ts";
import { functionName, templateVariables } from "../api/request-schemas.ts";
import { LIMITS } from "../limits.ts";
import { REASONING_EFFORTS } from "../reasoning/wish.ts";

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

/** A request to `/v1/responses`. */
export type ResponsesBody = z.infer<typeof responsesBody>;

/** Gives items without a type that of messages, as OpenAI does. Other values are left to the schema. */
export function withItemTypes(body: unknown): unknown {
  if (!isRecord(body) || !Array.isArray(body["input"])) return body;
  const typed = body["input"].map((item: unknown) =>
    isRecord(item) && item["type"] === undefined && "role" in item ? { type: "message", ...item } : item,
  );
  return { ...body, input: typed };
}

function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
