import type { ScoreOptions } from "@readme-moe/engine/evaluation";
import type { Tokenizer } from "@readme-moe/model";
import type { OpenedModel } from "../open.ts";
import { showStatus } from "../progress.ts";
import type { EvalFlags } from "./eval-flags.ts";

/** What the parts of an evaluation share. */
export interface EvaluationJob extends OpenedModel {
  readonly tokenizer: Tokenizer;
  readonly flags: EvalFlags;
  readonly signal: AbortSignal;
  /** Shows a result, unless all of them are printed as JSON at the end. */
  readonly print: (line: string) => void;
}

/** Of one file: shows on a terminal how far it is. */
export function withProgress({ signal }: EvaluationJob, name: string): ScoreOptions {
  return { signal, onProgress: ({ sequences, of }) => showStatus(`${name}: ${sequences} of ${of}`) };
}
