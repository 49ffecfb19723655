// All that a training is at one moment, so that a killed one ends as if it had not been.

import { SafetensorsFile, writeSafetensors } from "@readme-moe/model";
import type { RouteFigures } from "./route-figures.ts";

/** What was measured on the way. */
export interface RouterTrainingHistory {
  /** Of each step. */
  readonly losses: readonly number[];
  readonly validations: readonly { readonly step: number; readonly figures: RouteFigures }[];
  /** The step whose parameters are the best so far; `undefined` before the first validation. */
  readonly bestStep: number | undefined;
}

export interface RouterCheckpoint {
  /** Steps done. */
  readonly step: number;
  readonly history: RouterTrainingHistory;
  /** Parameters, the optimizer's moments, and the best parameters so far. */
  readonly tensors: Readonly<Record<string, Float32Array>>;
}

/** Writes a checkpoint, whole or not at all. */
export async function writeRouterCheckpoint(path: string, { step, history, tensors }: RouterCheckpoint): Promise<void> {
  const inputs = Object.entries(tensors).map(([name, values]) => ({
    name,
    type: "F32" as const,
    shape: [values.length],
    bytes: async () => new Uint8Array(values.buffer, values.byteOffset, values.byteLength),
  }));
  await writeSafetensors(path, inputs, { step: `${step}`, history: JSON.stringify(history) });
}

/** @throws {ReadMeError} when there is no such file, or it is damaged */
export async function readRouterCheckpoint(path: string): Promise<RouterCheckpoint> {
  const file = await SafetensorsFile.open(path);
  try {
    const tensors: Record<string, Float32Array> = {};
    for (const name of file.names) tensors[name] = await file.readFloats(name);
    const history = JSON.parse(file.metadata.get("history") ?? "") as RouterTrainingHistory;
    return { step: Number(file.metadata.get("step")), history, tensors };
  } finally {
    await file.close();
  }
}
