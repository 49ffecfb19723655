// Names of files that are being downloaded. They lie beside the blob that they will be:
//
//   <hash>.readme-moe.incomplete                       left by a download that ended early; anyone may go on with it
//   <hash>.readme-moe-<host>-<pid>-<id>.incomplete     one download is writing it
//
// A download takes over what is left by renaming it, which only one of several can do. Those who come too late start
// from nothing, so two processes cost bandwidth but never write to one file. (Other tools' `.incomplete` files are let
// be: they may be in use, and are not always filled from the front.)

import { createHash, randomBytes } from "node:crypto";
import { readdir, rename, rm, stat } from "node:fs/promises";
import { hostname } from "node:os";
import { basename, dirname, join } from "node:path";

const HOST = createHash("sha256").update(hostname()).digest("hex").slice(0, 8);
const OWNED = /^-(?<host>[0-9a-f]{8})-(?<pid>\d+)-[0-9a-f]{8}\.incomplete$/;
// A download that gets no byte for minutes fails, so a file of another machine that nobody wrote to for so long is left.
const ABANDONED_AFTER_MS = 3_600_000;

/** The name under which a download leaves what it has. */
export function leftoverOf(blobPath: string): string {
  return `${blobPath}.readme-moe.incomplete`;
}

/**
 * A path that no other download writes to. The longest part that is left of earlier ones is there already; the
 * others are removed.
 */
export async function claimPartial(blobPath: string): Promise<string> {
  const own = `${blobPath}.readme-moe-${HOST}-${process.pid}-${randomBytes(4).toString("hex")}.incomplete`;
  let isTaken = false;
  for (const { path } of (await leftovers(blobPath)).sort((a, b) => b.size - a.size)) {
    if (isTaken) await rm(path, { force: true });
    // Another download may have taken it meanwhile.
    else
      isTaken = await rename(path, own).then(
        () => true,
        () => false,
      );
  }
  return own;
}

async function leftovers(blobPath: string): Promise<{ readonly path: string; readonly size: number }[]> {
  const folder = dirname(blobPath);
  const prefix = `${basename(blobPath)}.readme-moe`;
  const found = [];
  for (const name of await readdir(folder)) {
    if (!name.startsWith(prefix)) continue;
    const path = join(folder, name);
    const state = await stat(path).catch(() => undefined);
    if (state?.isFile() && isLeft(name.slice(prefix.length), state.mtimeMs)) found.push({ path, size: state.size });
  }
  return found;
}

function isLeft(suffix: string, writtenAtMs: number): boolean {
  if (suffix === ".incomplete") return true;
  const { host, pid } = OWNED.exec(suffix)?.groups ?? {};
  if (host === undefined) return false;
  if (host !== HOST) return writtenAtMs < Date.now() - ABANDONED_AFTER_MS;
  // In a container the process that was killed may have had this one's number.
  if (Number(pid) === process.pid) return writtenAtMs < Date.now() - process.uptime() * 1000;
  return !isAlive(Number(pid));
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return !(error instanceof Error && "code" in error && error.code === "ESRCH");
  }
}
