// Text that commands read: files, plain or compressed by gzip, and standard input.

import { readFile, stat } from "node:fs/promises";
import { basename } from "node:path";
import { addAbortSignal } from "node:stream";
import { text as textOf } from "node:stream/consumers";
import { promisify } from "node:util";
import { gunzip } from "node:zlib";
import { ReadMeError } from "@readme-moe/core";

const MAX_BYTES = 512 << 20;
const GZIP_MAGIC = [0x1f, 0x8b] as const;

const unzipped = promisify(gunzip);

/** One document of a data file. */
export interface TextDocument {
  readonly text: string;
  /** Field `license` of the document's line. */
  readonly license?: string | undefined;
}

/**
 * Reads the documents of a data file: from `.jsonl` (or `.jsonl.gz`) the fields `text` and `license` of each line, from
 * any other file its whole text.
 * @throws {ReadMeError} naming the file and the wrong line
 */
export async function readDocuments(path: string): Promise<readonly TextDocument[]> {
  const text = await readTextData(path);
  if (!isJsonLines(path)) return [{ text }];
  return readJsonLines(path, text).map(({ value, number }) => {
    if (typeof value !== "object" || value === null || !("text" in value) || typeof value.text !== "string") {
      throw badLine(path, number, "expected an object with a string `text`");
    }
    return {
      text: value.text,
      license: "license" in value && typeof value.license === "string" ? value.license : undefined,
    };
  });
}

/** Returns a file's name without folder and extensions. */
export function shortName(file: string): string {
  return basename(file)
    .replace(/\.gz$/, "")
    .replace(/\.[^.]+$/, "");
}

/**
 * Reads a file's text, decompressed if it is compressed, whatever its name is.
 * @throws {ReadMeError} naming the file, when it is missing, damaged, too large or not UTF-8
 */
export async function readTextData(path: string): Promise<string> {
  const bytes = await readBytes(path);
  const isCompressed = GZIP_MAGIC.every((byte, index) => bytes[index] === byte);
  const content = isCompressed ? await decompressed(path, bytes) : bytes;
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(content);
  } catch (cause) {
    throw new ReadMeError("ERR_FILE_CORRUPT", `${path}: is not UTF-8 text`, { cause });
  }
}

/**
 * Returns the texts that were given, or else the lines of standard input that are not blank.
 * @param what - their name in messages
 * @throws {TypeError} when there are none
 */
export async function textsOrLines(
  what: string,
  given: readonly string[],
  signal: AbortSignal,
): Promise<readonly string[]> {
  if (given.length > 0) return given;
  const lines = linesOf((await pipedText(signal)) ?? "");
  if (lines.length === 0) throw new TypeError(`Expected ${what} as arguments, or as lines on standard input; got none`);
  return lines.map(({ line }) => line.replace(/\r$/, ""));
}

/** Reads all that is piped into this process, until `signal` aborts; `undefined` if standard input is a terminal. */
export async function pipedText(signal: AbortSignal): Promise<string | undefined> {
  return process.stdin.isTTY ? undefined : textOf(addAbortSignal(signal, process.stdin));
}

/** Tells by its name whether a file has a JSON value on each line. */
export function isJsonLines(path: string): boolean {
  return /\.jsonl(\.gz)?$/.test(path);
}

/** Lists the lines that are not blank, each with its number, from 1 up. */
export function linesOf(text: string): readonly { readonly line: string; readonly number: number }[] {
  const lines = text.split("\n").map((line, index) => ({ line, number: index + 1 }));
  return lines.filter(({ line }) => line.trim() !== "");
}

/** Parses each line that is not blank. @throws {ReadMeError} naming file and line */
export function readJsonLines(
  path: string,
  text: string,
): readonly { readonly value: unknown; readonly number: number }[] {
  return linesOf(text).map(({ line, number }) => {
    try {
      const value: unknown = JSON.parse(line);
      return { value, number };
    } catch (cause) {
      throw badLine(path, number, "is not JSON", { cause });
    }
  });
}

/** Makes the error of a line of a file that cannot be used. */
export function badLine(path: string, number: number, problem: string, options?: ErrorOptions): ReadMeError {
  return new ReadMeError("ERR_FILE_CORRUPT", `${path}:${number}: ${problem}`, options);
}

async function readBytes(path: string): Promise<Uint8Array> {
  try {
    const stats = await stat(path);
    if (stats.isDirectory()) throw new ReadMeError("ERR_FILE_UNREADABLE", `${path}: is a folder, not a file`);
    if (stats.size > MAX_BYTES) throw tooLarge(path);
    return await readFile(path);
  } catch (cause) {
    if (cause instanceof ReadMeError) throw cause;
    const { code, message } = systemError(cause);
    if (code === "ENOENT" || code === "ENOTDIR") throw new ReadMeError("ERR_FILE_NOT_FOUND", `${path}: no such file`);
    throw new ReadMeError("ERR_FILE_UNREADABLE", `${path}: cannot be read (${message})`, { cause });
  }
}

async function decompressed(path: string, bytes: Uint8Array): Promise<Uint8Array> {
  try {
    return await unzipped(bytes, { maxOutputLength: MAX_BYTES });
  } catch (cause) {
    const { code, message } = systemError(cause);
    if (code === "ERR_BUFFER_TOO_LARGE") throw tooLarge(path);
    throw new ReadMeError("ERR_FILE_CORRUPT", `${path}: cannot be decompressed (${message})`, { cause });
  }
}

function systemError(error: unknown): { readonly code: unknown; readonly message: string } {
  if (!(error instanceof Error)) return { code: undefined, message: String(error) };
  return { code: "code" in error ? error.code : undefined, message: error.message };
}

function tooLarge(path: string): ReadMeError {
  return new ReadMeError("ERR_FILE_CORRUPT", `${path}: has more than ${MAX_BYTES} bytes`);
}
