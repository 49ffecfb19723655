// Bodies of Ollama's API. A field that is `null` counts as absent.

import { z } from "zod";
import { functionName, jsonSchema } from "../api/request-schemas.ts";
import { LIMITS } from "../limits.ts";

const model = z.string().min(1).max(512).describe("A served name; `:latest` behind it is ignored");

/** Options that change an answer, and those of loading a model, which have no effect here. */
const options = z
  .strictObject({
    num_predict: z.int().min(-2).nullish().describe("Below 0: up to the end of the context"),
    temperature: z.number().min(0).max(2).nullish(),
    top_p: z.number().gt(0).max(1).nullish(),
    top_k: z.int().min(-1).nullish(),
    min_p: z.number().min(0).max(1).nullish(),
    seed: z.int().min(-1).nullish().describe("-1: another one for each request"),
    stop: z
      .union([z.string().min(1).max(1024), z.array(z.string().min(1).max(1024)).max(LIMITS.stops.value)])
      .nullish(),
    repeat_penalty: z.number().gt(0).max(1000).nullish(),
    presence_penalty: z.number().min(-2).max(2).nullish(),
    frequency_penalty: z.number().min(-2).max(2).nullish(),
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
  keep_alive: z.union([z.string().max(64), z.number()]).nullish(),
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

/** A request to `/api/chat`. */
export type OllamaChatBody = z.infer<typeof ollamaChatBody>;

export const ollamaGenerateBody = z.strictObject({
  ...shared,
  prompt: z.string().nullish(),
  system: z.string().nullish(),
  raw: z.boolean().nullish().describe("Leaves the chat template out"),
  images: noImages,
  suffix: z.literal("").nullish(),
  context: z.array(z.never()).max(0).nullish().describe("Tokens of an earlier answer, which this API no longer has"),
  template: z.literal("").nullish(),
});

/** A request to `/api/generate`. */
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

/** A request to `/api/embeddings`, the older route. */
export const ollamaEmbedOneBody = z.strictObject({
  model,
  prompt: z.string(),
  options,
  keep_alive: shared.keep_alive,
});

export const ollamaShowBody = z.strictObject({
  model: model.nullish(),
  name: model.nullish().describe("Older name of `model`"),
  verbose: z.boolean().nullish(),
});
