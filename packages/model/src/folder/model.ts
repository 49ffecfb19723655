import type { ModelConfig } from "../config/model-config.ts";
import type { TensorStore } from "../tensor-store.ts";
import type { ModelText } from "../text/load-text.ts";
import type { ExpertLayout, ModelWeights } from "../weights/model-weights.ts";
import type { RouterWeights } from "../weights/router-weights.ts";

/** Which layout the weights came in. */
export type ModelKind =
  /** A dense checkpoint: Hugging Face folder or GGUF file. */
  | "dense"
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
  /** `undefined` for dense models, and for conversions that come without one. */
  readonly router: RouterWeights | undefined;
  /** Files that weights and shapes come from. */
  readonly files: readonly string[];
  /** Hex hash of the contents of `files`; `cacheFolder` remembers it. */
  fingerprint(cacheFolder: string): Promise<string>;
  /** Tokenizer and chat template, read once. @throws {ReadMeError} when the model has no usable tokenizer */
  loadText(): Promise<ModelText>;
  close(): Promise<void>;
}

/** What a layout says of a folder; `stores` are closed with the model. */
export type Located = Pick<Model, "kind" | "experts" | "weights" | "router" | "files"> & {
  readonly stores: readonly TensorStore[];
};
