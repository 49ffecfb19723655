// Expert sets of random adapters with a random router.

import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { type ExpertSetContent, type ModelConfig, SafetensorsFile } from "@readme-moe/model";
import { persistentFolder } from "./temporary-folder.ts";
import { ROUTER_SECTION, tinyContent } from "./tiny-read-me.ts";
import { type TinyAdapter, writeTinyAdapter } from "./tiny-adapter.ts";

/** Makes the contents of a set with these experts, and with a router if `routerSeed` is given. */
export async function tinySet(
  config: ModelConfig,
  adapters: Readonly<Record<string, TinyAdapter>>,
  routerSeed?: number,
): Promise<ExpertSetContent> {
  const folder = await persistentFolder();
  const experts = [];
  for (const [name, adapter] of Object.entries(adapters)) {
    const path = await writeTinyAdapter(join(folder, name), config, adapter);
    const file = await SafetensorsFile.open(join(path, "adapter_model.safetensors"));
    const tensors = [];
    for (const tensor of file.names) {
      const [{ type, shape }, bytes] = [file.info(tensor), await file.readBytes(tensor)];
      tensors.push({ name: tensor, type, shape, bytes: async () => bytes });
    }
    await file.close();
    const json: unknown = JSON.parse(await readFile(join(path, "adapter_config.json"), "utf8"));
    experts.push({ name, config: json as Record<string, unknown>, tensors });
  }
  const options = { seed: routerSeed ?? 0, numExperts: experts.length + 1, vocabSize: config.vocabSize };
  const { router: tensors = [] } = tinyContent(options).tensors;
  return { experts, router: routerSeed === undefined ? undefined : { config: { ...ROUTER_SECTION }, tensors } };
}
