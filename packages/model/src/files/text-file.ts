import { describeValue, ReadMeError } from "@readme-moe/core";
import { ByteSource } from "./byte-source.ts";
import { corrupt } from "./errors.ts";

/** An object of a JSON file, whose fields are not checked yet. */
export type JsonObject = Readonly<Record<string, unknown>>;

export function isJsonObject(value: unknown): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

export function isList(value: unknown): value is readonly unknown[] {
  return Array.isArray(value);
}

/** @throws {ReadMeError} `ERR_FILE_CORRUPT` naming `path` and `where` when `value` is no JSON object */
export function expectObject(path: string, where: string, value: unknown): JsonObject {
  if (isJsonObject(value)) return value;
  throw corrupt(path, `expected ${where} to be an object, got ${describeValue(value)}`);
}

/**
 * Reads a whole text file; gives `undefined` when there is none.
 * @throws {ReadMeError} `ERR_FILE_CORRUPT` when it is larger than `maxBytes` (before reading it) or no UTF-8
 */
export async function readTextFile(path: string, maxBytes: number): Promise<string | undefined> {
  const source = await openIfPresent(path);
  if (source === undefined) return undefined;
  try {
    if (source.size > maxBytes) throw corrupt(path, `has ${source.size} bytes, expected at most ${maxBytes}`);
    return decodeUtf8(path, await source.read(0, source.size));
  } finally {
    await source.close();
  }
}

/** Reads a JSON file that holds one object; gives `undefined` when there is none. @throws as `readTextFile` */
export async function readJsonFile(path: string, maxBytes: number): Promise<JsonObject | undefined> {
  const value = await readJsonValue(path, maxBytes);
  return value === undefined ? undefined : expectObject(path, "the file", value);
}

/**
 * Reads a JSON file; gives `undefined` when there is none.
 * @throws as `readTextFile`; also `ERR_FILE_CORRUPT` for more values or levels than any model's file has
 */
export async function readJsonValue(path: string, maxBytes: number): Promise<unknown> {
  const text = await readTextFile(path, maxBytes);
  if (text === undefined) return undefined;
  checkExtent(path, text);
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw corrupt(path, "is not valid JSON", { cause });
  }
}

// The largest tokenizer.json has 262,144 tokens and 514,906 pairs of texts: some 2,100,000 values.
const MAX_VALUES = 2 ** 22;
const MAX_LEVELS = 100;

/** Bounds the memory of parsed JSON, which takes up to 40 bytes for each value of two characters. */
function checkExtent(path: string, text: string): void {
  let [values, level] = [0, 0];
  for (let at = 0; at < text.length; at++) {
    const code = text.charCodeAt(at);
    if (code === QUOTE) {
      at = endOfString(text, at);
    } else if (code === COMMA) {
      if (++values > MAX_VALUES) throw corrupt(path, `has more than ${MAX_VALUES} values`);
    } else if (code === OPEN_LIST || code === OPEN_OBJECT) {
      if (++level > MAX_LEVELS) throw corrupt(path, `nests deeper than ${MAX_LEVELS} levels`);
      values++;
    } else if (code === CLOSE_LIST || code === CLOSE_OBJECT) level--;
  }
}

const [QUOTE, BACKSLASH, COMMA, OPEN_LIST, CLOSE_LIST, OPEN_OBJECT, CLOSE_OBJECT] = [34, 92, 44, 91, 93, 123, 125];

/** Finds the quote that ends a string. */
function endOfString(text: string, start: number): number {
  let at = start + 1;
  for (; at < text.length; at++) {
    const code = text.charCodeAt(at);
    if (code === BACKSLASH) at++;
    else if (code === QUOTE) break;
  }
  return at;
}

async function openIfPresent(path: string): Promise<ByteSource | undefined> {
  try {
    return await ByteSource.open(path);
  } catch (error) {
    if (error instanceof ReadMeError && error.code === "ERR_FILE_NOT_FOUND") return undefined;
    throw error;
  }
}

function decodeUtf8(path: string, bytes: Uint8Array): string {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (cause) {
    throw corrupt(path, "is not UTF-8 text", { cause });
  }
}
