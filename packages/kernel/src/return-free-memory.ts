import { loadAddon, type Addon } from "./native-kernel.ts";

/** `undefined` before the first call, `null` on platforms without an addon. */
let addon: Addon | null | undefined;

/**
 * Returns memory that this process has freed to the system: C libraries keep it after a burst. Does nothing without an
 * addon, and with libraries that return memory by themselves.
 */
export function returnFreeMemory(): void {
  try {
    addon ??= loadAddon();
  } catch {
    addon = null;
  }
  addon?.returnFreeMemory();
}
