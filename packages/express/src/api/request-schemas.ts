// Schemas of request bodies. A field that is `null` counts as absent.

import { z } from "zod";
import { LIMITS } from "../limits.ts";
import { REASONING_EFFORTS } from "../reasoning/wish.ts";
import { inertFields, jsonSchema, requestFields, samplingFields, structuredFields, tokenId } from "./request-fields.ts";

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

export const functionName = z
  .string()
  .regex(/^[\w-]+$/)
  .max(128);

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

const listOfObjects = z.array(z.looseObject({})).nullish();
export const templateVariables = z.looseObject({ tools: listOfObjects, documents: listOfObjects }).nullish();

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
  add_generation_prompt: z.boolean().nullish().describe("@default true, without `continue_final_message`"),
  continue_final_message: z
    .boolean()
    .nullish()
    .describe("Continues the assistant's last message instead of beginning a new one. The answer has what follows"),
  ...structuredFields,
  ...inertFields,
  modalities: z.array(z.literal("text")).max(1).nullish(),
  audio: z.null().optional(),
  prediction: z
    .strictObject({ type: z.literal("content"), content })
    .nullish()
    .describe("A text that the answer is expected to repeat, which then comes sooner. Never changes the answer"),
  functions: z.null().optional(),
  function_call: z.null().optional(),
  reasoning_effort: z
    .enum(REASONING_EFFORTS)
    .nullish()
    .describe("Largest share of the completion's tokens for reasoning. Without effect on models that do not reason"),
  thinking_token_budget: z
    .int()
    .min(0)
    .nullish()
    .describe("Largest number of tokens of reasoning. Without effect on models that do not reason"),
  verbosity: z.literal("medium").nullish(),
  web_search_options: z.null().optional(),
});

/** A request to `/v1/chat/completions`. */
export type ChatBody = z.infer<typeof chatBody>;

/** Fields that constrain an answer's text. */
export type StructuredFields = Pick<ChatBody, keyof typeof structuredFields>;

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
  ...structuredFields,
  ...inertFields,
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
