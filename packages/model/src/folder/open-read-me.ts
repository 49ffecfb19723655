import { join } from "node:path";
import type { Fields } from "../config/fields.ts";
import type { ModelConfig } from "../config/model-config.ts";
import { SafetensorsFile } from "../safetensors/safetensors-file.ts";
import { feedForwardRefs, locateWeights } from "../weights/backbone.ts";
import { locateRouter } from "../weights/router-weights.ts";
import { parseReadMe } from "./read-me-config.ts";
import type { Located } from "./model.ts";

/** Names of the files of a Read-ME folder. */
export const BACKBONE_FILE = "backbone.safetensors";
export const ROUTER_FILE = "router.safetensors";
export const expertFile = (expert: number): string => join("experts", `${expert}.safetensors`);

/** The layout of `config.json`'s `readme` section: a backbone, one file per expert, a router. */
export async function openReadMe(path: string, config: ModelConfig, readme: Fields): Promise<Located> {
  const { experts, router: routerConfig } = parseReadMe(readme, config);
  const files = [BACKBONE_FILE, ...experts.names.map((_, expert) => expertFile(expert))];
  if (routerConfig) files.push(ROUTER_FILE);
  const paths = files.map((name) => join(path, name));
  const stores: SafetensorsFile[] = [];
  try {
    for (const file of paths) stores.push(await SafetensorsFile.open(file));
    const [backbone, ...rest] = stores as [SafetensorsFile, ...SafetensorsFile[]];
    const expertStores = rest.slice(0, experts.names.length);
    const weights = locateWeights(backbone, config, (layer) => {
      const place = { prefix: `model.layers.${layer}.mlp.` };
      const rows = (store: SafetensorsFile, size: number) =>
        feedForwardRefs(store, place, { size, hiddenSize: config.hiddenSize, hasBias: "if present" });
      const sharedSize = experts.sharedSizes[layer] ?? 0;
      return {
        shared: sharedSize > 0 ? rows(backbone, sharedSize) : undefined,
        experts: expertStores.map((store) => rows(store, experts.expertSizes[layer] ?? 0)),
      };
    });
    const routerStore = stores.at(-1) as SafetensorsFile;
    const router = routerConfig && locateRouter(routerStore, "", routerConfig);
    return { kind: "read-me", experts, weights, router, files: paths, stores };
  } catch (error) {
    await Promise.all(stores.map((store) => store.close()));
    throw error;
  }
}
