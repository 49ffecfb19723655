// HTTP byte by byte, for what well-behaved clients cannot send.

import { once } from "node:events";
import { connect, type Socket } from "node:net";

export async function openSocket(port: number): Promise<Socket> {
  const socket = connect(port, "127.0.0.1");
  await once(socket, "connect");
  return socket;
}

export function postHead(path: string, bytes: number, headers: readonly string[] = []): string {
  const lines = [
    `POST ${path} HTTP/1.1`,
    "Host: 127.0.0.1",
    "Connection: close",
    "Content-Type: application/json",
    `Content-Length: ${bytes}`,
    ...headers,
  ];
  return `${lines.join("\r\n")}\r\n\r\n`;
}

/** Everything that comes until the other side ends, one char a byte. */
export async function readAll(socket: Socket): Promise<string> {
  let text = "";
  socket.setEncoding("latin1");
  socket.on("data", (piece: string) => (text += piece));
  // A reset ends it, too.
  socket.on("error", () => undefined);
  if (!socket.closed) await new Promise((resolve) => socket.once("close", resolve));
  return text;
}

/** Sends a whole request on a connection of its own. */
export async function postRaw(port: number, path: string, body: string | Buffer): Promise<string> {
  const socket = await openSocket(port);
  socket.write(postHead(path, Buffer.byteLength(body)));
  socket.write(body);
  return readAll(socket);
}
