// Routes of files and batches. The file of an upload goes to the store as it arrives.

import { Busboy, type BusboyFileStream, type BusboyInstance } from "@fastify/busboy";
import { unreadable } from "../api/body.ts";
import type { ResolvedApiOptions } from "../api/options.ts";
import { holdRoom, type ReadParts, sendRead } from "../api/other-routes.ts";
import { type ApiError, badRequest, bodyTimeout, bodyTooLarge, invalid, unsupported } from "../http/errors.ts";
import { listPage, pageOf } from "../http/pages.ts";
import { sendJson, sendSlices } from "../http/reply.ts";
import { clientName, idOf, type Incoming, localsOf, type Reply, type Timers } from "../http/request.ts";
import type { Batches } from "./batches.ts";
import { fileAnswerOf, type FileRecord, type FileStore, type NewFile } from "./files.ts";
import { batchHasEnded, batchNotFound, fileInUse, fileNotFound, unknownPlace } from "./options.ts";
import { type BatchBody, MAX_KEPT_SECONDS, MIN_KEPT_SECONDS, WINDOW_SECONDS } from "./schemas.ts";
import { batchAnswerOf, type BatchFacts, statusOf } from "./store.ts";

/** A request about files or batches. */
export interface BatchesRequest extends ReadParts {
  readonly batches: Batches;
  readonly serving: ReadParts["serving"] & Pick<ResolvedApiOptions, "bodyTimeoutMs">;
}

/** Memory that a file takes while it is sent: two of the pieces that it is read in. */
const FILE_READ_BYTES = 128 << 10;

export async function uploadFile(asked: BatchesRequest): Promise<void> {
  const { batches, serving, request, response } = asked;
  const { files, maxFileBytes, maxUploadMs: totalMs } = batches;
  const client = clientName(request, response);
  const { bodyTimeoutMs: sliceMs, timers } = serving;
  const upload = { files, client, request, response, maxFileBytes, sliceMs, totalMs, timers };
  const stored = await batches.upload(client, () => receiveUpload(upload));
  await sendJson(response, fileAnswerOf(stored), serving);
}

export async function listFiles(asked: BatchesRequest): Promise<void> {
  const { batches, request, response } = asked;
  const { purpose } = request.query;
  const page = pageOf(request, { most: 10_000, usual: 10_000 });
  const all = await batches.files.listOf(clientName(request, response));
  const meant = purpose === undefined ? all : all.filter((file) => file.purpose === purpose);
  await sendRead(asked, () => listPage(meant.map(fileAnswerOf), page, unknownPlace));
}

export async function showFile(asked: BatchesRequest): Promise<void> {
  const file = await namedFile(asked);
  await sendRead(asked, () => fileAnswerOf(file));
}

export async function sendFile(asked: BatchesRequest): Promise<void> {
  const { batches, serving, response } = asked;
  const { id, bytes } = await namedFile(asked);
  await holdRoom(asked, Math.min(bytes, FILE_READ_BYTES), () => {
    response.setHeader("Content-Type", "application/jsonl");
    response.setHeader("Content-Length", bytes);
    response.setHeader("Content-Disposition", `attachment; filename="${id}.jsonl"`);
    response.setHeader("X-Content-Type-Options", "nosniff");
    return sendSlices(response, batches.files.content(id), serving);
  });
}

export async function deleteFile(asked: BatchesRequest): Promise<void> {
  const { batches, serving, response } = asked;
  const { id } = await namedFile(asked);
  if (await batches.isInput(id)) throw fileInUse(id);
  await batches.files.remove(id);
  await sendJson(response, { id, object: "file", deleted: true }, serving);
}

export async function createBatch(asked: BatchesRequest, body: BatchBody): Promise<void> {
  const { batches, serving, request, response } = asked;
  const { endpoint, metadata, input_file_id: fileId, output_expires_after: kept } = body;
  const client = clientName(request, response);
  const input = await batches.files.get(fileId, client);
  if (!input) throw fileNotFound(fileId);
  if (input.purpose !== "batch") throw invalid("input_file_id", "expected a file whose purpose is batch");
  const { key } = localsOf(response);
  const record = await batches.store.add({
    client,
    ...(key !== undefined && { key }),
    inputFileId: input.id,
    endpoint,
    metadata: metadata ?? null,
    expiresAt: batches.nowSeconds() + WINDOW_SECONDS,
    ...(kept && { outputSeconds: kept.seconds }),
  });
  batches.begin(record);
  await sendJson(response, batchAnswerOf({ record }), serving);
}

export async function listBatches(asked: BatchesRequest): Promise<void> {
  const { batches, request, response } = asked;
  const page = pageOf(request, { most: 100, usual: 20 });
  const client = clientName(request, response);
  const own = (await batches.store.list()).filter(({ record }) => record.client === client);
  await sendRead(asked, () => listPage(own.map(batchAnswerOf), page, unknownPlace));
}

export async function showBatch(asked: BatchesRequest): Promise<void> {
  const facts = await namedBatch(asked);
  await sendRead(asked, () => batchAnswerOf(facts));
}

export async function cancelBatch(asked: BatchesRequest): Promise<void> {
  const { batches, serving, response } = asked;
  const facts = await namedBatch(asked);
  if (facts.end) throw batchHasEnded(statusOf(facts));
  await batches.store.cancel(facts.record.id);
  batches.look();
  await sendJson(response, batchAnswerOf(await namedBatch(asked)), serving);
}

async function namedFile({ batches, request, response }: BatchesRequest): Promise<FileRecord> {
  const id = idOf(request);
  const file = await batches.files.get(id, clientName(request, response));
  if (!file) throw fileNotFound(id);
  return file;
}

async function namedBatch({ batches, request, response }: BatchesRequest): Promise<BatchFacts> {
  const id = idOf(request);
  const facts = await batches.store.read(id);
  if (facts?.record.client !== clientName(request, response)) throw batchNotFound(id);
  return facts;
}

/** A request with a file, and what it is read with. */
export interface Upload {
  readonly files: FileStore;
  readonly client: string;
  readonly request: Incoming;
  readonly response: Reply;
  readonly maxFileBytes: number;
  /** Longest time in which 64 KiB or the rest arrive, in ms. */
  readonly sliceMs: number;
  /** Longest time until all has arrived, in ms. */
  readonly totalMs: number;
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

async function receive({ files, client, request, maxFileBytes, ...times }: Upload): Promise<FileRecord> {
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
  const pace = watchPace(times, () => fail?.(bodyTimeout()));
  try {
    await Promise.race([feed(parser, request, pace), failed]);
    pace.stop();
    await Promise.race([ended, failed]);
    if (!stored) throw badRequest({ message: "Missing 'file'", code: "missing_required_parameter", param: "file" });
    return await Promise.race([stored, failed]);
  } catch (error) {
    pace.stop();
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
async function feed(parser: BusboyInstance, request: Incoming, pace: Pace): Promise<void> {
  const reader = request[Symbol.asyncIterator]();
  for (;;) {
    const { done, value } = await reader.next().catch((cause: unknown) => Promise.reject(damaged(cause)));
    if (done === true) break;
    if (parser.destroyed) return;
    pace.arrived(value.byteLength);
    if (parser.write(value)) continue;
    pace.isHeldUp = true;
    await new Promise<void>((resolve) => void parser.once("drain", resolve));
    pace.isHeldUp = false;
  }
  parser.end();
}

/** Bytes that arrive in `sliceMs` at least. */
const SLICE_BYTES = 64 << 10;

/** Times of a body that arrives. */
interface Pace {
  /** Whether the sender waits for the server. */
  isHeldUp: boolean;
  arrived(bytes: number): void;
  stop(): void;
}

/** Calls `onLate` once a body comes too slowly. */
function watchPace(
  { sliceMs, totalMs, timers }: Pick<Upload, "sliceMs" | "totalMs" | "timers">,
  onLate: () => void,
): Pace {
  let left = SLICE_BYTES;
  const onSliceOver = (): void => (pace.isHeldUp ? begin() : onLate());
  const begin = (): void => {
    left = SLICE_BYTES;
    stopSlice = timers.after(sliceMs, onSliceOver);
  };
  const stopTotal = timers.after(totalMs, onLate);
  let stopSlice = timers.after(sliceMs, onSliceOver);
  const pace: Pace = {
    isHeldUp: false,
    arrived(bytes) {
      left -= bytes;
      if (left > 0) return;
      stopSlice();
      begin();
    },
    stop() {
      stopSlice();
      stopTotal();
    },
  };
  return pace;
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
