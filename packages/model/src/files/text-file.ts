import { ReadMeError } from "@readme-moe/core";
import { ByteSource } from "./byte-source.ts";
import { corrupt, expectObject, type JsonObject } from "./json-object.ts";

/**
 * Reads a whole text file, or gives `undefined` when there is none.
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

/** Reads a JSON file whose top is an object, or gives `undefined` when there is none; throws as `readTextFile`. */
export async function readJsonFile(path: string, maxBytes: number): Promise<JsonObject | undefined> {
  const text = await readTextFile(path, maxBytes);
  if (text === undefined) return undefined;
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw corrupt(path, "is not valid JSON", { cause });
  }
  return expectObject(path, "the file", value);
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
