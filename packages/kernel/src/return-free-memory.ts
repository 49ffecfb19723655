import { loadAddon, type Addon } from "./native-kernel.ts";

/** `undefined` before the first call, `null` where this platform has no addon. */
let addon: Addon | null | undefined;

/**
 * Gives memory that this process has freed back to the system: C libraries keep it after a burst. Does nothing where there is no addon,
 * and where the library returns memory by itself.
 */
export function returnFreeMemory(): void {
  try {
    addon ??= loadAddon();
  } catch {
    addon = null;
  }
  addon?.returnFreeMemory();
}
