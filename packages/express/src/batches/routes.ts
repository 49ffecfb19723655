// Routes of files and batches.

import { checkBody } from "../api/check-body.ts";
import type { ResolvedApiOptions } from "../api/options.ts";
import { holdRoom, sendRead, type ReadParts } from "../api/other-routes.ts";
import { invalid } from "../http/errors.ts";
import { listPage, pageOf } from "../http/page.ts";
import { clientName, idOf, localsOf } from "../http/request.ts";
import { sendChunks, sendJson } from "../http/reply.ts";
import { fileAnswerOf, type FileRecord } from "./file-store.ts";
import { batchHasEnded, batchNotFound, fileInUse, fileNotFound, unknownPlace } from "./refusals.ts";
import { batchBody, WINDOW_SECONDS, type BatchAnswer } from "./schemas.ts";
import type { Batches } from "./service.ts";
import { batchAnswerOf, statusOf } from "./state.ts";
import { receiveUpload } from "./upload.ts";
import type { OwnedFacts } from "./batch-store.ts";

/** A request about files or batches. */
export interface BatchesRequest extends ReadParts {
  readonly batches: Batches;
  readonly serving: ReadParts["serving"] & Pick<ResolvedApiOptions, "bodyTimeoutMs">;
}

/** Memory that a file takes while it is sent: two of the pieces that it is read in. */
const FILE_READ_BYTES = 128 << 10;

/** Answers `POST /v1/files`. */
export async function uploadFile(asked: BatchesRequest): Promise<void> {
  const { batches, serving, request, response } = asked;
  const { files, maxFileBytes, maxUploadMs: totalMs } = batches;
  const client = clientName(request, response);
  const { bodyTimeoutMs: sliceMs, timers } = serving;
  const upload = { files, client, request, response, maxFileBytes, sliceMs, totalMs, timers };
  const stored = await batches.upload(client, () => receiveUpload(upload));
  await sendJson(response, fileAnswerOf(stored), serving);
}

/** Answers `GET /v1/files`. */
export async function listFiles(asked: BatchesRequest): Promise<void> {
  const { batches, request, response } = asked;
  const { purpose } = request.query;
  const page = pageOf(request, { most: 10_000, usual: 10_000 });
  const all = await batches.files.listOf(clientName(request, response));
  const meant = purpose === undefined ? all : all.filter((file) => file.purpose === purpose);
  await sendRead(asked, () => listPage(meant.map(fileAnswerOf), page, unknownPlace));
}

/** Answers `GET /v1/files/:id`. */
export async function showFile(asked: BatchesRequest): Promise<void> {
  const file = await namedFile(asked);
  await sendRead(asked, () => fileAnswerOf(file));
}

/** Answers `GET /v1/files/:id/content`. */
export async function sendFile(asked: BatchesRequest): Promise<void> {
  const { batches, serving, response } = asked;
  const { id, bytes } = await namedFile(asked);
  await holdRoom(asked, Math.min(bytes, FILE_READ_BYTES), () => {
    response.setHeader("Content-Type", "application/jsonl");
    response.setHeader("Content-Length", bytes);
    response.setHeader("Content-Disposition", `attachment; filename="${id}.jsonl"`);
    response.setHeader("X-Content-Type-Options", "nosniff");
    return sendChunks(response, batches.files.content(id), serving);
  });
}

/** Answers `DELETE /v1/files/:id`. */
export async function deleteFile(asked: BatchesRequest): Promise<void> {
  const { batches, serving, response } = asked;
  const { id } = await namedFile(asked);
  if (await batches.isInput(id)) throw fileInUse(id);
  await batches.files.remove(id);
  await sendJson(response, { id, object: "file", deleted: true }, serving);
}

/** Answers `POST /v1/batches`. */
export async function createBatch(asked: BatchesRequest): Promise<void> {
  const { batches, serving, request, response } = asked;
  const { endpoint, metadata, input_file_id: fileId, output_expires_after: kept } = checkBody(batchBody, request.body);
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
  batches.look();
  await sendJson(response, batchAnswerOf({ record }), serving);
}

/** Answers `GET /v1/batches`. */
export async function listBatches(asked: BatchesRequest): Promise<void> {
  const { batches, request, response } = asked;
  const page = pageOf(request, { most: 100, usual: 20 });
  const client = clientName(request, response);
  const own = (await batches.store.list()).filter(({ record }) => record.client === client);
  await sendRead(asked, () => listPage(own.map(batchAnswerOf), page, unknownPlace));
}

/** Answers `GET /v1/batches/:id`. */
export async function showBatch(asked: BatchesRequest): Promise<void> {
  const facts = await namedBatch(asked);
  await sendRead(asked, () => batchAnswerOf(facts));
}

/** Answers `POST /v1/batches/:id/cancel`. */
export async function cancelBatch(asked: BatchesRequest): Promise<void> {
  const { batches, serving, response } = asked;
  const facts = await namedBatch(asked);
  if (facts.end) throw batchHasEnded(statusOf(facts));
  await batches.store.cancel(facts.record.id);
  batches.look();
  await sendJson(response, await answerNow(asked, facts), serving);
}

async function answerNow({ batches }: BatchesRequest, { record }: OwnedFacts): Promise<BatchAnswer> {
  const facts = await batches.store.read(record.id);
  if (!facts) throw batchNotFound(record.id);
  return batchAnswerOf(facts);
}

async function namedFile({ batches, request, response }: BatchesRequest): Promise<FileRecord> {
  const id = idOf(request);
  const file = await batches.files.get(id, clientName(request, response));
  if (!file) throw fileNotFound(id);
  return file;
}

async function namedBatch({ batches, request, response }: BatchesRequest): Promise<OwnedFacts> {
  const id = idOf(request);
  const facts = await batches.store.read(id);
  if (facts?.record.client !== clientName(request, response)) throw batchNotFound(id);
  return facts;
}
