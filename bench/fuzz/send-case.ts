// Sends a case on its own connection, and collects the answers.

import { connect, type Socket } from "node:net";
import { once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import type { FuzzCase } from "./fuzz-case.ts";
import { isRefusable } from "./refusable.ts";

export interface Received {
  readonly bytes: Buffer;
  /** Whether the server ended the connection in time, or refused it (`isRefused`). */
  readonly isEnded: boolean;
  readonly isRefused: boolean;
}

/** Longest wait for the end: every case requests it with its last request, or ends its own side. */
const PATIENCE_MS = 30_000;
/** Time after which a possibly long generation is abandoned. */
const LONG_MS = 3000;
const QUIET_MS = 200;

function patienceMs(sent: FuzzCase): number {
  return sent.asks.some(({ mayBeLong }) => mayBeLong) && !isRefusable(sent) ? LONG_MS : PATIENCE_MS;
}

/** Number of client addresses: a single client would wait for its share of the server's time. */
const NUM_CLIENTS = 200;
let numSent = 0;

/** Picks a local address; Linux has all of 127.0.0.0/8. */
function nextAddress(): { readonly localAddress?: string } {
  return process.platform === "linux" ? { localAddress: `127.0.1.${1 + (numSent++ % NUM_CLIENTS)}` } : {};
}

export async function sendCase(port: number, sent: FuzzCase): Promise<Received> {
  const from = sent.from === undefined ? nextAddress() : { localAddress: sent.from };
  const socket = connect({ port, host: "127.0.0.1", allowHalfOpen: true, ...from });
  const received: Buffer[] = [];
  let isEnded = false;
  socket.on("data", (data: Buffer) => void received.push(data));
  // A reset also ends the connection.
  socket.on("error", () => (isEnded = true));
  socket.once("end", () => (isEnded = true));
  const over = new Promise<void>((resolve) => {
    socket.once("end", () => resolve());
    socket.once("close", () => resolve());
  });
  const isConnected = await Promise.race([
    once(socket, "connect").then(
      () => true,
      () => false,
    ),
    over.then(() => false),
  ]);
  if (!isConnected) return { bytes: Buffer.alloc(0), isEnded, isRefused: true };
  await sendPieces(socket, sent, () => isEnded);
  if (sent.ending === "leave") socket.destroy();
  else {
    if (sent.ending === "half-close") socket.end();
    if (sent.ending === "quiet") {
      await quietness(received, over);
      socket.end();
    }
    await within(over, patienceMs(sent));
    socket.destroy();
  }
  return { bytes: Buffer.concat(received), isEnded, isRefused: false };
}

/** Waits until no data has arrived for a while. */
async function quietness(received: readonly Buffer[], over: Promise<void>): Promise<void> {
  for (let before = -1; before !== received.length;) {
    before = received.length;
    // oxlint-disable-next-line no-await-in-loop -- one wait after the other
    await within(over, QUIET_MS);
  }
}

async function within(over: Promise<void>, ms: number): Promise<void> {
  const giveUp = new AbortController();
  await Promise.race([over, sleep(ms, undefined, { signal: giveUp.signal }).catch(() => undefined)]);
  giveUp.abort();
}

async function sendPieces(socket: Socket, { pieces }: FuzzCase, isOver: () => boolean): Promise<void> {
  socket.setNoDelay(true);
  for (const { bytes, waitMs } of pieces) {
    // oxlint-disable-next-line no-await-in-loop -- pieces are sent one after the other
    if (waitMs > 0) await sleep(waitMs);
    // Each piece must arrive separately.
    // oxlint-disable-next-line no-await-in-loop -- likewise
    else if (pieces.length > 1) await new Promise((resolve) => setImmediate(resolve));
    if (isOver() || socket.destroyed) return;
    socket.write(bytes);
  }
}
