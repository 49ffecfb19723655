// Messages between a grammar's thread and its owner.

import type { EngineVocabulary } from "@readme-moe/core";
import type { GrammarSource } from "../grammar-source.ts";

/** Start data of a thread: one grammar over one vocabulary. */
export interface ThreadData {
  readonly vocabulary: EngineVocabulary;
  readonly source: GrammarSource;
  /** Limit of the library's memory. */
  readonly maxBytes: number;
}

export interface MaskQuestion {
  /** Name of a completion; completions are matched independently. */
  readonly matcher: string;
  /** All tokens that were generated so far. */
  readonly tokenIds: Int32Array;
  /** Tokens that the asker would draft; `undefined` if it asks for the next token alone. */
  readonly draft?: Int32Array | undefined;
}

/** The tokens that are allowed next, and after each token of a draft. */
export interface MaskAnswer {
  readonly draft: Int32Array<ArrayBuffer>;
  readonly numForced: number;
  /** `[1 + draft.length, ceil(vocabSize / 32)]`: bit `id` of a mask is set when the token may come. */
  readonly masks: Int32Array<ArrayBuffer>;
}

export interface ThreadFailure {
  readonly message: string;
  /** Whether the library cannot continue in this thread. */
  readonly isFatal: boolean;
  readonly isOutOfMemory: boolean;
}

/** Answers come in the order of the questions; the first answer is about compiling. */
export type ThreadAnswer =
  | { readonly type: "compiled" }
  | ({ readonly type: "mask" } & MaskAnswer)
  | ({ readonly type: "failed" } & ThreadFailure);
