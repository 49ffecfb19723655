import { ReadMeError } from "@readme-moe/core";
import { quoted } from "../files/errors.ts";
import { type HubClient, reasonOf, retrying, type RetryOptions, TransientFailure } from "./hub-client.ts";
import { isCommit } from "./options.ts";

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

  /** Lists the files of a commit by name. */
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
