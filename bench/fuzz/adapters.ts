// Low-rank experts for a run: some that are loaded throughout, and a folder from which operators load others.

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
  /** Loads the experts that can be named throughout the run. */
  readonly loadLasting: (url: string) => Promise<void>;
}

/** A server without experts and operators. */
export const NO_ADAPTERS: FuzzAdapters = {
  flags: [],
  operatorKey: undefined,
  secrets: [],
  loadLasting: () => Promise.resolve(),
  [Symbol.asyncDispose]: () => Promise.resolve(),
};

const OPERATOR_KEY = "fuzz-operator";
const LASTING = ["law", "code"];
/** Small enough that logits stay in the range of float32. */
const SIZE = 0.05;

/** @param model - folder of the dense model */
export async function writeAdapters(model: string): Promise<FuzzAdapters> {
  const base = await mkdtemp(join(tmpdir(), "readme-moe-fuzz-experts-"));
  const folders = [...LASTING, ...ADAPTERS, "damaged"].map((name) => join(base, name));
  await writeAdaptersOf(model, Object.fromEntries(folders.map((folder, seed) => [folder, { seed, size: SIZE }])));
  await writeFile(join(base, "damaged", "adapter_model.safetensors"), Buffer.alloc(100, 0xff));
  return {
    flags: ["--operator-key", OPERATOR_KEY, "--experts-folder", base],
    operatorKey: OPERATOR_KEY,
    secrets: [base],
    loadLasting: async (url) => {
      await Promise.all(LASTING.map((name) => load(url, name)));
    },
    [Symbol.asyncDispose]: () => rm(base, { recursive: true, force: true }),
  };
}

async function load(url: string, name: string): Promise<void> {
  const headers = { "content-type": "application/json", authorization: `Bearer ${OPERATOR_KEY}` };
  const body = JSON.stringify({ lora_name: name, lora_path: name });
  const response = await fetch(`${url}/v1/load_lora_adapter`, { method: "POST", headers, body });
  if (response.status !== 200) throw new Error(`Expected ${name} to be loaded, got ${await response.text()}`);
}
