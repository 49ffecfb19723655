import { createHash } from "node:crypto";
import { join, resolve } from "node:path";
import { ReadMeError } from "@readme-moe/core";
import { fingerprintOf } from "../cache/cached-data.ts";
import type { ModelConfig } from "../config/model-config.ts";
import { resolveInside } from "../files/file-name.ts";
import { ROUTER_FILE } from "../folder/model.ts";
import { SafetensorsFile } from "../safetensors/safetensors-file.ts";
import { locateRouter, parseRouterConfig } from "../weights/locate-weights.ts";
import type { ListedExpert, LowRankSet } from "./low-rank-set.ts";
import { readSetFile, type SetFile } from "./set-file.ts";

/**
 * Opens an expert set: a folder with read-me-experts.json, which may be the folder of the dense model itself. Adapters
 * are found, not opened.
 *
 * @param config - the dense model's, for the router
 * @returns `undefined` when the folder holds no set
 * @throws {ReadMeError} naming the file or field that is missing, damaged or not supported, also when an adapter's
 *   folder is outside of the set
 */
export async function openExpertSet(folder: string, config: ModelConfig): Promise<LowRankSet | undefined> {
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
): Promise<Pick<LowRankSet, "router" | "fingerprint" | "close">> {
  const { router: fields, entries } = file;
  if (fields === undefined) {
    return { router: undefined, fingerprint: await fingerprintOf([]), close: async () => undefined };
  }
  if (entries.length === 0) {
    throw new ReadMeError("ERR_MODEL_INVALID", `${file.path}: has a \`router\`, but no experts to choose from`);
  }
  const routerConfig = parseRouterConfig(fields, config, entries.length + 1);
  const store = await SafetensorsFile.open(join(path, ROUTER_FILE));
  try {
    const router = locateRouter(store, "", routerConfig);
    const tensors = await fingerprintOf([store.path]);
    const fingerprint = async (cacheFolder: string): Promise<string> => {
      const hash = createHash("sha256").update(await tensors(cacheFolder));
      return hash.update(JSON.stringify(routerConfig)).digest("hex");
    };
    return { router, fingerprint, close: () => store.close() };
  } catch (error) {
    await store.close();
    throw error;
  }
}
