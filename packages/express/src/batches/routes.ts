// Routes of files and batches.

import { checkBody } from "../api/check-body.ts";
import type { ResolvedApiOptions } from "../api/options.ts";
import type { Incoming, Reply } from "../http/border.ts";
import { invalid } from "../http/errors.ts";
import { listPage, pageOf } from "../http/page.ts";
import { clientName, idOf, localsOf } from "../http/request.ts";
import { sendChunks, sendJson } from "../http/send-json.ts";
import { fileAnswerOf, type FileRecord } from "./file-store.ts";
import { batchHasEnded, batchNotFound, fileInUse, fileNotFound, unknownPlace } from "./refusals.ts";
import { batchBody, WINDOW_SECONDS, type BatchAnswer } from "./schemas.ts";
import type { Batches } from "./service.ts";
import { batchAnswerOf, statusOf } from "./state.ts";
import { receiveUpload } from "./upload.ts";
import type { OwnedFacts } from "./batch-store.ts";

/** A request about files or batches. */
export interface BatchesRequest {
  readonly batches: Batches;
  readonly serving: Pick<ResolvedApiOptions, "bodyTimeoutMs" | "slowReaderMs" | "timers">;
  readonly request: Incoming;
  readonly response: Reply;
}

/** Answers `POST /v1/files`. */
export async function uploadFile({ batches, serving, request, response }: BatchesRequest): Promise<void> {
  const { files, maxFileBytes, maxUploadMs: totalMs } = batches;
  const client = clientName(request, response);
  const { bodyTimeoutMs: sliceMs, timers } = serving;
  const upload = { files, client, request, response, maxFileBytes, sliceMs, totalMs, timers };
  response.json(fileAnswerOf(await batches.upload(client, () => receiveUpload(upload))));
}

/** Answers `GET /v1/files`. */
export async function listFiles({ batches, serving, request, response }: BatchesRequest): Promise<void> {
  const { purpose } = request.query;
  const page = pageOf(request, { most: 10_000, usual: 10_000 });
  const all = await batches.files.listOf(clientName(request, response));
  const meant = purpose === undefined ? all : all.filter((file) => file.purpose === purpose);
  await sendJson(response, listPage(meant.map(fileAnswerOf), page, unknownPlace), serving);
}

/** Answers `GET /v1/files/:id`. */
export async function showFile(asked: BatchesRequest): Promise<void> {
  asked.response.json(fileAnswerOf(await namedFile(asked)));
}

/** Answers `GET /v1/files/:id/content`. */
export async function sendFile(asked: BatchesRequest): Promise<void> {
  const { batches, serving, response } = asked;
  const { id, bytes } = await namedFile(asked);
  response.setHeader("Content-Type", "application/jsonl");
  response.setHeader("Content-Length", bytes);
  response.setHeader("Content-Disposition", `attachment; filename="${id}.jsonl"`);
  response.setHeader("X-Content-Type-Options", "nosniff");
  await sendChunks(response, batches.files.content(id), serving);
}

/** Answers `DELETE /v1/files/:id`. */
export async function deleteFile(asked: BatchesRequest): Promise<void> {
  const { batches, response } = asked;
  const { id } = await namedFile(asked);
  if (await batches.isInput(id)) throw fileInUse(id);
  await batches.files.remove(id);
  response.json({ id, object: "file", deleted: true });
}

/** Answers `POST /v1/batches`. */
export async function createBatch({ batches, request, response }: BatchesRequest): Promise<void> {
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
  response.json(batchAnswerOf({ record }));
}

/** Answers `GET /v1/batches`. */
export async function listBatches({ batches, serving, request, response }: BatchesRequest): Promise<void> {
  const page = pageOf(request, { most: 100, usual: 20 });
  const client = clientName(request, response);
  const own = (await batches.store.list()).filter(({ record }) => record.client === client);
  await sendJson(response, listPage(own.map(batchAnswerOf), page, unknownPlace), serving);
}

/** Answers `GET /v1/batches/:id`. */
export async function showBatch(asked: BatchesRequest): Promise<void> {
  asked.response.json(batchAnswerOf(await namedBatch(asked)));
}

/** Answers `POST /v1/batches/:id/cancel`. */
export async function cancelBatch(asked: BatchesRequest): Promise<void> {
  const { batches, response } = asked;
  const facts = await namedBatch(asked);
  if (facts.end) throw batchHasEnded(statusOf(facts));
  await batches.store.cancel(facts.record.id);
  batches.look();
  response.json(await answerNow(asked, facts));
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
