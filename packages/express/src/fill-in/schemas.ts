// Bodies and answers of the APIs that only fill gaps: llama.cpp's `/infill`, and Mistral's. A field that is `null`
// counts as absent.

import { z } from "zod";
import { timings } from "../api/answer-schemas.ts";
import { inertFields, inputExtra, requestFields, samplingFields } from "../api/request-schemas.ts";
import { samplingOptions } from "../ollama/schemas.ts";

const { model } = requestFields;
const sampling = "@default the most likely token";

export const infillBody = z.strictObject({
  model,
  input_prefix: z.string().describe("Text before the gap"),
  input_suffix: z.string().describe("Text behind the gap"),
  input_extra: inputExtra.describe("Other files, the most relevant last"),
  prompt: z.string().nullish().describe("Text between `input_prefix` and the gap, such as the line that is typed"),
  n_predict: z.int().min(-2).nullish().describe("Below 0: up to the end of the context. 0 only reads the prompt"),
  stream: z.boolean().nullish(),
  ...samplingOptions,
  temperature: samplingOptions.temperature.describe(sampling),
  t_max_predict_ms: z
    .number()
    .min(0)
    .nullish()
    .describe("Longest time from the first token on, once the answer has a line break. 0: none"),
  response_fields: z
    .array(z.string().max(64))
    .max(64)
    .nullish()
    .describe("Fields of the answer, such as `timings/prompt_n`, each under this name. @default all"),
  // Without effect: how llama.cpp works, and samplers at the values that turn them off.
  cache_prompt: z.boolean().nullish(),
  id_slot: z.int().nullish(),
  samplers: z.union([z.string().max(64), z.array(z.string().max(64)).max(64)]).nullish(),
  t_max_prompt_ms: z.number().nullish(),
  n_indent: z.int().nullish(),
  n_keep: z.int().nullish(),
  n_probs: z.literal(0).nullish(),
  min_keep: z.int().nullish(),
  repeat_last_n: z.int().nullish(),
  timings_per_token: z.boolean().nullish(),
  return_tokens: z.literal(false).nullish(),
  typical_p: z.literal(1).nullish(),
  top_n_sigma: z.literal(-1).nullish(),
  xtc_probability: z.literal(0).nullish(),
  xtc_threshold: z.number().nullish(),
  dynatemp_range: z.literal(0).nullish(),
  dynatemp_exponent: z.number().nullish(),
  dry_multiplier: z.literal(0).nullish(),
  mirostat: z.literal(0).nullish(),
  mirostat_eta: z.number().nullish(),
  mirostat_tau: z.number().nullish(),
});

export type InfillBody = z.infer<typeof infillBody>;

const count = z.int().min(0);

export const infillChunk = z.looseObject({
  content: z.string().optional(),
  stop: z.boolean().optional().describe("Whether this is the last object"),
  tokens_predicted: count.optional(),
  tokens_evaluated: count.optional().describe("Tokens of the prompt"),
});

export const infillAnswer = z
  .looseObject({
    ...infillChunk.shape,
    model: z.string().optional(),
    tokens_cached: count.optional().describe("Tokens of prompt and answer"),
    truncated: z.literal(false).optional(),
    stop_type: z.enum(["eos", "limit", "word"]).optional(),
    stopping_word: z.string().optional(),
    has_new_line: z.boolean().optional(),
    timings: timings.optional(),
  })
  .describe("Has the fields that `response_fields` names, and all of them without it");

export const fimBody = z.strictObject({
  model,
  prompt: z.string().describe("Text before the gap"),
  suffix: z.string().nullish().describe("Text behind the gap"),
  stream: z.boolean().nullish(),
  ...samplingFields,
  temperature: samplingFields.temperature.describe(sampling),
  random_seed: samplingFields.seed.describe("Mistral's name of `seed`"),
  max_tokens: z.int().min(1).nullish().describe("@default up to the end of the context"),
  metadata: inertFields.metadata,
});

export type FimBody = z.infer<typeof fimBody>;
