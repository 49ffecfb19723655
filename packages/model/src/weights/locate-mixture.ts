// Finds routers and experts of mixtures: experts one by one or stacked in one tensor, under all their names.

import { type MixtureConfig, type ModelConfig } from "../config/model-config.ts";
import { invalid } from "../files/errors.ts";
import { type TensorStore } from "../tensor-store.ts";
import { computedTensor, joinRows, selectRows, transposed } from "./computed-tensors.ts";
import { feedForwardRefs, locateWeights, PRODUCTS, type ProductNames } from "./locate-weights.ts";
import {
  type ExpertLayout,
  type FeedForwardRefs,
  type LinearRefs,
  type MixtureRefs,
  type ModelWeights,
  tensorRef,
  type TensorRef,
} from "./model-weights.ts";
import { matricesOf, SHARED_MODULE, splitFused, type TensorPart, TensorParts } from "./tensor-parts.ts";

/** Name of the only expert that a request can name: tokens choose within layers. */
export const MIXTURE_NAME = "mixture";

/** Names of a layer's router, behind `model.layers.N.`; the experts are in the same module. */
const ROUTERS = [
  { module: "mlp", router: "mlp.gate.weight" },
  { module: "mlp", router: "mlp.router.weight" },
  { module: "block_sparse_moe", router: "block_sparse_moe.gate.weight" },
  { module: "block_sparse_moe", router: "block_sparse_moe.router.layer.weight" },
] as const;

const SEPARATE: readonly ProductNames[] = [PRODUCTS, ["w1", "w3", "w2"]];

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
  checkpoint: TensorStore,
  config: ModelConfig,
  mixture: MixtureConfig,
): { readonly experts: ExpertLayout; readonly weights: ModelWeights } {
  const { intermediateSize, hiddenSize, hasMlpBias: hasBias, layers } = config;
  const { expertSize, expertsPerToken, sharedSize } = mixture;
  const store = splitFused(checkpoint, config);
  return {
    experts: {
      names: [MIXTURE_NAME],
      expertSizes: layers.map(({ isMixture }) => (isMixture ? expertsPerToken * expertSize : intermediateSize)),
      sharedSizes: layers.map(({ isMixture }) => (isMixture ? sharedSize : 0)),
    },
    weights: locateWeights(store, config, (layer) => {
      const prefix = `model.layers.${layer}.`;
      if (layers[layer]?.isMixture) {
        const place = { prefix: `${prefix}${mixture.hasOwnNorms ? "mlp" : SHARED_MODULE}.` };
        const sizes = { size: layers[layer]?.ffnSize ?? sharedSize, hiddenSize, hasBias };
        const shared = sharedSize === 0 ? undefined : feedForwardRefs(store, place, sizes);
        return { shared, experts: [], mixture: locateLayer(store, prefix, hiddenSize, mixture) };
      }
      const size = { size: intermediateSize, hiddenSize, hasBias };
      return { shared: undefined, experts: [feedForwardRefs(store, { prefix: `${prefix}mlp.` }, size)] };
    }),
  };
}

function locateLayer(store: TensorStore, prefix: string, hiddenSize: number, mixture: MixtureConfig): MixtureRefs {
  const names = ROUTERS.find(({ router }) => store.has(prefix + router));
  const known = ROUTERS.map(({ router }) => router).join(", ");
  if (names === undefined) throw invalid(store.path, `has no router ${prefix}… of the names ${known}`);
  const place = { store, prefix: `${prefix}${names.module}.`, hiddenSize, mixture };
  const separate = SEPARATE.find(([gate]) => store.has(`${place.prefix}experts.0.${gate}.weight`));
  const stacked = STACKED.find((one) => Object.values(one).every((name: string) => store.has(place.prefix + name)));
  const own = mixture.hasOwnNorms ? ownNorms(store, prefix, hiddenSize, mixture) : undefined;
  const stored = tensorRef(store, prefix + names.router, [mixture.numExperts, hiddenSize]);
  const router = own ? scaledRouter(stored, own.inputScales, own.norms.input) : stored;
  const bias = `${prefix}${names.router.replace(/weight$/, "bias")}`;
  return {
    routerBias: mixture.hasBiases ? tensorRef(store, bias, [mixture.numExperts]) : undefined,
    biases: mixture.sigmoids?.hasBiases ? biasesOf(place) : undefined,
    router: withSharedGate(store, prefix, router),
    norms: own?.norms,
    expertScales: own?.expertScales,
    experts: store.has(`${place.prefix}experts.gate_up_proj_bias`)
      ? interleavedExperts(place)
      : stacked
        ? withBiases(place, stackedExperts(place, stacked))
        : expertRefs(place, separate),
  };
}

/** Finds the norms of Gemma 4's mixtures, and the factors of what the router reads and of the experts' weights. */
function ownNorms(store: TensorStore, prefix: string, hiddenSize: number, { numExperts }: MixtureConfig) {
  const norm = (name: string): TensorRef => tensorRef(store, `${prefix}${name}.weight`, [hiddenSize]);
  return {
    norms: {
      input: norm("pre_feedforward_layernorm_2"),
      sharedOutput: norm("post_feedforward_layernorm_1"),
      output: norm("post_feedforward_layernorm_2"),
    },
    inputScales: tensorRef(store, `${prefix}mlp.gate.scale`, [hiddenSize]),
    expertScales: tensorRef(store, `${prefix}mlp.gate.per_expert_scale`, [numExperts]),
  };
}

/**
 * Multiplies a router's columns by the factors of its inputs, which have none of the scales that the norm of experts'
 * inputs has.
 *
 * @throws {ReadMeError} `ERR_MODEL_INVALID` when it is read and one of these is 0
 */
function scaledRouter(router: TensorRef, inputScales: TensorRef, inputNorm: TensorRef): TensorRef {
  const { store, name, shape } = router;
  const [, width = 0] = shape;
  return computedTensor(router, shape, async (rows) => {
    const [values, factors, scales] = await Promise.all([
      store.readFloats(name, rows),
      inputScales.store.readFloats(inputScales.name),
      inputNorm.store.readFloats(inputNorm.name),
    ]);
    if (scales.includes(0)) throw invalid(store.path, `tensor ${inputNorm.name} has a scale of 0`);
    return values.map((value, at) => (value * factors[at % width]!) / (scales[at % width]! * Math.sqrt(width)));
  });
}

/** Finds the biases by expert that choose with sigmoids; GGUF files name them as a product's. */
function biasesOf({ store, prefix, mixture: { numExperts } }: LayerPlace): TensorRef {
  const name = `${prefix}expert_bias`;
  return tensorRef(store, store.has(name) ? name : `${name}.bias`, [numExperts]);
}

/** Adds the row of the gate of the part that all tokens use, if the layer has one. GGUF files have it as a vector. */
function withSharedGate(store: TensorStore, prefix: string, router: TensorRef): TensorRef {
  const name = `${prefix}${SHARED_MODULE}_gate.weight`;
  if (!store.has(name)) return router;
  const [, ...width] = router.shape;
  return joinRows(router, tensorRef(store, name, store.info(name).shape.length === 1 ? width : [1, ...width]));
}

function expertRefs(
  { store, prefix, hiddenSize, mixture: { numExperts, expertSize } }: LayerPlace,
  products: ProductNames = PRODUCTS,
): readonly FeedForwardRefs[] {
  return Array.from({ length: numExperts }, (_, expert) => {
    const place = { prefix: `${prefix}experts.${expert}.`, products };
    return feedForwardRefs(store, place, { size: expertSize, hiddenSize, hasBias: false });
  });
}

function stackedExperts(place: LayerPlace, names: StackedNames): readonly FeedForwardRefs[] {
  const { store, prefix, hiddenSize, mixture } = place;
  const { numExperts, expertSize } = mixture;
  const stack = (name: string, rows: number, columns: number): TensorRef =>
    tensorRef(store, prefix + name, [numExperts, rows, columns]);
  const isFused = "gateUp" in names;
  const gate = isFused ? stack(names.gateUp, 2 * expertSize, hiddenSize) : stack(names.gate, expertSize, hiddenSize);
  const up = isFused ? gate : stack(names.up, expertSize, hiddenSize);
  const down = stack(names.down, hiddenSize, expertSize);
  const firstUp = isFused ? expertSize : 0;
  const products = [
    { name: "gate_proj", source: gate, from: 0, to: expertSize },
    { name: "up_proj", source: up, from: firstUp, to: firstUp + expertSize },
    { name: "down_proj", source: down, from: 0, to: hiddenSize },
  ];
  const parts = new Map<string, TensorPart>();
  for (let expert = 0; expert < numExperts; expert++) {
    for (const { name, source, from, to } of products) {
      const first = expert * (source.shape[1] ?? 0);
      const rows = { from: first + from, to: first + to, axes: 2 };
      parts.set(`${prefix}experts.${expert}.${name}.weight`, { of: source.name, rows });
    }
  }
  return expertRefs({ ...place, store: new TensorParts(store, parts) });
}

/** Adds the biases of stacked experts, `[numExperts, rows]`. */
function withBiases({ store, prefix, mixture }: LayerPlace, experts: readonly FeedForwardRefs[]) {
  if (!mixture.hasBiases) return experts;
  return experts.map((refs, expert): FeedForwardRefs => {
    const [gate, up, down] = PRODUCTS.map((name) => `${prefix}experts.${name}.bias`);
    const biased = ({ weight }: LinearRefs, name: string): LinearRefs => {
      const numRows = weight.shape[0] ?? 0;
      return {
        weight,
        bias: vectorOf(tensorRef(store, name, [mixture.numExperts, numRows]), expert, everyRow(numRows)),
      };
    };
    return { gate: biased(refs.gate, gate!), up: biased(refs.up, up!), down: biased(refs.down, down!) };
  });
}

function everyRow(count: number, step = 1, first = 0): readonly number[] {
  return Array.from({ length: count }, (_, row) => first + step * row);
}

/** Takes some numbers of one row of a matrix as a vector. */
function vectorOf(matrix: TensorRef, row: number, places: readonly number[]): TensorRef {
  return computedTensor(matrix, [places.length], async ({ from, to }) => {
    const values = await matrix.store.readFloats(matrix.name, { from: row, to: row + 1 });
    return Float32Array.from(places.slice(from, to), (place) => values[place]!);
  });
}

/**
 * Finds the experts of gpt-oss: rows of gate and up alternate. In MXFP4 a tensor has an expert's rows as others do, in
 * floats an expert's matrix is transposed.
 */
function interleavedExperts({ store, prefix, hiddenSize, mixture }: LayerPlace): readonly FeedForwardRefs[] {
  const { numExperts, expertSize } = mixture;
  const stack = (name: string, rows: number, columns: number): readonly TensorRef[] => {
    const whole = `${prefix}experts.${name}`;
    if (store.info(whole).type === "MXFP4") return matricesOf(tensorRef(store, whole, [numExperts, rows, columns]));
    const turned = tensorRef(store, whole, [numExperts, columns, rows]);
    const experts = Array.from({ length: numExperts }, (_, expert) => ({ from: expert, to: expert + 1 }));
    return experts.map((expert) => transposed(turned, expert, [rows, columns]));
  };
  const gatesUps = stack("gate_up_proj", 2 * expertSize, hiddenSize);
  const downs = stack("down_proj", hiddenSize, expertSize);
  const gateUpBias = tensorRef(store, `${prefix}experts.gate_up_proj_bias`, [numExperts, 2 * expertSize]);
  const downBias = tensorRef(store, `${prefix}experts.down_proj_bias`, [numExperts, hiddenSize]);
  return gatesUps.map((gateUp, expert): FeedForwardRefs => {
    const [gate, up] = [0, 1].map((first): LinearRefs => {
      const rows = everyRow(expertSize, 2, first);
      return { weight: selectRows(gateUp, rows), bias: vectorOf(gateUpBias, expert, rows) };
    });
    const weight = downs[expert]!;
    return { gate: gate!, up: up!, down: { weight, bias: vectorOf(downBias, expert, everyRow(hiddenSize)) } };
  });
}
