// The memory of an open engine, in words.

import type { EngineInfo, EngineMemory } from "@readme-moe/core";
import { sizeText } from "../terminal.ts";

/** Describes the memory that an engine has planned; nothing for one that holds no weights. */
export function memoryLines(
  info: Pick<EngineInfo, "contextTokens" | "kvCapacityTokens" | "memory">,
): readonly string[] {
  const { contextTokens, kvCapacityTokens, memory } = info;
  if (!memory) return [];
  const conversations = Math.floor(kvCapacityTokens / contextTokens);
  const many = `${count(conversations)} ${conversations === 1 ? "conversation" : "conversations"}`;
  const tokens = `${count(kvCapacityTokens)} tokens: ${many} of ${count(contextTokens)}`;
  const disk = memory.prefixDiskBytes ? ` and up to ${sizeText(memory.prefixDiskBytes)} on disk` : "";
  return [
    `memory: ${sizeText(memory.weightBytes)} of weights, ${sizeText(memory.kvCacheBytes)} of keys and values (${tokens}), ` +
      `${sizeText(memory.prefixCacheBytes)} of prefixes${disk}`,
    ...contextLines(contextTokens, memory),
    ...shortageLines(memory),
  ];
}

/** Says why the context is shorter than the model's, unless the user asked for that, and what makes it longer. */
function contextLines(contextTokens: number, memory: EngineMemory): readonly string[] {
  const { contextBound, modelContextTokens, kvPrecision } = memory;
  const start = `note: the context is ${count(contextTokens)} of the model's ${count(modelContextTokens)} tokens`;
  if (contextBound === "usual") return [`${start}; --context ${modelContextTokens} makes it longer, if memory allows`];
  if (contextBound !== "memory") return [];
  const smaller = kvPrecision === "int8" ? "" : ", and so does --kv-precision int8, at a small loss";
  return [`${start}: more memory (--memory, --kv-cache) makes it longer${smaller}`];
}

/** Warns of numbers of the user's, or of a model, that are too large for this machine. */
function shortageLines({
  weightBytes,
  processBytes,
  kvCacheBytes,
  prefixCacheBytes,
  freeBytes = Infinity,
}: EngineMemory): readonly string[] {
  const bytes = weightBytes + processBytes + kvCacheBytes + prefixCacheBytes;
  if (bytes <= freeBytes) return [];
  return [`note: all of this may take ${sizeText(bytes)}, and ${sizeText(freeBytes)} were free; --memory sets a limit`];
}

function count(tokens: number): string {
  return tokens.toLocaleString("en");
}
