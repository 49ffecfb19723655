// Router of experts of low rank: it learns from each token's loss with every expert, and with none.

import { existsSync } from "node:fs";
import type { ModelConfig } from "@readme-moe/model";
import { restoreArrays, withFile, writeArrays, type NamedArrays } from "../job/work-folder.ts";
import { keptRouter, type KeptRouter } from "../tuning/tuning-router.ts";
import type { TextSequence } from "../tuning/tuning-data.ts";
import type { AdaptedModel } from "./adapted-model.ts";
import type { Adapter } from "./adapter.ts";
import type { LoraRun, ResolvedLoraOptions } from "./options.ts";
import { lossesOfTokens } from "./token-losses.ts";

export interface ExpertRouting {
  readonly config: ModelConfig;
  readonly model: AdaptedModel;
  /** Embedding of the dense model. */
  readonly embedding: Float32Array;
  readonly adapters: readonly Adapter[];
  /** Text that the experts learned from. */
  readonly sequences: readonly TextSequence[];
  readonly options: ResolvedLoraOptions;
  readonly run: Pick<LoraRun, "signal" | "threads" | "onProgress">;
  /** Returns the path of a file of unfinished work. */
  readonly file: (name: string) => string;
}

/** Reads the router of unfinished work, or trains it. Its outputs are "none", then the experts in their order. */
export async function routerOfExperts(routing: ExpertRouting): Promise<KeptRouter> {
  const { config, embedding, adapters, sequences, options, run, file } = routing;
  const first = { step: 0, ms: 0 };
  const report = ({ step, steps }: { readonly step: number; readonly steps: number }): void => {
    if (first.step === 0) Object.assign(first, { step, ms: performance.now() });
    const msPerStep = (performance.now() - first.ms) / Math.max(1, step - first.step);
    const etaMs = msPerStep * (steps - step);
    run.onProgress?.({ stage: "router", name: "router", step, steps, etaMs, figures: undefined });
  };
  return keptRouter(file("router.safetensors"), {
    config,
    numExperts: adapters.length + 1,
    costs: (measured) => costsOf(routing, measured),
    embedding,
    sequences,
    options,
    threads: run.threads,
    signal: run.signal,
    checkpointPath: file("router-checkpoint.safetensors"),
    onProgress: report,
  });
}

/** Measures each token's loss without and with each expert, `[tokens, adapters + 1]` per sequence. */
async function costsOf(
  { adapters, ...routing }: ExpertRouting,
  sequences: readonly TextSequence[],
): Promise<readonly Float32Array[]> {
  const numExperts = adapters.length + 1;
  const costs = sequences.map(({ tokenIds }) => new Float32Array(tokenIds.length * numExperts));
  for (let expert = 0; expert < numExperts; expert++) {
    const own = await keptLosses(routing, sequences, adapters[expert - 1], expert);
    own.forEach((rows, index) => rows.forEach((loss, row) => (costs[index]![row * numExperts + expert] = loss)));
  }
  return costs;
}

/** Reads losses of unfinished work, or measures them. */
async function keptLosses(
  { model, run, file }: Pick<ExpertRouting, "model" | "run" | "file">,
  sequences: readonly TextSequence[],
  adapter: Adapter | undefined,
  expert: number,
): Promise<readonly Float32Array[]> {
  const path = file(`losses-${expert}.safetensors`);
  if (existsSync(path)) {
    const rows = sequences.map(({ tokenIds }) => new Float32Array(tokenIds.length));
    await withFile(path, (kept) => restoreArrays(kept, named(rows)));
    return rows;
  }
  const { signal } = run;
  const rows = await lossesOfTokens(model, sequences, { adapters: adapter ? [adapter] : [], signal });
  await writeArrays(path, named(rows));
  return rows;
}

function named(rows: readonly Float32Array[]): NamedArrays {
  return rows.map((values, index) => [`${index}`, values]);
}
