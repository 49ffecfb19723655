// Sizes of a parsed body are checked before anything looks at its values, and the first one that is too large is told.

import { describeValue } from "@readme-moe/core";
import { badRequest } from "../../http/api-error.ts";
import { LIMITS } from "../../limits.ts";
import { MAX_TOKEN_ID } from "./fields.ts";

type Values = Readonly<Record<string, unknown>>;

/** Fields whose number of items is limited. */
const LENGTHS: Readonly<Record<string, number>> = {
  logit_bias: LIMITS.logitBiases.value,
  stop: LIMITS.stops.value,
  stop_token_ids: LIMITS.stopTokens.value,
  tools: LIMITS.tools.value,
  metadata: LIMITS.metadata.value,
  chat_template_kwargs: LIMITS.templateVariables.value,
};

/**
 * Checks lengths, nesting and the number of values of a body, in time that these limits bound. Lists of numbers count as
 * one value each: token ids may be many.
 *
 * @throws {ApiError} 400
 */
export function boundBody(body: object): void {
  for (const [name, limit] of Object.entries(LENGTHS)) {
    const value = (body as Values)[name];
    if (typeof value === "object" && value !== null) checkLength(name, sizeOf(value), limit);
  }
  for (const name of ["prompt", "tokens"]) checkPrompts(name, (body as Values)[name]);
  checkMessages((body as Values)["messages"]);
  checkValues(body);
}

/** Checks a list of token ids, or a list of prompts and the ids in those that are lists. */
function checkPrompts(name: string, list: unknown): void {
  if (!Array.isArray(list)) return;
  const prompts = list as readonly unknown[];
  if (typeof prompts[0] === "number") return checkIds(name, prompts);
  checkLength(name, prompts.length, LIMITS.prompts.value);
  for (const [index, prompt] of prompts.entries()) {
    if (Array.isArray(prompt) && typeof prompt[0] === "number") checkIds(`${name}[${index}]`, prompt);
  }
}

/** Finds the first wrong id. The schema would list every wrong one of a million. */
function checkIds(name: string, ids: readonly unknown[]): void {
  checkLength(name, ids.length, LIMITS.tokenIds.value);
  const wrong = ids.findIndex((id) => !(Number.isInteger(id) && (id as number) >= 0 && (id as number) <= MAX_TOKEN_ID));
  if (wrong < 0) return;
  const at = `${name}[${wrong}]`;
  throw refused(at, `expected a token id, got ${describeValue(ids[wrong])}`);
}

function checkMessages(messages: unknown): void {
  if (!Array.isArray(messages)) return;
  const limit = LIMITS.messageItems.value;
  checkLength("messages", messages.length, limit);
  let items = messages.length;
  for (const message of messages as readonly unknown[]) {
    if (typeof message !== "object" || message === null) continue;
    const { content, tool_calls: calls } = message as Values;
    for (const list of [content, calls]) if (Array.isArray(list)) items += list.length;
    if (items > limit) {
      throw refused("messages", `expected at most ${limit} messages, parts and tool calls together`);
    }
  }
}

/** Depth first, with a stack of its own: nesting must not become a stack overflow. */
function checkValues(body: object): void {
  const [maxValues, maxDepth] = [LIMITS.bodyValues.value, LIMITS.bodyDepth.value];
  const open: { readonly values: object; readonly depth: number }[] = [{ values: body, depth: 1 }];
  let numValues = 0;
  for (let next = open.pop(); next; next = open.pop()) {
    const { values, depth } = next;
    if (depth > maxDepth) throw refused("", `expected at most ${maxDepth} levels of nesting`);
    // JSON can name it, and assigning it would change an object's prototype.
    if (Object.hasOwn(values, "__proto__")) {
      throw badRequest({ message: "'__proto__' is not supported", code: "unsupported_parameter", param: "__proto__" });
    }
    if (isNumbers(values)) continue;
    const inside: readonly unknown[] = Array.isArray(values) ? values : Object.values(values);
    numValues += inside.length;
    if (numValues > maxValues) throw refused("", `expected at most ${maxValues} values`);
    for (const value of inside) {
      if (typeof value === "object" && value !== null) open.push({ values: value, depth: depth + 1 });
    }
  }
}

function isNumbers(values: object): boolean {
  return Array.isArray(values) && values.every((value) => typeof value === "number");
}

function sizeOf(value: object): number {
  return Array.isArray(value) ? value.length : Object.keys(value).length;
}

function checkLength(name: string, length: number, limit: number): void {
  if (length > limit) throw refused(name, `expected at most ${limit} items`);
}

function refused(param: string, what: string): Error {
  const message = param === "" ? `Invalid body: ${what}` : `Invalid '${param}': ${what}`;
  return badRequest({ message, code: "invalid_value", ...(param === "" ? {} : { param }) });
}
