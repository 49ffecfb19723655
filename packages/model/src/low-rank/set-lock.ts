// One change of a set at a time, also by several processes of one machine.

import { randomUUID } from "node:crypto";
import { readFile, rename, rm, writeFile } from "node:fs/promises";
import { hostname } from "node:os";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { ReadMeError } from "@readme-moe/core";
import { isSystemError, writeError } from "../files/errors.ts";
import { TEMPORARY_PREFIX } from "../files/write-file.ts";

const LOCK_FILE = ".read-me-experts.lock";
/** Far longer than copying an adapter takes. */
const MAX_WAIT_MS = 60_000;
const POLL_MS = 25;
/** Longest time between the creation of a lock and its content. */
const MAX_EMPTY_MS = 5_000;

type Owner = "running" | "gone" | "unknown";

/**
 * Runs a change of a set while no other runs, and waits for one that does. The lock of a process that was killed is
 * taken over.
 *
 * @throws {ReadMeError} `ERR_WRITE_FAILED` when another change takes longer than a minute, or the folder is read-only
 */
export async function changing<Result>(set: string, change: () => Promise<Result>): Promise<Result> {
  const path = join(set, LOCK_FILE);
  await acquire(path);
  try {
    return await change();
  } finally {
    await rm(path, { force: true });
  }
}

async function acquire(path: string): Promise<void> {
  const own = `${process.pid} ${hostname()}`;
  let unknownMs = 0;
  for (let waitedMs = 0; waitedMs < MAX_WAIT_MS; waitedMs += POLL_MS) {
    try {
      return await writeFile(path, own, { flag: "wx" });
    } catch (cause) {
      if (!isSystemError(cause, "EEXIST")) throw writeError(path, cause);
    }
    const owner = await ownerOf(path);
    unknownMs = owner === "unknown" ? unknownMs + POLL_MS : 0;
    if (owner === "gone" || unknownMs > MAX_EMPTY_MS) await takeAway(path);
    else await setTimeout(POLL_MS);
  }
  throw new ReadMeError(
    "ERR_WRITE_FAILED",
    `${path}: another process changes this set; if none does, remove this file`,
  );
}

/** Finds whether the process that made a lock still runs. A lock without content was made a moment ago. */
async function ownerOf(path: string): Promise<Owner> {
  const text = await readFile(path, "utf8").catch(() => "");
  const [, pid, host] = /^(\d+) (.+)$/.exec(text) ?? [];
  if (pid === undefined) return "unknown";
  return host !== hostname() || isRunning(Number(pid)) ? "running" : "gone";
}

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    // A process of another user may not be asked.
    return !isSystemError(error, "ESRCH");
  }
}

/** Removes a lock by a rename, which only one of several processes can do. */
async function takeAway(path: string): Promise<void> {
  const aside = join(path, "..", `${TEMPORARY_PREFIX}${randomUUID()}.tmp`);
  await rename(path, aside).catch(() => undefined);
  await rm(aside, { force: true });
}
