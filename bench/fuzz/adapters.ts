// Low-rank experts of the pocket model for a run: some that are there throughout, and a folder to load others from.

import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { writeAdaptersOf } from "../../test/support/expert-engine.ts";
import { ADAPTERS } from "./bodies.ts";

/** Experts and the operator of a server. */
export interface FuzzAdapters extends AsyncDisposable {
  /** Flags of `readme-moe serve`. */
  readonly flags: readonly string[];
  readonly operatorKey: string | undefined;
  /** Paths that answers must not contain. */
  readonly secrets: readonly string[];
}

/** A server without experts and operators. */
export const NO_ADAPTERS: FuzzAdapters = {
  flags: [],
  operatorKey: undefined,
  secrets: [],
  [Symbol.asyncDispose]: () => Promise.resolve(),
};

const LASTING = ["law", "code"];
/** Small enough that logits stay in the range of float32. */
const SIZE = 0.05;

/** @param model - folder of the dense model */
export async function writeAdapters(model: string): Promise<FuzzAdapters> {
  const base = await mkdtemp(join(tmpdir(), "readme-moe-fuzz-experts-"));
  const loaded = join(base, "loaded");
  const folders = [
    ...LASTING.map((name) => join(base, name)),
    ...[...ADAPTERS, "damaged"].map((name) => join(loaded, name)),
  ];
  await writeAdaptersOf(
    model,
    Object.fromEntries(folders.map((folder, index) => [folder, { seed: index, size: SIZE }])),
  );
  await writeFile(join(loaded, "damaged", "adapter_model.safetensors"), Buffer.alloc(100, 0xff));
  const operatorKey = "fuzz-operator";
  const loras = LASTING.flatMap((name) => ["--lora", `${name}=${join(base, name)}`]);
  return {
    flags: [...loras, "--operator-key", operatorKey, "--experts-folder", loaded],
    operatorKey,
    secrets: [base],
    [Symbol.asyncDispose]: () => rm(base, { recursive: true, force: true }),
  };
}
