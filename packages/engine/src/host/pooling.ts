// Embeddings, scores and labels on the caller's side: checks, one sequence for each text, and the results together.

import {
  checkClient,
  choiceOption,
  type Classifications,
  type ClassifyRequest,
  describeValue,
  embeddingOf,
  embeddingPrefix,
  functionOption,
  integerOption,
  labelProbabilities,
  onceAborted,
  rejectUnknownKeys,
  relevanceOf,
  rerankPrompt,
  resolveSamplingParams,
  switchOption,
  textOption,
  type EmbeddingInfo,
  type Embeddings,
  type EmbedRequest,
  type EngineInfo,
  type FilledMasks,
  type FillMasksRequest,
  type GenerationStream,
  type PoolingOptions,
  type PoolingUsage,
  type Prompt,
  type Ranking,
  type RerankRequest,
  type SegmentedIds,
  tokenIdsOption,
} from "@readme-moe/core";
import type { EngineChunk } from "../engine-parts.ts";
import type { WirePrompt, WireRequest } from "../protocol.ts";
import { type CallingEngine, checkTask, wirePrompt } from "./request.ts";

/** Begins a sequence that ends after its prompt. */
type BeginPooled = (request: WireRequest, signal: AbortSignal) => GenerationStream<EngineChunk>;

interface PoolingHost {
  readonly info: EngineInfo;
  readonly begin: BeginPooled;
  /** Returns a new id for a request without one. */
  readonly newId: () => string;
}

const SHARED_NAMES = [
  "priority",
  "client",
  "cacheSalt",
  "truncate",
  "id",
  "signal",
  "onProgress",
] as const satisfies readonly (keyof PoolingOptions)[];

/** Checks and runs `Engine.embed`. */
export async function embedTexts(request: EmbedRequest, host: PoolingHost): Promise<Embeddings> {
  checkTask("embed", host.info);
  const { embedding } = host.info;
  if (!embedding) throw new TypeError("Expected `info.embedding` of a model that gives embeddings");
  checkObject(request, "inputs");
  rejectUnknownKeys("a request", request, [
    "inputs",
    "dimensions",
    "instruction",
    "promptName",
    "normalize",
    "pooling",
    ...SHARED_NAMES,
  ]);
  const { inputs, dimensions = embedding.dimensions, pooling, normalize = embedding.isNormalized } = request;
  switchOption("normalize", normalize);
  const givesStates = pooling !== undefined;
  if (givesStates) checkStates(request, embedding);
  integerOption("dimensions", dimensions, 1, embedding.dimensions);
  checkList("inputs", inputs);
  const before = embeddingPrefix(request, embedding);
  const prompts = inputs.map((input, index) => {
    if (typeof input === "string") return before + input;
    if (isIds(input)) return input;
    throw new TypeError(`Expected \`inputs[${index}]\` to be a text or token ids, got ${describeValue(input)}`);
  });
  const { outputs, usage } = await poolTexts(prompts, request, host, givesStates);
  if (givesStates) return { embeddings: outputs, usage };
  return { embeddings: outputs.map((hidden) => embeddingOf(hidden, normalize, dimensions)), usage };
}

/** @throws {TypeError | RangeError} when the model has no states of all tokens, or `dimensions` is given as well */
function checkStates({ pooling, dimensions }: EmbedRequest, { givesStates = false }: EmbeddingInfo): void {
  if (pooling !== "none") throw new RangeError(`Expected \`pooling\` to be "none", got ${describeValue(pooling)}`);
  if (!givesStates) throw new TypeError("Expected `pooling` of an encoder: other models give one state of a text");
  if (dimensions !== undefined) throw new TypeError("Expected `dimensions` or `pooling`, got both");
}

/** Checks and runs `Engine.rerank`. */
export async function rerankDocuments(request: RerankRequest, host: PoolingHost): Promise<Ranking> {
  checkTask("rerank", host.info);
  checkObject(request, "query, documents");
  rejectUnknownKeys("a request", request, ["query", "documents", "instruction", "rawScores", ...SHARED_NAMES]);
  textOption("query", request.query);
  if (request.instruction !== undefined) textOption("instruction", request.instruction);
  const { rawScores = false } = request;
  switchOption("rawScores", rawScores);
  checkList("documents", request.documents);
  for (const [index, document] of request.documents.entries()) textOption(`documents[${index}]`, document);
  const prompts = request.documents.map((document) => rerankPrompt(request, document));
  const { outputs, usage } = await poolTexts(prompts, request, host);
  return { scores: outputs.map((logits) => relevanceOf(logits, rawScores)), usage };
}

/** Checks and runs `Engine.classify`. */
export async function classifyTexts(request: ClassifyRequest, host: PoolingHost): Promise<Classifications> {
  const { classification } = host.info;
  if (!classification) checkTask("classify", host.info);
  if (!classification) throw new TypeError("Expected `info.classification` of a model that gives labels");
  checkObject(request, "inputs");
  rejectUnknownKeys("a request", request, ["inputs", ...SHARED_NAMES]);
  checkList("inputs", request.inputs);
  const prompts = request.inputs.map((input, index): Prompt | SegmentedIds => {
    if (typeof input === "string") return input;
    if (isPair(input)) return rerankPrompt({ query: input[0] }, input[1]);
    if (isIds(input)) return input;
    throw new TypeError(
      `Expected \`inputs[${index}]\` to be a text, a pair of texts or token ids, got ${describeValue(input)}`,
    );
  });
  const { outputs: logits, usage } = await poolTexts(prompts, request, host, classification.isOfTokens);
  return { logits, probabilities: logits.map((own) => labelProbabilities(own, classification)), usage };
}

/** Checks and runs `ReadMeEngine.fillMasks`. */
export async function fillMasks(
  request: FillMasksRequest,
  host: PoolingHost & Pick<CallingEngine, "call">,
): Promise<FilledMasks> {
  const { mask, path, embedding } = host.info;
  if (!mask || !embedding) throw new TypeError(`Expected a model that fills masks; ${path} has no head for it`);
  checkObject(request, "inputs");
  rejectUnknownKeys("a request", request, ["inputs", "places", ...SHARED_NAMES]);
  const { inputs, places: asked = "masks", signal } = request;
  choiceOption("places", asked, ["masks", "all"]);
  checkList("inputs", inputs);
  const reading = inputs.map(async (input, index) => {
    if (typeof input !== "string" && !isIds(input)) {
      throw new TypeError(`Expected \`inputs[${index}]\` to be a text or token ids, got ${describeValue(input)}`);
    }
    const limits = { addSpecialTokens: undefined, maxTokens: host.info.contextTokens };
    return typeof input === "string" ? host.call("tokenize", { prompt: input, ...limits }, signal) : input;
  });
  const given = await Promise.all(reading);
  const each = given.map((input, index) => {
    const tokenIds = Int32Array.from("tokenIds" in input ? input.tokenIds : input);
    const all = Array.from(tokenIds.keys());
    const places = asked === "all" ? all : all.filter((place) => tokenIds[place] === mask.tokenId);
    if (places.length > 0) return { tokenIds, places };
    throw new RangeError(`Expected \`inputs[${index}]\` to have the mask ${mask.token}, got none`);
  });
  const [{ outputs, usage }] = await Promise.all([
    poolTexts(given, request, host, true),
    host.call("openMaskedHead", {}, signal),
  ]);
  const results: FilledMasks["inputs"][number][] = [];
  for (const [index, { tokenIds, places }] of each.entries()) {
    const all = outputs[index] ?? new Float32Array();
    // An embedding of a text may have other dimensions than the states.
    const size = all.length / tokenIds.length;
    const states = new Float32Array(places.length * size);
    for (const [row, place] of places.entries()) states.set(all.subarray(place * size, (place + 1) * size), row * size);
    // One after another, since the logits of a text may be large.
    const logits = await host.call("maskedLogits", { states }, signal);
    results.push({ tokenIds, places, logits });
  }
  return { inputs: results, usage };
}

function isPair(input: unknown): input is readonly [string, string] {
  return Array.isArray(input) && input.length === 2 && input.every((text) => typeof text === "string");
}

function isIds(input: unknown): input is ArrayLike<number> | SegmentedIds {
  if (typeof input !== "object" || input === null) return false;
  return "tokenIds" in input ? isList(input.tokenIds) && "segments" in input && isList(input.segments) : isList(input);
}

function isList(value: unknown): value is ArrayLike<unknown> {
  const isObject = typeof value === "object" && value !== null;
  return isObject && "length" in value && typeof value.length === "number" && value.length > 0;
}

/** Makes one id of a token and its segment, as the kernel takes them (`EncoderDescription`). */
function wireInput(input: Prompt | SegmentedIds, info: EngineInfo): WirePrompt {
  if (typeof input !== "object" || input === null || !("tokenIds" in input)) return wirePrompt(input, info);
  const { numSegments = 1, vocabSize } = info;
  const ids = tokenIdsOption("tokenIds", input.tokenIds, vocabSize);
  const segments = tokenIdsOption("segments", input.segments, numSegments);
  if (ids.length === segments.length) return ids.map((id, index) => id + segments[index]! * vocabSize);
  throw new RangeError(`Expected \`segments\` to have ${ids.length} numbers, got ${segments.length}`);
}

/**
 * Characters of a call's texts that are with the engine at once: two steps' worth, so that the engine always has
 * further texts, and a short call waits for those alone, not for all texts of a long one.
 */
const MOST_CHARACTERS = 4096;

/** Counts the characters of a prompt; about four of them are a token. */
function charactersOf(prompt: Prompt | SegmentedIds): number {
  if (typeof prompt === "string") return prompt.length;
  if ("tokenIds" in prompt) return 4 * prompt.tokenIds.length;
  if (!("messages" in prompt)) return "length" in prompt ? 4 * prompt.length : 0;
  return prompt.messages.reduce((sum, { content }) => sum + (typeof content === "string" ? content.length : 0), 0);
}

/** Runs prompts, as many at a time as `MOST_CHARACTERS` says. The first error ends the others. */
async function poolTexts(
  prompts: readonly (Prompt | SegmentedIds)[],
  { priority = 0, client, cacheSalt, truncate, id, signal, onProgress }: PoolingOptions,
  { info, begin, newId }: PoolingHost,
  givesStates = false,
): Promise<{ readonly outputs: readonly Float32Array<ArrayBuffer>[]; readonly usage: PoolingUsage }> {
  checkClient({ priority, client, cacheSalt });
  functionOption("onProgress", onProgress);
  if (truncate !== undefined) switchOption("truncate", truncate);
  const params = resolveSamplingParams({}, info);
  const firstId = id ?? newId();
  const requests = prompts.map((prompt, index): WireRequest => ({
    requestId: prompts.length === 1 ? firstId : `${firstId}/${index}`,
    prompt: wireInput(prompt, info),
    params,
    expert: undefined,
    priority,
    client,
    cacheSalt,
    seed: 0,
    processesLogits: false,
    isPooled: true,
    comesAlone: prompts.length === 1,
    truncates: truncate,
    givesStates,
  }));
  const outputs: Float32Array<ArrayBuffer>[] = [];
  const usage = { promptTokens: 0, cachedTokens: 0, queuedMs: 0 };
  const ending = new AbortController();
  const detach = onceAborted(signal, () => ending.abort(signal?.reason));
  if (signal?.aborted) ending.abort(signal.reason);
  const run = async (request: WireRequest, index: number): Promise<void> => {
    const stream = begin(request, ending.signal);
    const { promptTokens } = await stream.accepted;
    onProgress?.({ index, promptTokens, isDone: false });
    for await (const { pooled, usage: own } of stream) {
      if (pooled) outputs[index] = pooled;
      usage.promptTokens += own?.promptTokens ?? 0;
      usage.cachedTokens += own?.cachedTokens ?? 0;
      usage.queuedMs = Math.max(usage.queuedMs, own?.queuedMs ?? 0);
    }
    onProgress?.({ index, promptTokens, isDone: true });
  };
  const running = new Set<Promise<void>>();
  const errors: unknown[] = [];
  let characters = 0;
  const isFull = (size: number): boolean =>
    running.size > 0 && (characters + size > MOST_CHARACTERS || running.size >= 2 * info.maxNumSeqs);
  try {
    for (const [index, request] of requests.entries()) {
      const size = charactersOf(prompts[index]!);
      // oxlint-disable-next-line no-await-in-loop -- the next text begins when an earlier one has ended
      while (isFull(size)) await Promise.race(running);
      if (errors.length > 0) break;
      const one = run(request, index)
        .catch((error: unknown) => {
          errors.push(error);
          ending.abort();
        })
        .finally(() => {
          running.delete(one);
          characters -= size;
        });
      running.add(one);
      characters += size;
    }
    await Promise.all(running);
  } finally {
    detach();
  }
  if (errors.length > 0) throw errors[0];
  return { outputs, usage };
}

function checkObject(request: unknown, fields: string): void {
  if (typeof request === "object" && request !== null) return;
  throw new TypeError(`Expected a request { ${fields}, … }, got ${describeValue(request)}`);
}

function checkList(name: string, value: unknown): void {
  if (Array.isArray(value) && value.length > 0) return;
  const given = Array.isArray(value) ? "an empty array" : describeValue(value);
  throw new TypeError(`Expected \`${name}\` to be an array of at least one text, got ${given}`);
}
