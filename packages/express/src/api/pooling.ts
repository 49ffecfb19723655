// Embeddings in the shape of OpenAI's API, and rankings in that of Cohere, Jina and vLLM.

import { randomUUID } from "node:crypto";
import type { PoolingOptions, PoolingUsage } from "@readme-moe/core";
import { requireTask } from "../edge/model-task.ts";
import { callerError, engineError, invalid } from "../http/errors.ts";
import { clientSignal, stampProcessingTime } from "../http/request.ts";
import { sendJson } from "../http/send-json.ts";
import { LIMITS } from "../limits.ts";
import { checkBody } from "./check-body.ts";
import { Exchange } from "./exchange.ts";
import { checkIds } from "./generation.ts";
import {
  embeddingsBody,
  rerankBody,
  type EmbeddingsAnswer,
  type EmbeddingsBody,
  type RerankAnswer,
  type RerankBody,
} from "./pooling-schemas.ts";
import type { RequestParts } from "./serve-generation.ts";

/** Texts that are run in turns, and what is made of their results. */
interface PooledAnswer<Text, Result> {
  /** Parameter that holds the texts. */
  readonly param: string;
  readonly texts: readonly Text[];
  readonly run: (
    texts: readonly Text[],
    options: PoolingOptions,
  ) => Promise<{ readonly results: readonly Result[]; readonly usage: PoolingUsage }>;
  readonly answer: (results: readonly Result[], usage: EmbeddingsAnswer["usage"]) => object;
}

/** Answers `POST /v1/embeddings`. */
export async function createEmbeddings(parts: RequestParts): Promise<void> {
  const sent: unknown = parts.request.body;
  // The schema would report that the first text is no token id.
  const inputs: unknown = typeof sent === "object" && sent !== null && "input" in sent ? sent.input : undefined;
  const most = LIMITS.inputs.value;
  if (Array.isArray(inputs) && typeof inputs[0] !== "number" && inputs.length > most) {
    throw invalid("input", `expected at most ${most} items`);
  }
  await serveEmbeddings(parts, checkBody(embeddingsBody, sent));
}

/**
 * Serves embeddings.
 *
 * @param answer - writes the answer. @default in the shape of OpenAI's API
 */
export async function serveEmbeddings(
  { serving, request, response }: RequestParts,
  body: EmbeddingsBody,
  answer?: PooledAnswer<unknown, Float32Array>["answer"],
): Promise<void> {
  const parts = { serving, request, response, body, signal: clientSignal(response) };
  await Exchange.run(parts, async (exchange) => {
    requireTask("embed", exchange, serving.models);
    const own = embeddingAnswer(body, exchange);
    await answerPooled(exchange, answer ? { ...own, answer } : own);
  });
}

/** Answers `POST /v1/rerank`. */
export async function rerank({ serving, request, response }: RequestParts): Promise<void> {
  const body = checkBody(rerankBody, request.body);
  const parts = { serving, request, response, body, signal: clientSignal(response) };
  await Exchange.run(parts, async (exchange) => {
    requireTask("rerank", exchange, serving.models);
    await answerPooled(exchange, rankingAnswer(body, exchange));
  });
}

function embeddingAnswer(
  body: EmbeddingsBody,
  { engine, model }: Exchange,
): PooledAnswer<string | readonly number[], Float32Array> {
  const texts = inputsOf(body);
  const { prompts = {}, dimensions: most = 0 } = engine.info.embedding ?? {};
  const { dimensions = most, instruction, prompt_name: promptName, encoding_format: format } = body;
  if ((dimensions ?? most) > most) throw invalid("dimensions", `expected at most ${most}, got ${dimensions}`);
  if (promptName != null && !Object.hasOwn(prompts, promptName)) {
    throw invalid("prompt_name", `expected one of ${Object.keys(prompts).join(", ") || "no names"}`);
  }
  if (promptName != null && instruction != null) throw invalid("prompt_name", "expected no `instruction` beside it");
  for (const [index, text] of texts.entries()) {
    if (typeof text !== "string") checkIds(texts.length > 1 ? `input[${index}]` : "input", text, engine.info);
  }
  const shared = {
    dimensions: dimensions ?? undefined,
    instruction: instruction ?? undefined,
    promptName: promptName ?? undefined,
  };
  return {
    param: "input",
    texts,
    async run(inputs, options) {
      const { embeddings: results, usage } = await engine.embed({ inputs, ...shared, ...options });
      return { results, usage };
    },
    answer(results, usage): EmbeddingsAnswer {
      const data = results.map((values, index) => ({
        object: "embedding" as const,
        index,
        embedding: format === "base64" ? base64Of(values) : Array.from(values),
      }));
      return { object: "list", data, model, usage };
    },
  };
}

function inputsOf({ input }: EmbeddingsBody): readonly (string | readonly number[])[] {
  if (typeof input === "string") return [input];
  return isTokenIds(input) ? [input] : input;
}

function isTokenIds(input: readonly unknown[]): input is readonly number[] {
  return typeof input[0] === "number";
}

/** Encodes numbers as clients decode them: float32, little-endian. */
function base64Of(values: Float32Array): string {
  const bytes = Buffer.alloc(4 * values.length);
  for (const [index, value] of values.entries()) bytes.writeFloatLE(value, 4 * index);
  return bytes.toString("base64");
}

function rankingAnswer(body: RerankBody, { engine, model }: Exchange): PooledAnswer<string, number> {
  const { query, instruction, top_n: most, return_documents: returns } = body;
  const texts = body.documents.map((document) => (typeof document === "string" ? document : document.text));
  return {
    param: "documents",
    texts,
    async run(documents, options) {
      const request = { query, documents, instruction: instruction ?? undefined, ...options };
      const { scores: results, usage } = await engine.rerank(request);
      return { results, usage };
    },
    answer(scores, usage): RerankAnswer {
      // The sort is stable, so that documents with equal scores keep their order.
      const ranked = [...scores.entries()].toSorted(([, a], [, b]) => b - a).slice(0, most ?? undefined);
      const results = ranked.map(([index, score]) => {
        const document = returns ? { document: { text: texts[index] ?? "" } } : {};
        return { index, relevance_score: score, ...document };
      });
      return { id: `rerank-${randomUUID()}`, model, results, usage };
    },
  };
}

/** Runs texts in turns, so that admission learns early that the first have run, and answers. */
async function answerPooled<Text, Result>(
  exchange: Exchange,
  { param, texts, run, answer }: PooledAnswer<Text, Result>,
): Promise<void> {
  const { engine, client, locals, response } = exchange;
  const { priority = 0 } = locals.batch ?? {};
  exchange.enter({ maxCompletionTokens: 0, choices: 1, priority });
  const { ticket, signal } = exchange;
  const inTurn = 2 * engine.info.maxNumSeqs;
  const results: Result[] = [];
  let promptTokens = 0;
  try {
    for (let from = 0; from < texts.length; from += inTurn) {
      // oxlint-disable-next-line no-await-in-loop -- the next turn begins when this one has ended
      const turn = await run(texts.slice(from, from + inTurn), { client, priority, signal });
      results.push(...turn.results);
      promptTokens += turn.usage.promptTokens;
      if (from === 0) ticket.started();
    }
  } catch (error) {
    throw signal.aborted ? signal.reason : engineError(callerError(error, param), param, engine.info);
  } finally {
    // Aborted requests pay for the turns that have run.
    locals.spendTokens?.(promptTokens);
  }
  const usage = { prompt_tokens: promptTokens, total_tokens: promptTokens };
  stampProcessingTime(response);
  await sendJson(response, answer(results, usage), exchange.serving);
}
