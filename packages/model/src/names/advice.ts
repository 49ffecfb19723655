import type { ReadMeErrorCode } from "@readme-moe/core";

/** A failed download. */
export interface FailedDownload {
  /** Name that the user gave. */
  readonly name: string;
  /** `organisation/name` on the hub. */
  readonly repository: string;
  readonly endpoint: string;
  /** Other names of the same model that need no token. */
  readonly alternatives: readonly string[];
}

type Advice = (failed: FailedDownload) => string;

const ADVICE: Readonly<Partial<Record<ReadMeErrorCode, Advice>>> = {
  ERR_HUB_NOT_FOUND: (failed) =>
    `look at ${pageOf(failed)}, and name repository and file, such as organisation/name:file.gguf${others(failed)}`,
  ERR_HUB_UNAUTHORIZED: (failed) =>
    `accept the terms at ${pageOf(failed)}, and set HF_TOKEN to a token of that account${others(failed)}`,
  ERR_HUB_UNREACHABLE: () =>
    "check the connection, or set HF_ENDPOINT to a mirror; the next call continues where this one stopped",
  ERR_HUB_RATE_LIMITED: () =>
    "wait, or set HF_TOKEN, which raises the limit; the next call continues where this one stopped",
  ERR_OFFLINE: ({ name }) =>
    `unset HF_HUB_OFFLINE once for \`readme-moe pull ${name}\`, or copy the cache of another machine`,
  ERR_FILE_CORRUPT: () => "try again; if it fails again, a proxy or the mirror of HF_ENDPOINT changes files",
  ERR_WRITE_FAILED: () =>
    "free some space (`readme-moe list` shows what models take), or set HF_HOME to a folder on another disk",
};

/** Returns what a user can do after a download has failed; `undefined` when the error itself says everything. */
export function adviceOn(code: ReadMeErrorCode, failed: FailedDownload): string | undefined {
  return ADVICE[code]?.(failed);
}

function pageOf({ endpoint, repository }: FailedDownload): string {
  return `${endpoint}/${repository}`;
}

function others({ alternatives }: FailedDownload): string {
  return alternatives.length === 0 ? "" : `; other weights of the model: ${alternatives.join(", ")}`;
}
