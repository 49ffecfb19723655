// Fields that several bodies have. A field that is `null` is one that is not there.

import { z } from "zod";
import { LIMITS } from "../../limits.ts";

/** The largest id that any vocabulary can have. */
export const MAX_TOKEN_ID = 0x7fffffff;

export const tokenId: z.ZodInt = z.int().min(0).max(MAX_TOKEN_ID);

/** What chooses tokens: names of OpenAI, then those of vLLM. */
export const samplingFields = {
  temperature: z.number().min(0).max(2).nullish(),
  top_p: z.number().gt(0).max(1).nullish(),
  frequency_penalty: z.number().min(-2).max(2).nullish(),
  presence_penalty: z.number().min(-2).max(2).nullish(),
  logit_bias: z
    .record(z.string().regex(/^(0|[1-9]\d{0,9})$/), z.number().min(-100).max(100))
    .nullish()
    .describe(`Token ids to what is added to their logits, at most ${LIMITS.logitBiases.value}`),
  seed: z.int().min(0).nullish(),
  stop: z.union([z.string().min(1).max(1024), z.array(z.string().min(1).max(1024)).max(LIMITS.stops.value)]).nullish(),
  n: z.int().min(1).max(LIMITS.choices.value).nullish(),
  top_k: z.int().min(-1).nullish().describe("-1 and 0 keep all"),
  min_p: z.number().min(0).max(1).nullish(),
  repetition_penalty: z.number().gt(0).max(1000).nullish(),
  min_tokens: z.int().min(0).nullish(),
  stop_token_ids: z.array(tokenId).max(LIMITS.stopTokens.value).nullish(),
  ignore_eos: z.boolean().nullish(),
} as const;

export const requestFields = {
  model: z.string().min(1).max(256).nullish().describe("Which model; the default where it is absent"),
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
        .describe("One expert for every token, by name or index, instead of the model's router"),
      priority: z.number().min(-1e9).max(1e9).nullish().describe("Those with the larger number go first"),
      include: z
        .array(z.enum(["routes", "timings"]))
        .max(8)
        .nullish()
        .describe("What else the answer is to say"),
    })
    .nullish(),
} as const;

/** Parameters of others that this server does not have: only values that change nothing are taken. */
export const neutralFields = {
  store: z.literal(false).nullish(),
  service_tier: z.enum(["auto", "default"]).nullish(),
} as const;

/** Parameters, by name, that are refused as not supported when they ask for something. */
export const NEUTRAL_NAMES: ReadonlySet<string> = new Set([
  "store",
  "service_tier",
  "modalities",
  "audio",
  "prediction",
  "functions",
  "function_call",
  "reasoning_effort",
  "verbosity",
  "web_search_options",
  "suffix",
  "best_of",
  "include_obfuscation",
  "continuous_usage_stats",
  "refusal",
]);
