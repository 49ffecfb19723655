import { join } from "node:path";
import type { SamplingDefaults } from "@readme-moe/core";
import type { ModelConfig } from "../config/model-config.ts";
import type { LowRankSet } from "../low-rank/low-rank-set.ts";
import type { TensorStore } from "../tensor-store.ts";
import type { ModelText } from "../text/load-text.ts";
import type { ExpertLayout, ModelWeights } from "../weights/model-weights.ts";
import type { RouterWeights } from "../weights/router-weights.ts";

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
  readonly lowRank: LowRankSet | undefined;
  /** Files that determine weights and shapes, those of `lowRank` not included. */
  readonly files: readonly string[];
  /** Returns a hash in hex of the contents of `files`, which `cacheFolder` remembers. */
  fingerprint(cacheFolder: string): Promise<string>;
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

/** Files that say what a model gives for a whole text, modules' configs under their usual names. */
const POOLING_FILES: readonly string[] = [
  MODULES_FILE,
  PROMPTS_FILE,
  "1_Pooling/config.json",
  "1_LogitScore/config.json",
];

/** Optional files beside config and weights. */
export const TEXT_FILES: readonly string[] = [
  "generation_config.json",
  "tokenizer.json",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "chat_template.jinja",
  ...POOLING_FILES,
];
