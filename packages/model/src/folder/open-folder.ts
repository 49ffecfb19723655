import { access } from "node:fs/promises";
import { join } from "node:path";
import { ReadMeError } from "@readme-moe/core";
import { Fields } from "../config/fields.ts";
import { parseConfig } from "../config/parse-config.ts";
import type { ModelConfig } from "../config/model-config.ts";
import { fingerprintOf } from "../cache/fingerprint.ts";
import { SafetensorsFile } from "../safetensors/safetensors-file.ts";
import { ShardedSafetensors } from "../safetensors/sharded-safetensors.ts";
import { loadFolderText } from "../text/load-text.ts";
import { once } from "../text/once.ts";
import { readJsonFile } from "../files/text-file.ts";
import { locateDense } from "../weights/backbone.ts";
import { isOfficialConversion, locateOfficial } from "../weights/official.ts";
import type { Located, Model } from "./model.ts";
import { openReadMe } from "./open-read-me.ts";

const MAX_CONFIG_BYTES = 16 << 20;
const SINGLE = "model.safetensors";
const INDEX = "model.safetensors.index.json";

/** A folder with config.json and safetensors. */
export async function openFolder(path: string): Promise<Model> {
  const configPath = join(path, "config.json");
  const json = await readJsonFile(configPath, MAX_CONFIG_BYTES);
  if (json === undefined) {
    throw new ReadMeError("ERR_FILE_NOT_FOUND", `${path}: has no config.json, so it is no model folder`);
  }
  const generationPath = join(path, "generation_config.json");
  const generation = await readJsonFile(generationPath, MAX_CONFIG_BYTES);
  const config = parseConfig(configPath, json, generation && new Fields(generationPath, generation));
  const fields = new Fields(configPath, json);
  const readme = fields.object("readme");
  const located = readme ? await openReadMe(path, config, readme) : await openCheckpoint(path, config, fields);
  const files = [configPath, ...located.files];
  return {
    path,
    config,
    kind: located.kind,
    experts: located.experts,
    weights: located.weights,
    router: located.router,
    files,
    fingerprint: await fingerprintOf(files),
    loadText: once(() => loadFolderText(path)),
    close: async () => {
      await Promise.all(located.stores.map((store) => store.close()));
    },
  };
}

async function openCheckpoint(path: string, config: ModelConfig, fields: Fields): Promise<Located> {
  const store = await openStore(path);
  try {
    const files = store instanceof ShardedSafetensors ? [store.path, ...store.shardPaths] : [store.path];
    if (isOfficialConversion(store)) {
      return { kind: "official", ...locateOfficial(store, config, fields), files, stores: [store] };
    }
    return { kind: "dense", ...locateDense(store, config), router: undefined, files, stores: [store] };
  } catch (error) {
    await store.close();
    throw error;
  }
}

async function openStore(path: string): Promise<SafetensorsFile | ShardedSafetensors> {
  const exists = (name: string): Promise<boolean> =>
    access(join(path, name)).then(
      () => true,
      () => false,
    );
  if (await exists(SINGLE)) return SafetensorsFile.open(join(path, SINGLE));
  if (await exists(INDEX)) return ShardedSafetensors.open(join(path, INDEX));
  if ((await exists("pytorch_model.bin")) || (await exists("pytorch_model.bin.index.json"))) {
    throw new ReadMeError(
      "ERR_MODEL_UNSUPPORTED",
      `${path}: holds PyTorch's pickled weights, which are not read; save the model as safetensors`,
    );
  }
  throw new ReadMeError("ERR_FILE_NOT_FOUND", `${path}: holds neither ${SINGLE} nor ${INDEX}`);
}
