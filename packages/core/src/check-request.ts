// Checks of a request that every engine makes at once, wherever the model runs.

import type { EngineInfo, FillInInfo, FillInPrompt, GenerateRequest } from "./engine.ts";
import { expertIndex, isTraceparent } from "./generation.ts";
import { describeValue, isRecord, rejectUnknownKeys, textOption } from "./options.ts";
import type { SamplingParams } from "./sampling/sampling-params.ts";

const NAMES = [
  "prompt",
  "params",
  "processLogits",
  "format",
  "prediction",
  "resume",
  "expert",
  "priority",
  "client",
  "cacheSalt",
  "traceparent",
  "onProgress",
  "id",
  "signal",
] as const satisfies readonly (keyof GenerateRequest)[];

/**
 * Checks a request, but for its prompt and the values of its parameters.
 *
 * @returns its parameters, with the tokens that end what fills a gap
 * @throws {TypeError | RangeError} naming the option, the expectation and the value
 */
export function checkRequest(
  request: GenerateRequest,
  info: Pick<EngineInfo, "experts" | "hasRouter" | "fillIn">,
): SamplingParams {
  if (typeof request !== "object" || request === null) {
    throw new TypeError(`Expected a request { prompt, … }, got ${describeValue(request)}`);
  }
  rejectUnknownKeys("a request", request, NAMES);
  checkClient(request);
  checkExpert(request.expert, info);
  const { traceparent } = request;
  if (traceparent === undefined || isTraceparent(traceparent)) return withFillInEnds(request, info);
  throw new TypeError(`Expected \`traceparent\` to be one of W3C's Trace Context, got ${describeValue(traceparent)}`);
}

/** @throws {TypeError} naming the option, the expectation and the value */
export function checkClient({
  priority = 0,
  ...names
}: Pick<GenerateRequest, "priority" | "client" | "cacheSalt">): void {
  if (typeof priority !== "number" || !Number.isFinite(priority)) {
    throw new TypeError(`Expected \`priority\` to be a finite number, got ${describeValue(priority)}`);
  }
  for (const name of ["client", "cacheSalt"] as const) {
    if (names[name] !== undefined) textOption(name, names[name]);
  }
}

/** @throws {RangeError} on an unknown expert; names the known ones */
export function checkExpert(
  expert: string | number | undefined,
  { experts, hasRouter }: Pick<EngineInfo, "experts" | "hasRouter">,
): void {
  if (expert === undefined || (expert === "router" && hasRouter)) return;
  expertIndex(experts, expert);
}

/** Tells whether a prompt is a text with a gap. */
export function isFillIn(prompt: unknown): prompt is FillInPrompt {
  return typeof prompt === "object" && prompt !== null && "prefix" in prompt;
}

/** @throws {TypeError} naming the option, the expectation and the value, and if the model cannot fill gaps */
export function checkFillIn(prompt: FillInPrompt, { fillIn }: Pick<EngineInfo, "fillIn">): void {
  rejectUnknownKeys("`prompt`", prompt, ["prefix", "suffix", "files", "repository"]);
  const { files = [], repository = "" } = prompt;
  const texts = { prefix: prompt.prefix, suffix: prompt.suffix, repository };
  for (const [name, text] of Object.entries(texts)) textOption(`prompt.${name}`, text);
  if (!Array.isArray(files)) {
    throw new TypeError(`Expected \`prompt.files\` to be a list of { name, text }, got ${describeValue(files)}`);
  }
  for (const [index, file] of files.entries()) {
    const { name, text } = isRecord(file) ? file : {};
    textOption(`prompt.files[${index}].name`, name);
    textOption(`prompt.files[${index}].text`, text);
  }
  if (fillIn) return;
  throw new TypeError("Expected a model with marks to fill in the middle; this one continues texts only");
}

/**
 * Adds the tokens that end what fills a gap to the parameters of such a request, unless it goes on behind end tokens.
 * Some clients write the marks themselves. Wrong parameters are left as they are.
 */
function withFillInEnds(
  { prompt, params = {} }: Pick<GenerateRequest, "prompt" | "params">,
  { fillIn }: Pick<EngineInfo, "fillIn">,
): SamplingParams {
  if (!fillIn || !hasGap(prompt, fillIn) || !isRecord(params) || params.ignoreEos) return params;
  const { stopTokenIds = [] } = params;
  return Array.isArray(stopTokenIds) ? { ...params, stopTokenIds: [...stopTokenIds, ...fillIn.endTokenIds] } : params;
}

function hasGap(prompt: GenerateRequest["prompt"], { prefix }: FillInInfo): boolean {
  if (typeof prompt === "string") return prompt.includes(prefix.text);
  if (typeof prompt !== "object" || prompt === null || "messages" in prompt) return false;
  return isFillIn(prompt) || Array.prototype.includes.call(prompt, prefix.id);
}
