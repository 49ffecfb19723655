// Permissions to name loras, and the folder that operators load them from.

import { statSync } from "node:fs";
import { realpath, stat } from "node:fs/promises";
import { isAbsolute, join, relative, resolve, sep } from "node:path";
import { describeValue, rejectUnknownKeys } from "@readme-moe/core";
import { KeyRing, type Keys } from "../guard.ts";
import { folderNotFound, forbiddenPath } from "./live-experts.ts";

/** A client that names an expert. */
export interface ExpertUse {
  /** Name of the client's API key, on servers that ask for keys. */
  readonly key: string | undefined;
  /** Name of the served model. */
  readonly model: string;
  readonly expert: string;
}

/** Options of the loras of served models. */
export interface ExpertsOptions {
  /**
   * Decides whether a client may name an expert. For other clients the expert does not exist. The router chooses among
   * all experts in any case; `onRequest` can give every request an expert. @default all clients may name all experts
   */
  readonly permit?: ((use: ExpertUse) => boolean) | undefined;
  /**
   * Keys of operators, who may load and unload experts while the server runs. They are no keys of clients. Needs
   * `folder`. @default nobody: the routes do not exist
   */
  readonly operatorKeys?: Keys | undefined;
  /** Folder whose subfolders operators may load as experts. */
  readonly folder?: string | undefined;
}

/** Operators' keys, and the folder that they load from. */
interface Operators {
  readonly keys: Keys;
  readonly folder: ExpertFolder;
}

export interface ResolvedExpertsOptions {
  readonly permit: (use: ExpertUse) => boolean;
  /** Whether experts may be hidden from clients. */
  readonly arePrivate: boolean;
  /** `undefined` where experts cannot be loaded. */
  readonly operators: Operators | undefined;
}

const NAMES = ["permit", "operatorKeys", "folder"] as const satisfies readonly (keyof ExpertsOptions)[];

/**
 * @param clientKeys - keys of clients, which operators' keys must differ from
 * @throws {TypeError} naming the option, the expectation and the value
 */
export function resolveExpertsOptions(options: ExpertsOptions = {}, clientKeys?: Keys): ResolvedExpertsOptions {
  rejectUnknownKeys("`experts`", options, NAMES);
  const { operatorKeys, folder } = options;
  const permit = checkedPermit(options.permit);
  const arePrivate = options.permit !== undefined;
  if (operatorKeys === undefined && folder === undefined) return { permit, arePrivate, operators: undefined };
  if (operatorKeys === undefined || folder === undefined) {
    throw new TypeError("Expected `experts.operatorKeys` and `experts.folder` together");
  }
  const ring = new KeyRing(operatorKeys, undefined, "experts.operatorKeys");
  if (Object.values(clientKeys ?? {}).some((key) => ring.nameOf(key) !== undefined)) {
    throw new TypeError("Expected `experts.operatorKeys` to differ from `keys`");
  }
  return { permit, arePrivate, operators: { keys: operatorKeys, folder: new ExpertFolder(folder) } };
}

function checkedPermit(permit: ExpertsOptions["permit"]): ResolvedExpertsOptions["permit"] {
  if (permit === undefined) return () => true;
  if (typeof permit !== "function") throw new TypeError("Expected `experts.permit` to be a function");
  return (use) => {
    const answer: unknown = permit(use);
    // A promise would count as true.
    if (typeof answer === "boolean") return answer;
    throw new TypeError(`Expected \`experts.permit\` to give true or false, got ${describeValue(answer)}`);
  };
}

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
