import { loadAddon, type Addon } from "./native-kernel.ts";

/** `undefined` before the first call, `null` on a platform without addon. */
let addon: Addon | null | undefined;

/**
 * Returns memory that this process has freed to the system, since C libraries keep it after a burst. Does nothing
 * without an addon, and when the library returns memory by itself.
 */
export function returnFreeMemory(): void {
  try {
    addon ??= loadAddon();
  } catch {
    addon = null;
  }
  addon?.returnFreeMemory();
}
