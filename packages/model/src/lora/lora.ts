// Loras: low-rank experts of a dense model, adapters in the layout of PEFT; and sets of them with a router.

import type { RouterWeights } from "../weights/locate-router.ts";
import type { TensorRef } from "../weights/model-weights.ts";

/** A product of a layer that a lora can change. */
export type LoraProduct = "query" | "key" | "value" | "attentionOutput" | "gate" | "up" | "down";

/** The change of one product: `y = x · weightᵀ + scale · (x · aᵀ) · bᵀ`. */
export interface LoraRefs {
  /** `[rank, in]` */
  readonly a: TensorRef;
  /** `[out, rank]` */
  readonly b: TensorRef;
  readonly rank: number;
  /** alpha / rank, or alpha / √rank for rank-stabilised adapters. */
  readonly scale: number;
}

/** An opened adapter over a dense model: everything is checked and located, no weight is read yet. */
export interface Lora {
  readonly name: string;
  /** The adapter's folder. */
  readonly path: string;
  /** One per layer of the model; products without a change are absent. */
  readonly layers: readonly Readonly<Partial<Record<LoraProduct, LoraRefs>>>[];
  /** The change of the head, also where the model's head is its embedding table. */
  readonly head: LoraRefs | undefined;
  /** Files that determine the expert. */
  readonly files: readonly string[];
  readonly numParameters: number;
  readonly maxRank: number;
  /** Returns a hash in hex of the contents of `files`, which `cacheFolder` remembers. */
  fingerprint(cacheFolder: string): Promise<string>;
  close(): Promise<void>;
}

/** Largest rank of a change. */
export const MAX_RANK = 256;

/** Names of the files of an adapter's folder, as PEFT writes them. */
export const ADAPTER_CONFIG_FILE = "adapter_config.json";
export const ADAPTER_FILE = "adapter_model.safetensors";

const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;
/** Names that requests use for something else. */
const RESERVED: readonly string[] = ["none", "router"];

/** Returns what the name of a lora has to be, when `name` is none. */
export function expertNameProblem(name: unknown): string | undefined {
  if (typeof name !== "string" || !NAME.test(name)) {
    return "1 to 64 letters, digits, `.`, `_` and `-`, the first a letter or digit";
  }
  return RESERVED.includes(name) ? "other than `none` and `router`" : undefined;
}

/** An expert of a set, not opened yet. */
export interface ListedExpert {
  readonly name: string;
  /** The adapter's folder. */
  readonly path: string;
}

/** The loras of a dense model, and the router that chooses among them. */
export interface LoraSet {
  /** The folder with read-me-experts.json. */
  readonly path: string;
  readonly experts: readonly ListedExpert[];
  /** Has one output more than there are experts: the first is the model without a change, "none". */
  readonly router: RouterWeights | undefined;
  /** Returns a hash in hex of the router's config and tensors, which `cacheFolder` remembers. */
  fingerprint(cacheFolder: string): Promise<string>;
  close(): Promise<void>;
}

/** Name of the file that makes a folder an expert set. */
export const SET_FILE = "read-me-experts.json";

/** Folder of a set's adapters. */
export const ADAPTERS_FOLDER = "experts";

/** Most experts of a set, so that a token's expert fits in 16 bits beside "none". */
export const MAX_EXPERTS = 65_535;
