// Schemas of embeddings and rankings: bodies and answers.

import { z } from "zod";
import { LIMITS } from "../limits.ts";
import { inertFields, pooledReadMe, requestFields, tokenId } from "./request-schemas.ts";

const { model } = requestFields;
const instruction = z.string().min(1).max(4096).nullish();

export const embeddingsBody = z.strictObject({
  model,
  input: z
    .union([
      z.string(),
      z.array(z.string()).min(1).max(LIMITS.inputs.value),
      z.array(tokenId).min(1),
      z.array(z.array(tokenId).min(1)).min(1).max(LIMITS.inputs.value),
    ])
    .describe("A text, token ids, or a list of either"),
  encoding_format: z.enum(["float", "base64"]).nullish().describe("base64 is of float32, little-endian"),
  dimensions: z.int().min(1).nullish().describe("Keeps the first numbers, as an embedding of length 1"),
  instruction: instruction.describe("Task of a query. Puts `Instruct: …\\nQuery:` before each text"),
  prompt_name: z.string().min(1).max(256).nullish().describe("One of the model's own texts that go before inputs"),
  read_me: pooledReadMe,
  ...inertFields,
});

/** A request to `/v1/embeddings`. */
export type EmbeddingsBody = z.infer<typeof embeddingsBody>;

const documentText = z.union([z.string(), z.strictObject({ text: z.string() })]);

export const rerankBody = z.strictObject({
  model,
  query: z.string(),
  documents: z.array(documentText).min(1).max(LIMITS.inputs.value),
  top_n: z.int().min(1).nullish().describe("Number of documents in the answer. @default all"),
  return_documents: z.boolean().nullish().describe("Adds the texts to the answer. @default false"),
  instruction: instruction.describe("Task: what makes a document relevant"),
  read_me: pooledReadMe,
  ...inertFields,
});

/** A request to `/v1/rerank`. */
export type RerankBody = z.infer<typeof rerankBody>;

const usage = z.strictObject({ prompt_tokens: z.int().min(0), total_tokens: z.int().min(0) });

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
  usage,
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
  usage,
});

export type RerankAnswer = z.infer<typeof rerankAnswer>;
