import { existsSync } from "node:fs";
import { join } from "node:path";

/**
 * The folder of a checkpoint in `shared/models`, beside the repository, or `undefined` where it is
 * absent; tests of real checkpoints are skipped there.
 */
export function sharedModel(name: string): string | undefined {
  const folder = join(import.meta.dirname, "..", "..", "..", "shared", "models", name);
  return existsSync(folder) ? folder : undefined;
}
