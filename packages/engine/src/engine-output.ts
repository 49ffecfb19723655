import type { GenerateChunk, ReadMeEvents } from "@readme-moe/core";
import type { Sequence } from "./sequence.ts";

/** What the engine tells the outside; nothing of it may throw. */
export interface EngineOutput {
  /** The sequence's prompt is routed, and waits for KV memory. */
  accepted(sequence: Sequence): void;
  chunk(sequence: Sequence, chunk: GenerateChunk): void;
  /** A row for the sequence's caller to change, who owns it from now on; `EngineCore.answer` takes what becomes of it. */
  logits(sequence: Sequence, rowId: number, logits: Float32Array<ArrayBuffer>): void;
  /** The sequence ended without being finished. */
  failed(sequence: Sequence, error: unknown): void;
  event<Name extends keyof ReadMeEvents>(name: Name, payload: Parameters<ReadMeEvents[Name]>[0]): void;
}
