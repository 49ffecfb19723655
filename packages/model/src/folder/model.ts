import { createHash } from "node:crypto";
import { join } from "node:path";
import { integerOption, type SamplingDefaults } from "@readme-moe/core";
import type { OnHashed } from "../cache/cached-data.ts";
import { invalid } from "../files/errors.ts";
import { type ModelConfig, ropeForContext } from "../config/model-config.ts";
import type { LoraSet } from "../lora/lora.ts";
import { SafetensorsFile } from "../safetensors/safetensors-file.ts";
import type { TensorStore } from "../tensor-store.ts";
import type { ModelText } from "../text/load-text.ts";
import type { RouterWeights } from "../weights/locate-router.ts";
import type { ExpertLayout, ModelWeights, TensorRef } from "../weights/model-weights.ts";

/** Layout of the weights of a model. */
type ModelKind =
  /** A dense checkpoint: Hugging Face folder or GGUF file. */
  | "dense"
  /** A checkpoint whose layers choose among their experts, such as Mixtral: Hugging Face folder or GGUF file. */
  | "mixture"
  /** A dense decoder that gives embeddings or scores: Hugging Face folder or GGUF file. */
  | "pooling"
  /** A checkpoint that the paper's own code converted. */
  | "official"
  /** A Read-ME model folder. */
  | "read-me";

/** An opened model: everything is checked and located, no weight is read yet. */
export interface Model {
  /** The folder or the GGUF file. */
  readonly path: string;
  readonly kind: ModelKind;
  readonly config: ModelConfig;
  readonly experts: ExpertLayout;
  readonly weights: ModelWeights;
  /** `undefined` for dense models, and for conversions without a router. */
  readonly router: RouterWeights | undefined;
  /** The experts in the folder of a dense model; `undefined` when it has no read-me-experts.json. */
  readonly loraSet: LoraSet | undefined;
  /** Files that determine weights and shapes, those of `loraSet` not included. */
  readonly files: readonly string[];
  /**
   * Returns a hash in hex of the contents of `files`, which `cacheFolder` remembers.
   * @param onHashed - called while a large file is hashed
   */
  fingerprint(cacheFolder: string, onHashed?: OnHashed): Promise<string>;
  /**
   * Returns the sampling parameters that the model's files recommend.
   * @throws {ReadMeError} `ERR_MODEL_INVALID` when a value is impossible
   */
  samplingDefaults(): SamplingDefaults;
  /** Loads tokenizer and chat template once. @throws {ReadMeError} when the model has no usable tokenizer */
  loadText(): Promise<ModelText>;
  close(): Promise<void>;
}

/** The part of an opened model that depends on its layout; `stores` are closed with the model. */
export type Located = Pick<Model, "kind" | "experts" | "weights" | "router" | "files"> & {
  readonly stores: readonly TensorStore[];
};

// Names of the files of a model folder.
export const CONFIG_FILE = "config.json";
export const SINGLE_FILE = "model.safetensors";
export const INDEX_FILE = "model.safetensors.index.json";
export const BACKBONE_FILE = "backbone.safetensors";
export const ROUTER_FILE = "router.safetensors";
export const expertFile = (expert: number): string => join("experts", `${expert}.safetensors`);

/** Modules of sentence-transformers, and the texts that go before inputs. */
export const MODULES_FILE = "modules.json";
export const PROMPTS_FILE = "config_sentence_transformers.json";
/** Length that texts are cut to. */
export const LENGTH_FILE = "sentence_bert_config.json";

/** Files that say what a model gives for a whole text, modules' configs under their usual names. */
const POOLING_FILES: readonly string[] = [
  MODULES_FILE,
  PROMPTS_FILE,
  LENGTH_FILE,
  "1_Pooling/config.json",
  "1_LogitScore/config.json",
];

/** Further weights that sentence-transformers has between Pooling and Normalize, under their usual names. */
export const DENSE_FILES: readonly string[] = ["2_Dense", "3_Dense"].flatMap((folder) => [
  `${folder}/${CONFIG_FILE}`,
  `${folder}/${SINGLE_FILE}`,
]);

/** Optional files beside config and weights. */
export const TEXT_FILES: readonly string[] = [
  "generation_config.json",
  "tokenizer.json",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "chat_template.jinja",
  ...POOLING_FILES,
];

// Properties that follow from the kind of a model.

/**
 * Tells whether a model is a checkpoint as its authors published it. All its tokens have the same
 * expert, and loras can be used over it.
 */
export function isPublished({ kind }: Pick<Model, "kind">): boolean {
  return kind === "dense" || kind === "mixture" || kind === "pooling";
}

/** Tells whether a model is dense and all its layers are attention as refactoring, tuning and exports compute it. */
export function isPlain({ kind, config }: Pick<Model, "kind" | "config">): boolean {
  return kind === "dense" && !config.recurrence && !config.caps && !config.normsValues;
}

/** Describes a model that is not dense, for messages: "a mixture of 8 experts in each layer (mixtral)". */
export function describeMixture({ kind, config, experts }: Pick<Model, "kind" | "config" | "experts">): string {
  const { mixture, modelType, pooling } = config;
  if (pooling)
    return `a model that gives ${{ embedding: "embeddings", score: "scores", labels: "labels" }[pooling.kind]} (${modelType})`;
  if (config.recurrence) return `a hybrid, with layers without attention (${modelType})`;
  if (config.caps) return `a model with bounded scores and logits (${modelType})`;
  if (config.normsValues) return `a model whose layers differ (${modelType})`;
  if (mixture) return `a mixture of ${mixture.numExperts} experts in each layer (${modelType})`;
  return `a mixture of ${experts.names.length} experts (${kind})`;
}

/**
 * Chooses what depends on the context that a model is used with: the divisors of LongRoPE's frequencies, which are
 * others in contexts longer than the original one. Other models stay as they are. `openModel` chooses for the largest
 * context.
 *
 * @param contextTokens - largest number of tokens that a sequence will have, 1 to the model's `contextTokens`
 * @returns the model or one that shares its files, so that closing either closes both
 * @throws {RangeError} for another `contextTokens`
 */
export function forContext(model: Model, contextTokens: number): Model {
  const { config } = model;
  integerOption("contextTokens", contextTokens, 1, config.contextTokens);
  const ropes = config.ropes.map((rope) => ropeForContext(rope, contextTokens));
  if (JSON.stringify(ropes) === JSON.stringify(config.ropes)) return model;
  // Weights may be packed by what the model computes, and then differ.
  const fingerprint: Model["fingerprint"] = async (cacheFolder, onHashed) =>
    createHash("sha256")
      .update(`${await model.fingerprint(cacheFolder, onHashed)} ${JSON.stringify(ropes)}`)
      .digest("hex");
  return { ...model, config: { ...config, ropes }, fingerprint };
}

/** Returns the same result for every call; a failed call may be repeated. */
export function once<Result>(make: () => Promise<Result>): () => Promise<Result> {
  let made: Promise<Result> | undefined;
  return () => {
    made ??= make().catch((error: unknown) => {
      made = undefined;
      throw error;
    });
    return made;
  };
}

/**
 * Reads a whole model and checks what opening it does not: that every weight is a finite number, and that an expert's
 * file holds each layer as one range of bytes.
 *
 * @throws {ReadMeError} `ERR_MODEL_INVALID` naming file and tensor
 */
export async function verifyModel(model: Model): Promise<void> {
  await verifyTensors([model.weights, model.router]);
  if (model.kind !== "read-me") return;
  const expertStores = new Set(model.weights.layers.flatMap((layer) => layer.experts.map((e) => e.gate.weight.store)));
  for (const store of expertStores) if (store instanceof SafetensorsFile) checkContiguousLayers(store);
}

/**
 * Reads all tensors of a tree of references.
 * @throws {ReadMeError} `ERR_MODEL_INVALID` naming the first one with a number that is not finite
 */
export async function verifyTensors(refs: unknown): Promise<void> {
  const seen = new Set<TensorRef>();
  for (const ref of tensorRefs(refs)) {
    if (seen.has(ref)) continue; // a tied head
    seen.add(ref);
    const values = await ref.store.readFloats(ref.name);
    const bad = values.findIndex((value) => !Number.isFinite(value));
    if (bad < 0) continue;
    throw invalid(ref.store.path, `tensor ${ref.name} holds ${values[bad]} at element ${bad}`);
  }
}

function* tensorRefs(refs: unknown): Generator<TensorRef> {
  if (typeof refs !== "object" || refs === null) return;
  if (isTensorRef(refs)) yield refs;
  else for (const inner of Object.values(refs)) yield* tensorRefs(inner);
}

function isTensorRef(value: object): value is TensorRef {
  return "store" in value && "shape" in value;
}

/** @throws {ReadMeError} `ERR_MODEL_INVALID` when a layer's tensors are not one contiguous range of the file */
function checkContiguousLayers(store: SafetensorsFile): void {
  const { path } = store;
  const byOffset = store.names.toSorted((a, b) => store.info(a).offset - store.info(b).offset);
  const finished = new Set<string>();
  let current: string | undefined;
  for (const name of byOffset) {
    const layer = /^model\.layers\.(\d+)\./.exec(name)?.[1];
    if (layer === undefined) throw invalid(path, `${name} is no tensor of an expert`);
    if (layer === current) continue;
    if (current !== undefined) finished.add(current);
    if (finished.has(layer)) {
      throw invalid(path, `the tensors of layer ${layer} are not together in the file`);
    }
    current = layer;
  }
}
