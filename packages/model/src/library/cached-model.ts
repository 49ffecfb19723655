import type { ModelUser } from "../cache/model-index.ts";

/** Data that was made from a model: its packed weights, or those of a router or of a low-rank expert. */
export interface PackedEntry {
  readonly kind: string;
  readonly key: string;
  readonly bytes: number;
}

/** A model that is on this machine. */
export interface CachedModel {
  /** Name for commands and `ReadMeEngine.open`: a short name, else a repository of the hub, else a path. */
  readonly name: string;
  /** Place of its files: the hub's cache, ours (weights of a package), or anywhere else. */
  readonly place: "hub" | "package" | "local";
  readonly kind: "model" | "adapter";
  /** `organisation/name`; `undefined` outside of the hub's cache. */
  readonly repository: string | undefined;
  /** Branches and tags that stand for this commit. */
  readonly revisions: readonly string[];
  readonly commit: string | undefined;
  /** GGUF file in the repository; `undefined` for safetensors. */
  readonly file: string | undefined;
  /** `model_type` of the config, or architecture of the GGUF file; `undefined` when neither can be read. */
  readonly family: string | undefined;
  /** The folder or the GGUF file, as it is opened. */
  readonly path: string;
  /** The model's files, relative to its snapshot; empty outside of caches. */
  readonly files: readonly string[];
  /** Size of the files; 0 outside of caches, where they are not counted. */
  readonly bytes: number;
  /** Whether all files are there; false for interrupted downloads, and for paths that do not exist any more. */
  readonly isComplete: boolean;
  /** Time of the last use that the cache knows of, else of the download, in ms since 1970. */
  readonly lastUsedMs: number;
  readonly packed: readonly PackedEntry[];
  readonly users: readonly ModelUser[];
  /** Paths under which the cache knows the model. */
  readonly indexedPaths: readonly string[];
}

/** Everything on this machine that models take. */
export interface CachedModels {
  /** The last used first. */
  readonly models: readonly CachedModel[];
  /** Packed data of models that the cache does not know, such as those of earlier versions. */
  readonly unclaimed: readonly PackedEntry[];
}

/** A model in a folder of a cache, before the cache's own notes are added. */
export type FoundModel = Omit<CachedModel, "packed" | "users" | "indexedPaths">;
