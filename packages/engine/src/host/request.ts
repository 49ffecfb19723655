// A request on the caller's side: its checks, and the message that it becomes.

import {
  checkClient,
  checkExpert,
  checkRequestShape,
  checkTemplateValues,
  checkTraceparent,
  describeValue,
  integerOption,
  rejectUnknownKeys,
  resolveSamplingParams,
  withSamplingDefaults,
  type AnswerFormat,
  type ChatMessage,
  type ChatPrompt,
  type EngineInfo,
  type GenerateRequest,
  type ProcessLogits,
  type Prompt,
  type TokenizeOptions,
} from "@readme-moe/core";
import { tooManyPredicted, type Calls, type WireChat, type WirePrompt, type WireRequest } from "../protocol.ts";
import { callerFunctions, type CallerFunctions } from "./caller-functions.ts";
import { wireResume } from "./resume.ts";

/** Context that a request is checked and converted in. */
export interface RequestContext {
  readonly info: EngineInfo;
  /** Draws the seed of a request that names none. */
  readonly drawSeed: () => number;
  /** Makes the `processLogits` of a format. @throws {TypeError} on a wrong format, and if the request has one beside */
  readonly processorOf: (format: AnswerFormat, beside: ProcessLogits | undefined) => ProcessLogits;
}

/**
 * Checks a request, converts it to a message, and takes out its functions.
 *
 * @throws {TypeError | RangeError} naming the option, the expectation and the value
 */
export function wireRequest(
  request: GenerateRequest,
  requestId: string,
  { info, drawSeed, processorOf }: RequestContext,
): { readonly wire: WireRequest; readonly functions: CallerFunctions } {
  checkRequestShape(request);
  const params = resolveSamplingParams(withSamplingDefaults(request.params ?? {}, info.samplingDefaults), info);
  const { priority = 0, client, cacheSalt, expert } = request;
  checkClient(request);
  checkExpert(expert, info);
  checkTraceparent(request.traceparent);
  const { format, processLogits } = request;
  const functions = callerFunctions(format === undefined ? processLogits : processorOf(format, processLogits));
  const wire: WireRequest = {
    requestId,
    prompt: wirePrompt(request.prompt, info),
    params,
    expert,
    priority,
    client,
    cacheSalt,
    seed: params.seed ?? drawSeed(),
    prediction: wirePrediction(request.prediction, info),
    resume: wireResume(request.resume, params),
    processesLogits: functions.processLogits !== undefined,
    isBound: functions.allowTokens !== undefined,
  };
  return { wire, functions };
}

/** @throws {TypeError | RangeError} naming the option, the expectation and the value */
export function wireTokenize(prompt: string | ChatPrompt, options: TokenizeOptions): Calls["tokenize"]["args"] {
  if (typeof prompt !== "string" && (typeof prompt !== "object" || prompt === null || !("messages" in prompt))) {
    throw new TypeError(`Expected a text or { messages } to tokenize, got ${describeValue(prompt)}`);
  }
  rejectUnknownKeys("options of `tokenize`", options, ["addSpecialTokens", "maxTokens", "signal"]);
  const { addSpecialTokens, maxTokens = Infinity } = options;
  if (addSpecialTokens !== undefined && typeof addSpecialTokens !== "boolean") {
    throw new TypeError(`Expected \`addSpecialTokens\` to be true or false, got ${describeValue(addSpecialTokens)}`);
  }
  if (maxTokens !== Infinity) integerOption("maxTokens", maxTokens, 0);
  return { prompt: typeof prompt === "string" ? prompt : chatPrompt(prompt), addSpecialTokens, maxTokens };
}

/** Converts a prediction; a text is counted where it is tokenized. An empty one is none. */
function wirePrediction(
  prediction: GenerateRequest["prediction"],
  { vocabSize, contextTokens }: EngineInfo,
): WireRequest["prediction"] {
  if (prediction === undefined || prediction === "" || typeof prediction === "string") return prediction || undefined;
  if (typeof prediction !== "object" || prediction === null || typeof prediction.length !== "number") {
    throw new TypeError(`Expected \`prediction\` to be a text or token ids, got ${describeValue(prediction)}`);
  }
  const { length } = prediction;
  if (length > contextTokens) throw tooManyPredicted(contextTokens, String(length));
  if (length === 0) return undefined;
  return Int32Array.from({ length }, (_, index) =>
    integerOption(`prediction[${index}]`, prediction[index], 0, vocabSize - 1),
  );
}

export function wirePrompt(prompt: Prompt, { vocabSize }: Pick<EngineInfo, "vocabSize">): WirePrompt {
  if (typeof prompt === "string") return prompt;
  if (typeof prompt !== "object" || prompt === null) {
    throw new TypeError(`Expected \`prompt\` to be a text, token ids or { messages }, got ${describeValue(prompt)}`);
  }
  if ("messages" in prompt) return chatPrompt(prompt);
  return Int32Array.from({ length: prompt.length }, (_, index) =>
    integerOption(`prompt[${index}]`, prompt[index], 0, vocabSize - 1),
  );
}

function chatPrompt(prompt: ChatPrompt): WireChat {
  rejectUnknownKeys("`prompt`", prompt, ["messages", "template"]);
  return wireChat(prompt.messages, prompt.template);
}

/** @throws {ReadMeError} `ERR_CHAT_TEMPLATE` on values that are nested too deep to be sent */
export function wireChat(messages: readonly ChatMessage[], template: Readonly<Record<string, unknown>> = {}): WireChat {
  checkTemplateValues(messages, template);
  return { messages, template };
}
