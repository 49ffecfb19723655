// Batches as clients see them: input files, the wait for the end, and the lines of the files that come back.

import type OpenAI from "openai";
import type { BatchesOptions } from "@readme-moe/express";
import { onTestFinished } from "vitest";
import { Batches, type BatchesParts, type BatchTimes } from "../../packages/express/src/batches/batches.ts";
import type { LineHandlers } from "../../packages/express/src/batches/run-batch.ts";
import { BATCH_ENDPOINTS } from "../../packages/express/src/batches/schemas.ts";
import type { BatchEnd } from "../../packages/express/src/batches/store.ts";
import { JSON_TYPE, sendText } from "../../packages/express/src/http/reply.ts";
import type { Handler, Incoming, Reply } from "../../packages/express/src/http/request.ts";

type Endpoint = "/v1/chat/completions" | "/v1/completions" | "/v1/embeddings" | "/v1/responses";

/** Requests of a batch. */
export interface Asked {
  readonly bodies: readonly object[];
  readonly endpoint?: Endpoint;
}

/** A line of a file of answers or errors. */
export interface AnsweredLine {
  readonly id: string;
  readonly custom_id: string;
  readonly response: { readonly status_code: number; readonly request_id: string; readonly body: object } | null;
  readonly error: { readonly code: string } | null;
}

/** Makes the text of an input file. The n-th line is called `request-n`. */
export function batchFile({ bodies, endpoint: url = "/v1/completions" }: Asked): string {
  return bodies
    .map((body, index) => `${JSON.stringify({ custom_id: `request-${index}`, method: "POST", url, body })}\n`)
    .join("");
}

export function linesOf(text: string): readonly AnsweredLine[] {
  return text
    .split("\n")
    .slice(0, -1)
    .map((line) => JSON.parse(line) as AnsweredLine);
}

const RUNNING = new Set(["validating", "in_progress", "finalizing", "cancelling"]);

/** Waits until a batch has ended; the test's time limit is the patience. */
export async function ended(client: OpenAI, id: string): Promise<OpenAI.Batch> {
  for (;;) {
    const batch = await client.batches.retrieve(id);
    if (!RUNNING.has(batch.status)) return batch;
  }
}

/** A service over handlers that a test chooses, without an engine. */
export interface ServiceSetup {
  readonly folder: string;
  /** Answers a line. */
  readonly answer: (customId: string, response: Reply, request: Incoming) => void | Promise<void>;
  readonly options?: Partial<BatchesOptions>;
  readonly nowSeconds?: () => number;
  readonly times?: Partial<BatchTimes>;
  readonly places?: number;
}

/** A service, and a switch that ends it as a drained server does. */
export interface RunningService {
  readonly batches: Batches;
  drain(): Promise<void>;
}

/** Answers a line. */
export function answerJson(response: Reply, body: object): void {
  sendText(response, JSON.stringify(body), JSON_TYPE);
}

/** Starts a service. It is drained when the test ends. */
export function startService({ folder, answer, options, places = 8, ...rest }: ServiceSetup): RunningService {
  const models = { isDraining: false, list: () => [{ engine: idleEngine(places) }], states: () => [] };
  const handler: Handler = (request, response) =>
    answer(response.locals.readMe?.batch?.customId ?? "", response, request);
  const handlers = Object.fromEntries(BATCH_ENDPOINTS.map((path) => [path, handler])) as LineHandlers;
  const parts = {
    models: models as unknown as BatchesParts["models"],
    admission: { stats: { requests: 0 } } as BatchesParts["admission"],
    runner: { front: [], handlers, isWeb: true },
    maxBodyBytes: 1 << 20,
    ...rest,
  };
  const batches = new Batches({ folder, maxLoad: 1, ...options }, parts);
  const drain = (): Promise<void> => {
    models.isDraining = true;
    batches.look();
    return batches.stopped;
  };
  onTestFinished(drain);
  return { batches, drain };
}

function idleEngine(maxNumSeqs: number): object {
  return { info: { maxNumSeqs }, stats: async () => ({ numRunning: 0, numWaiting: 0 }) };
}

/** A batch that a test adds. */
interface AddedBatch {
  readonly client?: string;
  readonly expiresAt?: number;
  /** Whether it begins at once. */
  readonly begins?: boolean;
}

/** Adds a batch of completions of a client. @returns its id */
export async function addBatch(
  batches: Batches,
  text: string,
  { client = "key:ann", expiresAt = 1e10, begins = true }: AddedBatch = {},
): Promise<string> {
  const { files, store } = batches;
  const chunks = (async function* () {
    yield Buffer.from(text);
  })();
  const input = await files.receive(client, chunks, async () => ({ client, filename: "in", purpose: "batch" }));
  const record = { client, inputFileId: input.id, endpoint: "/v1/completions", expiresAt, metadata: null } as const;
  const added = await store.add(record);
  if (begins) batches.begin(added);
  return added.id;
}

/** Waits until a batch of a store has ended. */
export async function endOf({ store }: Pick<Batches, "store">, id: string): Promise<BatchEnd> {
  for (;;) {
    const facts = await store.read(id);
    if (facts?.end) return facts.end;
    await new Promise((resolve) => setImmediate(resolve));
  }
}

/** Reads the lines of a file of a store. */
export async function storedLines({ files }: Batches, id: string | undefined): Promise<readonly AnsweredLine[]> {
  if (id === undefined) return [];
  const chunks: Buffer[] = [];
  for await (const chunk of files.content(id)) chunks.push(chunk);
  return linesOf(Buffer.concat(chunks).toString());
}
