import { homedir } from "node:os";
import { posix, resolve, win32 } from "node:path";
import { expandHome } from "../hub/environment.ts";

/** What a system says about its user's folders. */
export interface UserFolders {
  readonly platform: string;
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly home: string;
}

/**
 * Where built graphs and fingerprints are kept: the option, else the environment variable `README_MOE_CACHE`, else
 * the platform's cache folder (`$XDG_CACHE_HOME/readme-moe` or `~/.cache/readme-moe` on Linux,
 * `~/Library/Caches/readme-moe` on macOS, `%LOCALAPPDATA%\readme-moe\Cache` on Windows). `~` is the user's folder.
 */
export function resolveCacheFolder(option?: string): string {
  const named = option ?? process.env["README_MOE_CACHE"];
  if (named === undefined || named === "") {
    return resolve(platformCacheFolder({ platform: process.platform, env: process.env, home: homedir() }));
  }
  return expandHome(named);
}

/** By each system's custom. A relative `$XDG_CACHE_HOME` counts as absent, as its specification wants. */
export function platformCacheFolder({ platform, env, home }: UserFolders): string {
  if (platform === "win32") {
    return win32.join(env["LOCALAPPDATA"] || win32.join(home, "AppData", "Local"), "readme-moe", "Cache");
  }
  if (platform === "darwin") return posix.join(home, "Library", "Caches", "readme-moe");
  const named = env["XDG_CACHE_HOME"] ?? "";
  return posix.join(posix.isAbsolute(named) ? named : posix.join(home, ".cache"), "readme-moe");
}
