// What `child.ts` does in a process of its own, and what it answers: plain JSON both.

import type { Precision } from "@readme-moe/model";
import type { DecodeCase } from "../decode-steps.ts";
import type { Shape } from "../random-model.ts";
import type { MachineFigures } from "./machine.ts";

/** A model by its path, or one of random weights. */
export type ModelSpec =
  | { readonly path: string }
  | { readonly shape: Shape; readonly numExperts: number; readonly expertSize: number };

interface DecodeJob {
  readonly model: ModelSpec;
  readonly precision: Precision;
  readonly threads: number;
  readonly cacheFolder: string | undefined;
  readonly cases: readonly DecodeCase[];
  readonly rounds: number;
}

/** Models whose steps take turns. */
interface TurnsJob {
  readonly kind: "turns";
  readonly models: readonly ModelSpec[];
  readonly precision: Precision;
  readonly threads: number;
  readonly cacheFolder: string | undefined;
  readonly numSeqs: number;
  /** Tokens before each step, of each sequence. */
  readonly past: number;
  /** What takes turns. `model` counts in `models`. */
  readonly entries: readonly { readonly model: number; readonly distinct: number }[];
  readonly rounds: number;
}

/** One sequence's steps, and reading memory, by turns. */
interface ReadingJob extends Omit<DecodeJob, "cases"> {
  readonly kind: "reading";
  /** Tokens before each step. */
  readonly past: number;
}

/** Of one round: what a step reads over the time that it takes, and how fast memory was read just before and after. */
export interface ReadingRound {
  readonly stepMs: number;
  readonly stepGBPerS: number;
  readonly readGBPerS: number;
}

export type Job =
  | { readonly kind: "machine"; readonly threads: number; readonly isQuick: boolean }
  | TurnsJob
  | ReadingJob
  | (DecodeJob & { readonly kind: "engine" });

/** Medians over steps, in milliseconds; they add up to a step, but for what medians do. */
export interface EngineFigures {
  readonly step: number;
  readonly parts: Readonly<Record<EnginePart, number>>;
}

export const ENGINE_PARTS = ["forward pass", "router", "scheduling", "sampling, events"] as const;
export type EnginePart = (typeof ENGINE_PARTS)[number];

export interface Answers {
  readonly machine: MachineFigures;
  /** Milliseconds of each entry's steps, by round. */
  readonly turns: readonly (readonly number[])[];
  readonly reading: readonly ReadingRound[];
  readonly engine: readonly EngineFigures[];
}
