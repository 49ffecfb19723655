// HTTP of a hostile client: from its own address, with any number of bytes, and without reading answers.

import { once } from "node:events";
import { connect, type Socket } from "node:net";

export interface Target {
  readonly port: number;
  /** Address of the client in 127.0.0.0/8. */
  readonly from: string;
}

/** Connects; later errors are ignored. */
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

/** Sends a request on its own connection. @returns the status, or 0 without one */
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

/** Sends bytes on a connection that is never read. */
export async function sendUnread(target: Target, message: string): Promise<Socket> {
  const socket = await open(target);
  socket.pause();
  socket.write(message);
  return socket;
}
