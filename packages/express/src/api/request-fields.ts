// Fields that several request bodies have. A field that is `null` counts as absent.

import { z } from "zod";
import { LIMITS } from "../limits.ts";

/** Largest id that a token of any vocabulary can have. */
export const MAX_TOKEN_ID = 0x7fffffff;

export const tokenId: z.ZodInt = z.int().min(0).max(MAX_TOKEN_ID);

/** Sampling parameters with the names of OpenAI, then those of vLLM. */
export const samplingFields = {
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

const priority = z.number().min(-1e9).max(1e9).nullish().describe("Requests with larger numbers run first");

/** Fields of `read_me` in requests that generate nothing. */
export const pooledReadMe = z.strictObject({ priority }).nullish();

export const requestFields = {
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
  read_me: z
    .strictObject({
      expert: z
        .union([z.string().min(1).max(256), z.int().min(0).max(65_535)])
        .nullish()
        .describe("Name or index of one expert for every token, instead of the model's router"),
      priority,
      include: z
        .array(z.enum(["routes", "timings"]))
        .max(8)
        .nullish()
        .describe("Further contents of the answer"),
      reconnect_ms: z
        .int()
        .min(0)
        .max(LIMITS.reconnectMs.value)
        .nullish()
        .describe("Time for which a stream is generated on after its connection has ended, in ms"),
    })
    .nullish(),
} as const;

/** An object whose contents are neither checked nor copied here: the grammars bound what they cost. */
export const jsonSchema = z
  .custom<Record<string, unknown>>(
    (value) => typeof value === "object" && value !== null && !Array.isArray(value),
    "expected an object",
  )
  .meta({ type: "object", propertyNames: { type: "string" }, additionalProperties: {} });

const label = z.string().max(1024).nullish();

/** Parameters that change no answer here: labels, and those of stores, caches and tiers of other servers. */
export const inertFields = {
  user: label,
  metadata: z.record(z.string().max(64), z.string().max(512)).nullish(),
  store: z.boolean().nullish(),
  service_tier: z.string().max(64).nullish(),
  safety_identifier: label,
  prompt_cache_key: label,
  prompt_cache_retention: z.string().max(64).nullish(),
  keep_alive: z.union([z.string().max(64), z.number()]).nullish(),
} as const;

/** A JSON schema, or its text. Its contents are neither checked nor copied here: the grammars bound what they cost. */
const schemaOrText = z.union([z.string().min(1).max(LIMITS.bodyBytes.value), z.boolean(), jsonSchema]).nullish();
const grammarText = z.string().min(1).nullish();
const choiceTexts = z.array(z.string().min(1)).min(1).max(LIMITS.guidedChoices.value).nullish();

/** Constraints with the names of vLLM, before and since its version 0.12, and of llama.cpp. */
export const structuredFields = {
  guided_json: schemaOrText,
  guided_regex: grammarText,
  guided_choice: choiceTexts,
  guided_grammar: grammarText.describe("GBNF"),
  grammar: grammarText.describe("GBNF"),
  structured_outputs: z
    .strictObject({
      json: schemaOrText,
      regex: grammarText,
      choice: choiceTexts,
      grammar: grammarText.describe("GBNF"),
      json_object: z.boolean().nullish(),
    })
    .nullish(),
} as const;

/** Names of parameters that are reported as not supported if their value would have an effect. */
export const NEUTRAL_NAMES: ReadonlySet<string> = new Set([
  "modalities",
  "audio",
  "functions",
  "function_call",
  "verbosity",
  "web_search_options",
  "suffix",
  "best_of",
  "load_inplace",
  "include_obfuscation",
  "continuous_usage_stats",
  "refusal",
]);

/** Copies a body without some of its fields. */
export function without<Body extends object, Name extends keyof Body>(
  body: Body,
  names: readonly Name[],
): Omit<Body, Name> {
  const copy: Omit<Body, Name> = { ...body };
  for (const name of names) Reflect.deleteProperty(copy, name);
  return copy;
}
