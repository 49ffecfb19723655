import { z } from "zod";

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

const speaker = <Role extends string>(role: Role) => z.strictObject({ role: z.literal(role), content, name });

const assistant = z.strictObject({
  role: z.literal("assistant"),
  content: content.nullish(),
  name,
  tool_calls: z.array(toolCall).nullish(),
  reasoning_content: z.string().nullish(),
  refusal: z.null().optional(),
  audio: z.null().optional(),
  function_call: z.null().optional(),
});

const tool = z.strictObject({ role: z.literal("tool"), content, tool_call_id: z.string().max(256), name });

export const chatMessage = z.discriminatedUnion("role", [
  speaker("system"),
  speaker("developer"),
  speaker("user"),
  assistant,
  tool,
]);
