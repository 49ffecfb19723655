// HTTP as a hostile client speaks it: from an address of its own, as many bytes as it likes, and without reading.

import { once } from "node:events";
import { connect, type Socket } from "node:net";

export interface Target {
  readonly port: number;
  /** The client's own address, anywhere in 127.0.0.0/8. */
  readonly from: string;
}

/** Connects; what goes wrong later is the client's own business. */
export async function open({ port, from }: Target): Promise<Socket> {
  const socket = connect({ port, host: "127.0.0.1", localAddress: from });
  socket.on("error", () => undefined);
  await Promise.race([once(socket, "connect"), once(socket, "close")]);
  return socket;
}

export function head(method: string, path: string, length?: number): string {
  const body = length === undefined ? "" : `Content-Type: application/json\r\nContent-Length: ${length}\r\n`;
  return `${method} ${path} HTTP/1.1\r\nHost: localhost\r\n${body}\r\n`;
}

export function post(path: string, body: string): string {
  return head("POST", path, Buffer.byteLength(body)) + body;
}

/** Sends a request on a connection of its own. @returns the status, or 0 where none came */
export async function ask(target: Target, message: string, signal: AbortSignal): Promise<number> {
  const socket = await open(target);
  const stop = (): void => void socket.destroy();
  signal.addEventListener("abort", stop, { once: true });
  try {
    let text = "";
    const answered = new Promise<void>((resolve) => {
      socket.on("data", (data: Buffer) => {
        text += data.toString("latin1", 0, 64);
        if (text.length > 12) resolve();
      });
      socket.once("close", () => resolve());
    });
    socket.write(message);
    if (signal.aborted) stop();
    await answered;
    return Number(/^HTTP\/1\.1 (\d{3})/.exec(text)?.[1] ?? 0);
  } finally {
    signal.removeEventListener("abort", stop);
    socket.destroy();
  }
}

/** Sends on a connection that is never read. */
export async function sendUnread(target: Target, message: string): Promise<Socket> {
  const socket = await open(target);
  socket.pause();
  socket.write(message);
  return socket;
}
