// Marks of processes in the names of files: who writes a file, or uses a model. A mark names a machine and a process,
// so that the marks of processes that were killed can be told from those of running ones.

import { createHash } from "node:crypto";
import { hostname } from "node:os";
import { isSystemError } from "../files/errors.ts";

const HOST = createHash("sha256").update(hostname()).digest("hex").slice(0, 8);
// Owners on other machines cannot be asked, so they write or touch their files more often than once an hour.
const ABANDONED_AFTER_MS = 3_600_000;

/** Owner of a file, as its name says. */
export interface Owner {
  /** Hash of the machine's name. */
  readonly host: string;
  readonly pid: number;
}

/** Beginning of the marks of this process, `<host>-<pid>`. */
export const OWN_MARK: string = `${HOST}-${process.pid}`;

/** Reads `<host>-<pid>-<id>`; `undefined` for anything else. */
export function ownerOf(mark: string): Owner | undefined {
  const { host, pid } = /^(?<host>[0-9a-f]{8})-(?<pid>\d+)-[0-9a-f]{8}$/.exec(mark)?.groups ?? {};
  return host === undefined ? undefined : { host, pid: Number(pid) };
}

/** Whether an owner's process runs on this machine, as far as the names of machines tell. */
export function isOnThisMachine({ host }: Owner): boolean {
  return host === HOST;
}

/** Whether the owner of a file has ended. @param writtenAtMs - the file's time */
export function hasEnded(owner: Owner, writtenAtMs: number): boolean {
  if (!isOnThisMachine(owner)) return isAbandoned(writtenAtMs);
  // In a container, a killed process may have had the number of this one.
  if (owner.pid === process.pid) return writtenAtMs < Date.now() - process.uptime() * 1000;
  return !isAlive(owner.pid);
}

/** Whether a file that its owner touches regularly has not been touched for an hour. */
export function isAbandoned(writtenAtMs: number): boolean {
  return writtenAtMs < Date.now() - ABANDONED_AFTER_MS;
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return !isSystemError(error, "ESRCH");
  }
}
