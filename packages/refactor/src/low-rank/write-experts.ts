// Writes an expert set: one folder for each expert in PEFT's layout, the router, and read-me-experts.json.

import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { encodeF16, writeFileAtomically, writeSafetensors, type SafetensorsInput } from "@readme-moe/model";
import { routerSection, routerTensors } from "../router-training/router-network.ts";
import { LEFT, RIGHT } from "../tuning/parameters.ts";
import type { KeptRouter } from "../tuning/tuning-router.ts";
import type { Adapter } from "./adapter.ts";
import { graphName, type Product } from "./products.ts";

const SET_VERSION = 1;

interface NamedAdapter {
  readonly name: string;
  readonly adapter: Adapter;
}

export interface ExpertSet {
  readonly experts: readonly NamedAdapter[];
  readonly router: KeptRouter;
  /** Properties that all experts have in common. */
  readonly shape: AdapterShape;
  readonly provenance: Readonly<Record<string, unknown>>;
}

interface AdapterShape {
  readonly rank: number;
  readonly alpha: number;
  readonly products: readonly Product[];
  /** Name of the dense model. */
  readonly base: string;
}

/** Returns the folder of an expert within its set. */
export function expertFolder(name: string): string {
  return `experts/${name}`;
}

/** Writes the set's files to a folder. @throws {ReadMeError} `ERR_WRITE_FAILED` */
export async function writeExpertSet(path: string, { experts, router, shape, provenance }: ExpertSet): Promise<void> {
  for (const { name, adapter } of experts) {
    const folder = join(path, expertFolder(name));
    await mkdir(folder, { recursive: true });
    await writeSafetensors(join(folder, "adapter_model.safetensors"), peftTensors(adapter, shape), { format: "pt" });
    await writeFileAtomically(join(folder, "adapter_config.json"), json(peftConfig(shape)));
  }
  await writeSafetensors(join(path, "router.safetensors"), routerTensors(router.config, router.parameters));
  const set = {
    version: SET_VERSION,
    experts: experts.map(({ name }) => ({ name, folder: expertFolder(name) })),
    router: routerSection(router.config),
    provenance,
  };
  await writeFileAtomically(join(path, "read-me-experts.json"), json(set));
}

/** Lists factors in half precision under PEFT's names, layer by layer. */
function peftTensors(adapter: Adapter, { products }: AdapterShape): readonly SafetensorsInput[] {
  const moduleOf = new Map(products.map(({ half, name, module }) => [graphName(-1, half, name), module]));
  return adapter.map(({ key, shape, values }) => {
    const [, layer = "", name = "", side] = /^(\d+)(\..+)(\.left|\.right)$/.exec(key) ?? [];
    const module = moduleOf.get(`-1${name}`);
    if (module === undefined || (side !== LEFT && side !== RIGHT)) {
      throw new TypeError(`Expected a factor of a product, got \`${key}\``);
    }
    return {
      name: `base_model.model.model.layers.${layer}.${module}.lora_${side === LEFT ? "A" : "B"}.weight`,
      type: "F16",
      shape,
      bytes: async () => encodeF16(values),
    };
  });
}

/** Returns adapter_config.json. */
function peftConfig({ rank, alpha, products, base }: AdapterShape): Readonly<Record<string, unknown>> {
  return {
    peft_type: "LORA",
    task_type: "CAUSAL_LM",
    base_model_name_or_path: base,
    r: rank,
    lora_alpha: alpha,
    target_modules: products.map(({ module }) => module.replace(/^.*\./, "")),
    lora_dropout: 0,
    bias: "none",
    fan_in_fan_out: false,
    inference_mode: true,
    init_lora_weights: true,
    use_rslora: false,
    use_dora: false,
    modules_to_save: null,
    rank_pattern: {},
    alpha_pattern: {},
  };
}

function json(value: object): string {
  return `${JSON.stringify(value, undefined, 2)}\n`;
}
