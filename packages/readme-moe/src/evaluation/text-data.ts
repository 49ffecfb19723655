// Files of text that people evaluate on, plain or compressed by gzip.

import { readFile, stat } from "node:fs/promises";
import { promisify } from "node:util";
import { gunzip } from "node:zlib";
import { ReadMeError } from "@readme-moe/core";

const MAX_BYTES = 512 << 20;
const GZIP_MAGIC = [0x1f, 0x8b] as const;

const unzipped = promisify(gunzip);

/**
 * A file's text, decompressed where it is compressed, whatever its name is.
 * @throws {ReadMeError} naming the file, when it is not there, damaged, too large or not UTF-8
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

/** The lines that are not blank, each with its number, from 1 up. */
export function linesOf(text: string): readonly { readonly line: string; readonly number: number }[] {
  const lines = text.split("\n").map((line, index) => ({ line, number: index + 1 }));
  return lines.filter(({ line }) => line.trim() !== "");
}

/** @throws {ReadMeError} naming file and line */
export function parseLine(path: string, line: string, number: number): unknown {
  try {
    return JSON.parse(line);
  } catch (cause) {
    throw badLine(path, number, "is not JSON", { cause });
  }
}

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
    const { code, message } = cause as NodeJS.ErrnoException;
    if (code === "ENOENT" || code === "ENOTDIR") throw new ReadMeError("ERR_FILE_NOT_FOUND", `${path}: no such file`);
    throw new ReadMeError("ERR_FILE_UNREADABLE", `${path}: cannot be read (${message})`, { cause });
  }
}

async function decompressed(path: string, bytes: Uint8Array): Promise<Uint8Array> {
  try {
    return await unzipped(bytes, { maxOutputLength: MAX_BYTES });
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    if (code === "ERR_BUFFER_TOO_LARGE") throw tooLarge(path);
    throw new ReadMeError("ERR_FILE_CORRUPT", `${path}: cannot be decompressed (${message})`, { cause });
  }
}

function tooLarge(path: string): ReadMeError {
  return new ReadMeError("ERR_FILE_CORRUPT", `${path}: has more than ${MAX_BYTES} bytes`);
}
