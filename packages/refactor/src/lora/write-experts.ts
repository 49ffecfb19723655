// Experts as the contents of an expert set: each in PEFT's layout, and the router.

import {
  byteRowTensors,
  encodeF16,
  fromByteRows,
  toByteRows,
  type ExpertSetContent,
  type SafetensorsInput,
} from "@readme-moe/model";
import { EMBEDDING, routerSection, routerTensors } from "../router-training/router-trainer.ts";
import { LEFT, RIGHT } from "../tuning/parameters.ts";
import type { KeptRouter } from "../tuning/tuning-router.ts";
import type { Adapter } from "./adapted-model.ts";
import { graphName, type Product } from "./model-graph.ts";

interface TrainedSet {
  readonly experts: readonly { readonly name: string; readonly adapter: Adapter }[];
  readonly router: RoundedRouter;
  readonly shape: AdapterShape;
}

/** Properties that all experts have in common. */
interface AdapterShape {
  readonly rank: number;
  readonly alpha: number;
  readonly products: readonly Product[];
  /** Name of the dense model. */
  readonly base: string;
}

/** Makes the adapters and the router of a set. */
export function setContent({ experts, router, shape }: TrainedSet): Pick<ExpertSetContent, "experts" | "router"> {
  return {
    experts: experts.map(({ name, adapter }) => ({
      name,
      config: peftConfig(shape),
      tensors: peftTensors(adapter, shape),
    })),
    router: {
      config: { ...routerSection(router.config) },
      tensors: router.tensors,
    },
  };
}

/** A router whose parameters are those of its file. */
interface RoundedRouter extends KeptRouter {
  readonly tensors: readonly SafetensorsInput[];
}

/** Rounds a router's embedding, which is most of it, to a signed byte for each number and a scale for each token. */
export function roundedRouter({ config, parameters }: KeptRouter): RoundedRouter {
  const rows = toByteRows(parameters.get(EMBEDDING)!, config.embeddingSize);
  const others = routerTensors(config, parameters).filter(({ name }) => name !== EMBEDDING);
  return {
    config,
    parameters: new Map([...parameters, [EMBEDDING, fromByteRows(rows)]]),
    tensors: [...byteRowTensors(EMBEDDING, rows), ...others],
  };
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
