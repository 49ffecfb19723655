import type { Engine, EngineInfo } from "./engine.ts";

/** Facts about a model that are known without its weights. */
export type PromptInfo = Omit<
  EngineInfo,
  "precision" | "maxNumSeqs" | "kvCapacityTokens" | "kernel" | "promptVersion" | "modelVersion"
> & { readonly promptVersion: string };

/**
 * Turns prompts of a model into tokens and experts, and tokens into text, without the model's weights. Its methods are
 * those of `Engine`.
 */
export interface PromptReader
  extends Pick<Engine, "tokenize" | "detokenize" | "applyTemplate" | "vocabulary" | "route">, AsyncDisposable {
  readonly info: PromptInfo;
  /** Ends all work; calls under way fail with `ERR_DISPOSED`. */
  dispose(): Promise<void>;
}
