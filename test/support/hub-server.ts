// A server on 127.0.0.1 with the parts of the Hugging Face hub's protocol that downloads use: the API, files, and a
// storage server of another origin, to which large files are redirected. Faults are inserted by path.

import { createHash } from "node:crypto";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { onTestFinished } from "vitest";

/** A received request. */
export interface SeenRequest {
  readonly server: "hub" | "storage";
  readonly method: string;
  /** Path without the query. */
  readonly path: string;
  readonly range: string | undefined;
  readonly authorization: string | undefined;
}

/** Answers in place of the server; `serve` gives the server's own answer, with other content if there is any. */
export type Fault = (response: ServerResponse, serve: (content?: Uint8Array) => void) => void;

interface Expected {
  readonly path: RegExp;
  readonly fault: Fault;
  timesLeft: number;
}

interface File {
  readonly content: Uint8Array;
  readonly isLarge: boolean;
  readonly oid: string;
}

type Files = ReadonlyMap<string, File>;

export class HubServer {
  readonly requests: SeenRequest[] = [];
  /** Entries per page of a listing. */
  pageSize = 1000;
  /** Token that every request to the hub needs. */
  token: string | undefined;
  storageIgnoresRange = false;
  readonly #name: string;
  readonly #commits = new Map<string, Files>();
  readonly #branches = new Map<string, string>();
  readonly #expected: Expected[] = [];
  readonly #hub: Server;
  readonly #storage: Server;

  private constructor(name: string) {
    this.#name = name;
    this.#hub = createServer((request, response) => this.#answer("hub", request, response));
    this.#storage = createServer((request, response) => this.#answer("storage", request, response));
  }

  /** Serves one model until the test ends. */
  static async start(name: string): Promise<HubServer> {
    const server = new HubServer(name);
    const servers = [server.#hub, server.#storage];
    await Promise.all(servers.map((each) => new Promise<void>((resolve) => each.listen(0, "127.0.0.1", resolve))));
    onTestFinished(async () => {
      for (const each of servers) each.closeAllConnections();
      await Promise.all(servers.map((each) => new Promise((resolve) => each.close(resolve))));
    });
    return server;
  }

  get endpoint(): string {
    return addressOf(this.#hub);
  }

  get storageEndpoint(): string {
    return addressOf(this.#storage);
  }

  /** Adds a commit, and moves the branch to it. Safetensors and GGUF files are large files. */
  commit(files: Readonly<Record<string, Uint8Array | string>>, branch = "main"): string {
    const served = new Map<string, File>();
    for (const [name, value] of Object.entries(files)) {
      const content = Buffer.from(value as Uint8Array);
      const isLarge = /\.(?:safetensors|gguf)$/.test(name);
      served.set(name, { content, isLarge, oid: isLarge ? sha256(content) : gitSha1(content) });
    }
    const commit = createHash("sha1")
      .update(`${this.#commits.size} ${[...served.values()].map(({ oid }) => oid).join()}`)
      .digest("hex");
    this.#commits.set(commit, served);
    this.#branches.set(branch, commit);
    return commit;
  }

  /** Returns the hub's hash of a file. */
  oidOf(commit: string, name: string): string {
    return this.#commits.get(commit)?.get(name)?.oid ?? "";
  }

  /** Makes the next requests with a matching path fail; several faults of the same path alternate. */
  fail(path: RegExp, fault: Fault, times = 1): void {
    this.#expected.push({ path, fault, timesLeft: times });
  }

  /** Lists the files that were requested from the hub, by name, with their `Range`. */
  get fileRequests(): readonly string[] {
    return this.requests
      .filter(({ server, path }) => server === "hub" && path.includes("/resolve/"))
      .map(({ path, range }) => path.replace(/^.*\/resolve\/[0-9a-f]{40}\//, "") + (range ? ` ${range}` : ""));
  }

  #answer(server: "hub" | "storage", request: IncomingMessage, response: ServerResponse): void {
    const { pathname, searchParams } = new URL(request.url ?? "/", this.endpoint);
    const { range, authorization } = request.headers;
    this.requests.push({ server, method: request.method ?? "", path: pathname, range, authorization });
    const serve = (content?: Uint8Array): void => {
      if (server === "storage") return this.#serveStorage(pathname, content, request, response);
      if (this.token !== undefined && authorization !== `Bearer ${this.token}`) {
        return json(response, 401, { error: "Invalid username or password." }, { "x-error-code": "RepoNotFound" });
      }
      const [, api, rest] = /^\/(api\/models\/)?(.*)$/.exec(decodeURIComponent(pathname)) ?? [];
      if (rest === undefined || !rest.startsWith(`${this.#name}/`)) return notFound(response, "RepoNotFound");
      const [verb = "", revision = "", ...names] = rest.slice(this.#name.length + 1).split("/");
      const commit = this.#branches.get(revision) ?? revision;
      const files = this.#commits.get(commit);
      if (files === undefined) return notFound(response, "RevisionNotFound");
      if (api && verb === "revision") return json(response, 200, { _id: "1", id: this.#name, sha: commit });
      if (api && verb === "tree") return this.#serveTree(files, pathname, searchParams, response);
      const file = files.get(names.join("/"));
      if (verb !== "resolve" || file === undefined) return notFound(response, "EntryNotFound");
      serveFile(file, commit, content, `${this.storageEndpoint}/${file.oid}?signature=secret`, request, response);
    };
    const expected = this.#expected.find(({ path, timesLeft }) => timesLeft > 0 && path.test(`${server}:${pathname}`));
    if (expected === undefined) return serve();
    expected.timesLeft--;
    expected.fault(response, serve);
  }

  #serveTree(files: Files, path: string, query: URLSearchParams, response: ServerResponse): void {
    const entries = [...files].map(([name, { content, isLarge, oid }]) => ({
      type: "file",
      path: name,
      size: content.byteLength,
      oid: isLarge ? gitSha1(Buffer.from(`pointer to ${oid}`)) : oid,
      ...(isLarge ? { lfs: { oid, size: content.byteLength, pointerSize: 130 } } : {}),
    }));
    const all = query.get("recursive") === "true" ? [{ type: "directory", path: "folder", size: 0 }, ...entries] : [];
    const from = Number(query.get("cursor") ?? 0);
    const next = from + this.pageSize;
    const link = `<${this.endpoint}${path}?recursive=true&cursor=${next}>; rel="next"`;
    json(response, 200, all.slice(from, next), next < all.length ? { link } : {});
  }

  #serveStorage(
    path: string,
    content: Uint8Array | undefined,
    request: IncomingMessage,
    response: ServerResponse,
  ): void {
    const file = [...this.#commits.values()]
      .flatMap((files) => [...files.values()])
      .find(({ oid }) => path === `/${oid}`);
    if (file === undefined) return notFound(response, "NoSuchKey");
    const range = this.storageIgnoresRange ? undefined : request.headers.range;
    serveContent(content ?? file.content, range, '"of-the-storage"', response);
  }
}

function serveFile(
  { content, isLarge, oid }: File,
  commit: string,
  otherContent: Uint8Array | undefined,
  storageUrl: string,
  request: IncomingMessage,
  response: ServerResponse,
): void {
  response.setHeader("x-repo-commit", commit);
  if (!isLarge) return serveContent(otherContent ?? content, request.headers.range, `"${oid}"`, response);
  response.writeHead(302, {
    location: storageUrl,
    "x-linked-etag": `"${oid}"`,
    "x-linked-size": content.byteLength,
    etag: '"of-the-pointer"',
  });
  response.end("Found. Redirecting");
}

function serveContent(content: Uint8Array, range: string | undefined, etag: string, response: ServerResponse): void {
  const from = Number(/^bytes=(\d+)-$/.exec(range ?? "")?.[1] ?? 0);
  const size = content.byteLength;
  response.setHeader("etag", etag);
  if (from >= size && from > 0) {
    response.writeHead(416, { "content-range": `bytes */${size}` }).end();
    return;
  }
  response.writeHead(from > 0 ? 206 : 200, {
    "content-length": size - from,
    ...(from > 0 ? { "content-range": `bytes ${from}-${size - 1}/${size}` } : {}),
  });
  response.end(content.subarray(from));
}

function notFound(response: ServerResponse, code: string): void {
  json(response, 404, { error: code }, { "x-error-code": code });
}

function json(response: ServerResponse, code: number, value: unknown, headers: Record<string, string> = {}): void {
  response.writeHead(code, { "content-type": "application/json", ...headers }).end(JSON.stringify(value));
}

function addressOf(server: Server): string {
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

export function sha256(content: Uint8Array): string {
  return createHash("sha256").update(content).digest("hex");
}

function gitSha1(content: Uint8Array): string {
  return createHash("sha1").update(`blob ${content.byteLength}\0`).update(content).digest("hex");
}

/** Answers with another status. */
export function status(code: number, headers: Readonly<Record<string, string>> = {}): Fault {
  return (response) => {
    response.writeHead(code, headers).end();
  };
}

/** Answers with other content and a good status. */
export function instead(bytes: Uint8Array | string): Fault {
  return (_, serve) => serve(Buffer.from(bytes as Uint8Array));
}

/** Answers with text instead of JSON. */
export function body(text: string): Fault {
  return (response) => {
    response.writeHead(200).end(text);
  };
}

/** Closes the connection without an answer. */
export const hangUp: Fault = (response) => {
  response.socket?.destroy();
};

/** Sends `[from, from + numBytes)` of `of`, and cuts the connection once the client has all of it and says `cut`. */
export function cutAfter(
  numBytes: number,
  of: Uint8Array,
  from = 0,
): { readonly fault: Fault; readonly cut: () => void } {
  let cutNow: (() => void) | undefined;
  const fault: Fault = (response) => {
    const size = of.byteLength;
    response.writeHead(from > 0 ? 206 : 200, {
      "content-length": size - from,
      ...(from > 0 ? { "content-range": `bytes ${from}-${size - 1}/${size}` } : {}),
    });
    response.write(of.subarray(from, from + numBytes));
    cutNow = () => response.socket?.destroy();
  };
  return { fault, cut: () => cutNow?.() };
}
