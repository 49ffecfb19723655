// A request and its answer, as far as the API uses them. Express' own pair conforms to both interfaces; `web.ts`
// implements them over `Request` and `Response` of the web.

/** A line of a batch that runs as a request. */
export interface BatchLine {
  /** Id of the batch. */
  readonly id: string;
  /** Name that the line has in the batch. */
  readonly customId: string;
  /** Priority that the line gets, whatever its body says. */
  readonly priority: number;
}

/** State of a request in `res.locals.readMe`, shared by middleware and routes. */
export interface RequestLocals {
  /** Name of the client's API key, on servers that ask for keys. */
  key?: string | undefined;
  readonly requestId: string;
  /** Time of arrival on the monotonic clock `performance.now()`, in ms. */
  readonly arrivalMs: number;
  /** Charges tokens to the client's rate limit. Called as soon as their number is known. */
  spendTokens?: (tokens: number) => void;
  /** Valid `traceparent` header of the client, see https://www.w3.org/TR/trace-context. */
  traceparent?: string;
  /** Releases the room that admission reserved while the body arrived. */
  endArrival?: () => void;
  /** Size of the body in bytes, once it was read. */
  bodyBytes?: number;
  /** Time at which the whole body had arrived, on the monotonic clock, in ms. */
  wholeMs?: number;
  /** Whether an engine computes the answer. */
  runsEngine?: boolean;
  /** The batch whose line this is. */
  batch?: BatchLine;
  /** Error that the request ended with, for middleware that logs. */
  error?: unknown;
}

/** An API that clients speak. Its errors have a shape of their own. */
export type ApiName = "openai" | "messages" | "ollama";

/** A request. Iterating over it reads the bytes of its body. */
export interface Incoming extends AsyncIterable<Uint8Array> {
  readonly method: string;
  /** Path below `baseUrl`, still percent-encoded. */
  readonly path: string;
  /** Path that the API is mounted at, without a slash at its end. */
  readonly baseUrl: string;
  readonly query: Readonly<Record<string, unknown>>;
  /** Headers by their names in lower case. */
  readonly headers: Readonly<Record<string, string | readonly string[] | undefined>>;
  /** Address of the client, where it is known. */
  readonly ip: string | undefined;
  /** Whether the body has arrived. */
  readonly complete: boolean;
  /** Whether the connection is closed. */
  readonly destroyed: boolean;
  /** Parameters of the path, by the names that its route gives them. */
  params: Record<string, string | string[]>;
  /** The route, once one is found. */
  route?: { readonly path: string };
  /** The API whose route it is. @default "openai" */
  api?: ApiName | undefined;
  /** The parsed body, once it was read. */
  body?: unknown;
  /** The host's own request, where it is another object than this. */
  readonly web?: object | undefined;
  /** Returns a header. @param name - in any case */
  get(name: string): string | undefined;
  /** Stops reading, and closes the connection where that is possible. */
  destroy(): unknown;
}

/** The answer to a request. It behaves as a writable stream of Node does. */
export interface Reply {
  readonly req: Incoming;
  readonly locals: { readMe?: RequestLocals };
  statusCode: number;
  readonly headersSent: boolean;
  /** Whether `end` was called. */
  readonly writableEnded: boolean;
  /** Whether the whole answer was handed over. */
  readonly writableFinished: boolean;
  /** Bytes that the reader has not taken. */
  readonly writableLength: number;
  readonly destroyed: boolean;
  readonly closed: boolean;
  setHeader(name: string, value: string | number): unknown;
  /** Adds a name to the header `vary`. */
  vary(field: string): unknown;
  /** @returns false if the writer shall wait for `drain` */
  write(chunk: string | Uint8Array): boolean;
  end(chunk?: string | Uint8Array): unknown;
  /** Cuts the answer off. */
  destroy(): unknown;
  /** @param event - `drain`: the reader has caught up; `finish`: it has all; `close`: nothing more is sent */
  on(event: ReplyEvent, listener: () => void): unknown;
  once(event: ReplyEvent, listener: () => void): unknown;
  off(event: ReplyEvent, listener: () => void): unknown;
}

type ReplyEvent = "drain" | "finish" | "close";

/** Passes a request on to the next step, or its error to the answer. */
export type Next = (error?: unknown) => void;

/** A step of a chain: answers the request, or passes it on. A thrown error becomes the answer. */
export type Step = (request: Incoming, response: Reply, next: Next) => void | Promise<void>;

/** The last step of a chain, which answers. */
export type Handler = (request: Incoming, response: Reply) => void | Promise<void>;

/** Returns the request as hooks see it: that of the host. Its type is `never`, since the hook's type names it. */
export function hostRequest(request: Incoming): never {
  return (request.web ?? request) as never;
}
