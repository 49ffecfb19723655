// Answers that are not generated. Each takes room in admission until its reader has taken it or is disconnected.

import type { Incoming, Reply } from "../http/types.ts";
import { clientName, knownLocals } from "../http/request.ts";
import { JSON_TYPE, jsonParts, sendBytes, sumOfBytes } from "../http/reply.ts";
import type { Serving } from "./exchange.ts";

/** A request for something that the server has. */
export interface ReadParts {
  readonly serving: Pick<Serving, "admission" | "paces" | "slowReaderMs" | "timers">;
  readonly request: Incoming;
  readonly response: Reply;
}

/**
 * Sends JSON. Clients take turns where it takes long to make. Not for an answer that says what the request has changed,
 * since a refusal would hide the change.
 *
 * @param make - returns an object, or the bytes of JSON. What it throws is the answer
 * @throws {ApiError} as `Admission.send`
 */
export async function sendRead(parts: ReadParts, make: () => object | Buffer): Promise<void> {
  const { serving, request, response } = parts;
  const made = await serving.paces.run(clientName(request, response), () => {
    const answer = make();
    return Buffer.isBuffer(answer) ? [answer] : jsonParts(answer);
  });
  await holdRoom(parts, sumOfBytes(made), () => sendBytes(response, { parts: made, type: JSON_TYPE }, serving));
}

/**
 * Keeps room for as many bytes as an answer takes in memory while it is sent.
 *
 * @throws {ApiError} as `Admission.send`
 */
export async function holdRoom(
  { serving: { admission }, request, response }: ReadParts,
  bytes: number,
  send: () => Promise<void>,
): Promise<void> {
  const release = admission.send({ key: knownLocals(response)?.key, client: clientName(request, response), bytes });
  try {
    await send();
  } finally {
    release();
  }
}
