// HTTP of a hostile client: from its own address, with any number of bytes, and without reading answers.

import { once } from "node:events";
import { connect, type Socket } from "node:net";

/** Keys of the hostile clients, and of the well-behaved one beside them. */
export const HOSTILE_KEYS = ["hostile-1", "hostile-2", "hostile-3"] as const;
export const WITNESS_KEY = "witness";

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

export function head(method: string, path: string, length?: number, key: string = HOSTILE_KEYS[0]): string {
  const body = length === undefined ? "" : `Content-Type: application/json\r\nContent-Length: ${length}\r\n`;
  return `${method} ${path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer ${key}\r\n${body}\r\n`;
}

export function post(path: string, body: string, key?: string): string {
  return head("POST", path, Buffer.byteLength(body), key) + body;
}

/** Sends a request and reads its whole answer. @returns the status and the JSON, 0 where the connection ended */
export async function call(
  { port }: Target,
  { method = "POST", path, body, key = HOSTILE_KEYS[0] }: Call,
  signal: AbortSignal,
): Promise<{ readonly status: number; readonly json: Readonly<Record<string, unknown>> }> {
  const type = typeof body === "string" ? { "content-type": "application/json" } : {};
  const headers = { authorization: `Bearer ${key}`, ...type };
  try {
    const response = await fetch(`http://127.0.0.1:${port}${path}`, { method, headers, body: body ?? null, signal });
    return { status: response.status, json: (await response.json()) as Readonly<Record<string, unknown>> };
  } catch {
    return { status: 0, json: {} };
  }
}

interface Call {
  readonly method?: "GET" | "POST" | "DELETE";
  readonly path: string;
  /** JSON as a text, or a form. */
  readonly body?: string | FormData;
  readonly key?: string;
}

/** Makes the form of an input file of batches. */
export function batchForm(lines: string): FormData {
  const form = new FormData();
  form.append("purpose", "batch");
  form.append("file", new Blob([lines]), "lines.jsonl");
  return form;
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
