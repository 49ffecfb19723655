// Server-sent events, read without any library.

/** The `data` of every event, in order, and every comment. */
export function parseEvents(text: string): { readonly data: readonly string[]; readonly comments: readonly string[] } {
  const blocks = text.split("\n\n");
  if (blocks.pop() !== "") throw new Error("Expected a stream that ends with an event");
  const data: string[] = [];
  const comments: string[] = [];
  for (const block of blocks) {
    const named = /^event: \S+\n(?=data: )/.exec(block);
    if (named) data.push(block.slice(named[0].length + "data: ".length));
    else if (block.startsWith("data: ")) data.push(block.slice("data: ".length));
    else if (block.startsWith(": ")) comments.push(block.slice(2));
    else throw new Error(`Expected an event, got ${JSON.stringify(block)}`);
  }
  return { data, comments };
}

/** A chunk of either API. */
export interface Chunk {
  readonly id: string;
  readonly created: number;
  readonly object: string;
  readonly usage?: object | null;
  readonly choices: readonly {
    readonly index: number;
    readonly delta?: { readonly role?: string; readonly content?: string };
    readonly text?: string;
    readonly finish_reason: string | null;
  }[];
}

/** The chunks of a whole stream, which has to end with `[DONE]`. */
export function chunksOf(text: string): readonly Chunk[] {
  const { data } = parseEvents(text);
  if (data.at(-1) !== "[DONE]") throw new Error(`Expected [DONE] at the end, got ${data.at(-1)}`);
  return data.slice(0, -1).map((one) => JSON.parse(one) as Chunk);
}

/** Pieces of a body as they were written: each write is a chunk of HTTP/1.1. @param raw - an answer, headers included */
export function httpChunks(raw: string): readonly string[] {
  const bytes = Buffer.from(raw, "latin1");
  const chunks: string[] = [];
  let at = bytes.indexOf("\r\n\r\n") + 4;
  for (;;) {
    const lineEnd = bytes.indexOf("\r\n", at);
    const size = Number.parseInt(bytes.toString("latin1", at, lineEnd), 16);
    if (!(size > 0)) return chunks;
    chunks.push(bytes.toString("utf8", lineEnd + 2, lineEnd + 2 + size));
    at = lineEnd + 2 + size + 2;
  }
}
