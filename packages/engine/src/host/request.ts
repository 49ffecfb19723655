// What a caller asks for, checked at once on the caller's side.

import {
  checkTemplateValues,
  describeValue,
  expertIndex,
  integerOption,
  rejectUnknownKeys,
  resolveSamplingParams,
  type ChatMessage,
  type ChatPrompt,
  type EngineInfo,
  type GenerateRequest,
  type Prompt,
  type TokenizeOptions,
} from "@readme-moe/core";
import type { Calls, WireChat, WirePrompt, WireRequest } from "../protocol.ts";

const NAMES = [
  "prompt",
  "params",
  "processLogits",
  "expert",
  "priority",
  "client",
  "id",
  "signal",
] as const satisfies readonly (keyof GenerateRequest)[];

/**
 * @param drawSeed - for requests that name none
 * @throws {TypeError | RangeError} naming the option, what was expected and what came
 */
export function wireRequest(
  request: GenerateRequest,
  requestId: string,
  info: EngineInfo,
  drawSeed: () => number,
): WireRequest {
  if (typeof request !== "object" || request === null) {
    throw new TypeError(`Expected a request { prompt, … }, got ${describeValue(request)}`);
  }
  rejectUnknownKeys("a request", request, NAMES);
  const params = resolveSamplingParams(request.params ?? {}, info);
  const { priority = 0, client, expert, processLogits } = request;
  if (typeof priority !== "number" || !Number.isFinite(priority)) {
    throw new TypeError(`Expected \`priority\` to be a finite number, got ${describeValue(priority)}`);
  }
  if (client !== undefined && typeof client !== "string") {
    throw new TypeError(`Expected \`client\` to be a text, got ${describeValue(client)}`);
  }
  checkExpert(expert, info);
  if (processLogits !== undefined && typeof processLogits !== "function") {
    throw new TypeError(`Expected \`processLogits\` to be a function, got ${describeValue(processLogits)}`);
  }
  return {
    requestId,
    prompt: wirePrompt(request.prompt, info),
    params,
    expert,
    priority,
    client,
    seed: params.seed ?? drawSeed(),
    processesLogits: processLogits !== undefined,
  };
}

/** @throws {TypeError | RangeError} naming the option, what was expected and what came */
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

export function wirePrompt(prompt: Prompt, { vocabSize }: Pick<EngineInfo, "vocabSize">): WirePrompt {
  if (typeof prompt === "string") return prompt;
  if (typeof prompt !== "object" || prompt === null) {
    throw new TypeError(`Expected \`prompt\` to be a text, token ids or { messages }, got ${describeValue(prompt)}`);
  }
  if ("messages" in prompt) {
    return chatPrompt(prompt);
  }
  return Int32Array.from({ length: prompt.length }, (_, index) =>
    integerOption(`prompt[${index}]`, prompt[index], 0, vocabSize - 1),
  );
}

function chatPrompt(prompt: ChatPrompt): WireChat {
  rejectUnknownKeys("`prompt`", prompt, ["messages", "template"]);
  return wireChat(prompt.messages, prompt.template);
}

/** @throws {ReadMeError} `ERR_CHAT_TEMPLATE` on what is nested so deep that it cannot travel */
export function wireChat(messages: readonly ChatMessage[], template: Readonly<Record<string, unknown>> = {}): WireChat {
  checkTemplateValues(messages, template);
  return { messages, template };
}

/** @throws {RangeError} when there is no such expert; names those that there are */
export function checkExpert(expert: string | number | undefined, { experts, hasRouter }: EngineInfo): void {
  if (expert === undefined || (expert === "router" && hasRouter)) return;
  expertIndex(experts, expert);
}
