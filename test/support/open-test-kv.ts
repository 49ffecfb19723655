import { KvPool, type KvMemory, type KvMemoryOptions } from "@readme-moe/model";
import type { StepRunner } from "../../packages/engine/src/step-runner.ts";

/** Opens a runner's KV memory. Arenas become such that short sequences of tests meet both of them. */
export function openTestKv(
  runner: StepRunner,
  { longFromTokens = 128, ...options }: KvMemoryOptions & { readonly longFromTokens?: number | undefined },
): KvMemory {
  const kv = runner.openKv(options);
  return kv instanceof KvPool ? new KvPool({ shape: kv.shape, ...options, longFromTokens }) : kv;
}
