// Folders of experts that operators may load: those below one folder of the server.

import { statSync } from "node:fs";
import { realpath, stat } from "node:fs/promises";
import { isAbsolute, join, relative, resolve, sep } from "node:path";
import { describeValue } from "@readme-moe/core";
import { folderNotFound, forbiddenPath } from "./refusals.ts";

/** Files of an expert's folder that are read. */
const FILES = ["adapter_config.json", "adapter_model.safetensors"] as const;

/** Whether a name consists of plain segments, so that it cannot lead out of a folder by itself. */
export function isPlainName(name: string): boolean {
  if (/[\0\\]/.test(name) || /^[A-Za-z]:/.test(name)) return false;
  return name.split("/").every((segment) => segment !== "" && segment !== "." && segment !== "..");
}

/** Finds folders of experts below one folder, and none outside it. */
export class ExpertFolder {
  readonly #path: string;

  /** @throws {TypeError} when it is not an existing folder */
  constructor(path: string) {
    const isFolder = typeof path === "string" && statSync(path, { throwIfNoEntry: false })?.isDirectory();
    if (!isFolder) {
      throw new TypeError(`Expected \`experts.folder\` to be an existing folder, got ${describeValue(path)}`);
    }
    this.#path = resolve(path);
  }

  /**
   * Finds the folder of an expert.
   *
   * @returns its path, without links
   * @throws {ApiError} 403 where the name or a link leads out of this folder; 404 where there is no expert
   */
  async find(name: string): Promise<string> {
    if (!isPlainName(name)) throw forbiddenPath();
    const root = await realpath(this.#path).catch(() => undefined);
    const found = root === undefined ? undefined : await realpath(join(root, name)).catch(() => undefined);
    if (root === undefined || found === undefined) throw folderNotFound(name);
    if (!isBelow(root, found)) throw forbiddenPath();
    await Promise.all(FILES.map((file) => checkFile(root, join(found, file), name)));
    return found;
  }

  /** Replaces paths of this machine in a message by what the operator called them. */
  hidden(message: string, found: string, name: string): string {
    return message.replaceAll(found, name).replaceAll(`${this.#path}${sep}`, "").replaceAll(this.#path, "the folder");
  }
}

/** Checks one file of an expert, which may be a link to another place below the folder. */
async function checkFile(root: string, path: string, name: string): Promise<void> {
  const real = await realpath(path).catch(() => undefined);
  if (real === undefined) throw folderNotFound(name);
  if (!isBelow(root, real)) throw forbiddenPath();
  // Reading a pipe or a device might never end.
  const isFile = await stat(real).then(
    (entry) => entry.isFile(),
    () => false,
  );
  if (!isFile) throw folderNotFound(name);
}

function isBelow(root: string, path: string): boolean {
  const rest = relative(root, path);
  return rest !== "" && rest !== ".." && !rest.startsWith(`..${sep}`) && !isAbsolute(rest);
}
