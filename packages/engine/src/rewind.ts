import type { KvMemory, KvSlot } from "@readme-moe/kernel";

/** Forgets a slot's positions from `numTokens` on and reserves their room again, so that other tokens can run there. */
export function rewind(kv: KvMemory, slot: KvSlot, numTokens: number): void {
  const { reservedTokens } = slot;
  kv.truncate(slot, numTokens);
  if (kv.reserve(slot, reservedTokens)) return;
  throw new Error(`The room for ${reservedTokens} tokens was given back and is gone`);
}
