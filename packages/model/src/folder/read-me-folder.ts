// Read-ME folders: the `readme` section of config.json, a backbone, one file per expert, and a router.

import { join } from "node:path";
import type { Fields } from "../config/fields.ts";
import type { ModelConfig } from "../config/model-config.ts";
import { MOST } from "../config/bounds.ts";
import { unsupported } from "../files/errors.ts";
import { SafetensorsFile } from "../safetensors/read-safetensors.ts";
import { feedForwardRefs, locateWeights } from "../weights/backbone.ts";
import type { ExpertLayout } from "../weights/model-weights.ts";
import { locateRouter, parseRouterConfig, type RouterConfig } from "../weights/router-weights.ts";
import { BACKBONE_FILE, expertFile, type Located, ROUTER_FILE } from "./model.ts";

/** Version of the folder's layout that this code reads and writes. */
const READ_ME_VERSION = 1;

/** The `readme` section of config.json, spelled as in JSON. */
export interface ReadMeSection {
  readonly version: typeof READ_ME_VERSION;
  readonly num_experts: number;
  readonly expert_names: readonly string[];
  /** FFN rows of each expert; one number for all layers, or one per layer. */
  readonly expert_size: number | readonly number[];
  /** FFN rows that every token uses in addition; one number or one per layer, 0 for none. */
  readonly shared_size: number | readonly number[];
  /** Absent when the folder has no router. */
  readonly router?: {
    readonly embedding_size: number;
    readonly inner_size: number;
    readonly num_heads: number;
    readonly num_layers: number;
    readonly normalizer: number;
    readonly rope_theta: number;
    readonly context_tokens: number;
    readonly activation: "silu";
  };
  /** Origin of the model and how it was made; free-form. */
  readonly provenance?: Readonly<Record<string, unknown>>;
}

/** Opens the files of a Read-ME folder. @throws {ReadMeError} naming the file or field that is wrong */
export async function openReadMe(path: string, config: ModelConfig, readme: Fields): Promise<Located> {
  if (config.mixture)
    throw unsupported(path, "has a section `readme` over a mixture; experts are made from dense models");
  const { experts, router: routerConfig } = parseReadMe(readme, config);
  const stores: SafetensorsFile[] = [];
  const open = async (name: string): Promise<SafetensorsFile> => {
    const store = await SafetensorsFile.open(join(path, name));
    stores.push(store);
    return store;
  };
  try {
    const backbone = await open(BACKBONE_FILE);
    const expertStores: SafetensorsFile[] = [];
    for (const expert of experts.names.keys()) expertStores.push(await open(expertFile(expert)));
    const routerStore = routerConfig && (await open(ROUTER_FILE));
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
    const router = routerConfig && routerStore && locateRouter(routerStore, "", routerConfig);
    return { kind: "read-me", experts, weights, router, files: stores.map((store) => store.path), stores };
  } catch (error) {
    await Promise.all(stores.map((store) => store.close()));
    throw error;
  }
}

/** @throws {ReadMeError} naming the field that is wrong, or a version that this code does not know */
export function parseReadMe(
  readme: Fields,
  config: ModelConfig,
): { readonly experts: ExpertLayout; readonly router: RouterConfig | undefined } {
  if (readme.size("version", MOST.integer) !== READ_ME_VERSION)
    readme.unsupported("version", `supported is ${READ_ME_VERSION}`);
  const numExperts = readme.size("num_experts", MOST.routedExperts);
  const router = readme.object("router");
  return {
    experts: {
      names: expertNames(readme, numExperts),
      expertSizes: perLayer(readme, "expert_size", config.numLayers, 1),
      sharedSizes: perLayer(readme, "shared_size", config.numLayers, 0),
    },
    router: router && parseRouterConfig(router, config, numExperts),
  };
}

function expertNames(readme: Fields, numExperts: number): readonly string[] {
  const names = readme.list("expert_names") ?? Array.from({ length: numExperts }, (_, expert) => `${expert}`);
  if (names.length !== numExperts || !names.every((name): name is string => typeof name === "string" && name !== "")) {
    throw readme.invalid(`expected \`readme.expert_names\` to be ${numExperts} names`);
  }
  if (new Set(names).size !== numExperts) throw readme.invalid("`readme.expert_names` has a name twice");
  return names;
}

function perLayer(readme: Fields, name: string, numLayers: number, least: number): readonly number[] {
  const value = readme.raw(name) ?? (least === 0 ? 0 : undefined);
  const sizes: readonly unknown[] = Array.isArray(value) ? value : Array.from({ length: numLayers }, () => value);
  const isSize = (size: unknown): size is number =>
    typeof size === "number" && Number.isInteger(size) && size >= least && size <= MOST.width;
  if (sizes.length === numLayers && sizes.every(isSize)) return sizes;
  throw readme.invalid(
    `expected \`readme.${name}\` to be an integer from ${least} to ${MOST.width}, or one for each of ${numLayers} layers`,
  );
}
