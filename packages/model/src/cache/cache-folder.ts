import { readdir, rm, stat } from "node:fs/promises";
import { homedir } from "node:os";
import { join, posix, resolve, win32 } from "node:path";

// Long after the last write of any builder that still runs.
const ABANDONED_AFTER_MS = 3_600_000;

/** The system's settings of a user's folders. */
export interface UserFolders {
  readonly platform: string;
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly home: string;
}

/**
 * Returns the folder of cached data: the option, else the environment variable `README_MOE_CACHE`, else the platform's
 * cache folder (`$XDG_CACHE_HOME/readme-moe` or `~/.cache/readme-moe` on Linux, `~/Library/Caches/readme-moe` on macOS,
 * `%LOCALAPPDATA%\readme-moe\Cache` on Windows). `~` is the user's folder.
 */
export function resolveCacheFolder(option?: string): string {
  const named = option ?? process.env["README_MOE_CACHE"];
  if (named === undefined || named === "") {
    return resolve(platformCacheFolder({ platform: process.platform, env: process.env, home: homedir() }));
  }
  return expandHome(named);
}

/** Follows each system's custom. A relative `$XDG_CACHE_HOME` counts as absent, as its specification demands. */
export function platformCacheFolder(folders: UserFolders): string {
  return platformFolder(folders, { xdg: "XDG_CACHE_HOME", linux: ".cache", mac: "Caches", windows: "Cache" });
}

/**
 * Returns the folder of what is true only while processes run: the environment variable `README_MOE_STATE`, else the
 * platform's (`$XDG_STATE_HOME/readme-moe` or `~/.local/state/readme-moe` on Linux, `~/Library/Application
 * Support/readme-moe` on macOS, `%LOCALAPPDATA%\readme-moe\State` on Windows).
 */
export function resolveStateFolder(): string {
  const named = process.env["README_MOE_STATE"];
  if (named !== undefined && named !== "") return expandHome(named);
  return resolve(platformStateFolder({ platform: process.platform, env: process.env, home: homedir() }));
}

/** Follows each system's custom, as `platformCacheFolder` does. */
export function platformStateFolder(folders: UserFolders): string {
  const names = { xdg: "XDG_STATE_HOME", linux: ".local/state", mac: "Application Support", windows: "State" };
  return platformFolder(folders, names);
}

function platformFolder(
  { platform, env, home }: UserFolders,
  names: Readonly<Record<"xdg" | "linux" | "mac" | "windows", string>>,
): string {
  if (platform === "win32") {
    return win32.join(env["LOCALAPPDATA"] || win32.join(home, "AppData", "Local"), "readme-moe", names.windows);
  }
  if (platform === "darwin") return posix.join(home, "Library", names.mac, "readme-moe");
  const named = env[names.xdg] ?? "";
  return posix.join(posix.isAbsolute(named) ? named : posix.join(home, names.linux), "readme-moe");
}

/** Makes a path absolute; `~` and `~/…` lead to the user's folder. */
export function expandHome(path: string): string {
  return resolve(/^~(?:$|[/\\])/.test(path) ? homedir() + path.slice(1) : path);
}

/**
 * Removes the files and folders of killed writers, whose names begin with `prefix`. Never fails: one that cannot be
 * removed, such as another user's, does not matter to users of the folder.
 */
export async function removeAbandoned(folder: string, prefix: string): Promise<void> {
  for (const name of await readdir(folder).catch(() => [])) {
    if (!name.startsWith(prefix)) continue;
    const path = join(folder, name);
    if (Date.now() - (await lastWriteMs(path)) < ABANDONED_AFTER_MS) continue;
    await rm(path, { recursive: true, force: true }).catch(() => undefined);
  }
}

/** Finds the last write in a folder, whose own time stays the same while a large file in it is written. */
async function lastWriteMs(path: string): Promise<number> {
  const inside = await readdir(path).catch(() => []);
  const paths = [path, ...inside.map((name) => join(path, name))];
  // A file that is missing by now was finished or removed by its writer.
  return Math.max(...(await Promise.all(paths.map((each) => stat(each).then(({ mtimeMs }) => mtimeMs, Date.now)))));
}
