// GET requests to the hub: redirects, refusals, and further attempts after failures that may pass.

import { messageOf, ReadMeError } from "@readme-moe/core";
import { quoted } from "../files/errors.ts";
import { type Delay, isCommit } from "./options.ts";

const MAX_REDIRECTS = 10;
const REDIRECTS: readonly number[] = [301, 302, 303, 307, 308];
const TRANSIENT: readonly number[] = [408, 425, 500, 502, 503, 504];
const MAX_ATTEMPTS = 5;
const FIRST_WAIT_MS = 500;
// A longer wait is left to the caller, who can plan better with the error.
const MAX_WAIT_MS = 60_000;

interface HubClientOptions {
  readonly endpoint: string;
  readonly token: string | undefined;
  readonly fetch: typeof fetch;
  readonly signal: AbortSignal | undefined;
}

export interface HubResponse {
  readonly response: Response;
  /** Hash of the content according to the hub; `undefined` when only a storage server behind it answered. */
  readonly etag: string | undefined;
}

/**
 * Client of the hub, which follows redirects itself. The hub's headers about a file are on the redirect to its storage,
 * and the token must be sent to the hub's own origin only, whatever the caller's `fetch` does.
 *
 * Throws a `ReadMeError` for an answer that is final, a `TransientFailure` for one that may change.
 */
export class HubClient {
  readonly endpoint: string;
  readonly #token: string | undefined;
  readonly #fetch: typeof fetch;
  readonly #signal: AbortSignal | undefined;

  constructor({ endpoint, token, fetch: ownFetch, signal }: HubClientOptions) {
    this.endpoint = endpoint;
    this.#token = token;
    this.#fetch = ownFetch;
    this.#signal = signal;
  }

  /** A `fetch` for @huggingface/hub, which itself accepts no token without the prefix `hf_`. */
  readonly fetch: typeof fetch = async (input, init) => {
    const url = input instanceof Request ? input.url : String(input);
    return (await this.get(url, Object.fromEntries(new Headers(init?.headers)))).response;
  };

  /** @param headers - with `range`, the answer may also be 416 */
  async get(url: string, headers: Readonly<Record<string, string>> = {}): Promise<HubResponse> {
    let at = url;
    let linkedEtag: string | undefined;
    for (let numRedirects = 0; numRedirects <= MAX_REDIRECTS; numRedirects++) {
      const response = await this.#ask(at, headers);
      linkedEtag = etagOf(response, "x-linked-etag") ?? linkedEtag;
      const target = REDIRECTS.includes(response.status) ? response.headers.get("location") : null;
      if (target === null) {
        if (!response.ok && !(response.status === 416 && "range" in headers)) throw await this.#refusal(at, response);
        return { response, etag: linkedEtag ?? (this.#isHub(at) ? etagOf(response, "etag") : undefined) };
      }
      await response.body?.cancel();
      at = this.#redirected(at, target);
    }
    throw this.#unreachable(url, `redirects more than ${MAX_REDIRECTS} times`);
  }

  async #ask(url: string, headers: Readonly<Record<string, string>>): Promise<Response> {
    const authorization = this.#token && this.#isHub(url) ? { authorization: `Bearer ${this.#token}` } : {};
    try {
      return await this.#fetch(url, {
        headers: { "user-agent": "readme-moe", ...headers, ...authorization },
        redirect: "manual",
        signal: this.#signal ?? null,
      });
    } catch (cause) {
      this.#signal?.throwIfAborted();
      throw new TransientFailure(this.#unreachable(url, `cannot be reached (${reasonOf(cause)})`, { cause }));
    }
  }

  #isHub(url: string): boolean {
    return new URL(url).origin === new URL(this.endpoint).origin;
  }

  #redirected(from: string, target: string): string {
    const url = URL.canParse(target, from) ? new URL(target, from) : undefined;
    if (url?.protocol === "https:" || url?.protocol === "http:") return url.href;
    throw this.#unreachable(from, `redirects to ${quoted(target)}`);
  }

  async #refusal(url: string, response: Response): Promise<Error> {
    await response.body?.cancel();
    const { status } = response;
    const said = response.headers.get("x-error-message") ?? response.headers.get("x-error-code");
    const answer = said === null ? `${status}` : `${status}: ${quoted(said)}`;
    if (status === 429) {
      const message = `${shown(url)}: the hub asks for fewer requests (${answer})`;
      const failure = new ReadMeError("ERR_HUB_RATE_LIMITED", message);
      return new TransientFailure(failure, { retryAfterMs: retryAfterMs(response) });
    }
    // A link to a storage server expires; the next attempt asks the hub for another.
    if (TRANSIENT.includes(status) || !this.#isHub(url)) {
      const failure = this.#unreachable(url, `answers ${answer}`);
      return new TransientFailure(failure, { retryAfterMs: retryAfterMs(response) });
    }
    if (status === 401 || status === 403) {
      // Without a token, the hub answers 401 and not 404 for a repository that does not exist.
      const advice = this.#token
        ? "the token may not read it, its terms may not be accepted yet, or it does not exist"
        : "it needs a token (HF_TOKEN or `token`), or it does not exist";
      return new ReadMeError("ERR_HUB_UNAUTHORIZED", `${shown(url)}: the hub refuses access (${answer}); ${advice}`);
    }
    if (status === 404 || status === 410) {
      const message = `${shown(url)}: the hub has no such model, revision or file (${answer})`;
      return new ReadMeError("ERR_HUB_NOT_FOUND", message);
    }
    return this.#unreachable(url, `answers ${answer}`);
  }

  #unreachable(url: string, problem: string, options?: ErrorOptions): ReadMeError {
    return new ReadMeError("ERR_HUB_UNREACHABLE", `${shown(url)}: ${problem}`, options);
  }
}

/** Removes the query, which on storage servers is a key to the file. */
function shown(url: string): string {
  const { origin, pathname } = new URL(url);
  return origin + pathname;
}

function etagOf(response: Response, header: string): string | undefined {
  return response.headers.get(header)?.replace(/^W\//, "").replaceAll('"', "");
}

/** Reads `retry-after`, which is in seconds or a date. */
function retryAfterMs(response: Response): number | undefined {
  const value = response.headers.get("retry-after");
  if (value === null) return undefined;
  if (/^\d+$/.test(value)) return Number(value) * 1000;
  const atMs = Date.parse(value);
  return Number.isNaN(atMs) ? undefined : Math.max(0, atMs - Date.now());
}

/** Finds the reason of a failed `fetch` in its cause, since its own message is only "fetch failed". */
export function reasonOf(error: unknown): string {
  const cause = error instanceof Error ? error.cause : undefined;
  if (!(cause instanceof Error)) return messageOf(error);
  // When several addresses refuse, the cause has a code and no message.
  return cause.message === "" && "code" in cause ? String(cause.code) : cause.message;
}

/** A failure that another attempt may not have. */
export class TransientFailure extends Error {
  override readonly name = "TransientFailure";
  /** Error for the caller once attempts have run out. */
  readonly failure: ReadMeError;
  /** Wait that the server asks for. */
  readonly retryAfterMs: number | undefined;
  /** Whether the attempt transferred so much that it does not count as failed. */
  readonly isWorthwhile: boolean;

  constructor(failure: ReadMeError, options: { retryAfterMs?: number | undefined; isWorthwhile?: boolean } = {}) {
    super(failure.message, { cause: failure });
    this.failure = failure;
    this.retryAfterMs = options.retryAfterMs;
    this.isWorthwhile = options.isWorthwhile ?? false;
  }
}

interface RetryOptions {
  readonly delay: Delay;
  readonly signal: AbortSignal | undefined;
}

/**
 * Repeats an attempt after a `TransientFailure`, up to 5 times in a row. Waits longer each time, or as long as the
 * server asks for. Other errors pass through.
 */
export async function retrying<Result>(
  attempt: () => Promise<Result>,
  { delay, signal }: RetryOptions,
): Promise<Result> {
  for (let numFailures = 0; ;) {
    try {
      return await attempt();
    } catch (error) {
      signal?.throwIfAborted();
      if (!(error instanceof TransientFailure)) throw error;
      numFailures = error.isWorthwhile ? 1 : numFailures + 1;
      const waitMs = error.retryAfterMs ?? FIRST_WAIT_MS * 2 ** (numFailures - 1);
      if (numFailures >= MAX_ATTEMPTS || waitMs > MAX_WAIT_MS) throw error.failure;
      await delay(waitMs, signal).catch((timerError: unknown) => {
        // An aborted timer fails with its own error; the caller gets the signal's reason.
        signal?.throwIfAborted();
        throw timerError;
      });
    }
  }
}

// Ends a listing that would never end; no model has so many files.
const MAX_FILES = 100_000;

/** A file of a repository at one commit. */
export interface RemoteFile {
  /** Path in the repository, with slashes; untrusted input. */
  readonly name: string;
  readonly url: string;
  readonly size: number;
  /** Hash in hex, which names the blob in the cache: SHA-256 for large files (LFS, Xet), git's SHA-1 for others. */
  readonly oid: string;
  readonly algorithm: "sha256" | "git-sha1";
}

/** A model's repository on the hub. Requests are retried, and every answer is checked before it becomes a path. */
export class HubRepository {
  readonly #name: string;
  readonly #client: HubClient;
  readonly #retry: RetryOptions;

  constructor(name: string, client: HubClient, retry: RetryOptions) {
    this.#name = name;
    this.#client = client;
    this.#retry = retry;
  }

  /** Returns the commit that a branch or tag stands for now. */
  async commitOf(revision: string): Promise<string> {
    const { modelInfo } = await hubLibrary();
    const { endpoint: hubUrl, fetch } = this.#client;
    return this.#asked(async () => {
      const { sha } = await modelInfo({ name: this.#name, revision, additionalFields: ["sha"], hubUrl, fetch });
      if (typeof sha === "string" && isCommit(sha)) return sha;
      throw new Error(`expected \`sha\` to be a commit`);
    });
  }

  async filesAt(commit: string): Promise<ReadonlyMap<string, RemoteFile>> {
    const { listFiles } = await hubLibrary();
    const { endpoint: hubUrl, fetch } = this.#client;
    return this.#asked(async () => {
      const files = new Map<string, RemoteFile>();
      const repo = { type: "model", name: this.#name } as const;
      for await (const entry of listFiles({ repo, revision: commit, recursive: true, hubUrl, fetch })) {
        if (entry.type !== "file") continue;
        if (files.size === MAX_FILES) throw new Error(`more than ${MAX_FILES} files`);
        files.set(entry.path, this.#remoteFile(commit, entry));
      }
      return files;
    });
  }

  #remoteFile(commit: string, entry: ListedFile): RemoteFile {
    const { path: name, lfs } = entry;
    const { oid, size } = lfs ?? entry;
    const algorithm = lfs === undefined ? "git-sha1" : "sha256";
    const isHash = typeof oid === "string" && (lfs ? /^[0-9a-f]{64}$/ : /^[0-9a-f]{40}$/).test(oid);
    if (typeof name !== "string" || !isHash || !Number.isSafeInteger(size) || size < 0) {
      throw new Error(`expected path, size and hash of each file, got ${quoted(JSON.stringify(entry))}`);
    }
    const path = name.split("/").map(encodeURIComponent).join("/");
    return { name, size, oid, algorithm, url: `${this.#client.endpoint}/${this.#name}/resolve/${commit}/${path}` };
  }

  /** Retries, and names the problem of an answer that is not the hub's; the library does neither. */
  #asked<Answer>(ask: () => Promise<Answer>): Promise<Answer> {
    return retrying(async () => {
      try {
        return await ask();
      } catch (cause) {
        if (cause instanceof ReadMeError || cause instanceof TransientFailure) throw cause;
        const message = `${this.#client.endpoint}: does not answer like a hub (${reasonOf(cause)})`;
        throw new TransientFailure(new ReadMeError("ERR_HUB_UNREACHABLE", message, { cause }));
      }
    }, this.#retry);
  }
}

interface ListedFile {
  readonly path: string;
  readonly size: number;
  readonly oid?: string;
  readonly lfs?: { readonly oid: string; readonly size: number };
}

// Loaded on first use: it takes longer to load than the rest of this package, and offline it is not needed.
function hubLibrary(): Promise<typeof import("@huggingface/hub")> {
  return import("@huggingface/hub");
}
