import { basename, resolve } from "node:path";

/** Repository of a folder in the hub's cache. */
const SNAPSHOT = /models--(?:[^/\\]*--)?([^/\\]+)[/\\]snapshots[/\\][^/\\]+$/;

/**
 * Returns the name under which servers offer a model: the short name that it was opened by, or the last part of its
 * path without the extension; the repository of a folder in the hub's cache.
 */
export function modelName(given: string): string {
  const path = resolve(given);
  return SNAPSHOT.exec(path)?.[1] ?? basename(path).replace(/\.(?:gguf|onnx)$/i, "");
}
