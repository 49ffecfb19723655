// What `child.ts` does in a process of its own, and what it answers: plain JSON both.

import type { Precision } from "@readme-moe/model";
import type { DecodeCase } from "../decode-steps.ts";
import type { Shape } from "../random-model.ts";
import type { Part } from "./graph-parts.ts";
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

export type Job =
  | { readonly kind: "machine"; readonly threads: number; readonly isQuick: boolean }
  | (DecodeJob & { readonly kind: "steps" })
  | (DecodeJob & { readonly kind: "engine" })
  | (DecodeJob & { readonly kind: "profile" });

/** Of each case. */
export interface StepFigures {
  readonly medianMs: number;
  readonly leastMs: number;
}

/** Medians over steps, in milliseconds; they add up to a step, but for what medians do. */
export interface EngineFigures {
  readonly step: number;
  readonly parts: Readonly<Record<EnginePart, number>>;
}

export const ENGINE_PARTS = [
  "graph",
  "feeds and results",
  "appending keys and values",
  "router",
  "scheduling",
  "sampling, events",
] as const;
export type EnginePart = (typeof ENGINE_PARTS)[number];

export interface ProfileFigures {
  /** Milliseconds of a run, of nodes that ran. */
  readonly parts: Readonly<Partial<Record<Part, number>>>;
  readonly types: readonly { readonly type: string; readonly count: number; readonly ms: number }[];
  readonly numNodes: number;
  readonly numUnknown: number;
}

export interface Answers {
  readonly machine: MachineFigures;
  readonly steps: readonly StepFigures[];
  readonly engine: readonly EngineFigures[];
  readonly profile: readonly ProfileFigures[];
}
