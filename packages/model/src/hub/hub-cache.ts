// One model in the cache that all of Hugging Face's tools share:
//
//   models--org--name/blobs/<hash>                 contents
//                     snapshots/<commit>/<file>    links to them
//                     refs/<branch or tag>         the commit that it stood for when it was last asked for
//                     .no_exist/<commit>/<file>    empty; the commit is known to have no such file
//
// @huggingface/hub has the same layout in `downloadFileToCacheDir`, but that neither resumes nor checks hashes, prints
// to the console, shares one temporary file among all processes, and asks for each file's hash anew.

import { randomUUID } from "node:crypto";
import { copyFile, link, mkdir, readdir, rename, rm, stat, symlink, writeFile } from "node:fs/promises";
import { dirname, join, relative, sep } from "node:path";
import { ReadMeError } from "@readme-moe/core";
import { writeFileAtomically } from "../files/write-file.ts";
import { fileError } from "../files/errors.ts";
import { readTextFile } from "../files/text-file.ts";
import { areSymlinksDisabled, isCommit } from "./options.ts";

const MAX_REF_BYTES = 4096;

export class HubCache {
  readonly folder: string;

  constructor(cacheFolder: string, name: string) {
    this.folder = join(cacheFolder, `models--${name.replace("/", "--")}`);
  }

  snapshot(commit: string): string {
    return join(this.folder, "snapshots", commit);
  }

  blob(oid: string): string {
    return join(this.folder, "blobs", oid);
  }

  /** The commit that a revision stood for when it was last downloaded. */
  async commitOf(revision: string): Promise<string | undefined> {
    if (isCommit(revision)) return revision;
    const commit = (await readTextFile(this.#ref(revision), MAX_REF_BYTES))?.trim();
    return commit !== undefined && isCommit(commit) ? commit : undefined;
  }

  async setCommitOf(revision: string, commit: string): Promise<void> {
    if (isCommit(revision) || (await this.commitOf(revision)) === commit) return;
    await unlessReadOnly(async () => {
      await makeFolder(dirname(this.#ref(revision)));
      await writeFileAtomically(this.#ref(revision), commit);
    });
  }

  /** Names, with slashes, of the snapshot's files whose contents are there. */
  async filesOf(commit: string): Promise<ReadonlySet<string>> {
    const folder = this.snapshot(commit);
    const names = await readdir(folder, { recursive: true }).catch((error: unknown) => {
      if (isCode(error, ["ENOENT", "ENOTDIR"])) return [];
      throw fileError(folder, error);
    });
    const sizes = await Promise.all(names.map((name) => fileSize(join(folder, name))));
    return new Set(names.filter((_, i) => sizes[i] !== undefined).map((name) => name.replaceAll(sep, "/")));
  }

  async isKnownAbsent(commit: string, name: string): Promise<boolean> {
    return (await fileSize(this.#absence(commit, name))) !== undefined;
  }

  async setAbsent(commit: string, name: string): Promise<void> {
    const path = this.#absence(commit, name);
    await unlessReadOnly(async () => {
      await makeFolder(dirname(path));
      await writeFile(path, "").catch((cause: unknown) => {
        throw writeError(path, cause);
      });
    });
  }

  /** Puts a blob into a snapshot under a file's name, in place of what is there. */
  async link(commit: string, name: string, oid: string): Promise<void> {
    const path = join(this.snapshot(commit), name);
    await makeFolder(dirname(path));
    const temporary = join(dirname(path), `.readme-moe-${randomUUID()}.tmp`);
    try {
      await linkOrCopy(this.blob(oid), temporary);
      await rename(temporary, path);
    } catch (cause) {
      await rm(temporary, { force: true }).catch(() => undefined);
      throw writeError(path, cause);
    }
  }

  #ref(revision: string): string {
    return join(this.folder, "refs", revision);
  }

  #absence(commit: string, name: string): string {
    return join(this.folder, ".no_exist", commit, name);
  }
}

/** In bytes, links followed; `undefined` when there is no such file. */
export async function fileSize(path: string): Promise<number | undefined> {
  const state = await stat(path).catch(() => undefined);
  return state?.isFile() ? state.size : undefined;
}

export async function makeFolder(path: string): Promise<void> {
  await mkdir(path, { recursive: true }).catch((cause: unknown) => {
    throw writeError(path, cause);
  });
}

export function writeError(path: string, cause: unknown): ReadMeError {
  const reason = cause instanceof Error ? cause.message : String(cause);
  return new ReadMeError("ERR_WRITE_FAILED", `${path}: cannot be written (${reason})`, { cause });
}

/** Symbolic where the system has such links (relative, so that the cache can move), else hard, else a copy. */
async function linkOrCopy(blob: string, path: string): Promise<void> {
  const symbolic = (): Promise<void> => symlink(relative(dirname(path), blob), path);
  const makers = [() => link(blob, path), () => copyFile(blob, path)];
  if (!areSymlinksDisabled()) makers.unshift(symbolic);
  for (const [i, make] of makers.entries()) {
    try {
      return await make();
    } catch (error) {
      if (i === makers.length - 1) throw error;
    }
  }
}

/** A cache that others fill may be mounted read-only; what only speeds up the next call is left out then. */
async function unlessReadOnly(write: () => Promise<void>): Promise<void> {
  try {
    await write();
  } catch (error) {
    if (!(error instanceof ReadMeError && isCode(error.cause, ["EROFS", "EACCES", "EPERM"]))) throw error;
  }
}

function isCode(error: unknown, codes: readonly string[]): boolean {
  return error instanceof Error && "code" in error && codes.some((code) => code === error.code);
}
