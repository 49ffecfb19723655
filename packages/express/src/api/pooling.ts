// Embeddings in the shapes of OpenAI's API and of Text Embeddings Inference, rankings in that of Cohere, Jina and vLLM,
// and labels in those of vLLM and of Text Embeddings Inference.

import { randomUUID } from "node:crypto";
import { setImmediate as nextTurn } from "node:timers/promises";
import {
  embeddingPrefix,
  type EngineInfo,
  isRecord,
  type PoolingOptions,
  type PoolingUsage,
  type Prompt,
  rankedDocuments,
  rerankPrompt,
} from "@readme-moe/core";
import { badRequest, callerError, engineError, invalid } from "../http/errors.ts";
import { JsonList, sendJson } from "../http/reply.ts";
import { clientSignal, stampProcessingTime } from "../http/request.ts";
import { LIMITS } from "../limits.ts";
import type {
  ClassifyAnswer,
  EmbeddingsAnswer,
  RerankAnswer,
  ScoreAnswer,
  TeiEmbedAnswer,
  TeiPredictAnswer,
  TeiRanking,
} from "./answer-schemas.ts";
import { checkedTexts, consultPolicy, nowSeconds } from "./generation.ts";
import {
  classifyBody,
  type ClassifyBody,
  embeddingsBody,
  type EmbeddingsBody,
  rerankBody,
  type RerankBody,
  type ScoreBody,
  type TeiEmbedBody,
  type TeiPredictBody,
  type TeiRerankBody,
} from "./request-schemas.ts";
import { type EngineRouteFacts, type RequestParts, RequestScope } from "./request-scope.ts";
import { changedBody } from "./serve-generation.ts";

/** Most characters of a number in JSON, and of one in base64, with what separates numbers. */
const [NUMBER_BYTES, BASE64_BYTES] = [24, 6];

type EngineParts = RequestParts<EngineRouteFacts>;

/** A text, token ids or a pair of texts. */
type PooledText = string | readonly number[] | readonly [string, string];

/** Logits and probabilities of a text's labels. */
interface TextLabels {
  readonly logits: Float32Array;
  readonly probabilities: Float32Array;
}

/** Results of an engine, in the order of the texts. */
interface Pooled<Result> {
  readonly results: readonly Result[];
  readonly usage: PoolingUsage;
}

/** Texts that an engine pools, and what is made of their results. */
interface PooledAnswer<Text, Result> {
  readonly id: string;
  /** Parameter that holds the texts. */
  readonly param: "input" | "inputs" | "documents" | "text_2" | "texts";
  readonly texts: readonly Text[];
  /** Size of what the prompt of each text has beside it. */
  readonly sharedBytes: number;
  readonly answerBytes: number;
  readonly promptOf: (text: Text) => Prompt;
  readonly run: (texts: readonly Text[], options: PoolingOptions) => Promise<Pooled<Result>>;
  readonly answer: (results: readonly Result[], usage: EmbeddingsAnswer["usage"]) => object | Promise<object>;
}

/** Checks the number of texts. The schema would report that the first text is no token id. */
export const checkInputs =
  (param: "input" | "inputs") =>
  (sent: unknown): unknown => {
    const inputs: unknown = isRecord(sent) ? sent[param] : undefined;
    const most = LIMITS.inputs.value;
    if (Array.isArray(inputs) && typeof inputs[0] !== "number" && inputs.length > most) {
      throw invalid(param, `expected at most ${most} items`);
    }
    return sent;
  };

/** Embeddings in another API than OpenAI's. */
interface EmbeddingsShape {
  readonly param: "input" | "inputs";
  /** See `PoolingOptions`. */
  readonly truncate?: boolean | undefined;
  /** See `EmbedRequest`. */
  readonly normalize?: boolean | undefined;
  /** See `ScopeParts`. */
  readonly keepAliveMs?: number | undefined;
  readonly answer: PooledAnswer<unknown, Float32Array>["answer"];
}

/** Serves embeddings. @param shape - @default that of OpenAI's API */
export async function serveEmbeddings(
  parts: EngineParts,
  sent: EmbeddingsBody,
  shape?: EmbeddingsShape,
): Promise<void> {
  const signal = clientSignal(parts.response);
  const body = await changedBody(sent, parts, { schema: embeddingsBody, signal });
  const keepAliveMs = shape?.keepAliveMs;
  await RequestScope.run({ ...parts, body, signal, keepAliveMs }, async (scope) => {
    const own = embeddingAnswer(body, scope, shape);
    await answerPooled(scope, shape ? { ...own, answer: shape.answer } : own);
  });
}

/** Serves embeddings as Text Embeddings Inference does, which answers with bare numbers. */
export async function teiEmbed(
  parts: EngineParts,
  { inputs, truncate, normalize, ...body }: TeiEmbedBody,
): Promise<void> {
  await serveEmbeddings(
    parts,
    { ...body, input: inputs },
    {
      param: "inputs",
      truncate: truncate ?? true,
      normalize: normalize ?? true,
      answer: (results): Promise<TeiEmbedAnswer> => listed(results, (values) => Array.from(values)),
    },
  );
}

/** A ranking in another API than Cohere's. */
interface RankingShape extends Pick<PooledAnswer<string, number>, "param" | "answer"> {
  /** See `RerankRequest`. */
  readonly rawScores?: boolean;
  /** See `PoolingOptions`. */
  readonly truncate?: boolean | undefined;
}

/** Serves a ranking. @param shapeOf - @default that of Cohere's API */
export async function rerank(
  parts: EngineParts,
  sent: RerankBody,
  shapeOf?: (scope: RequestScope) => RankingShape,
): Promise<void> {
  const signal = clientSignal(parts.response);
  const body = await changedBody(sent, parts, { schema: rerankBody, signal });
  await RequestScope.run({ ...parts, body, signal }, (scope) => {
    const { param, answer, ...how } = shapeOf?.(scope) ?? {};
    const own = rankingAnswer(body, scope, how);
    return answerPooled(scope, { ...own, param: param ?? own.param, answer: answer ?? own.answer });
  });
}

/** Serves a ranking as Text Embeddings Inference does, which answers with a bare list. */
export async function teiRerank(
  parts: EngineParts,
  { texts, truncate, raw_scores: rawScores, return_text: returns, model, query }: TeiRerankBody,
): Promise<void> {
  await rerank(parts, { model, query, documents: texts }, () => ({
    param: "texts",
    rawScores: rawScores ?? false,
    truncate: truncate === false ? false : undefined,
    answer: (scores): TeiRanking =>
      rankedDocuments(scores).map((one) => ({ ...one, ...(returns && { text: texts[one.index] ?? "" }) })),
  }));
}

/** Scores texts against one, in their order, as vLLM does. */
export async function scoreTexts(
  parts: EngineParts,
  { text_1: query, text_2: texts, ...body }: ScoreBody,
): Promise<void> {
  const documents = typeof texts === "string" ? [texts] : texts;
  await rerank(parts, { ...body, query, documents }, ({ model }) => ({
    param: "text_2",
    answer: (scores, usage): ScoreAnswer => ({
      id: `score-${randomUUID()}`,
      object: "list",
      created: nowSeconds(),
      model,
      data: scores.map((value, index) => ({ index, object: "score", score: value })),
      usage,
    }),
  }));
}

/** Labels in another API than vLLM's. */
interface LabelsShape extends Pick<PooledAnswer<PooledText, TextLabels>, "answer"> {
  readonly param: "inputs";
  /** See `PoolingOptions`. */
  readonly truncate: boolean | undefined;
}

/** Serves labels. @param shapeOf - makes another answer than vLLM's of them */
export async function classify(
  parts: EngineParts,
  sent: ClassifyBody,
  shapeOf?: (labels: readonly string[]) => LabelsShape,
): Promise<void> {
  const signal = clientSignal(parts.response);
  const body = await changedBody(sent, parts, { schema: classifyBody, signal });
  await RequestScope.run({ ...parts, body, signal }, (scope) => {
    const { labels = [] } = scope.engine.info.classification ?? {};
    return answerPooled(scope, labelsAnswer(body, scope, shapeOf?.(labels)));
  });
}

/** Serves labels as Text Embeddings Inference does: those of one text or pair, or a list of them. */
export async function teiPredict(
  parts: EngineParts,
  { inputs, raw_scores: isRaw, truncate, truncation_direction: _end, ...body }: TeiPredictBody,
): Promise<void> {
  const isBatch = (given: typeof inputs): given is string[][] => typeof given !== "string" && Array.isArray(given[0]);
  const input = isBatch(inputs) ? inputs.map(textOrPair) : [textOrPair(typeof inputs === "string" ? [inputs] : inputs)];
  await classify(parts, { ...body, input }, (labels) => {
    const itemsOf = ({ logits, probabilities }: TextLabels) =>
      rankedDocuments(isRaw ? logits : probabilities).map(({ index, score }) => ({
        label: labels[index] ?? "",
        score,
      }));
    return {
      param: "inputs",
      truncate: truncate === false ? false : undefined,
      answer: (results): TeiPredictAnswer | Promise<TeiPredictAnswer> =>
        isBatch(inputs) ? listed(results, itemsOf) : results.slice(0, 1).flatMap(itemsOf),
    };
  });
}

/** Takes a text, or a pair of texts, out of its list. */
function textOrPair([text = "", pair]: readonly string[]): string | [string, string] {
  return pair === undefined ? text : [text, pair];
}

function labelsAnswer(
  { input }: ClassifyBody,
  { engine, model }: RequestScope,
  shape?: LabelsShape,
): PooledAnswer<PooledText, TextLabels> {
  const { labels = [], isOfTokens } = engine.info.classification ?? {};
  const param = shape?.param ?? "input";
  if (isOfTokens) {
    const message = `The model \`${model}\` gives labels of tokens, which this route does not serve.`;
    throw badRequest({ message, code: "model_not_capable", param: "model" });
  }
  const texts = hasPairs(input) ? input : checkedTexts(param, input, engine.info);
  const id = `classify-${randomUUID()}`;
  return {
    id,
    param,
    texts,
    sharedBytes: 0,
    answerBytes: texts.length * labels.reduce((sum, label) => sum + Buffer.byteLength(label) + 2 * NUMBER_BYTES, 0),
    promptOf: (text) => (isPair(text) ? rerankPrompt({ query: text[0] }, text[1]) : text),
    async run(inputs, options) {
      const { logits, probabilities, usage } = await engine.classify({ inputs, truncate: shape?.truncate, ...options });
      const results = logits.map((own, index) => ({ logits: own, probabilities: probabilities[index] ?? own }));
      return { results, usage };
    },
    async answer(results, usage): Promise<ClassifyAnswer> {
      const data = await listed(results, ({ probabilities }, index) => ({
        index,
        label: labels[rankedDocuments(probabilities, 1)[0]?.index ?? 0] ?? "",
        probs: Array.from(probabilities),
        num_classes: labels.length,
      }));
      return { id, object: "list", created: nowSeconds(), model, data, usage };
    },
    ...shape,
  };
}

function isPair(text: unknown): text is readonly [string, string] {
  return Array.isArray(text) && typeof text[0] === "string";
}

function hasPairs(input: ClassifyBody["input"]): input is (string | [string, string])[] {
  return typeof input !== "string" && (input as readonly unknown[]).some(isPair);
}

function embeddingAnswer(
  body: EmbeddingsBody,
  { engine, model }: RequestScope,
  { param = "input", truncate, normalize }: Partial<EmbeddingsShape> = {},
): PooledAnswer<string | readonly number[], Float32Array> {
  const texts = checkedTexts(param, body.input, engine.info);
  const { embedding = { prompts: {}, dimensions: 0 } } = engine.info;
  const { prompts, dimensions: most } = embedding;
  const { instruction, prompt_name: promptName, encoding_format: format } = body;
  const dimensions = body.dimensions ?? most;
  if (dimensions > most) throw invalid("dimensions", `expected at most ${most}, got ${dimensions}`);
  if (promptName != null && !Object.hasOwn(prompts, promptName)) {
    throw invalid("prompt_name", `expected one of ${Object.keys(prompts).join(", ") || "no names"}`);
  }
  if (promptName != null && instruction != null) throw invalid("prompt_name", "expected no `instruction` beside it");
  const before = { instruction: instruction ?? undefined, promptName: promptName ?? undefined };
  const prefix = embeddingPrefix(before, embedding);
  return {
    id: `embd-${randomUUID()}`,
    param,
    texts,
    sharedBytes: Buffer.byteLength(prefix),
    answerBytes: texts.length * dimensions * (format === "base64" ? BASE64_BYTES : NUMBER_BYTES),
    promptOf: (text) => (typeof text === "string" ? prefix + text : text),
    async run(inputs, options) {
      const own = { inputs, dimensions, truncate, normalize, ...before };
      const { embeddings: results, usage } = await engine.embed({ ...own, ...options });
      return { results, usage };
    },
    async answer(results, usage): Promise<EmbeddingsAnswer> {
      const data = await listed(results, (values, index) => ({
        object: "embedding" as const,
        index,
        embedding: format === "base64" ? base64Of(values) : Array.from(values),
      }));
      return { object: "list", data, model, usage };
    },
  };
}

/** Writes items of an answer as JSON. Numbers take long to write, so others have their turn between items. */
export async function listed<Result, Item>(
  results: readonly Result[],
  itemOf: (result: Result, index: number) => Item,
): Promise<Item[]> {
  const list = new JsonList<Item>();
  for (const [index, result] of results.entries()) {
    list.push(itemOf(result, index));
    await nextTurn();
  }
  return list.asItems();
}

/** Encodes numbers as clients decode them: float32, little-endian. */
function base64Of(values: Float32Array): string {
  const bytes = Buffer.alloc(4 * values.length);
  for (const [index, value] of values.entries()) bytes.writeFloatLE(value, 4 * index);
  return bytes.toString("base64");
}

function rankingAnswer(
  body: RerankBody,
  { engine, model }: RequestScope,
  how: Pick<RankingShape, "rawScores" | "truncate">,
): PooledAnswer<string, number> {
  const { query, instruction, top_n: most, return_documents: returns } = body;
  const texts = body.documents.map((document) => (typeof document === "string" ? document : document.text));
  const request = { query, instruction: instruction ?? undefined };
  const id = `rerank-${randomUUID()}`;
  return {
    id,
    param: "documents",
    texts,
    sharedBytes: Buffer.byteLength(query) + Buffer.byteLength(instruction ?? ""),
    // The documents themselves are at most as large as the body.
    answerBytes: 4 * NUMBER_BYTES * texts.length,
    promptOf: (document) => rerankPrompt(request, document),
    async run(documents, options) {
      const { scores: results, usage } = await engine.rerank({ ...request, ...how, documents, ...options });
      return { results, usage };
    },
    answer(scores, usage): RerankAnswer {
      const results = rankedDocuments(scores, most ?? undefined).map(({ index, score }) => {
        const document = returns ? { document: { text: texts[index] ?? "" } } : {};
        return { index, relevance_score: score, ...document };
      });
      return { id, model, results, usage };
    },
  };
}

/** Runs texts and answers. Reports each text to admission when it is accepted, and when the first has run. */
async function answerPooled<Text extends PooledText, Result>(
  scope: RequestScope<EmbeddingsBody | RerankBody | ClassifyBody>,
  pooled: PooledAnswer<Text, Result>,
): Promise<void> {
  const { engine, locals, response, serving, namedExpert, bodyBytes } = scope;
  const { param, texts, sharedBytes, answerBytes, answer } = pooled;
  const priority = priorityOf(scope);
  if (namedExpert !== undefined) throw invalid("model", "expected no expert, as embeddings and scores have none");
  const most = texts.map((text) => mostTokens(text, sharedBytes, engine.info));
  scope.enter({
    // An answer may be much larger than its request.
    bytes: Math.min(bodyBytes + answerBytes, serving.admission.stats.limits.bytes),
    maxPromptTokens: most.reduce((sum, tokens) => sum + tokens, 0),
    maxCompletionTokens: 0,
    choices: 1,
    priority,
  });
  const { signal } = scope;
  const spent = { tokens: 0 };
  const { results, usage } = await runPooled(scope, pooled, { most, spent })
    .catch((error: unknown) => {
      throw signal.aborted ? signal.reason : engineError(callerError(error, param), param, engine.info);
    })
    // Aborted requests pay for the texts that were accepted.
    .finally(() => locals.spendTokens?.(spent.tokens));
  stampProcessingTime(response);
  const { promptTokens } = usage;
  const body = await answer(results, { prompt_tokens: promptTokens, total_tokens: promptTokens });
  await sendJson(response, body, serving);
}

/** Runs texts. @param spent - gets the tokens of accepted texts */
async function runPooled<Text extends PooledText, Result>(
  scope: RequestScope<EmbeddingsBody | RerankBody | ClassifyBody>,
  { id, param, texts, promptOf, run }: PooledAnswer<Text, Result>,
  { most, spent }: { readonly most: readonly number[]; readonly spent: { tokens: number } },
): Promise<Pooled<Result>> {
  const { client, cacheSalt, ticket, signal } = scope;
  const asked = { promptParam: param, expert: undefined, priority: priorityOf(scope) };
  const { priority } = await consultPolicy(scope, asked, { prompts: ticket.consult ? texts.map(promptOf) : [] });
  signal.throwIfAborted();
  let left = most.reduce((sum, tokens) => sum + tokens, 0);
  const onProgress: PoolingOptions["onProgress"] = ({ index, promptTokens, isDone }) => {
    if (isDone) return ticket.started();
    spent.tokens += promptTokens;
    left -= most[index] ?? 0;
    // A policy has seen the real number.
    if (!ticket.consult) ticket.correct(spent.tokens + left);
  };
  return run(texts, { id, client, cacheSalt, priority, signal, onProgress });
}

/** Returns the priority of a batch's line, else the body's. */
function priorityOf({ locals, body }: RequestScope<EmbeddingsBody | RerankBody | ClassifyBody>): number {
  return locals.batch?.priority ?? body.read_me?.priority ?? 0;
}

/** Computes the most tokens that a text may have, without those of a template: no text has more tokens than bytes. */
function mostTokens(
  text: PooledText,
  sharedBytes: number,
  { contextTokens }: Pick<EngineInfo, "contextTokens">,
): number {
  // A pair has a token between its texts, and one at its end.
  if (isPair(text)) return mostTokens(text.join("  "), sharedBytes, { contextTokens });
  const own = typeof text === "string" ? Buffer.byteLength(text) + sharedBytes : text.length;
  return Math.min(own, contextTokens);
}
