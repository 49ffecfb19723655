// A request of the web as the API reads it.

import type { Incoming } from "./border.ts";

/** Facts about a request that are not in it. */
export interface RequestFacts {
  /** Path that the API is mounted at, without a slash at its end. */
  readonly baseUrl: string;
  /** Address of the client, where the host knows it. */
  readonly address: string | undefined;
  /** Whether hooks get the request of the web, and not this object. @default true */
  readonly isWeb?: boolean;
}

export class WebRequest implements Incoming {
  readonly web: Request | undefined;
  /** Aborts when the client has left. */
  readonly signal: AbortSignal;
  readonly method: string;
  readonly path: string;
  readonly baseUrl: string;
  readonly query: Readonly<Record<string, string | readonly string[]>>;
  readonly headers: Readonly<Record<string, string>>;
  readonly ip: string | undefined;
  params: Record<string, string | string[]> = {};
  route?: { readonly path: string };
  body?: unknown;
  readonly #web: Request;
  #isRead: boolean;

  /** @param web - a request whose path begins with `baseUrl` */
  constructor(web: Request, { baseUrl, address, isWeb = true }: RequestFacts) {
    const url = new URL(web.url);
    this.#web = web;
    this.web = isWeb ? web : undefined;
    this.signal = web.signal;
    this.method = web.method;
    this.baseUrl = baseUrl;
    this.path = url.pathname.slice(baseUrl.length) || "/";
    this.query = queryOf(url.searchParams);
    this.headers = headersOf(web);
    this.ip = address;
    this.#isRead = web.body === null;
  }

  get complete(): boolean {
    return this.#isRead;
  }

  get destroyed(): boolean {
    return this.signal.aborted;
  }

  get(name: string): string | undefined {
    return this.headers[name.toLowerCase()];
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Uint8Array, void> {
    const reader = this.#web.body?.getReader();
    if (!reader) return;
    for (;;) {
      // oxlint-disable-next-line no-await-in-loop -- chunks come one after the other
      const { done, value } = await reader.read();
      if (done) break;
      yield value;
    }
    this.#isRead = true;
  }

  /** Does nothing: a host sends the answer to a body that is not read, and ends the connection itself. */
  destroy(): void {}
}

/** Returns the headers by name. Adds what not every host states: that a body follows, or that an empty one was sent. */
function headersOf({ headers, body, method }: Request): Readonly<Record<string, string>> {
  const own = Object.fromEntries(headers);
  const isStated = own["content-length"] !== undefined || own["transfer-encoding"] !== undefined;
  if (isStated) return own;
  if (body !== null) return { ...own, "transfer-encoding": "chunked" };
  return method === "POST" ? { ...own, "content-length": "0" } : own;
}

function queryOf(params: URLSearchParams): Readonly<Record<string, string | readonly string[]>> {
  const names = new Set(params.keys());
  return Object.fromEntries(
    Array.from(names, (name) => {
      const [first = "", ...others] = params.getAll(name);
      return [name, others.length === 0 ? first : [first, ...others]];
    }),
  );
}
