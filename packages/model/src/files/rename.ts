import { rename } from "node:fs/promises";
import { setTimeout } from "node:timers/promises";

/** What Windows says while somebody else, often a virus scanner, has a file open that was just written. */
const BUSY = ["EPERM", "EACCES", "EBUSY"];
/** 2.5 s together. */
const WAITS_MS = [10, 20, 40, 80, 160, 320, 640, 1280];

export interface RenameSystem {
  readonly platform: string;
  readonly rename: (from: string, to: string) => Promise<void>;
  readonly wait: (ms: number) => Promise<unknown>;
}

const SYSTEM: RenameSystem = { platform: process.platform, rename, wait: setTimeout };

/** As Node's `rename`; on Windows it is tried again for some seconds where the file or its target is in use. */
export async function renamePatiently(from: string, to: string, system: RenameSystem = SYSTEM): Promise<void> {
  for (const waitMs of system.platform === "win32" ? WAITS_MS : []) {
    try {
      return await system.rename(from, to);
    } catch (error) {
      if (!(error instanceof Error && "code" in error && BUSY.includes(error.code as string))) throw error;
    }
    await system.wait(waitMs);
  }
  return system.rename(from, to);
}
