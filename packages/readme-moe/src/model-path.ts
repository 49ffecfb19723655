import { existsSync } from "node:fs";
import { ReadMeError } from "@readme-moe/core";
import { downloadModel, type DownloadProgress } from "@readme-moe/model";
import { showStatus } from "./status-line.ts";

// `organisation/name`, and perhaps `@revision`.
const HUB_ID = /^[\w.-]+\/[\w.-]+(@[\w./-]+)?$/;

/** What `<model>` names: a folder or file as it is, else a model of the hub, which is downloaded into the shared cache. */
export async function modelPath(name: string, signal: AbortSignal): Promise<string> {
  if (existsSync(name) || !HUB_ID.test(name)) return name;
  try {
    return await downloadModel(name, { signal, onProgress: showDownload });
  } catch (error) {
    if (!(error instanceof ReadMeError)) throw error;
    const message = `${name}: no such file or folder; as a model of the hub: ${error.message}`;
    throw new ReadMeError(error.code, message, { cause: error });
  } finally {
    showDownload();
  }
}

function showDownload(progress?: DownloadProgress): void {
  if (!progress) return showStatus();
  const { file, doneBytes, ofBytes } = progress;
  showStatus(`downloading ${file} ${(doneBytes / 1e6).toFixed(1)} of ${(ofBytes / 1e6).toFixed(1)} MB`);
}
