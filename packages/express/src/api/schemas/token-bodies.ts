import { z } from "zod";
import { chatTool } from "./chat-body.ts";
import { chatMessage } from "./chat-message.ts";
import { requestFields, tokenId } from "./fields.ts";

const { model } = requestFields;

const ofText = z.strictObject({
  model,
  prompt: z.string(),
  add_special_tokens: z.boolean().nullish().describe("@default true"),
});

const ofChat = z.strictObject({
  model,
  messages: z.array(chatMessage).min(1),
  add_special_tokens: z.boolean().nullish().describe("@default false: templates write them"),
  add_generation_prompt: z.boolean().nullish().describe("@default true"),
  chat_template_kwargs: z.record(z.string(), z.unknown()).nullish(),
  tools: z.array(chatTool).max(128).nullish(),
});

export const tokenizeBody = z.union([ofText, ofChat]);
export type TokenizeBody = z.infer<typeof tokenizeBody>;

export const detokenizeBody = z.strictObject({ model, tokens: z.array(tokenId) });

export const tokenizeAnswer = z.object({
  count: z.int().min(0),
  max_model_len: z.int(),
  tokens: z.array(tokenId),
});
export const detokenizeAnswer = z.object({ prompt: z.string() });
