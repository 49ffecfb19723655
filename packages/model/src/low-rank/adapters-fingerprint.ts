import { join } from "node:path";
import { fingerprintOf } from "../cache/cached-data.ts";
import { ADAPTER_CONFIG_FILE, ADAPTER_FILE } from "./low-rank-expert.ts";
import type { LowRankSet } from "./low-rank-set.ts";

/**
 * Computes a hash in hex of the contents of a set's adapters, in their order.
 *
 * @param cacheFolder - remembers the hashes of files
 * @throws {ReadMeError} as `fingerprintOf`; an error of the system when a file is missing
 */
export async function adaptersFingerprint(
  { experts }: Pick<LowRankSet, "experts">,
  cacheFolder: string,
): Promise<string> {
  const paths = experts.flatMap(({ path }) => [join(path, ADAPTER_CONFIG_FILE), join(path, ADAPTER_FILE)]);
  const fingerprint = await fingerprintOf(paths);
  return fingerprint(cacheFolder);
}
