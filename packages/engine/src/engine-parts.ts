import type { CostModel, GenerateChunk, ReadMeEvents, Residency, Scheduler, SchedulerLimits } from "@readme-moe/core";
import type { Tokenizer } from "@readme-moe/model";
import type { Classifier } from "./classifier.ts";
import type { KvAdmission } from "./kv-admission.ts";
import type { SavedPrefixes } from "./saved-prefixes.ts";
import type { Sequence } from "./sequence.ts";
import type { Speculation } from "./speculation/speculation.ts";
import type { StepRunner } from "./step-runner.ts";

export interface EngineParts {
  readonly runner: StepRunner;
  readonly tokenizer: Tokenizer;
  readonly admission: KvAdmission;
  /** Chunks of prompts on disk. @default none */
  readonly saved?: SavedPrefixes | undefined;
  readonly scheduler: Scheduler;
  /** Predicted costs of steps before any has run. @default DEFAULT_COST_MODEL */
  readonly cost?: CostModel | undefined;
  readonly limits: SchedulerLimits;
  readonly residency?: Residency;
  /** Drafts tokens that steps verify. @default each step gives a sequence at most one token */
  readonly speculation?: Speculation | undefined;
  /** Layers from the state of a text to its scores or its embedding. @default states are the results */
  readonly classifier?: Classifier | undefined;
  /** Largest number of tokens of one sequence, prompt included. */
  readonly contextTokens: number;
  readonly output: EngineOutput;
  /** Clock in ms. */
  readonly now: () => number;
}

/** A piece of a sequence's result. */
export interface EngineChunk extends GenerateChunk {
  /** Outputs of the model for a whole prompt, of a sequence that ends after it. */
  readonly pooled?: Float32Array<ArrayBuffer>;
}

/** A row of logits for the caller, who owns and changes it; or a draft, of which the caller says what is allowed. */
export type CallerQuestion =
  | { readonly logits: Float32Array<ArrayBuffer> }
  | { readonly draft: Int32Array<ArrayBuffer> };

/** Receives the results of an `EngineCore`. No method may throw. */
export interface EngineOutput {
  /** Reports that the sequence's prompt is routed and waits for KV memory. */
  accepted(sequence: Sequence): void;
  /**
   * Reports that a step begins, or has continued, to read a prompt that the step does not end, or that another sequence
   * reads its beginning.
   */
  reading(sequence: Sequence): void;
  chunk(sequence: Sequence, chunk: EngineChunk): void;
  /** Receives a question to the sequence's caller. `EngineCore.answer` takes the answer. */
  ask(sequence: Sequence, questionId: number, question: CallerQuestion): void;
  /** Reports that the sequence ended because of an error. */
  failed(sequence: Sequence, error: unknown): void;
  event<Name extends keyof ReadMeEvents>(name: Name, payload: Parameters<ReadMeEvents[Name]>[0]): void;
}
