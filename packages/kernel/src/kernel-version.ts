import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";

/** Changes when kernels compute other bits from the same weights; a fleet serves these as another model. */
export const BITS_VERSION = 2;

let version: string | undefined;

/**
 * Returns a hash, in hex, of the kernel's sources and binaries. Kernels of one version compute the same bits on every
 * platform.
 */
export function kernelVersion(): string {
  version ??= createHash("sha256")
    .update(readFileSync(new URL("../prebuilt/SOURCES.sha256", import.meta.url)))
    .digest("hex");
  return version;
}
