// Sets of loras: folders with read-me-experts.json, which lists their names and folders and has the config of their
// router.

import { mkdir } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { describeValue, ReadMeError } from "@readme-moe/core";
import { fingerprintOf } from "../cache/cached-data.ts";
import { Fields, MOST } from "../config/fields.ts";
import type { ModelConfig } from "../config/model-config.ts";
import { quoted } from "../files/errors.ts";
import { resolveInside } from "../files/file-name.ts";
import { type JsonObject, orClose, readJsonFile, together } from "../files/read-file.ts";
import { toJson, writeFileAtomically, writeFolderAtomically } from "../files/write-file.ts";
import { type Model, ROUTER_FILE } from "../folder/model.ts";
import { openRouterFile } from "../folder/read-me-folder.ts";
import {
  ADAPTER_CONFIG_FILE,
  ADAPTER_FILE,
  ADAPTERS_FOLDER,
  expertNameProblem,
  type ListedExpert,
  type LoraSet,
  MAX_EXPERTS,
  SET_FILE,
} from "./lora.ts";
import { type SafetensorsInput, writeSafetensors } from "../safetensors/safetensors-file.ts";
import { parseRouterConfig } from "../weights/locate-router.ts";

/**
 * Opens an expert set: a folder with read-me-experts.json, which may be the folder of the dense model itself. Adapters
 * are found, not opened.
 *
 * @param config - the dense model's, for the router
 * @returns `undefined` when the folder holds no set
 * @throws {ReadMeError} naming the file or field that is missing, damaged or not supported, also when an adapter's
 *   folder is outside of the set
 */
export async function openExpertSet(folder: string, config: ModelConfig): Promise<LoraSet | undefined> {
  const path = resolve(folder);
  const file = await readSetFile(path);
  if (file === undefined) return undefined;
  const experts: ListedExpert[] = [];
  for (const entry of file.entries) {
    experts.push({ name: entry.name, path: await resolveInside(path, entry.folder, file.path) });
  }
  return { path, experts, ...(await openRouterOf(path, file, config)) };
}

async function openRouterOf(
  path: string,
  file: SetFile,
  config: ModelConfig,
): Promise<Pick<LoraSet, "router" | "fingerprint" | "close">> {
  const { router: fields, entries } = file;
  if (fields === undefined) {
    return { router: undefined, fingerprint: await fingerprintOf([]), close: async () => undefined };
  }
  if (entries.length === 0) {
    throw new ReadMeError("ERR_MODEL_INVALID", `${file.path}: has a \`router\`, but no experts to choose from`);
  }
  return openRouterFile(path, parseRouterConfig(fields, config, entries.length + 1));
}

/** Version of the layout that this code reads and writes. */
export const SET_VERSION = 1;

const MAX_BYTES = 16 << 20;

/** An expert as the file lists it. */
export interface SetEntry {
  readonly name: string;
  /** Folder of the adapter within the set's, with slashes; untrusted input. */
  readonly folder: string;
}

/** The contents of a set's file. */
export interface SetFile {
  readonly path: string;
  readonly entries: readonly SetEntry[];
  readonly router: Fields | undefined;
  /** The file as it is, with fields that are not known here. */
  readonly json: JsonObject;
}

/**
 * Reads a set's file; gives `undefined` when the folder has none.
 * @throws {ReadMeError} `ERR_FILE_CORRUPT`, `ERR_MODEL_INVALID`, `ERR_MODEL_UNSUPPORTED` naming the file and the field
 */
export async function readSetFile(folder: string): Promise<SetFile | undefined> {
  const path = join(folder, SET_FILE);
  const json = await readJsonFile(path, MAX_BYTES);
  return json === undefined ? undefined : parseSetFile(path, json);
}

/** Checks the contents of a set's file. @throws {ReadMeError} as `readSetFile` */
export function parseSetFile(path: string, json: JsonObject): SetFile {
  const fields = new Fields(path, json);
  if (fields.size("version", MOST.integer) !== SET_VERSION)
    fields.unsupported("version", `supported is ${SET_VERSION}`);
  const list = fields.list("experts");
  if (list === undefined) throw fields.invalid("lacks `experts`, a list of names and folders");
  if (list.length > MAX_EXPERTS) throw fields.invalid(`${list.length} experts are more than ${MAX_EXPERTS}`);
  const entries = list.map((value, index) => entryOf(new Fields(path, value, `experts[${index}].`)));
  const names = new Set<string>();
  for (const { name } of entries) {
    if (names.has(name)) throw fields.invalid(`\`experts\` has the name ${quoted(name)} twice`);
    names.add(name);
  }
  return { path, entries, router: fields.object("router"), json };
}

function entryOf(fields: Fields): SetEntry {
  const name = fields.text("name");
  const problem = expertNameProblem(name);
  if (problem !== undefined) throw fields.invalid(`the expert's name ${quoted(name)} has to be ${problem}`);
  return { name, folder: fields.text("folder") };
}

/** A set that contains one adapter, or all experts of a folder. */
type Part = Pick<LoraSet, "experts" | "router" | "fingerprint" | "close">;

/**
 * Gathers the loras of a dense model: those of its own folder, and further ones. Experts that a router
 * chooses among come first, in the router's order.
 *
 * @param further - folders by name. A folder is an adapter of this name, or an expert set; its experts have names of
 *   their own, so that the name is not used
 * @returns a set of all; closing it closes what was opened here, not the model's own set
 * @throws {TypeError} when a name is wrong, or two experts have the same one
 * @throws {ReadMeError} as `openExpertSet`; `ERR_MODEL_UNSUPPORTED` when there are two routers
 */
export async function gatherExperts(
  model: Pick<Model, "path" | "config" | "loraSet">,
  further: Readonly<Record<string, string>> = {},
): Promise<LoraSet> {
  const parts: Part[] = model.loraSet ? [{ ...model.loraSet, close: async () => undefined }] : [];
  const open = together(parts);
  return orClose(open, async () => {
    for (const [name, path] of Object.entries(further)) {
      parts.push((await openExpertSet(path, model.config)) ?? oneExpert(name, path));
    }
    const [routed, second] = parts.filter(({ router }) => router !== undefined);
    if (second !== undefined) {
      const message = `${model.path}: two expert sets have a router; experts of one router can be chosen among`;
      throw new ReadMeError("ERR_MODEL_UNSUPPORTED", message);
    }
    const ordered = routed ? [routed, ...parts.filter((part) => part !== routed)] : parts;
    const experts = ordered.flatMap((part) => part.experts);
    checkNames(experts);
    return {
      path: model.path,
      experts,
      router: routed?.router,
      fingerprint: async (cacheFolder) => routed?.fingerprint(cacheFolder) ?? "",
      ...open,
    };
  });
}

/**
 * Returns the name that an adapter's folder gives its expert.
 * @throws {TypeError} when the folder's own name cannot be one
 */
export function expertNameOf(folder: string): string {
  const name = basename(resolve(folder));
  const problem = expertNameProblem(name);
  if (problem === undefined) return name;
  throw new TypeError(`Expected a name for the expert in ${quoted(folder)}, since a name is ${problem}`);
}

function oneExpert(name: string, path: string): Part {
  return {
    experts: [{ name, path: resolve(path) }],
    router: undefined,
    fingerprint: async () => "",
    close: async () => undefined,
  };
}

function checkNames(experts: readonly ListedExpert[]): void {
  if (experts.length > MAX_EXPERTS) {
    throw new RangeError(`Expected at most ${MAX_EXPERTS} loras, got ${experts.length}`);
  }
  const names = new Set<string>();
  for (const { name } of experts) {
    const problem = expertNameProblem(name);
    if (problem !== undefined) {
      throw new TypeError(`Expected the name of a lora to be ${problem}, got ${describeValue(name)}`);
    }
    if (names.has(name)) throw new TypeError(`Expected names of loras to be different, got ${quoted(name)} twice`);
    names.add(name);
  }
}

/**
 * Computes a hash in hex of the contents of a set's adapters, in their order.
 *
 * @param cacheFolder - remembers the hashes of files
 * @throws {ReadMeError} as `fingerprintOf`; an error of the system when a file is missing
 */
export async function lorasFingerprint({ experts }: Pick<LoraSet, "experts">, cacheFolder: string): Promise<string> {
  const paths = experts.flatMap(({ path }) => [join(path, ADAPTER_CONFIG_FILE), join(path, ADAPTER_FILE)]);
  const fingerprint = await fingerprintOf(paths);
  return fingerprint(cacheFolder);
}

/** The contents of a new expert set. */
export interface ExpertSetContent {
  readonly experts: readonly {
    readonly name: string;
    /** adapter_config.json */
    readonly config: JsonObject;
    /** adapter_model.safetensors, under PEFT's names */
    readonly tensors: readonly SafetensorsInput[];
  }[];
  readonly router?:
    | {
        /** Fields of `readme.router` of a Read-ME folder's config.json. */
        readonly config: JsonObject;
        readonly tensors: readonly SafetensorsInput[];
      }
    | undefined;
  /** Origin of the set; free-form. */
  readonly provenance?: JsonObject | undefined;
  /** Further text files by name, such as report.json and README.md. */
  readonly documents?: Readonly<Record<string, string>> | undefined;
}

/**
 * Writes an expert set into a folder of its own, whole or not at all.
 *
 * @param path - a folder that does not exist yet, or is empty
 * @throws {ReadMeError} `ERR_WRITE_FAILED` when it is neither, or when anything fails underway; as `openExpertSet` for
 *   names that a set cannot have
 */
export async function writeExpertSet(path: string, content: ExpertSetContent): Promise<void> {
  const { experts, router, provenance, documents = {} } = content;
  const entries = experts.map(({ name }) => ({ name, folder: `${ADAPTERS_FOLDER}/${name}` }));
  const json = { version: SET_VERSION, experts: entries, router: router?.config, provenance };
  // Names become folders, so they are checked before anything is written.
  parseSetFile(join(path, SET_FILE), json);
  await writeFolderAtomically(path, async (folder) => {
    for (const { name, config, tensors } of experts) {
      const adapter = join(folder, ADAPTERS_FOLDER, name);
      await mkdir(adapter, { recursive: true });
      await writeSafetensors(join(adapter, ADAPTER_FILE), tensors, { format: "pt" });
      await writeFileAtomically(join(adapter, ADAPTER_CONFIG_FILE), toJson(config));
    }
    if (router) await writeSafetensors(join(folder, ROUTER_FILE), router.tensors);
    for (const [name, text] of Object.entries(documents)) {
      await mkdir(dirname(join(folder, name)), { recursive: true });
      await writeFileAtomically(join(folder, name), text);
    }
    await writeFileAtomically(join(folder, SET_FILE), toJson(json));
  });
}
