// Bodies of requests: their bytes within limits, the JSON in them, which clients take turns to parse, and their fields.
// The first error names the wrong parameter.

import { isUtf8 } from "node:buffer";
import { promisify } from "node:util";
import { brotliDecompress, gunzip, inflate, type InputType } from "node:zlib";
import { describeValue, isRecord, nearestName } from "@readme-moe/core";
import { z } from "zod";
import type { Admission } from "../edge/admission.ts";
import type { ServedModels } from "../edge/served-models.ts";
import {
  type ApiError,
  badRequest,
  bodyTimeout,
  bodyTooLarge,
  invalid,
  refusal,
  sendError,
  unsupported,
} from "../http/errors.ts";
import { clientName, type Incoming, localsOf, Paces, type Step } from "../http/request.ts";
import { LIMITS } from "../limits.ts";
import type { ResolvedApiOptions } from "./options.ts";
import { MAX_TOKEN_ID, NEUTRAL_NAMES } from "./request-schemas.ts";

function hasBody({ headers }: Pick<Incoming, "headers">): boolean {
  return headers["transfer-encoding"] !== undefined || Number(headers["content-length"] ?? NaN) >= 0;
}

function declaredBytes({ headers }: Pick<Incoming, "headers">): number | undefined {
  const length = headers["content-length"];
  return length === undefined ? undefined : Number(length);
}

const TOKEN = String.raw`[\w!#$%&'*+.^\x60|~-]+`;
const PARAMETER = String.raw`[ \t]*;[ \t]*${TOKEN}=(?:${TOKEN}|"(?:[^"\\]|\\.)*")`;
const JSON_TYPE = new RegExp(String.raw`^[ \t]*application/json(?:${PARAMETER})*[ \t]*$`, "i");

function isJsonType(contentType: string): boolean {
  return JSON_TYPE.test(contentType);
}

const CHARSETS = ["utf-8", "utf-16", "utf-16le", "utf-16be"] as const;

type Charset = (typeof CHARSETS)[number];

function charsetOf(contentType: string): Charset | undefined {
  const named = (/;[ \t]*charset="?([^\s;"]*)/i.exec(contentType)?.[1] ?? "utf-8").toLowerCase();
  return CHARSETS.find((charset) => charset === named);
}

/** Creates the error of a type, an encoding or a character set that this server cannot read. */
export function unreadable(message = "The body's encoding is not supported"): ApiError {
  return refusal(415, "unsupported_media_type", message);
}

type Decompress = (bytes: InputType, options: { readonly maxOutputLength: number }) => Promise<Buffer>;

const DECOMPRESSORS: ReadonlyMap<string, Decompress> = new Map([
  ["gzip", promisify(gunzip)],
  ["deflate", promisify(inflate)],
  ["br", promisify(brotliDecompress)],
]);

/**
 * Receives a body and decompresses it.
 *
 * @param maxBytes - largest size before and after decompression
 * @throws {ApiError} 413 beyond `maxBytes`, 415 for an unknown encoding, 400 for a body that is cut off or damaged
 */
async function readBytes(request: Incoming, maxBytes: number): Promise<Buffer> {
  const encoding = (request.get("content-encoding") ?? "").toLowerCase();
  const decompress = DECOMPRESSORS.get(encoding);
  if (encoding !== "" && encoding !== "identity" && !decompress) throw unreadable();
  const bytes = await receive(request, maxBytes);
  if (!decompress) return bytes;
  try {
    return await decompress(bytes, { maxOutputLength: maxBytes });
  } catch (cause) {
    if (cause instanceof RangeError) throw bodyTooLarge(cause);
    throw badRequest({ message: "The request could not be read", code: "invalid_request", cause });
  }
}

function endsEarly(cause?: unknown): ApiError {
  return badRequest({ message: "The body ended early", code: "invalid_body", cause });
}

async function receive(request: Incoming, maxBytes: number): Promise<Buffer> {
  const declared = declaredBytes(request);
  if (declared !== undefined && declared > maxBytes) throw bodyTooLarge();
  const chunks: Uint8Array[] = [];
  let numBytes = 0;
  // `for await` would end the connection after a refusal, which has to be sent first.
  const reader = request[Symbol.asyncIterator]();
  for (;;) {
    const { done, value } = await reader.next().catch((cause: unknown) => Promise.reject(endsEarly(cause)));
    if (done === true) break;
    numBytes += value.byteLength;
    if (numBytes > maxBytes) throw bodyTooLarge();
    chunks.push(value);
  }
  if (declared !== undefined && declared !== numBytes) throw endsEarly();
  return Buffer.concat(chunks, numBytes);
}

interface Entrance {
  readonly models: Pick<ServedModels, "isDraining">;
  readonly admission: Pick<Admission, "refuseIfFull" | "arrive">;
  readonly maxBodyBytes: number;
}

/**
 * Middleware that refuses a request before its body is read, if the server has no room for it or if its declared length
 * is too large. Otherwise reserves room for the body, until `endArrival` of `res.locals.readMe` is called or the
 * response is closed.
 */
export function refuseEarly({ models, admission, maxBodyBytes }: Entrance): Step {
  return (request, response, next) => {
    // A server that shuts down refuses with another error, which tells clients not to retry.
    if (models.isDraining) return next();
    const length = declaredBytes(request) ?? NaN;
    // The declared length of a compressed body says nothing about its contents.
    const isKnown = length >= 0 && request.headers["content-encoding"] === undefined;
    const locals = localsOf(response);
    const about = { key: locals.key, client: clientName(request, response) };
    try {
      if (length > maxBodyBytes) throw bodyTooLarge();
      admission.refuseIfFull({ ...about, bytes: isKnown ? length : 0 });
      locals.endArrival = admission.arrive({ ...about, bytes: isKnown ? length : maxBodyBytes });
      response.once("close", locals.endArrival);
    } catch (error) {
      return next(error);
    }
    next();
  };
}

/** Middleware that refuses a body by its declared length, before it is read. */
export function refuseLong(maxBodyBytes: number): Step {
  return (request, _response, next) => {
    next((declaredBytes(request) ?? 0) > maxBodyBytes ? bodyTooLarge() : undefined);
  };
}

/** Middleware that parses a body into `request.body`. */
export function readJson({
  maxBodyBytes,
  bodyTimeoutMs,
  timers,
  paces,
}: Pick<ResolvedApiOptions, "maxBodyBytes" | "bodyTimeoutMs" | "timers"> & { readonly paces: Paces }): Step {
  return (request, response, next) => {
    // Middleware in front of the API has parsed the body.
    if (request.body !== undefined) return next();
    const contentType = request.get("content-type") ?? "";
    if (hasBody(request) && !isJsonType(contentType)) {
      return next(unreadable("Expected the content type application/json"));
    }
    const charset = charsetOf(contentType);
    if (charset === undefined) return next(unreadable());
    const locals = localsOf(response);
    let isOver = false;
    const stopTimer = timers.after(bodyTimeoutMs, () => {
      isOver = true;
      response.setHeader("Connection", "close");
      response.once("finish", () => request.destroy());
      sendError(response, bodyTimeout());
    });
    const client = clientName(request, response);
    let recordDuration: ReturnType<Paces["begin"]> | undefined;
    const read = (): void => {
      if (isOver || request.destroyed) return stopTimer();
      const nowMs = performance.now();
      const waitMs = paces.waitMs(client, nowMs);
      if (waitMs > 0) {
        setTimeout(read, waitMs);
        return;
      }
      recordDuration = paces.begin(client, declaredBytes(request) ?? 0, nowMs);
      if (hasBody(request)) void readBytes(request, maxBodyBytes).then(onRead, onFailed);
      else onParsed();
    };
    const onRead = (bytes: Buffer): void => {
      if (isOver) return;
      locals.bodyBytes = bytes.length;
      locals.wholeMs = performance.now();
      try {
        request.body = parseJson(bytes, charset);
      } catch (error) {
        return onFailed(error);
      }
      onParsed();
    };
    const onFailed = (error: unknown): void => {
      // Close rather than receive the rest of a refused body.
      if (!isOver && !request.complete) response.setHeader("Connection", "close");
      onParsed(error);
    };
    const onParsed = (error?: unknown): void => {
      stopTimer();
      if (isOver) return;
      locals.bodyBytes ??= 0;
      next(error);
      // `next` has checked the body synchronously, so the duration includes it and nothing of other requests.
      const nowMs = performance.now();
      recordDuration?.(nowMs - (locals.wholeMs ?? nowMs), nowMs);
    };
    read();
  };
}

function notJson(message: string, cause?: unknown): ApiError {
  return badRequest({ message, code: "invalid_json", cause });
}

/** Parses an object or a list. @throws {ApiError} 400 */
export function parseJson(bytes: Buffer, charset: Charset): unknown {
  if (bytes.length === 0) return {};
  if (charset === "utf-8" && !isUtf8(bytes)) throw notJson("The body is not valid UTF-8");
  const text = new TextDecoder(charset).decode(bytes);
  const excess = findExcess(charset === "utf-8" ? bytes : Buffer.from(text));
  if (excess !== undefined) throw badRequest({ message: `Invalid body: ${excess}`, code: "invalid_value" });
  if (!/^[\t\n\r ]*[[{]/.test(text)) throw notJson("The body is not valid JSON");
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw notJson("The body is not valid JSON", cause);
  }
}

const [QUOTE, BACKSLASH, COLON, COMMA] = [0x22, 0x5c, 0x3a, 0x2c];
const [OPEN_LIST, CLOSE_LIST, OPEN_OBJECT, CLOSE_OBJECT] = [0x5b, 0x5d, 0x7b, 0x7d];

/**
 * Counts nesting, lists, objects, properties and items of a JSON text before it is parsed, since deep nesting and very
 * many values take long to parse. Stops at the first limit that is exceeded.
 *
 * @param bytes - UTF-8; text that is not JSON is left to the parser
 * @returns a message for clients about the exceeded limit, or `undefined`
 */
function findExcess(bytes: Uint8Array): string | undefined {
  const { bodyValues, bodyDepth, bodyItems } = LIMITS;
  const [maxParts, maxDepth, maxItems] = [bodyValues.value, bodyDepth.value, bodyItems.value];
  let [depth, numParts, numItems] = [0, 0, 0];
  for (let index = 0; index < bytes.length; index++) {
    const byte = bytes[index];
    if (byte === QUOTE) index = endOfText(bytes, index + 1);
    else if (byte === CLOSE_LIST || byte === CLOSE_OBJECT) depth--;
    else if (byte === COLON) numParts++;
    else if (byte === COMMA && ++numItems >= maxItems) return `expected at most ${maxItems} items and properties`;
    else if (byte === OPEN_LIST || byte === OPEN_OBJECT) {
      numParts++;
      if (++depth > maxDepth) return `expected at most ${maxDepth} levels of nesting`;
    }
    if (numParts > maxParts) return `expected at most ${maxParts} lists, objects and properties`;
  }
  return undefined;
}

/** Returns the index of the quote that ends the text, or the length of `bytes`. */
function endOfText(bytes: Uint8Array, start: number): number {
  for (let quote = bytes.indexOf(QUOTE, start); quote >= 0; quote = bytes.indexOf(QUOTE, quote + 1)) {
    let numBackslashes = 0;
    while (quote - numBackslashes > start && bytes[quote - numBackslashes - 1] === BACKSLASH) numBackslashes++;
    if (numBackslashes % 2 === 0) return quote;
  }
  return bytes.length;
}

/** @throws {ApiError} 400, naming the first wrong parameter */
export function checkBody<Schema extends z.ZodType>(schema: Schema, body: unknown): z.infer<Schema> {
  if (!isRecord(body)) throw badRequest({ message: "Expected the body to be a JSON object", code: "invalid_value" });
  boundBody(body);
  const result = schema.safeParse(body, { reportInput: true });
  if (result.success) return result.data;
  const closest = closestOf(schema, body);
  const { issues } = closest.safeParse(body, { reportInput: true }).error ?? result.error;
  throw errorOf(issues, fieldNames(closest));
}

/** Returns the schema among alternatives that knows most of the names of a body, so that its error is about them. */
function closestOf(schema: z.ZodType, body: Values): z.ZodType {
  if (!(schema instanceof z.ZodUnion)) return schema;
  const numKnown = (one: z.ZodType): number => fieldNames(one).filter((name) => Object.hasOwn(body, name)).length;
  const options = schema.options as readonly z.ZodType[];
  return options.toSorted((a, b) => numKnown(b) - numKnown(a))[0] ?? schema;
}

type Values = Readonly<Record<string, unknown>>;

/** Largest number of items of fields that hold lists or maps. */
const LENGTHS: Readonly<Record<string, number>> = {
  logit_bias: LIMITS.logitBiases.value,
  stop: LIMITS.stops.value,
  stop_token_ids: LIMITS.stopTokens.value,
  tools: LIMITS.tools.value,
  input_extra: LIMITS.extraFiles.value,
  documents: LIMITS.inputs.value,
  texts: LIMITS.inputs.value,
  guided_choice: LIMITS.guidedChoices.value,
  "structured_outputs.choice": LIMITS.guidedChoices.value,
  "prediction.content": LIMITS.messageItems.value,
  metadata: LIMITS.metadata.value,
  chat_template_kwargs: LIMITS.templateVariables.value,
};

/**
 * Checks lengths, nesting and the number of values before the schema looks at any value. Its own time is bounded by
 * these limits. Lists of numbers count as one value each, since prompts may have many token ids.
 *
 * @throws {ApiError} 400
 */
function boundBody(body: Values): void {
  for (const [name, limit] of Object.entries(LENGTHS)) {
    const value = name.split(".").reduce<unknown>((outer, key) => (isRecord(outer) ? outer[key] : undefined), body);
    if (typeof value === "object" && value !== null) checkLength(name, sizeOf(value), limit);
  }
  for (const name of ["prompt", "tokens"]) checkPrompts(name, body[name], LIMITS.prompts.value);
  checkPrompts("input", body["input"], LIMITS.messageItems.value);
  for (const name of ["messages", "input"]) checkMessages(name, body[name]);
  checkValues(body);
}

function checkPrompts(name: string, prompts: unknown, limit: number): void {
  if (!Array.isArray(prompts)) return;
  if (typeof prompts[0] === "number") return checkIds(name, prompts);
  checkLength(name, prompts.length, limit);
  for (const [index, prompt] of prompts.entries()) {
    if (Array.isArray(prompt) && typeof prompt[0] === "number") checkIds(`${name}[${index}]`, prompt);
  }
}

/** Finds the first wrong id. The schema would report every one of a million wrong ids. */
function checkIds(name: string, ids: readonly unknown[]): void {
  checkLength(name, ids.length, LIMITS.tokenIds.value);
  const wrong = ids.findIndex((id) => !isTokenId(id));
  if (wrong >= 0) throw invalid(`${name}[${wrong}]`, `expected a token id, got ${describeValue(ids[wrong])}`);
}

function isTokenId(id: unknown): boolean {
  return typeof id === "number" && Number.isInteger(id) && id >= 0 && id <= MAX_TOKEN_ID;
}

/** Checks the items of a conversation: messages with their parts and calls, or items of `input`. */
function checkMessages(name: string, messages: unknown): void {
  if (!Array.isArray(messages)) return;
  const limit = LIMITS.messageItems.value;
  checkLength(name, messages.length, limit);
  let numItems = messages.length;
  for (const message of messages) {
    if (isRecord(message)) numItems += numPartsOf(message) - 1;
    if (numItems > limit) throw invalid(name, `expected at most ${limit} messages, parts and tool calls together`);
  }
}

/** Fields of a message or item that are lists. */
const PART_LISTS = ["content", "tool_calls", "output", "summary"] as const;

/** Counts a message or an item of `input` together with its parts. */
export function numPartsOf(message: Values): number {
  return PART_LISTS.reduce((sum, list) => sum + (Array.isArray(message[list]) ? message[list].length : 0), 1);
}

/** Checks depth first with its own stack: recursion over deep nesting would overflow the call stack. */
function checkValues(body: object): void {
  const [maxValues, maxDepth] = [LIMITS.bodyValues.value, LIMITS.bodyDepth.value];
  const open: { readonly values: object; readonly depth: number }[] = [{ values: body, depth: 1 }];
  let numValues = 0;
  for (let next = open.pop(); next; next = open.pop()) {
    const { values, depth } = next;
    if (depth > maxDepth) throw tooLarge(`expected at most ${maxDepth} levels of nesting`);
    // JSON can contain this key, and assigning it would change an object's prototype.
    if (Object.hasOwn(values, "__proto__")) throw unsupported("__proto__");
    if (Array.isArray(values) && values.every((value) => typeof value === "number")) continue;
    const inside: readonly unknown[] = Array.isArray(values) ? values : Object.values(values);
    numValues += inside.length;
    if (numValues > maxValues) throw tooLarge(`expected at most ${maxValues} values`);
    for (const value of inside) {
      if (typeof value === "object" && value !== null) open.push({ values: value, depth: depth + 1 });
    }
  }
}

function sizeOf(value: object): number {
  return Array.isArray(value) ? value.length : Object.keys(value).length;
}

function checkLength(name: string, length: number, limit: number): void {
  if (length > limit) throw invalid(name, `expected at most ${limit} items`);
}

function tooLarge(expectation: string): ApiError {
  return badRequest({ message: `Invalid body: ${expectation}`, code: "invalid_value" });
}

type Issue = z.core.$ZodIssue;
type Path = readonly PropertyKey[];

function errorOf(issues: readonly Issue[], knownNames: readonly string[]): ApiError {
  const { issue, path } = deepestIssue(issues);
  const param = shorten(nameOf(path));
  if (issue.code === "unrecognized_keys") {
    const key = issue.keys[0] ?? "";
    const name = shorten(nameOf([...path, key]));
    // The comparison's time grows with the length of the name.
    const near = path.length === 0 && key.length <= 64 ? nearestName(key, knownNames) : undefined;
    return unsupported(name, `'${name}' is not supported${near ? `; did you mean '${near}'?` : ""}`);
  }
  const last = path.at(-1);
  if (typeof last === "string" && NEUTRAL_NAMES.has(last) && issue.input !== undefined) return unsupported(param);
  if (isPartType(path) && typeof issue.input === "string") {
    return unsupported(param, `Content parts of type '${shorten(issue.input)}' are not supported`);
  }
  if (issue.code.startsWith("invalid_") && issue.input === undefined) {
    return badRequest({ message: `'${param}' is missing`, code: "missing_required_parameter", param });
  }
  return invalid(param, describeIssue(issue));
}

/** Describes an issue. For alternatives that failed at the same place, lists what each expected. */
function describeIssue(issue: Issue): string {
  if (issue.code !== "invalid_union") return lower(issue.message);
  const expected = issue.errors.flat().flatMap((inner) => {
    if (inner.code === "invalid_type") return [inner.expected];
    return inner.code === "invalid_value" ? inner.values.map((value) => JSON.stringify(value)) : [];
  });
  if (expected.length === 0) return lower(issue.message);
  return `expected ${[...new Set(expected)].join(" or ")}, got ${describeValue(issue.input)}`;
}

interface LocatedIssue {
  readonly issue: Issue;
  readonly path: Path;
}

/** Returns the most specific issue: among alternatives, the one that matched furthest. */
function deepestIssue(issues: readonly Issue[], outer: Path = []): LocatedIssue {
  const located = issues.map((issue): LocatedIssue => {
    const path = [...outer, ...issue.path];
    if (issue.code !== "invalid_union" || issue.errors.length === 0) return { issue, path };
    const inner = issue.errors.filter((errors) => errors.length > 0).map((errors) => deepestIssue(errors, path));
    const deepest = inner.toSorted((a, b) => b.path.length - a.path.length)[0];
    return deepest && deepest.path.length > path.length ? deepest : { issue, path };
  });
  // The wrong type of a content part explains more than the fields that its type does not have.
  const first = located.find(({ path }) => isPartType(path)) ?? located[0];
  if (!first) throw new TypeError("Expected at least one issue");
  return first;
}

function isPartType(path: Path): boolean {
  return path.at(-1) === "type" && typeof path.at(-2) === "number" && path.at(-3) === "content";
}

/** Formats a path, such as `messages[0].content`. */
function nameOf(path: Path): string {
  return path.reduce<string>(
    (name, part) =>
      typeof part === "number" ? `${name}[${part}]` : name === "" ? String(part) : `${name}.${String(part)}`,
    "",
  );
}

function fieldNames(schema: z.ZodType): readonly string[] {
  const shape = "shape" in schema ? schema.shape : undefined;
  return isRecord(shape) ? Object.keys(shape) : [];
}

function lower(message: string): string {
  const text = message.replace(/^Invalid (input|option|string): /, "");
  return text.charAt(0).toLowerCase() + text.slice(1);
}

function shorten(text: string): string {
  return text.length > 200 ? `${text.slice(0, 200)}…` : text;
}
