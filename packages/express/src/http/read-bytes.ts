// Bytes of a body: received up to a size, and decompressed.

import { promisify } from "node:util";
import { brotliDecompress, gunzip, inflate, type InputType } from "node:zlib";
import type { Incoming } from "./border.ts";
import { ApiError, badRequest, bodyTooLarge } from "./errors.ts";

/** Whether a request has a body, which may be empty. */
export function hasBody({ headers }: Pick<Incoming, "headers">): boolean {
  return headers["transfer-encoding"] !== undefined || Number(headers["content-length"] ?? NaN) >= 0;
}

/** Returns the length that a request declares for its body. */
export function declaredBytes({ headers }: Pick<Incoming, "headers">): number | undefined {
  const length = headers["content-length"];
  return length === undefined ? undefined : Number(length);
}

const TOKEN = String.raw`[\w!#$%&'*+.^\x60|~-]+`;
const PARAMETER = String.raw`[ \t]*;[ \t]*${TOKEN}=(?:${TOKEN}|"(?:[^"\\]|\\.)*")`;
const JSON_TYPE = new RegExp(String.raw`^[ \t]*application/json(?:${PARAMETER})*[ \t]*$`, "i");

/** Whether a content type is that of JSON, with any parameters. */
export function isJsonType(contentType: string): boolean {
  return JSON_TYPE.test(contentType);
}

const CHARSETS = ["utf-8", "utf-16", "utf-16le", "utf-16be"] as const;

/** Character set that bodies can have. */
export type Charset = (typeof CHARSETS)[number];

/** Returns the character set of a content type, or `undefined` for one that cannot be read. @default utf-8 */
export function charsetOf(contentType: string): Charset | undefined {
  const named = (/;[ \t]*charset="?([^\s;"]*)/i.exec(contentType)?.[1] ?? "utf-8").toLowerCase();
  return CHARSETS.find((charset) => charset === named);
}

/** Creates the error of a type, an encoding or a character set that this server cannot read. */
export function unreadable(message = "The body's encoding is not supported"): ApiError {
  return new ApiError({ status: 415, type: "invalid_request_error", code: "unsupported_media_type", message });
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
export async function readBytes(request: Incoming, maxBytes: number): Promise<Buffer> {
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
    // oxlint-disable-next-line no-await-in-loop -- chunks come one after the other
    const { done, value } = await reader.next().catch((cause: unknown) => Promise.reject(endsEarly(cause)));
    if (done === true) break;
    numBytes += value.byteLength;
    if (numBytes > maxBytes) throw bodyTooLarge();
    chunks.push(value);
  }
  if (declared !== undefined && declared !== numBytes) throw endsEarly();
  return Buffer.concat(chunks, numBytes);
}
