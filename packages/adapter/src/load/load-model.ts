import { baseFiles, exportedText, openModel, type Model } from "@readme-moe/model";
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
    return await tokenizerOf(host, model);
  } finally {
    await model.close();
  }
}

export interface LoadedModel {
  /** Of the host's own kind. */
  readonly model: object;
  readonly tokenizer: HostTokenizer;
}

/** @throws {ReadMeError} as `ReadMeEngine.open` */
export async function loadModel(
  host: HostLike,
  path: string,
  options: HostLoadOptions,
  adapter: AdapterOptions,
): Promise<LoadedModel> {
  const opened = await openModel(path);
  try {
    const { config, texts } = await baseFiles(opened);
    const tokenizer = await tokenizerOf(host, opened);
    const { tokenizer: own } = await opened.loadText();
    const lease = await leaseEngine(path, engineOptionsOf(generationOf(host), options, adapter));
    const model = hostModel(host, {
      lease,
      config,
      generationConfig: JSON.parse(texts["generation_config.json"] ?? "{}") as object,
      isSpecial: (tokenId) => own.decode([tokenId], { skipSpecialTokens: true }) === "",
    });
    return { model, tokenizer };
  } finally {
    await opened.close();
  }
}

async function tokenizerOf(host: HostLike, model: Model): Promise<HostTokenizer> {
  const { chatTemplate } = await model.loadText();
  return hostTokenizer(host, { files: await exportedText(model), chatTemplate });
}
