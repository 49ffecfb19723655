// Schemas of answers, for the OpenAPI document and for tests that check answers against it.

import { z } from "zod";
import { MAX_TOKEN_ID } from "./request-schemas.ts";

const usage = z.strictObject({
  prompt_tokens: z.int().min(0),
  completion_tokens: z.int().min(0),
  total_tokens: z.int().min(0),
  prompt_tokens_details: z.strictObject({ cached_tokens: z.int().min(0) }),
  completion_tokens_details: z
    .strictObject({
      accepted_prediction_tokens: z.int().min(0).describe("Drafted tokens that are part of the answer"),
      rejected_prediction_tokens: z.int().min(0).describe("Drafted tokens that are not, nor in `completion_tokens`"),
      reasoning_tokens: z.int().min(0).optional().describe("Tokens of reasoning, if the model reasons"),
    })
    .optional()
    .describe("Present if the request has a `prediction`, if tokens were drafted, or if the model reasons"),
});

const routes = z
  .array(z.int().min(0).nullable())
  .describe(
    "Expert of each token. The last token of a choice has none, nor do tokens whose expert is not the client's to name",
  );

export const timings = z
  .strictObject({
    cache_n: z.int(),
    prompt_n: z.int(),
    prompt_ms: z.number(),
    prompt_per_token_ms: z.number().nullable(),
    prompt_per_second: z.number().nullable(),
    predicted_n: z.int(),
    predicted_ms: z.number(),
    predicted_per_token_ms: z.number().nullable(),
    predicted_per_second: z.number().nullable(),
    draft_n: z.int().min(1).optional().describe("Drafted tokens, if there are any"),
    draft_n_accepted: z.int().min(0).optional(),
  })
  .describe("In the format of llama-server");

const readMe = z.strictObject({
  experts: z
    .array(z.string())
    .optional()
    .describe("Names of experts; empty where an expert was unloaded, or does not exist for the client"),
  prompt_routes: z.array(routes).optional().describe("Routes of each prompt"),
  timings: z.strictObject({ queue_ms: z.number(), prefill_ms: z.number(), decode_ms: z.number() }).optional(),
  progress: z
    .strictObject({
      read_tokens: z.int().min(0).describe("Cached ones included"),
      cached_tokens: z.int().min(0),
      prompt_tokens: z.int().min(0),
      queue_ms: z.number(),
    })
    .optional()
    .describe("In chunks of a stream before the first token"),
});

const choiceReadMe = z.strictObject({ routes }).optional();

const topLogprob = { token: z.string(), logprob: z.number(), bytes: z.array(z.int().min(0).max(255)).nullable() };
const chatLogprobs = z
  .strictObject({
    content: z.array(z.strictObject({ ...topLogprob, top_logprobs: z.array(z.strictObject(topLogprob)) })),
    refusal: z.null(),
  })
  .nullable();

const completionLogprobs = z
  .strictObject({
    tokens: z.array(z.string()),
    token_logprobs: z.array(z.number()),
    top_logprobs: z.array(z.record(z.string(), z.number())),
    text_offset: z.array(z.int().min(0)),
  })
  .nullable();

const head = { id: z.string(), created: z.int(), model: z.string(), system_fingerprint: z.string() };
const extras = { timings: timings.optional(), read_me: readMe.optional() };
const finishReason = z.enum(["stop", "length", "tool_calls"]);

const toolCall = z.strictObject({
  id: z.string(),
  type: z.literal("function"),
  function: z.strictObject({ name: z.string(), arguments: z.string() }),
});

const wholeOf = <Kind extends string, Choice extends z.ZodType>(kind: Kind, choice: Choice) =>
  z.strictObject({ ...head, object: z.literal(kind), choices: z.array(choice), usage, ...extras });
const chunkOf = <Kind extends string, Choice extends z.ZodType>(kind: Kind, choice: Choice) =>
  z.strictObject({ ...head, object: z.literal(kind), choices: z.array(choice), usage: usage.nullish(), ...extras });

const chatChoice = { index: z.int().min(0), logprobs: chatLogprobs, read_me: choiceReadMe };

const chatMessage = z.strictObject({
  role: z.literal("assistant"),
  content: z.string().nullable(),
  reasoning_content: z.string().optional(),
  refusal: z.null(),
  tool_calls: z.array(toolCall).optional(),
});

const chatDelta = z.strictObject({
  role: z.literal("assistant").optional(),
  content: z.string().optional(),
  reasoning_content: z.string().optional(),
  tool_calls: z.array(z.object({ index: z.int().min(0) }).loose()).optional(),
});

export const chatAnswer = wholeOf(
  "chat.completion",
  z.strictObject({ ...chatChoice, message: chatMessage, finish_reason: finishReason }),
);

export const chatChunk = chunkOf(
  "chat.completion.chunk",
  z.strictObject({ ...chatChoice, delta: chatDelta, finish_reason: finishReason.nullable() }),
);

const textChoice = { index: z.int().min(0), text: z.string(), logprobs: completionLogprobs, read_me: choiceReadMe };

export const completionAnswer = wholeOf(
  "text_completion",
  z.strictObject({ ...textChoice, finish_reason: finishReason }),
);

export const completionChunk = chunkOf(
  "text_completion",
  z.strictObject({ ...textChoice, finish_reason: finishReason.nullable() }),
);

export const modelAnswer = z.strictObject({
  id: z.string(),
  object: z.literal("model"),
  created: z.int(),
  owned_by: z.string(),
  root: z.string().describe("Name of the model without aliases"),
  parent: z.string().nullable().describe("Name of the model that an expert belongs to"),
  max_model_len: z.int().optional().describe("Absent where the model was not open yet"),
});

export const modelsAnswer = z.strictObject({ object: z.literal("list"), data: z.array(modelAnswer) });

export const tokenizeAnswer = z.object({
  count: z.int().min(0),
  max_model_len: z.int(),
  tokens: z.array(z.int().min(0).max(MAX_TOKEN_ID)),
});

export const detokenizeAnswer = z.object({ prompt: z.string() });

export const errorAnswer = z.strictObject({
  error: z.strictObject({
    message: z.string(),
    type: z.string(),
    param: z.string().nullable(),
    code: z.string().nullable(),
  }),
});

export type UsageAnswer = z.infer<typeof usage>;
export type TimingsAnswer = z.infer<typeof timings>;
export type ReadMeAnswer = z.infer<typeof readMe>;
export type ChatLogprobs = NonNullable<z.infer<typeof chatLogprobs>>;
export type CompletionLogprobs = NonNullable<z.infer<typeof completionLogprobs>>;
export type ModelAnswer = z.infer<typeof modelAnswer>;

const pooledUsage = z.strictObject({ prompt_tokens: z.int().min(0), total_tokens: z.int().min(0) });

export const embeddingsAnswer = z.strictObject({
  object: z.literal("list"),
  data: z.array(
    z.strictObject({
      object: z.literal("embedding"),
      index: z.int().min(0),
      embedding: z.union([z.array(z.number()), z.string()]),
    }),
  ),
  model: z.string(),
  usage: pooledUsage,
});

export type EmbeddingsAnswer = z.infer<typeof embeddingsAnswer>;

export const rerankAnswer = z.strictObject({
  id: z.string(),
  model: z.string(),
  results: z
    .array(
      z.strictObject({
        index: z.int().min(0).describe("Place in `documents`"),
        relevance_score: z.number().min(0).max(1),
        document: z.strictObject({ text: z.string() }).optional(),
      }),
    )
    .describe("The most relevant first"),
  usage: pooledUsage,
});

export type RerankAnswer = z.infer<typeof rerankAnswer>;

/** Ranking in the shape of Text Embeddings Inference, the most relevant first. */
const teiRanking = z.array(z.strictObject({ index: z.int().min(0), score: z.number(), text: z.string().optional() }));

export type TeiRanking = z.infer<typeof teiRanking>;

export const rankingAnswer = z.union([rerankAnswer, teiRanking]);

export const scoreAnswer = z.strictObject({
  id: z.string(),
  object: z.literal("list"),
  created: z.int().describe("In seconds since 1970"),
  model: z.string(),
  data: z
    .array(z.strictObject({ index: z.int().min(0), object: z.literal("score"), score: z.number().min(0).max(1) }))
    .describe("In the order of `text_2`"),
  usage: pooledUsage,
});

export type ScoreAnswer = z.infer<typeof scoreAnswer>;

export const classifyAnswer = z.strictObject({
  id: z.string(),
  object: z.literal("list"),
  created: z.int().describe("In seconds since 1970"),
  model: z.string(),
  data: z
    .array(
      z.strictObject({
        index: z.int().min(0),
        label: z.string().describe("The most probable one"),
        probs: z.array(z.number().min(0).max(1)).describe("Of all labels, in the model's order"),
        num_classes: z.int().min(1),
      }),
    )
    .describe("In the order of `input`"),
  usage: pooledUsage,
});

export type ClassifyAnswer = z.infer<typeof classifyAnswer>;

const teiLabels = z
  .array(z.strictObject({ label: z.string(), score: z.number() }))
  .min(1)
  .describe("The label with the highest score first");

export const teiPredictAnswer = z.union([teiLabels, z.array(teiLabels)]);

export type TeiPredictAnswer = z.infer<typeof teiPredictAnswer>;

export const teiEmbedAnswer = z.array(z.array(z.number()));

export type TeiEmbedAnswer = z.infer<typeof teiEmbedAnswer>;
