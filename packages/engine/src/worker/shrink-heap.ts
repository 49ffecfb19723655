import { setFlagsFromString } from "node:v8";
import { isMainThread } from "node:worker_threads";

/**
 * Collects what opening a model left, tens of megabytes of parsed files, and lets the heap grow little beyond what is in use. Only in
 * a process of the engine's own: V8's flags are those of the whole process, and opening takes a third longer with them.
 */
export function shrinkHeap(): void {
  if (!isMainThread) return;
  setFlagsFromString("--optimize-for-size");
  // Later, when the stack holds nothing of it.
  setImmediate(() => globalThis.gc?.());
}
