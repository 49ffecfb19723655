// Finds routers and experts of mixtures: experts one by one or stacked in one tensor, under all their names.

import { ReadMeError } from "@readme-moe/core";
import type { MixtureConfig, ModelConfig } from "../config/model-config.ts";
import type { TensorStore } from "../tensor-store.ts";
import { feedForwardRefs, locateWeights } from "./backbone.ts";
import type { ExpertLayout, FeedForwardRefs, LinearRefs, MixtureRefs, ModelWeights } from "./model-weights.ts";
import { tensorRef, type TensorRef } from "./tensor-ref.ts";
import { TensorSlices } from "./tensor-slices.ts";

/** Name of the only expert that a request can name: tokens choose within layers. */
export const MIXTURE_NAME = "mixture";

/** Names of a layer's router, behind `model.layers.N.`; the experts are in the same module. */
const ROUTERS = [
  { module: "mlp", router: "mlp.gate.weight" },
  { module: "block_sparse_moe", router: "block_sparse_moe.gate.weight" },
  { module: "block_sparse_moe", router: "block_sparse_moe.router.layer.weight" },
] as const;

/** Names of one expert's products, behind `experts.N.`: gate, up, down. */
const SEPARATE = [
  ["gate_proj", "up_proj", "down_proj"],
  ["w1", "w3", "w2"],
] as const;

/**
 * Names of tensors of all experts. Gate and up are `[numExperts, expertSize, hiddenSize]`, or one tensor with the rows
 * of gate before those of up; down is `[numExperts, hiddenSize, expertSize]`.
 */
const STACKED: readonly StackedNames[] = [
  // GGUF files.
  { gate: "experts.gate_proj.weight", up: "experts.up_proj.weight", down: "experts.down_proj.weight" },
  { gateUp: "experts.gate_up_proj.weight", down: "experts.down_proj.weight" },
  // transformers 5.
  { gateUp: "experts.gate_up_proj", down: "experts.down_proj" },
  // Granite.
  { gateUp: "input_linear.weight", down: "output_linear.weight" },
];

type StackedNames =
  | { readonly gate: string; readonly up: string; readonly down: string }
  | { readonly gateUp: string; readonly down: string };

/** A layer of a checkpoint. */
interface LayerPlace {
  readonly store: TensorStore;
  /** Module with the experts, such as `model.layers.3.mlp.`. */
  readonly prefix: string;
  readonly hiddenSize: number;
  readonly mixture: MixtureConfig;
}

/**
 * Finds the tensors of a mixture. Layers that are none are as in a dense checkpoint.
 *
 * @throws {ReadMeError} `ERR_MODEL_INVALID` naming the first tensor that is missing or has another shape
 */
export function locateMixture(
  store: TensorStore,
  config: ModelConfig,
  mixture: MixtureConfig,
): { readonly experts: ExpertLayout; readonly weights: ModelWeights } {
  const { intermediateSize, hiddenSize, hasMlpBias: hasBias, layers } = config;
  const { expertSize, expertsPerToken } = mixture;
  return {
    experts: {
      names: [MIXTURE_NAME],
      expertSizes: layers.map(({ isMixture }) => (isMixture ? expertsPerToken * expertSize : intermediateSize)),
      sharedSizes: layers.map(() => 0),
    },
    weights: locateWeights(store, config, (layer) => {
      const prefix = `model.layers.${layer}.`;
      if (layers[layer]?.isMixture) {
        return { shared: undefined, experts: [], mixture: locateLayer(store, prefix, hiddenSize, mixture) };
      }
      const size = { size: intermediateSize, hiddenSize, hasBias };
      return { shared: undefined, experts: [feedForwardRefs(store, { prefix: `${prefix}mlp.` }, size)] };
    }),
  };
}

function locateLayer(store: TensorStore, prefix: string, hiddenSize: number, mixture: MixtureConfig): MixtureRefs {
  const names = ROUTERS.find(({ router }) => store.has(prefix + router));
  if (names === undefined) {
    const known = ROUTERS.map(({ router }) => router).join(", ");
    throw new ReadMeError("ERR_MODEL_INVALID", `${store.path}: has no router ${prefix}… of the names ${known}`);
  }
  const place = { store, prefix: `${prefix}${names.module}.`, hiddenSize, mixture };
  const stacked = STACKED.find((one) => Object.values(one).every((name: string) => store.has(place.prefix + name)));
  return {
    router: tensorRef(store, prefix + names.router, [mixture.numExperts, hiddenSize]),
    experts: stacked ? stackedExperts(place, stacked) : separateExperts(place),
  };
}

function separateExperts({ store, prefix, hiddenSize, mixture }: LayerPlace): readonly FeedForwardRefs[] {
  const { numExperts, expertSize } = mixture;
  const isNamed = ([gate]: (typeof SEPARATE)[number]): boolean => store.has(`${prefix}experts.0.${gate}.weight`);
  const [gate, up, down] = SEPARATE.find(isNamed) ?? SEPARATE[0];
  return Array.from({ length: numExperts }, (_, expert) => {
    const linear = (name: string, shape: readonly number[]): LinearRefs =>
      withoutBias(tensorRef(store, `${prefix}experts.${expert}.${name}.weight`, shape));
    return {
      gate: linear(gate, [expertSize, hiddenSize]),
      up: linear(up, [expertSize, hiddenSize]),
      down: linear(down, [hiddenSize, expertSize]),
    };
  });
}

function stackedExperts(place: LayerPlace, names: StackedNames): readonly FeedForwardRefs[] {
  const { store, prefix, hiddenSize, mixture } = place;
  const { numExperts, expertSize } = mixture;
  const slices = new TensorSlices(store.path);
  const stack = (name: string, rows: number, columns: number): TensorRef =>
    tensorRef(store, prefix + name, [numExperts, rows, columns]);
  const isFused = "gateUp" in names;
  const gate = isFused ? stack(names.gateUp, 2 * expertSize, hiddenSize) : stack(names.gate, expertSize, hiddenSize);
  const up = isFused ? gate : stack(names.up, expertSize, hiddenSize);
  const down = stack(names.down, hiddenSize, expertSize);
  const firstUp = isFused ? expertSize : 0;
  return Array.from({ length: numExperts }, (_, matrix) => {
    const slice = (name: string, source: TensorRef, from: number, to: number): LinearRefs =>
      withoutBias(slices.add(`${prefix}experts.${matrix}.${name}.weight`, source, { matrix, rows: { from, to } }));
    return {
      gate: slice("gate_proj", gate, 0, expertSize),
      up: slice("up_proj", up, firstUp, firstUp + expertSize),
      down: slice("down_proj", down, 0, hiddenSize),
    };
  });
}

function withoutBias(weight: TensorRef): LinearRefs {
  return { weight, bias: undefined };
}
