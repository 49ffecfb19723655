// Streams with ids, as their bytes.

/** An event as it was sent, and its id. */
export interface SseBlock {
  readonly text: string;
  readonly id: string | undefined;
}

/** Splits a stream into its events; comments and what does not end with an event are left out, as clients do. */
export function blocksOf(text: string): readonly SseBlock[] {
  return text
    .split("\n\n")
    .slice(0, -1)
    .filter((block) => !block.startsWith(":"))
    .map((block) => ({ text: `${block}\n\n`, id: /^id: (.*)$/m.exec(block)?.[1] }));
}

/** A stream to read in part. */
interface PartialRead {
  readonly body: object;
  readonly headers?: Record<string, string>;
  /** Events to read before the connection is closed. */
  readonly count: number;
  /** Called before the connection is closed. */
  readonly onRead?: () => unknown;
}

/** Reads a stream until it has so many events, then closes the connection. */
export async function readBlocks(
  url: string,
  { body, headers, count, onRead }: PartialRead,
): Promise<readonly SseBlock[]> {
  const leave = new AbortController();
  const response = await fetch(url, {
    method: "POST",
    headers: { "content-type": "application/json", ...headers },
    body: JSON.stringify(body),
    signal: leave.signal,
  });
  let text = "";
  try {
    for await (const piece of response.body?.pipeThrough(new TextDecoderStream()) ?? []) {
      text += piece;
      if (blocksOf(text).length < count) continue;
      await onRead?.();
      break;
    }
  } catch (error) {
    // The server has been killed.
    if (!(error instanceof TypeError)) throw error;
  } finally {
    leave.abort();
  }
  return blocksOf(text);
}
