import { z } from "zod";
import { chatMessage } from "./chat-message.ts";
import { neutralFields, requestFields, samplingFields } from "./fields.ts";

const functionName = z
  .string()
  .regex(/^[\w-]+$/)
  .max(64);
/** Nothing in it is read or copied here: the grammars bound what that costs. */
const jsonSchema = z
  .unknown()
  .refine((value) => typeof value === "object" && value !== null && !Array.isArray(value), "expected an object")
  .meta({ type: "object", propertyNames: { type: "string" }, additionalProperties: {} }) as unknown as z.ZodType<
  Record<string, unknown>
>;

export const chatTool = z.strictObject({
  type: z.literal("function"),
  function: z.strictObject({
    name: functionName,
    description: z.string().nullish(),
    parameters: jsonSchema.nullish().describe("JSON Schema"),
    strict: z.boolean().nullish(),
  }),
});

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

export const chatBody = z.strictObject({
  messages: z.array(chatMessage).min(1),
  ...requestFields,
  ...samplingFields,
  max_completion_tokens: z.int().min(1).nullish(),
  max_tokens: z.int().min(1).nullish(),
  logprobs: z.boolean().nullish(),
  top_logprobs: z.int().min(0).max(20).nullish().describe("Needs `logprobs`"),
  response_format: responseFormat.nullish(),
  tools: z.array(chatTool).max(128).nullish(),
  tool_choice: toolChoice.nullish().describe("Needs `tools`, unless it is `none`"),
  parallel_tool_calls: z.boolean().nullish(),
  chat_template_kwargs: z.record(z.string(), z.unknown()).nullish().describe("Variables of the model's chat template"),
  safety_identifier: z.string().max(1024).nullish(),
  prompt_cache_key: z.string().max(1024).nullish(),
  ...neutralFields,
  modalities: z.array(z.literal("text")).max(1).nullish(),
  audio: z.null().optional(),
  prediction: z.null().optional(),
  functions: z.null().optional(),
  function_call: z.null().optional(),
  reasoning_effort: z.literal("none").nullish(),
  verbosity: z.literal("medium").nullish(),
  web_search_options: z.null().optional(),
});

/** A request to `/v1/chat/completions`. */
export type ChatBody = z.infer<typeof chatBody>;
