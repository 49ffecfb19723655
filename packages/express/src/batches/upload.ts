// Uploads: multipart bodies whose file goes to the store as it arrives.

import { Busboy, type BusboyFileStream, type BusboyInstance } from "@fastify/busboy";
import type { Incoming, Reply } from "../http/border.ts";
import { ApiError, badRequest, bodyTooLarge, invalid, unsupported } from "../http/errors.ts";
import { unreadable } from "../http/read-bytes.ts";
import type { Timers } from "../http/timers.ts";
import type { FileRecord, FileStore, NewFile } from "./file-store.ts";
import { MAX_KEPT_SECONDS, MIN_KEPT_SECONDS } from "./schemas.ts";

/** A request with a file, and what it is read with. */
export interface Upload {
  readonly files: FileStore;
  readonly client: string;
  readonly request: Incoming;
  readonly response: Reply;
  readonly maxFileBytes: number;
  /** Longest time in which nothing arrives, in ms. */
  readonly silenceMs: number;
  readonly timers: Timers;
}

const LIMITS = {
  files: 1,
  fields: 8,
  fieldSize: 1024,
  fieldNameSize: 128,
  parts: 10,
  headerPairs: 16,
  headerSize: 8192,
};

const MAX_NAME = 255;

/** Receives a file. @throws {ApiError} 400, 408, 413, 415 */
export async function receiveUpload(upload: Upload): Promise<FileRecord> {
  const { request, response } = upload;
  try {
    return await receive(upload);
  } catch (error) {
    // Close rather than receive the rest of a refused body.
    if (!request.complete) response.setHeader("Connection", "close");
    throw error;
  }
}

async function receive({ files, client, request, maxFileBytes, silenceMs, timers }: Upload): Promise<FileRecord> {
  const type = request.get("content-type") ?? "";
  if (!/^multipart\/form-data\s*;/i.test(type)) throw unreadable("Expected the content type multipart/form-data");
  if ((request.get("content-encoding") ?? "identity") !== "identity") throw unreadable();
  const parser = openParser(type, maxFileBytes);
  const fields = new Map<string, string>();
  let stored: Promise<FileRecord> | undefined;
  let part: BusboyFileStream | undefined;
  const ended = new Promise<void>((resolve) => void parser.on("finish", resolve));
  let fail: ((error: unknown) => void) | undefined;
  const failed = new Promise<never>((_, reject) => {
    fail = reject;
    parser.on("error", (cause) => reject(damaged(cause)));
    parser.on("field", (name: string | undefined, value, ...cut) => {
      if (name === undefined) return reject(damaged());
      if (cut[0] || cut[1]) reject(invalid(name.slice(0, 64), "expected a short text"));
      fields.set(name, value);
    });
    parser.on("file", (name: string | undefined, stream, sentName) => {
      part = stream;
      // The end of a form that was cut off is an error of its file, too, also when nobody reads it any more.
      stream.on("error", (cause) => reject(damaged(cause)));
      if (name !== "file") {
        stream.resume();
        return reject(invalid(`${name}`.slice(0, 64), "expected the file to be called `file`"));
      }
      const describe = async (): Promise<NewFile> => {
        // Fields may follow the file.
        await Promise.race([ended, failed]);
        return { client, filename: nameOf(sentName), ...meaningOf(fields) };
      };
      stored = files.receive(client, whole(stream), describe);
      stored.catch(reject);
    });
    for (const limit of ["filesLimit", "fieldsLimit", "partsLimit"] as const) {
      parser.on(limit, () => reject(badRequest({ message: "The form has too many parts", code: "invalid_value" })));
    }
  });
  failed.catch(() => undefined);
  try {
    await Promise.race([feed(parser, request, { silenceMs, timers }), failed]);
    await Promise.race([ended, failed]);
    if (!stored) throw badRequest({ message: "Missing 'file'", code: "missing_required_parameter", param: "file" });
    return await Promise.race([stored, failed]);
  } catch (error) {
    fail?.(error);
    parser.destroy();
    // The written part is removed before the client gets its answer. A file may be whole where its form is not.
    part?.destroy();
    const left = await stored?.catch(() => undefined);
    if (left) await files.remove(left.id);
    throw error;
  }
}

function openParser(type: string, maxFileBytes: number): BusboyInstance {
  try {
    return new Busboy({ headers: { "content-type": type }, limits: { ...LIMITS, fileSize: maxFileBytes } });
  } catch (cause) {
    throw damaged(cause);
  }
}

function damaged(cause?: unknown): ApiError {
  return badRequest({ message: "The form is damaged", code: "invalid_body", cause });
}

/** Passes the bytes of a body on, as fast as they are taken. */
async function feed(
  parser: BusboyInstance,
  request: Incoming,
  { silenceMs, timers }: Pick<Upload, "silenceMs" | "timers">,
): Promise<void> {
  const reader = request[Symbol.asyncIterator]();
  for (;;) {
    const { done, value } = await withTimer(reader.next(), silenceMs, timers);
    if (done === true) break;
    if (parser.destroyed) return;
    if (!parser.write(value)) await new Promise<void>((resolve) => void parser.once("drain", resolve));
  }
  parser.end();
}

async function withTimer<Result>(work: Promise<Result>, silenceMs: number, timers: Timers): Promise<Result> {
  let stop: (() => void) | undefined;
  const silence = new Promise<never>((_, reject) => {
    const message = "The body took too long";
    const error = new ApiError({ status: 408, type: "invalid_request_error", code: "body_timeout", message });
    stop = timers.after(silenceMs, () => reject(error));
  });
  try {
    return await Promise.race([work.catch((cause: unknown) => Promise.reject(damaged(cause))), silence]);
  } finally {
    stop?.();
  }
}

/** Reads a file to its end. @throws {ApiError} 413 if it was longer than allowed, 400 if its form is damaged */
async function* whole(stream: BusboyFileStream): AsyncGenerator<Uint8Array, void> {
  try {
    for await (const chunk of stream as AsyncIterable<Buffer>) yield chunk;
  } catch (cause) {
    throw damaged(cause);
  }
  if (stream.truncated) throw bodyTooLarge();
}

/** Returns a name for lists. It is no path. */
function nameOf(sent: string | undefined): string {
  return (sent ?? "").slice(0, MAX_NAME) || "file.jsonl";
}

const [AGE, ANCHOR] = ["expires_after[seconds]", "expires_after[anchor]"];

/** Reads what a file is for, and for how long. */
function meaningOf(fields: ReadonlyMap<string, string>): Pick<NewFile, "purpose" | "keptSeconds"> {
  const unknown = [...fields.keys()].find((name) => !["purpose", AGE, ANCHOR].includes(name));
  if (unknown !== undefined) throw unsupported(unknown.slice(0, 64));
  if (fields.get("purpose") !== "batch") throw invalid("purpose", "expected batch");
  const [age, anchor] = [fields.get(AGE), fields.get(ANCHOR)];
  if (anchor !== undefined && anchor !== "created_at") throw invalid(ANCHOR, "expected created_at");
  if (age === undefined) return { purpose: "batch" };
  const keptSeconds = /^\d{1,9}$/.test(age) ? Number(age) : 0;
  if (keptSeconds < MIN_KEPT_SECONDS || keptSeconds > MAX_KEPT_SECONDS) {
    throw invalid(AGE, `expected an integer from ${MIN_KEPT_SECONDS} to ${MAX_KEPT_SECONDS}`);
  }
  return { purpose: "batch", keptSeconds };
}
