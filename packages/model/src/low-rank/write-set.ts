import { mkdir } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { JsonObject } from "../files/read-file.ts";
import { writeFileAtomically, writeFolderAtomically } from "../files/write-file.ts";
import { ROUTER_FILE } from "../folder/model.ts";
import { type SafetensorsInput, writeSafetensors } from "../safetensors/safetensors-file.ts";
import { ADAPTER_CONFIG_FILE, ADAPTER_FILE } from "./low-rank-expert.ts";
import { ADAPTERS_FOLDER, SET_FILE } from "./low-rank-set.ts";
import { parseSetFile, SET_VERSION, setText } from "./set-file.ts";

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
      await writeFileAtomically(join(adapter, ADAPTER_CONFIG_FILE), setText(config));
    }
    if (router) await writeSafetensors(join(folder, ROUTER_FILE), router.tensors);
    for (const [name, text] of Object.entries(documents)) {
      await mkdir(dirname(join(folder, name)), { recursive: true });
      await writeFileAtomically(join(folder, name), text);
    }
    await writeFileAtomically(join(folder, SET_FILE), setText(json));
  });
}
