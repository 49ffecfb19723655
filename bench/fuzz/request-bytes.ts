// Encodes requests as bytes. Lines are `latin1`, so that they can contain any byte.

export interface RequestParts {
  readonly method: string;
  readonly target: string;
  readonly version?: string;
  /** Header lines in order, without those of the body's length. */
  readonly headers: readonly string[];
  readonly body?: Buffer;
  /** Header lines of the body's length. @default content-length */
  readonly framing?: readonly string[];
}

export function requestBytes(parts: RequestParts): Buffer {
  const { method, target, version = "HTTP/1.1", headers, body } = parts;
  const framing = parts.framing ?? (body === undefined ? [] : [`Content-Length: ${body.length}`]);
  const head = [`${method} ${target} ${version}`, ...headers, ...framing].join("\r\n");
  return Buffer.concat([Buffer.from(`${head}\r\n\r\n`, "latin1"), body ?? Buffer.alloc(0)]);
}

export const HOST = "Host: localhost";
export const JSON_TYPE = "Content-Type: application/json";
export const CLOSE = "Connection: close";

/** Encodes a body in chunks of the given sizes; the last size is repeated. */
export function chunked(body: Buffer, sizes: readonly number[]): Buffer {
  const parts: Buffer[] = [];
  for (let start = 0, index = 0; start < body.length; index++) {
    const size = Math.max(1, sizes[Math.min(index, sizes.length - 1)] ?? 1);
    const piece = body.subarray(start, start + size);
    parts.push(Buffer.from(`${piece.length.toString(16)}\r\n`), piece, Buffer.from("\r\n"));
    start += size;
  }
  return Buffer.concat([...parts, Buffer.from("0\r\n\r\n")]);
}
