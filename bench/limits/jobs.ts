// Jobs and results of `child.ts`, which runs in its own process. Both are plain JSON.

import type { Precision } from "@readme-moe/model";
import type { DecodeCase } from "../decode-steps.ts";
import type { Shape } from "../random-model.ts";
import type { MachineFigures } from "./machine.ts";

/** Model by its path, or with random weights. */
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
  /** Tokens of each sequence before each step. */
  readonly past: number;
  /** Cases that take turns. `model` is an index into `models`. */
  readonly entries: readonly { readonly model: number; readonly distinct: number }[];
  readonly rounds: number;
}

/** Steps of one sequence that take turns with reading memory. */
interface ReadingJob extends Omit<DecodeJob, "cases"> {
  readonly kind: "reading";
  /** @default the kernel's fastest */
  readonly instructions?: string | undefined;
  /** Tokens before each step. */
  readonly past: number;
}

/** Read rate of a step, and of memory just before and after it, in one round. */
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

/** Medians over steps, in milliseconds; their sum is about a step. */
export interface EngineFigures {
  readonly step: number;
  readonly parts: Readonly<Record<EnginePart, number>>;
}

export const ENGINE_PARTS = ["forward pass", "router", "scheduling", "sampling, events"] as const;
export type EnginePart = (typeof ENGINE_PARTS)[number];

export interface Answers {
  readonly machine: MachineFigures;
  /** Milliseconds of a step of each entry, by round. */
  readonly turns: readonly (readonly number[])[];
  readonly reading: readonly ReadingRound[];
  readonly engine: readonly EngineFigures[];
}
