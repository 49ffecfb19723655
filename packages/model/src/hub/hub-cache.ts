// One model in the cache that all of Hugging Face's tools share:
//
//   models--org--name/blobs/<hash>                 contents
//                     snapshots/<commit>/<file>    links to the contents
//                     refs/<branch or tag>         its commit at the last download
//                     .no_exist/<commit>/<file>    empty; the commit is known to have no such file
//
// @huggingface/hub has the same layout in `downloadFileToCacheDir`. It neither resumes nor checks hashes, prints to the
// console, shares one temporary file among all processes, and asks for each file's hash anew (2.17.5).

import { randomUUID } from "node:crypto";
import { copyFile, link, readdir, rename, rm, stat, symlink, writeFile } from "node:fs/promises";
import { dirname, join, relative, sep } from "node:path";
import { ReadMeError } from "@readme-moe/core";
import { fileError, isSystemError, writeError } from "../files/errors.ts";
import { readTextFile } from "../files/text-file.ts";
import { makeFolder, writeFileAtomically } from "../files/write-file.ts";
import { areSymlinksDisabled, isCommit } from "./options.ts";

const MAX_REF_BYTES = 4096;

/** The files of one model in the cache. */
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

  /** Returns the commit that a revision stood for at its last download. */
  async commitOf(revision: string): Promise<string | undefined> {
    if (isCommit(revision)) return revision;
    const commit = (await readTextFile(this.#ref(revision), MAX_REF_BYTES))?.trim();
    return commit !== undefined && isCommit(commit) ? commit : undefined;
  }

  /** Lists the branches and tags that were downloaded, with their commits. */
  async revisions(): Promise<ReadonlyMap<string, string>> {
    const names = await readdir(join(this.folder, "refs"), { recursive: true }).catch(() => []);
    const revisions = new Map<string, string>();
    for (const name of names.map((each) => each.replaceAll(sep, "/"))) {
      if ((await fileSize(this.#ref(name))) === undefined) continue;
      const commit = await this.commitOf(name).catch(() => undefined);
      if (commit !== undefined) revisions.set(name, commit);
    }
    return revisions;
  }

  async setCommitOf(revision: string, commit: string): Promise<void> {
    if (isCommit(revision) || (await this.commitOf(revision)) === commit) return;
    await unlessReadOnly(this.#ref(revision), (path) => writeFileAtomically(path, commit));
  }

  /** Lists the snapshot's files, with slashes, whose contents are there. */
  async filesOf(commit: string): Promise<ReadonlySet<string>> {
    const folder = this.snapshot(commit);
    const names = await readdir(folder, { recursive: true }).catch((error: unknown) => {
      if (isSystemError(error, "ENOENT", "ENOTDIR")) return [];
      throw fileError(folder, error);
    });
    const sizes = await Promise.all(names.map((name) => fileSize(join(folder, name))));
    return new Set(names.filter((_, i) => sizes[i] !== undefined).map((name) => name.replaceAll(sep, "/")));
  }

  async isKnownAbsent(commit: string, name: string): Promise<boolean> {
    return (await fileSize(this.#absence(commit, name))) !== undefined;
  }

  async setAbsent(commit: string, name: string): Promise<void> {
    await unlessReadOnly(this.#absence(commit, name), (path) => writeFile(path, ""));
  }

  /** Puts a blob into a snapshot under a file's name, in place of the file that is there. */
  async link(commit: string, name: string, oid: string): Promise<void> {
    const path = join(this.snapshot(commit), name);
    const temporary = join(dirname(path), `.readme-moe-${randomUUID()}.tmp`);
    try {
      await makeFolder(dirname(path));
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

/** Returns a file's size in bytes, links followed, or `undefined` when there is no such file. */
export async function fileSize(path: string): Promise<number | undefined> {
  const state = await stat(path).catch(() => undefined);
  return state?.isFile() ? state.size : undefined;
}

/** Makes a symbolic link (relative, so that the cache can move), else a hard link, else a copy. */
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

/** Writes a file that only speeds up the next call, unless the cache is read-only, such as one that others fill. */
async function unlessReadOnly(path: string, write: (path: string) => Promise<void>): Promise<void> {
  try {
    await makeFolder(dirname(path));
    await write(path);
  } catch (error) {
    const cause = error instanceof ReadMeError ? error.cause : error;
    if (!isSystemError(cause, "EROFS", "EACCES", "EPERM")) throw writeError(path, cause);
  }
}
