import { join } from "node:path";
import type { Fields } from "../config/fields.ts";
import type { ModelConfig } from "../config/model-config.ts";
import { SafetensorsFile } from "../safetensors/read-safetensors.ts";
import { feedForwardRefs, locateWeights } from "../weights/backbone.ts";
import type { ExpertLayout } from "../weights/model-weights.ts";
import { locateRouter, parseRouterConfig, type RouterConfig } from "../weights/router-weights.ts";
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

// The `readme` section of a Read-ME folder's config.json.

/** The version of the folder's layout that this code reads and writes. */
const READ_ME_VERSION = 1;

/** What the section says, spelled as in JSON. */
export interface ReadMeSection {
  readonly version: typeof READ_ME_VERSION;
  readonly num_experts: number;
  readonly expert_names: readonly string[];
  /** FFN rows of each expert; one number for all layers, or one per layer. */
  readonly expert_size: number | readonly number[];
  /** FFN rows that every token uses besides; one number or one per layer, 0 for none. */
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
  /** What the model was made from and how; free-form. */
  readonly provenance?: Readonly<Record<string, unknown>>;
}

/** @throws {ReadMeError} naming the field that is wrong, or a version that this code does not know */
export function parseReadMe(
  readme: Fields,
  config: ModelConfig,
): { readonly experts: ExpertLayout; readonly router: RouterConfig | undefined } {
  if (readme.size("version") !== READ_ME_VERSION) readme.unsupported("version", `supported is ${READ_ME_VERSION}`);
  const numExperts = readme.size("num_experts");
  if (numExperts > 65_536) throw readme.invalid(`${numExperts} experts are more than the 65536 that a route can name`);
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
  if (names.length !== numExperts || !names.every((name) => typeof name === "string" && name !== "")) {
    throw readme.invalid(`expected \`readme.expert_names\` to be ${numExperts} names`);
  }
  if (new Set(names).size !== numExperts) throw readme.invalid("`readme.expert_names` has a name twice");
  return names as readonly string[];
}

function perLayer(readme: Fields, name: string, numLayers: number, least: number): readonly number[] {
  const value = readme.raw(name) ?? (least === 0 ? 0 : undefined);
  const sizes: readonly unknown[] = Array.isArray(value) ? value : Array.from({ length: numLayers }, () => value);
  const isSize = (size: unknown): boolean =>
    Number.isInteger(size) && (size as number) >= least && (size as number) < 2 ** 31;
  if (sizes.length === numLayers && sizes.every(isSize)) return sizes as readonly number[];
  throw readme.invalid(
    `expected \`readme.${name}\` to be an integer from ${least}, or one for each of ${numLayers} layers`,
  );
}
