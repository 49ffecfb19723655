import type { TensorRef } from "../weights/model-weights.ts";

/** A product of a layer that a low-rank expert can change. */
export type LowRankProduct = "query" | "key" | "value" | "attentionOutput" | "gate" | "up" | "down";

/** The change of one product: `y = x · weightᵀ + scale · (x · aᵀ) · bᵀ`. */
export interface LowRankRefs {
  /** `[rank, in]` */
  readonly a: TensorRef;
  /** `[out, rank]` */
  readonly b: TensorRef;
  readonly rank: number;
  /** alpha / rank, or alpha / √rank for rank-stabilised adapters. */
  readonly scale: number;
}

/** An opened adapter over a dense model: everything is checked and located, no weight is read yet. */
export interface LowRankExpert {
  readonly name: string;
  /** The adapter's folder. */
  readonly path: string;
  /** One per layer of the model; products without a change are absent. */
  readonly layers: readonly Readonly<Partial<Record<LowRankProduct, LowRankRefs>>>[];
  /** The change of the head, also where the model's head is its embedding table. */
  readonly head: LowRankRefs | undefined;
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

/** Returns what the name of a low-rank expert has to be, when `name` is none. */
export function expertNameProblem(name: unknown): string | undefined {
  if (typeof name !== "string" || !NAME.test(name)) {
    return "1 to 64 letters, digits, `.`, `_` and `-`, the first a letter or digit";
  }
  return RESERVED.includes(name) ? "other than `none` and `router`" : undefined;
}
