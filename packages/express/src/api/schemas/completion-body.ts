import { z } from "zod";
import { LIMITS } from "../../limits.ts";
import { neutralFields, requestFields, samplingFields, tokenId } from "./fields.ts";

export const completionBody = z.strictObject({
  prompt: z
    .union([
      z.string(),
      z.array(z.string()).min(1).max(LIMITS.prompts.value),
      z.array(tokenId).min(1),
      z.array(z.array(tokenId).min(1)).min(1).max(LIMITS.prompts.value),
    ])
    .describe("A text, token ids, or several of either"),
  ...requestFields,
  ...samplingFields,
  max_tokens: z.int().min(1).nullish(),
  logprobs: z.int().min(0).max(20).nullish(),
  echo: z.boolean().nullish().describe("Answers begin with the prompt; not with `logprobs`"),
  ...neutralFields,
  suffix: z.literal("").nullish(),
  best_of: z.literal(1).nullish(),
});

/** A request to `/v1/completions`. */
export type CompletionBody = z.infer<typeof completionBody>;
