// Requests on the caller's side, and calls that need only the model's texts: their checks, and the messages that they
// become.

import {
  type AnswerFormat,
  type ChatMessage,
  type ChatPrompt,
  checkExpert,
  checkFillIn,
  checkRequest,
  checkTemplateValues,
  describeValue,
  functionOption,
  type Engine,
  type EngineInfo,
  type EngineVocabulary,
  type FillInPrompt,
  type GenerateRequest,
  integerOption,
  isFillIn,
  type ModelTask,
  type ProcessLogits,
  type Prompt,
  rejectUnknownKeys,
  type ResolvedSamplingParams,
  resolveSamplingParams,
  switchOption,
  tokenIdsOption,
  type TokenizeOptions,
  withSamplingDefaults,
} from "@readme-moe/core";
import {
  type CallName,
  type Calls,
  tooManyPredicted,
  type WireChat,
  type WirePrompt,
  type WireRequest,
} from "../protocol.ts";
import { callerFunctions, type CallerFunctions } from "./running-requests.ts";

/** Description of an engine and calls to its worker, which the parts of its host need. */
export interface CallingEngine<Info = EngineInfo> {
  readonly getInfo: () => Info;
  readonly call: <Name extends CallName>(
    name: Name,
    args: Calls[Name]["args"],
    signal?: AbortSignal,
  ) => Promise<Calls[Name]["result"]>;
}

interface RequestContext {
  readonly info: EngineInfo;
  /** Draws the seed of a request that names none. */
  readonly drawSeed: () => number;
  /** Makes the `processLogits` of a format. @throws {TypeError} on a wrong format, and if the request has one beside */
  readonly processorOf: (format: AnswerFormat, beside: ProcessLogits | undefined) => ProcessLogits;
}

/** Method and result of each task. */
const TASKS: Readonly<Record<ModelTask, readonly [method: string, result: string]>> = {
  generate: ["generate", "continues prompts"],
  embed: ["embed", "gives embeddings"],
  rerank: ["rerank", "scores documents"],
  classify: ["classify", "gives labels"],
};

/** @throws {TypeError} for a model that was made for another task, naming it and its method */
export function checkTask(task: ModelTask, { task: own, path }: EngineInfo): void {
  if (own === task) return;
  const [[, expected], [method, result]] = [TASKS[task], TASKS[own]];
  throw new TypeError(`Expected a model that ${expected}; ${path} ${result}: use \`${method}\``);
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
  const asked = checkRequest(request, info);
  const params = resolveSamplingParams(withSamplingDefaults(asked, info.samplingDefaults), info);
  const { priority = 0, client, cacheSalt, expert } = request;
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
    reportsProgress: functionOption("onProgress", request.onProgress) !== undefined,
  };
  return { wire, functions };
}

/** @throws {TypeError | RangeError} naming the option, the expectation and the value */
function wireTokenize(
  prompt: string | ChatPrompt | FillInPrompt,
  options: TokenizeOptions,
  info: TextInfo,
): Calls["tokenize"]["args"] {
  const isChat = typeof prompt === "object" && prompt !== null && "messages" in prompt;
  if (typeof prompt !== "string" && !isChat && !isFillIn(prompt)) {
    throw new TypeError(
      `Expected a text or { messages } to tokenize, or a gap { prefix, suffix }, got ${describeValue(prompt)}`,
    );
  }
  rejectUnknownKeys("options of `tokenize`", options, ["addSpecialTokens", "maxTokens", "signal"]);
  const { addSpecialTokens, maxTokens = Infinity } = options;
  if (addSpecialTokens !== undefined) switchOption("addSpecialTokens", addSpecialTokens);
  if (maxTokens !== Infinity) integerOption("maxTokens", maxTokens, 0);
  const wire = wirePrompt(prompt, info) as Exclude<WirePrompt, Int32Array>;
  return { prompt: wire, addSpecialTokens, maxTokens };
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
  return length === 0 ? undefined : tokenIdsOption("prediction", prediction, vocabSize);
}

export function wirePrompt(prompt: Prompt, info: Pick<EngineInfo, "vocabSize" | "fillIn">): WirePrompt {
  if (typeof prompt === "string") return prompt;
  if (isFillIn(prompt)) {
    checkFillIn(prompt, info);
    return prompt;
  }
  if (typeof prompt !== "object" || prompt === null) {
    throw new TypeError(
      `Expected \`prompt\` to be a text, token ids, { messages } or { prefix, suffix }, got ${describeValue(prompt)}`,
    );
  }
  if (!("messages" in prompt)) return tokenIdsOption("prompt", prompt, info.vocabSize);
  rejectUnknownKeys("`prompt`", prompt, ["messages", "template"]);
  return wireChat(prompt.messages, prompt.template);
}

/** @throws {ReadMeError} `ERR_CHAT_TEMPLATE` on values that are nested too deep to be sent */
function wireChat(messages: readonly ChatMessage[], template: Readonly<Record<string, unknown>> = {}): WireChat {
  checkTemplateValues(messages, template);
  return { messages, template };
}

/**
 * Checks the tokens of each choice, and copies them. Stop strings and the context are known where the text is.
 *
 * @returns `[n]` lists; `undefined` if the request begins at its beginning
 * @throws {TypeError | RangeError} naming the option, the expectation and the value
 */
function wireResume(
  resume: GenerateRequest["resume"],
  params: ResolvedSamplingParams,
): readonly Int32Array[] | undefined {
  if (resume === undefined) return undefined;
  if (typeof resume !== "object" || resume === null) throw wrongType("resume", "{ choices }", resume);
  rejectUnknownKeys("`resume`", resume, ["choices"]);
  const { choices } = resume;
  if (!Array.isArray(choices)) throw wrongType("resume.choices", "a list of lists of token ids", choices);
  if (choices.length !== params.n) {
    throw new RangeError(
      `Expected \`resume.choices\` to have ${params.n} lists, one for each choice, got ${choices.length}`,
    );
  }
  if (params.temperature > 0 && params.seed === undefined) {
    throw new TypeError("Expected `seed` beside `resume`, since `temperature` is above 0, got undefined");
  }
  return choices.map((tokenIds: unknown, choice) => checkedChoice(`resume.choices[${choice}]`, tokenIds, params));
}

function checkedChoice(name: string, value: unknown, params: ResolvedSamplingParams): Int32Array {
  const { vocabSize, maxTokens, minTokens, maskedUntilMinTokens: endIds } = params;
  const tokenIds = value as ArrayLike<unknown>;
  if (typeof value !== "object" || value === null || typeof tokenIds.length !== "number") {
    throw wrongType(name, "a list of token ids", value);
  }
  const { length } = tokenIds;
  if (length > maxTokens)
    throw new RangeError(`Expected \`${name}\` to have at most ${maxTokens} tokens, got ${length}`);
  return Int32Array.from({ length }, (_, index) => {
    const id = integerOption(`${name}[${index}]`, tokenIds[index], 0, vocabSize - 1);
    if (!endIds.has(id) || (index === length - 1 && index >= minTokens)) return id;
    const place = index < minTokens ? `before ${minTokens} tokens` : `before its last token`;
    throw new RangeError(`Expected \`${name}\` to have no end token ${place}, got ${id} at ${index}`);
  });
}

function wrongType(name: string, expected: string, value: unknown): TypeError {
  return new TypeError(`Expected \`${name}\` to be ${expected}, got ${describeValue(value)}`);
}

/** Facts about a model that texts are checked against. */
type TextInfo = Pick<EngineInfo, "vocabSize" | "experts" | "hasRouter" | "fillIn">;

/** Calls of an engine, or of a reader of prompts, about texts. */
export class TextCalls implements Pick<Engine, "tokenize" | "detokenize" | "applyTemplate" | "vocabulary" | "route"> {
  readonly #engine: CallingEngine<TextInfo>;
  #vocabulary: Promise<EngineVocabulary> | undefined;

  constructor(engine: CallingEngine<TextInfo>) {
    this.#engine = engine;
  }

  tokenize: Engine["tokenize"] = async (prompt, options = {}) =>
    this.#engine.call("tokenize", wireTokenize(prompt, options, this.#engine.getInfo()), options.signal);

  detokenize: Engine["detokenize"] = async (tokenIds) => {
    const ids = tokenIdsOption("tokenIds", tokenIds, this.#engine.getInfo().vocabSize);
    return this.#engine.call("detokenize", { tokenIds: ids });
  };

  applyTemplate: Engine["applyTemplate"] = async (messages, template = {}) =>
    this.#engine.call("applyTemplate", wireChat(messages, template));

  vocabulary: Engine["vocabulary"] = () =>
    (this.#vocabulary ??= this.#engine.call("vocabulary", {}).catch((error: unknown) => {
      // The next call tries again.
      this.#vocabulary = undefined;
      throw error;
    }));

  route: Engine["route"] = async (prompt, expert) => {
    const info = this.#engine.getInfo();
    checkExpert(expert, info);
    return this.#engine.call("route", { prompt: wirePrompt(prompt, info), expert });
  };
}
