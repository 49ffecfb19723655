// All that a tuning is between two steps, so that a killed one ends as if it had not been.

import { SafetensorsFile, writeSafetensors } from "@readme-moe/model";
import type { Optimizer } from "./optimizer.ts";
import type { TuningHistory } from "./history.ts";
import type { Parameter } from "./trainable.ts";

/** Writes the checkpoint, whole or not at all. @param optimizer - between two steps */
export async function writeCheckpoint(path: string, optimizer: Optimizer, history: TuningHistory): Promise<void> {
  const metadata = { steps: JSON.stringify(optimizer.steps), history: JSON.stringify(history) };
  await writeArrays(path, optimizer.tensors, metadata);
}

/** @returns what had been measured. @throws {ReadMeError} when there is no such file, or it is damaged */
export async function restoreCheckpoint(path: string, optimizer: Optimizer): Promise<TuningHistory> {
  const file = await SafetensorsFile.open(path);
  try {
    const steps = JSON.parse(file.metadata.get("steps") ?? "") as Record<string, number>;
    await optimizer.restore(steps, (name) => file.readFloats(name));
    return JSON.parse(file.metadata.get("history") ?? "") as TuningHistory;
  } finally {
    await file.close();
  }
}

/** Keeps the parameters as they are. */
export async function writeParameters(path: string, parameters: readonly Parameter[]): Promise<void> {
  await writeArrays(path, new Map(parameters.map(({ key, values }) => [key, values])), {});
}

/** Makes the parameters what they were. */
export async function restoreParameters(path: string, parameters: readonly Parameter[]): Promise<void> {
  const file = await SafetensorsFile.open(path);
  try {
    for (const { key, values } of parameters) values.set(await file.readFloats(key));
  } finally {
    await file.close();
  }
}

function writeArrays(
  path: string,
  arrays: ReadonlyMap<string, Float32Array>,
  metadata: Readonly<Record<string, string>>,
): Promise<void> {
  const tensors = [...arrays].map(([name, values]) => ({
    name,
    type: "F32" as const,
    shape: [values.length],
    bytes: async () => new Uint8Array(values.buffer, values.byteOffset, values.byteLength),
  }));
  return writeSafetensors(path, tensors, metadata);
}
