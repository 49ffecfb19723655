import { baseFiles, exportedText, openModel } from "@readme-moe/model";
import { generationOf, type HostLike, type HostLoadOptions, type HostTokenizer } from "../host/host.ts";
import { hostModel } from "../model-class.ts";
import { engineOptionsOf, type AdapterOptions } from "../options.ts";
import { leaseEngine } from "./engine-pool.ts";
import { hostTokenizer } from "./host-tokenizer.ts";

/** config.json of a folder, or what would be in that of a GGUF file. @throws {ReadMeError} as `openModel` */
export async function loadConfig(path: string): Promise<object> {
  const model = await openModel(path);
  try {
    return (await baseFiles(model)).config;
  } finally {
    await model.close();
  }
}

/** @throws {ReadMeError} as `openModel` and `model.loadText` */
export async function loadTokenizer(host: HostLike, path: string): Promise<HostTokenizer> {
  const model = await openModel(path);
  try {
    const { chatTemplate } = await model.loadText();
    return hostTokenizer(host, { files: await exportedText(model), chatTemplate });
  } finally {
    await model.close();
  }
}

/** @throws {ReadMeError} as `ReadMeEngine.open` */
export async function loadModel(
  host: HostLike,
  path: string,
  options: HostLoadOptions,
  adapter: AdapterOptions,
): Promise<object> {
  const model = await openModel(path);
  try {
    const { config, texts } = await baseFiles(model);
    const { tokenizer } = await model.loadText();
    const lease = await leaseEngine(path, engineOptionsOf(generationOf(host), options, adapter));
    return hostModel(host, {
      lease,
      config,
      generationConfig: JSON.parse(texts["generation_config.json"] ?? "{}") as object,
      isSpecial: (tokenId) => tokenizer.decode([tokenId], { skipSpecialTokens: true }) === "",
    });
  } finally {
    await model.close();
  }
}
