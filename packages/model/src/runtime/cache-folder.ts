import { homedir } from "node:os";
import { resolve } from "node:path";
import envPaths from "env-paths";

/**
 * Where built graphs and fingerprints are kept: the option, else the environment variable `README_MOE_CACHE`, else
 * the platform's cache folder (`$XDG_CACHE_HOME/readme-moe` or `~/.cache/readme-moe` on Linux).
 */
export function resolveCacheFolder(option?: string): string {
  const named = option ?? process.env["README_MOE_CACHE"];
  if (named === undefined || named === "") return envPaths("readme-moe", { suffix: "" }).cache;
  return resolve(named.startsWith("~/") ? homedir() + named.slice(1) : named);
}
