// Bodies and answers of `/v1/messages`, in the shape of Anthropic's API. A field that is `null` counts as absent.

import { z } from "zod";
import {
  functionName,
  inertFields,
  jsonSchema,
  requestFields,
  samplingFields,
  templateVariables,
} from "../api/request-schemas.ts";
import { LIMITS } from "../limits.ts";

/** Marks for a cache of prompts. They change no answer: every prompt's beginning is cached anyway. */
const cacheControl = z.strictObject({ type: z.literal("ephemeral"), ttl: z.string().max(16).nullish() }).nullish();
const citations = z.union([z.strictObject({ enabled: z.literal(false) }), z.array(z.null()).max(0)]).nullish();

/** Reasoning of earlier turns that is to be dropped. Chat templates decide what of it a prompt keeps. */
const clearThinking = z.strictObject({
  type: z.literal("clear_thinking_20251015"),
  keep: z
    .union([z.literal("all"), z.strictObject({ type: z.literal("thinking_turns"), value: z.int().min(1) })])
    .nullish(),
});
const contextManagement = z.strictObject({ edits: z.array(clearThinking).max(1).nullish() }).nullish();

const textBlock = z.strictObject({
  type: z.literal("text"),
  text: z.string(),
  cache_control: cacheControl,
  citations,
});
const texts = z.union([z.string(), z.array(textBlock)]);

const toolResult = z.strictObject({
  type: z.literal("tool_result"),
  tool_use_id: z.string().min(1).max(256),
  content: texts.nullish(),
  is_error: z.boolean().nullish(),
  cache_control: cacheControl,
});

const toolUse = z.strictObject({
  type: z.literal("tool_use"),
  id: z.string().min(1).max(256),
  name: z.string().min(1).max(256),
  input: jsonSchema,
  caller: z.strictObject({ type: z.literal("direct") }).nullish(),
  cache_control: cacheControl,
});

const thinking = z.strictObject({
  type: z.literal("thinking"),
  thinking: z.string(),
  signature: z.string().nullish().describe("Any text; this server checks none"),
});

const message = z.discriminatedUnion("role", [
  z.strictObject({ role: z.literal("system"), content: texts }),
  z.strictObject({
    role: z.literal("user"),
    content: z.union([z.string(), z.array(z.discriminatedUnion("type", [textBlock, toolResult]))]),
  }),
  z.strictObject({
    role: z.literal("assistant"),
    content: z.union([z.string(), z.array(z.discriminatedUnion("type", [textBlock, toolUse, thinking]))]),
  }),
]);

const tool = z.strictObject({
  type: z.literal("custom").nullish(),
  name: functionName,
  description: z.string().nullish(),
  input_schema: jsonSchema.describe("JSON Schema"),
  strict: z.boolean().nullish(),
  cache_control: cacheControl,
  eager_input_streaming: z.boolean().nullish(),
});

const parallel = { disable_parallel_tool_use: z.boolean().nullish() } as const;

const display = z.enum(["summarized", "omitted"]).nullish();

const { metadata: _metadata, service_tier: _tier, store: _store, user: _user, ...inert } = inertFields;
const { model, read_me: readMe } = requestFields;

const promptFields = {
  model,
  messages: z.array(message).min(1),
  system: texts.nullish(),
  tools: z.array(tool).max(LIMITS.tools.value).nullish(),
  tool_choice: z
    .discriminatedUnion("type", [
      z.strictObject({ type: z.literal("auto"), ...parallel }),
      z.strictObject({ type: z.literal("any"), ...parallel }),
      z.strictObject({ type: z.literal("tool"), name: z.string().min(1).max(128), ...parallel }),
      z.strictObject({ type: z.literal("none") }),
    ])
    .nullish(),
  thinking: z
    .discriminatedUnion("type", [
      z.strictObject({ type: z.literal("enabled"), budget_tokens: z.int().min(1), display }),
      z.strictObject({ type: z.literal("adaptive"), display }),
      z.strictObject({ type: z.literal("disabled") }),
    ])
    .nullish()
    .describe("Without effect on models that do not reason"),
  output_config: z
    .strictObject({
      effort: z.enum(["low", "medium", "high", "xhigh", "max"]).nullish(),
      format: z.strictObject({ type: z.literal("json_schema"), schema: jsonSchema }).nullish(),
    })
    .nullish(),
  cache_control: cacheControl,
  chat_template_kwargs: templateVariables.describe("Variables of the model's chat template"),
} as const;

const { temperature: _temperature, stop: _stop, n: _n, ...sampling } = samplingFields;

export const messagesBody = z.strictObject({
  ...promptFields,
  max_tokens: z.int().min(1),
  stream: z.boolean().nullish(),
  temperature: z.number().min(0).max(1).nullish(),
  stop_sequences: z.array(z.string().min(1).max(1024)).max(LIMITS.stops.value).nullish(),
  ...sampling,
  metadata: z.strictObject({ user_id: z.string().max(1024).nullish() }).nullish(),
  service_tier: z.enum(["auto", "standard_only"]).nullish(),
  container: z.null().optional(),
  context_management: contextManagement,
  mcp_servers: z.array(z.null()).max(0).nullish(),
  read_me: readMe,
  ...inert,
});

export type MessagesBody = z.infer<typeof messagesBody>;

export const countTokensBody = z.strictObject({
  ...promptFields,
  context_management: contextManagement,
  mcp_servers: z.array(z.null()).max(0).nullish(),
});

export type CountTokensBody = z.infer<typeof countTokensBody>;

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
