import { installLocked } from "../../tools/packages/install-locked.ts";

/** Installs the peers of `bench/peers`. Those of its packages that are binaries for Linux on x64 are named there. */
export function installPeers(folder: string, say: (what: string) => void): Promise<void> {
  return installLocked(folder, { what: "the peers", say, withoutOptional: true });
}
