// What a thread that matches tokens and its owner say to each other.

import type { EngineVocabulary } from "@readme-moe/core";
import type { GrammarSource } from "../grammar-source.ts";

/** What a thread is opened for: one grammar over one vocabulary. */
export interface HomeData {
  readonly vocabulary: EngineVocabulary;
  readonly source: GrammarSource;
  /** Of the library's memory. */
  readonly maxBytes: number;
}

export interface MaskQuestion {
  /** Names one completion; completions do not know of each other. */
  readonly matcher: string;
  /** What was generated so far, from its first token on. */
  readonly tokenIds: Int32Array;
}

export interface HomeFailure {
  readonly message: string;
  /** The library cannot go on in this thread. */
  readonly isFatal: boolean;
  readonly isOutOfMemory: boolean;
}

/** Answers come in the order of the questions; the first is about compiling. */
export type HomeAnswer =
  | { readonly type: "compiled" }
  | { readonly type: "mask"; readonly mask: Int32Array<ArrayBuffer> }
  | ({ readonly type: "failed" } & HomeFailure);
