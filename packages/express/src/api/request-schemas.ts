// Schemas of request bodies. A field that is `null` counts as absent.

import { z } from "zod";
import { LIMITS } from "../limits.ts";

/** Largest id that a token of any vocabulary can have. */
export const MAX_TOKEN_ID = 0x7fffffff;

const tokenId: z.ZodInt = z.int().min(0).max(MAX_TOKEN_ID);

/** Sampling parameters with the names of OpenAI, then those of vLLM. */
const samplingFields = {
  temperature: z.number().min(0).max(2).nullish(),
  top_p: z.number().gt(0).max(1).nullish(),
  frequency_penalty: z.number().min(-2).max(2).nullish(),
  presence_penalty: z.number().min(-2).max(2).nullish(),
  logit_bias: z
    .record(z.string().regex(/^(0|[1-9]\d{0,9})$/), z.number().min(-100).max(100))
    .nullish()
    .describe(`Values that are added to logits, by token id, at most ${LIMITS.logitBiases.value}`),
  seed: z.int().min(0).nullish(),
  stop: z.union([z.string().min(1).max(1024), z.array(z.string().min(1).max(1024)).max(LIMITS.stops.value)]).nullish(),
  n: z.int().min(1).max(LIMITS.choices.value).nullish(),
  top_k: z.int().min(-1).nullish().describe("-1 and 0 keep all tokens"),
  min_p: z.number().min(0).max(1).nullish(),
  repetition_penalty: z.number().gt(0).max(1000).nullish(),
  min_tokens: z.int().min(0).nullish(),
  stop_token_ids: z.array(tokenId).max(LIMITS.stopTokens.value).nullish(),
  ignore_eos: z.boolean().nullish(),
} as const;

/** Name of a body's field that is a sampling parameter. */
export type SamplingField = keyof typeof samplingFields;

const requestFields = {
  model: z
    .string()
    .min(1)
    .max(512)
    .nullish()
    .describe("Name of the model, or `<model>:<expert>`. Absent for the default model"),
  stream: z.boolean().nullish(),
  stream_options: z
    .strictObject({
      include_usage: z.boolean().nullish(),
      include_obfuscation: z.literal(false).nullish(),
      continuous_usage_stats: z.literal(false).nullish(),
    })
    .nullish(),
  user: z.string().max(1024).nullish(),
  metadata: z.record(z.string().max(64), z.string().max(512)).nullish(),
  read_me: z
    .strictObject({
      expert: z
        .union([z.string().min(1).max(256), z.int().min(0).max(65_535)])
        .nullish()
        .describe("Name or index of one expert for every token, instead of the model's router"),
      priority: z.number().min(-1e9).max(1e9).nullish().describe("Requests with larger numbers run first"),
      include: z
        .array(z.enum(["routes", "timings"]))
        .max(8)
        .nullish()
        .describe("Further contents of the answer"),
    })
    .nullish(),
} as const;

/** OpenAI's parameters that this server does not have. Only values without effect are accepted. */
const neutralFields = {
  store: z.literal(false).nullish(),
  service_tier: z.enum(["auto", "default"]).nullish(),
} as const;

/** Names of parameters that are reported as not supported if their value would have an effect. */
export const NEUTRAL_NAMES: ReadonlySet<string> = new Set([
  "store",
  "service_tier",
  "modalities",
  "audio",
  "functions",
  "function_call",
  "reasoning_effort",
  "verbosity",
  "web_search_options",
  "suffix",
  "best_of",
  "load_inplace",
  "include_obfuscation",
  "continuous_usage_stats",
  "refusal",
]);

const textPart = z.strictObject({ type: z.literal("text"), text: z.string() });
const content = z.union([z.string(), z.array(textPart)]);
const name = z.string().max(256).nullish();

const toolCall = z.strictObject({
  id: z.string().max(256),
  type: z.literal("function"),
  function: z.strictObject({
    name: z.string().min(1).max(256),
    arguments: z.string().describe("JSON"),
  }),
});

const textMessage = <Role extends string>(role: Role) => z.strictObject({ role: z.literal(role), content, name });

const assistantMessage = z.strictObject({
  role: z.literal("assistant"),
  content: content.nullish(),
  name,
  tool_calls: z.array(toolCall).nullish(),
  reasoning_content: z.string().nullish(),
  refusal: z.null().optional(),
  audio: z.null().optional(),
  function_call: z.null().optional(),
});

const toolMessage = z.strictObject({ role: z.literal("tool"), content, tool_call_id: z.string().max(256), name });

const messages = z
  .array(
    z.discriminatedUnion("role", [
      textMessage("system"),
      textMessage("developer"),
      textMessage("user"),
      assistantMessage,
      toolMessage,
    ]),
  )
  .min(1);

const functionName = z
  .string()
  .regex(/^[\w-]+$/)
  .max(64);

/** An object whose contents are neither checked nor copied here: the grammars bound what they cost. */
const jsonSchema = z
  .custom<Record<string, unknown>>(
    (value) => typeof value === "object" && value !== null && !Array.isArray(value),
    "expected an object",
  )
  .meta({ type: "object", propertyNames: { type: "string" }, additionalProperties: {} });

const tools = z
  .array(
    z.strictObject({
      type: z.literal("function"),
      function: z.strictObject({
        name: functionName,
        description: z.string().nullish(),
        parameters: jsonSchema.nullish().describe("JSON Schema"),
        strict: z.boolean().nullish(),
      }),
    }),
  )
  .max(LIMITS.tools.value);

const responseFormat = z.discriminatedUnion("type", [
  z.strictObject({ type: z.literal("text") }),
  z.strictObject({ type: z.literal("json_object") }),
  z.strictObject({
    type: z.literal("json_schema"),
    json_schema: z.strictObject({
      name: z.string().min(1).max(64),
      description: z.string().nullish(),
      schema: jsonSchema.nullish(),
      strict: z.boolean().nullish(),
    }),
  }),
]);

const toolChoice = z.union([
  z.enum(["none", "auto", "required"]),
  z.strictObject({ type: z.literal("function"), function: z.strictObject({ name: functionName }) }),
]);

const templateVariables = z.record(z.string(), z.unknown()).nullish();

export const chatBody = z.strictObject({
  messages,
  ...requestFields,
  ...samplingFields,
  max_completion_tokens: z.int().min(1).nullish(),
  max_tokens: z.int().min(1).nullish(),
  logprobs: z.boolean().nullish(),
  top_logprobs: z.int().min(0).max(20).nullish().describe("Needs `logprobs`"),
  response_format: responseFormat.nullish(),
  tools: tools.nullish(),
  tool_choice: toolChoice.nullish().describe("Needs `tools`, unless it is `none`"),
  parallel_tool_calls: z.boolean().nullish(),
  chat_template_kwargs: templateVariables.describe("Variables of the model's chat template"),
  safety_identifier: z.string().max(1024).nullish(),
  prompt_cache_key: z.string().max(1024).nullish(),
  ...neutralFields,
  modalities: z.array(z.literal("text")).max(1).nullish(),
  audio: z.null().optional(),
  prediction: z
    .strictObject({ type: z.literal("content"), content })
    .nullish()
    .describe("A text that the answer is expected to repeat, which then comes sooner. Never changes the answer"),
  functions: z.null().optional(),
  function_call: z.null().optional(),
  reasoning_effort: z.literal("none").nullish(),
  verbosity: z.literal("medium").nullish(),
  web_search_options: z.null().optional(),
});

/** A request to `/v1/chat/completions`. */
export type ChatBody = z.infer<typeof chatBody>;

export const completionBody = z.strictObject({
  prompt: z
    .union([
      z.string(),
      z.array(z.string()).min(1).max(LIMITS.prompts.value),
      z.array(tokenId).min(1),
      z.array(z.array(tokenId).min(1)).min(1).max(LIMITS.prompts.value),
    ])
    .describe("A text, token ids, or a list of either"),
  ...requestFields,
  ...samplingFields,
  max_tokens: z.int().min(1).nullish(),
  logprobs: z.int().min(0).max(20).nullish(),
  echo: z.boolean().nullish().describe("Starts answers with the prompt. Not together with `logprobs`"),
  ...neutralFields,
  suffix: z.literal("").nullish(),
  best_of: z.literal(1).nullish(),
});

/** A request to `/v1/completions`. */
export type CompletionBody = z.infer<typeof completionBody>;

const { model } = requestFields;

export const tokenizeBody = z.union([
  z.strictObject({
    model,
    prompt: z.string(),
    add_special_tokens: z.boolean().nullish().describe("@default true"),
  }),
  z.strictObject({
    model,
    messages,
    add_special_tokens: z.boolean().nullish().describe("@default false, since templates write special tokens"),
    add_generation_prompt: z.boolean().nullish().describe("@default true"),
    chat_template_kwargs: templateVariables,
    tools: tools.nullish(),
  }),
]);
export type TokenizeBody = z.infer<typeof tokenizeBody>;

/** Fields of vLLM. A name is `<model>:<expert>`, or an expert of the default model. */
const loraName = z.string().min(1).max(512).describe("`<model>:<expert>`, or an expert of the default model");

export const loadAdapterBody = z.strictObject({
  lora_name: loraName,
  lora_path: z.string().min(1).max(1024).describe("Name of a folder below the server's folder of experts"),
  load_inplace: z.literal(false).nullish(),
});

export const unloadAdapterBody = z.strictObject({ lora_name: loraName });

export const detokenizeBody = z.strictObject({ model, tokens: z.array(tokenId) });
