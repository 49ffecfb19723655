// Low-rank experts of the pocket model for a run: some that are there throughout, and a folder to load others from.

import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { POCKET_SHAPE, writeRandomAdapter } from "../../test/support/random-adapter.ts";
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

function write(path: string, seed: number): Promise<void> {
  return writeRandomAdapter(path, { seed, shape: POCKET_SHAPE, size: SIZE });
}

export async function writeAdapters(): Promise<FuzzAdapters> {
  const base = await mkdtemp(join(tmpdir(), "readme-moe-fuzz-experts-"));
  const loaded = join(base, "loaded");
  for (const [index, name] of [...LASTING, ...ADAPTERS].entries()) {
    await write(join(index < LASTING.length ? base : loaded, name), index + 1);
  }
  await write(join(loaded, "damaged"), 9);
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
