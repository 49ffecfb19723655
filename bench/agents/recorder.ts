// A proxy between an agent and a server that notes when each answer began, kept alive and ended.

import { once } from "node:events";
import { createServer, request as send, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

/** One answer of a server. Times are since the request had arrived. */
export interface Exchange {
  readonly path: string;
  readonly request: string;
  status: number;
  headersMs: number;
  /** Time of the first event with text of the model or a call. */
  firstTokenMs: number;
  /** Longest time without a byte. */
  longestSilenceMs: number;
  endMs: number;
  /** Whether a stream ended with an error. */
  hasError: boolean;
  /** Beginning of the answer, without what keeps the connection open. */
  answer: string;
}

const MOST_ANSWER = 20_000;

export interface Recorder extends AsyncDisposable {
  readonly url: string;
  readonly exchanges: Exchange[];
}

/** Listens on a free port, and passes everything on to `target`. */
export async function record(target: string): Promise<Recorder> {
  const exchanges: Exchange[] = [];
  const server = createServer((incoming, outgoing) => void pass(incoming, outgoing, { target, exchanges }));
  // An answer that takes its time is what is measured.
  server.requestTimeout = 0;
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    exchanges,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      server.close();
      await once(server, "close");
    },
  };
}

const TOKEN = /"(?:content|arguments|name)":"[^"]/;

async function pass(
  incoming: IncomingMessage,
  outgoing: ServerResponse,
  { target, exchanges }: { readonly target: string; readonly exchanges: Exchange[] },
): Promise<void> {
  const pieces: Uint8Array[] = [];
  for await (const piece of incoming) pieces.push(piece as Uint8Array);
  const body = Buffer.concat(pieces);
  const startMs = performance.now();
  const since = (): number => performance.now() - startMs;
  const nothing = {
    status: 0,
    headersMs: NaN,
    firstTokenMs: NaN,
    longestSilenceMs: 0,
    endMs: NaN,
    hasError: false,
    answer: "",
  };
  const exchange: Exchange = { path: incoming.url ?? "", request: body.toString(), ...nothing };
  if (incoming.method === "POST") exchanges.push(exchange);
  const { host: _, ...headers } = incoming.headers;
  const onward = send(new URL(incoming.url ?? "/", target), { method: incoming.method, headers, agent: false });
  outgoing.once("close", () => onward.destroy());
  onward.once("error", () => {
    exchange.hasError = true;
    outgoing.destroy();
  });
  onward.once("response", (answer) => {
    exchange.status = answer.statusCode ?? 0;
    exchange.headersMs = since();
    outgoing.writeHead(exchange.status, answer.headers);
    outgoing.flushHeaders();
    let lastMs = 0;
    answer.on("data", (piece: Buffer) => {
      const text = piece.toString();
      exchange.longestSilenceMs = Math.max(exchange.longestSilenceMs, since() - lastMs);
      lastMs = since();
      if (Number.isNaN(exchange.firstTokenMs) && TOKEN.test(text)) exchange.firstTokenMs = lastMs;
      if (/(?:^|\n)data: \{"error"|event: error/.test(text)) exchange.hasError = true;
      if (exchange.answer.length < MOST_ANSWER) exchange.answer += text.replaceAll(/^: .*\n\n/gm, "");
      outgoing.write(piece);
    });
    answer.once("close", () => {
      exchange.endMs = since();
      outgoing.end();
    });
  });
  onward.end(body);
}
