// Bodies and answers of Ollama's API. A field that is `null` counts as absent.

import { z } from "zod";
import { type SAMPLING_PARAMETERS, type SamplingNameWith, samplingParametersWith } from "@readme-moe/core";
import { functionName, jsonSchema, samplingField, type SamplingField } from "../api/request-schemas.ts";
import { LIMITS } from "../limits.ts";

const model = z.string().min(1).max(512).describe("A served name; `:latest` behind it is ignored");

/** Sampling parameters that this API has, under names of its own. */
export const OLLAMA_PARAMETERS = samplingParametersWith("ollama");

export const samplingOptions = Object.fromEntries(
  OLLAMA_PARAMETERS.map(([, entry]) => [entry.ollama.name, samplingField(entry, { ...entry.http, ...entry.ollama })]),
) as {
  readonly [
    Name in SamplingNameWith<"ollama"> as (typeof SAMPLING_PARAMETERS)[Name]["ollama"]["name"]
  ]: SamplingField<Name>;
};

/** Options that change an answer, and those of loading a model, which have no effect here. */
const options = z
  .strictObject({
    num_predict: z.int().min(-2).nullish().describe("Below 0: up to the end of the context"),
    ...samplingOptions,
    repeat_last_n: z.int().nullish(),
    num_ctx: z.int().nullish(),
    num_keep: z.int().nullish(),
    num_batch: z.int().nullish(),
    num_gpu: z.int().nullish(),
    main_gpu: z.int().nullish(),
    num_thread: z.int().nullish(),
    numa: z.boolean().nullish(),
    use_mmap: z.boolean().nullish(),
    use_mlock: z.boolean().nullish(),
    low_vram: z.boolean().nullish(),
    // Samplers that Ollama had before, at the values that turn them off.
    mirostat: z.literal(0).nullish(),
    mirostat_eta: z.number().nullish(),
    mirostat_tau: z.number().nullish(),
    tfs_z: z.literal(1).nullish(),
    typical_p: z.literal(1).nullish(),
  })
  .nullish();

const shared = {
  model,
  stream: z.boolean().nullish().describe("@default true"),
  format: z
    .union([z.enum(["", "json"]), jsonSchema])
    .nullish()
    .describe("`json`, or a JSON Schema"),
  options,
  think: z
    .union([z.boolean(), z.enum(["low", "medium", "high"])])
    .nullish()
    .describe("Whether, or how much, the model reasons"),
  keep_alive: z
    .union([z.string().max(64), z.number()])
    .nullish()
    .describe("How long the model stays open afterwards: seconds, or a duration such as `5m`; below 0 for ever"),
};

const noImages = z.array(z.never()).max(0).nullish();

const toolCall = z.strictObject({
  id: z.string().max(256).nullish(),
  type: z.literal("function").nullish(),
  function: z.strictObject({
    index: z.int().nullish(),
    name: functionName,
    arguments: z.record(z.string(), z.unknown()),
  }),
});

const message = z.strictObject({
  role: z.enum(["system", "user", "assistant", "tool"]),
  content: z.string().nullish(),
  thinking: z.string().nullish(),
  images: noImages,
  tool_calls: z.array(toolCall).nullish(),
  tool_name: z.string().max(256).nullish(),
  tool_call_id: z.string().max(256).nullish(),
});

const tool = z.strictObject({
  type: z.literal("function"),
  function: z.strictObject({
    name: functionName,
    description: z.string().nullish(),
    parameters: jsonSchema.nullish().describe("JSON Schema"),
  }),
});

export const ollamaChatBody = z.strictObject({
  ...shared,
  messages: z.array(message).nullish(),
  template: z.literal("").nullish(),
  tools: z.array(tool).max(LIMITS.tools.value).nullish(),
});

export type OllamaChatBody = z.infer<typeof ollamaChatBody>;

export const ollamaGenerateBody = z.strictObject({
  ...shared,
  prompt: z.string().nullish(),
  system: z.string().nullish(),
  raw: z.boolean().nullish().describe("Leaves the chat template out"),
  images: noImages,
  suffix: z.string().nullish().describe("Text behind the gap that the answer fills. Leaves the chat template out"),
  context: z.array(z.never()).max(0).nullish().describe("Tokens of an earlier answer, which this API no longer has"),
  template: z.literal("").nullish(),
});

export type OllamaGenerateBody = z.infer<typeof ollamaGenerateBody>;

/** Fields that both have. */
export type OllamaShared = Pick<OllamaChatBody, keyof typeof shared>;

export const ollamaEmbedBody = z.strictObject({
  model,
  input: z.union([z.string(), z.array(z.string()).min(1).max(LIMITS.inputs.value)]),
  dimensions: z.int().min(1).nullish(),
  truncate: z.boolean().nullish().describe("Whether the end of a long text is left out. @default true"),
  options,
  keep_alive: shared.keep_alive,
});

export type OllamaEmbedBody = z.infer<typeof ollamaEmbedBody>;

export const ollamaEmbedOneBody = z.strictObject({
  model,
  prompt: z.string(),
  options,
  keep_alive: shared.keep_alive,
});

export type OllamaEmbedOneBody = z.infer<typeof ollamaEmbedOneBody>;

export const ollamaShowBody = z.strictObject({
  model: model.nullish(),
  name: model.nullish().describe("Older name of `model`"),
  verbose: z.boolean().nullish(),
});

export type OllamaShowBody = z.infer<typeof ollamaShowBody>;

const count = z.int().min(0);
const answered = {
  model: z.string(),
  created_at: z.string(),
  done: z.boolean().describe("Whether this is the last object"),
  done_reason: z.string().optional(),
  total_duration: count.optional().describe("In ns, like each duration"),
  load_duration: count.optional(),
  prompt_eval_count: count.optional(),
  prompt_eval_duration: count.optional(),
  eval_count: count.optional(),
  eval_duration: count.optional(),
};

export const ollamaChatAnswer = z.strictObject({
  ...answered,
  message: z.strictObject({
    role: z.literal("assistant"),
    content: z.string(),
    thinking: z.string().optional(),
    tool_calls: z.array(toolCall).optional(),
  }),
});

export const ollamaGenerateAnswer = z.strictObject({
  ...answered,
  response: z.string(),
  thinking: z.string().optional(),
});

export const ollamaEmbedAnswer = z.strictObject({
  model: z.string(),
  embeddings: z.array(z.array(z.number())),
  total_duration: count,
  load_duration: count,
  prompt_eval_count: count,
});

export const ollamaEmbedOneAnswer = z.strictObject({ embedding: z.array(z.number()) });

const details = z.strictObject({
  parent_model: z.string(),
  format: z.string(),
  family: z.string(),
  families: z.array(z.string()),
  parameter_size: z.string(),
  quantization_level: z.string(),
});

const listedModel = {
  name: z.string(),
  model: z.string(),
  modified_at: z.string(),
  size: count,
  digest: z.string(),
  details,
};

export const ollamaModelsAnswer = z.strictObject({ models: z.array(z.strictObject(listedModel)) });

export const ollamaRunningAnswer = z.strictObject({
  models: z.array(
    z.strictObject({ ...listedModel, expires_at: z.string(), size_vram: count, context_length: z.int().min(1) }),
  ),
});

export const ollamaShowAnswer = z.strictObject({
  modelfile: z.string(),
  parameters: z.string(),
  template: z.string(),
  modified_at: z.string(),
  details,
  model_info: z.record(z.string(), z.union([z.string(), z.number()])),
  capabilities: z.array(z.enum(["completion", "tools", "insert", "thinking", "embedding"])),
});

export const ollamaVersionAnswer = z.strictObject({ version: z.string() });

export const ollamaError = z.strictObject({ error: z.string() });
