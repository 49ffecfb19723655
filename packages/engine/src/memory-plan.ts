// Plans the memory of an engine: how many tokens of keys and values, for running sequences and for prefixes. Plain
// arithmetic over a model's sizes, what the user has fixed, and the memory that is free.

import { type EngineMemory, integerOption, megabytes } from "@readme-moe/core";
import { KV_BLOCK_TOKENS, wholeBlocks } from "@readme-moe/kernel";
import type { ResolvedEngineOptions } from "./engine-options.ts";

/** Sizes of a model. */
export interface MemoryNeeds {
  /** Weights in memory, those of a draft head and its keys and values included. */
  readonly weightBytes: number;
  /** Everything besides weights, keys and values: process, tokenizer, values of a step. */
  readonly processBytes: number;
  /** Keys and values of a token. */
  readonly bytesPerToken: number;
  /** The model's own context. */
  readonly contextTokens: number;
  /** Context that is planned where the user asks for none and more is no use. @default 32,768 */
  readonly usualContextTokens?: number | undefined;
}

/** Options that a plan keeps to. */
export type MemoryOptions = Pick<
  ResolvedEngineOptions,
  "contextTokens" | "kvCacheBytes" | "prefixCacheBytes" | "memoryBytes" | "maxNumSeqs"
>;

/** Sizes of an engine's memory. */
export interface MemoryPlan extends Omit<EngineMemory, "kvPrecision"> {
  /** Number of tokens of running sequences. */
  readonly capacityTokens: number;
  /** Largest number of tokens of one sequence. */
  readonly contextTokens: number;
}

/** Longest context that is planned for a model that has a longer one. */
const USUAL_CONTEXT_TOKENS = 32_768;
/** Conversations of the whole context at once, and tokens of prefixes: two prompts of coding agents. */
const [CONVERSATIONS, PREFIX_TOKENS] = [2, 35_840];
/** Part of the memory that is free beside weights and process. */
const FREE_SHARE = 0.5;
/** Keys and values of running sequences that are planned wherever they fit, at least one sequence of so many tokens. */
const [SMALL_KV_BYTES, SMALL_KV_TOKENS] = [512 << 20, 4096];
/** Prefixes in parts of the keys and values of running sequences, where memory is short. */
const PREFIX_SHARE = 1 / 4;
/** Shortest context that `memoryBytes` must have room for, unless the user asks for another. */
const LEAST_CONTEXT_TOKENS = 2048;

/**
 * Plans the memory of an engine. The user's numbers are kept. `memoryBytes` bounds everything together; without it keys
 * and values take at most half of the memory that is free beside the rest, or 640 MiB if these fit. The plan is never
 * smaller with more memory.
 *
 * The system provides memory when it is first written, so a large plan costs nothing until sequences fill it.
 *
 * @param freeBytes - memory that the process can take @default unknown: the plan of 640 MiB, the same on all machines
 * @throws {RangeError} if `kvCacheBytes` does not hold 64 tokens, `contextTokens` is more than the model's, or
 *   `memoryBytes` is too small; names the option, the least value and the given one
 */
export function planEngineMemory(needs: MemoryNeeds, options: MemoryOptions, freeBytes?: number): MemoryPlan {
  const { contextTokens: asked, kvCacheBytes, prefixCacheBytes } = options;
  if (asked !== undefined) integerOption("contextTokens", asked, 1, needs.contextTokens);
  if (kvCacheBytes !== undefined) return givenPlan(needs, { ...options, kvCacheBytes }, freeBytes);
  const targets = targetsOf(needs, options);
  checkMemory(needs, targets.least, options);
  const sizes = divide(roomFor(targets, needs, options, freeBytes) / needs.bytesPerToken, targets);
  return planOf(needs, {
    asked,
    most: targets.context,
    capacityTokens: blocksOf(sizes.running),
    prefixCacheBytes: prefixCacheBytes ?? sizes.prefix * needs.bytesPerToken,
    freeBytes,
  });
}

/** Plans with a given size of keys and values: a quarter more is for prefixes, whatever memory is free. */
function givenPlan(
  needs: MemoryNeeds,
  options: MemoryOptions & { readonly kvCacheBytes: number },
  freeBytes: number | undefined,
): MemoryPlan {
  const { contextTokens: asked, memoryBytes, kvCacheBytes, prefixCacheBytes: prefixBytes } = options;
  const { bytesPerToken } = needs;
  const most = asked ?? needs.contextTokens;
  const capacityTokens = blocksOf(Math.min(options.maxNumSeqs * wholeBlocks(most), kvCacheBytes / bytesPerToken));
  if (capacityTokens === 0) {
    const least = KV_BLOCK_TOKENS * bytesPerToken;
    throw new RangeError(`Expected \`kvCacheBytes\` to be at least ${least}, got \`${kvCacheBytes}\``);
  }
  checkMemory(needs, capacityTokens, options);
  const bytes = capacityTokens * bytesPerToken;
  const room = (memoryBytes ?? Infinity) - needs.weightBytes - needs.processBytes - bytes;
  const prefixCacheBytes = prefixBytes ?? Math.min(room, PREFIX_SHARE * bytes);
  return planOf(needs, { asked, most, capacityTokens, prefixCacheBytes, freeBytes });
}

/** Numbers of tokens that a plan aims at. */
interface Targets {
  readonly context: number;
  /** Running sequences that are planned in any case. */
  readonly least: number;
  /** Running sequences of a machine without much memory. */
  readonly small: number;
  /** Running sequences before prefixes, and with all memory that is of use. */
  readonly running: { readonly first: number; readonly most: number };
  /** Prefixes, which come before further running sequences; 0 if their size is given. */
  readonly prefix: number;
  /** Running sequences and prefixes in parts of the former, where memory is short. */
  readonly parts: number;
}

function targetsOf(needs: MemoryNeeds, { contextTokens: asked, maxNumSeqs, prefixCacheBytes }: MemoryOptions): Targets {
  const context = asked ?? usualContext(needs);
  const full = wholeBlocks(context);
  const all = maxNumSeqs * full;
  const small = Math.min(all, Math.max(SMALL_KV_BYTES / needs.bytesPerToken, Math.min(context, SMALL_KV_TOKENS)));
  const most = Math.min(all, Math.max(CONVERSATIONS * full, small));
  const prefix = Math.max(PREFIX_SHARE * most, Math.min(PREFIX_TOKENS, CONVERSATIONS * full));
  const isGiven = prefixCacheBytes !== undefined;
  return {
    context,
    least: asked === undefined ? Math.min(full, LEAST_CONTEXT_TOKENS) : full,
    small,
    running: { first: Math.max(full, small), most },
    prefix: isGiven ? 0 : prefix,
    parts: isGiven ? 1 : 1 + PREFIX_SHARE,
  };
}

/** Returns the bytes for running sequences and for prefixes whose size is not given. */
function roomFor(
  { least, small, parts }: Targets,
  needs: MemoryNeeds,
  options: MemoryOptions,
  freeBytes: number | undefined,
): number {
  const { weightBytes, processBytes, bytesPerToken } = needs;
  const { memoryBytes, prefixCacheBytes = 0 } = options;
  const otherBytes = weightBytes + processBytes + prefixCacheBytes;
  if (memoryBytes !== undefined) return memoryBytes - otherBytes;
  const smallBytes = small * parts * bytesPerToken;
  // A context that was asked for is planned with prefixes, also where memory may not suffice.
  const leastBytes = (options.contextTokens === undefined ? least : least * parts) * bytesPerToken;
  if (freeBytes === undefined) return Math.max(smallBytes, leastBytes);
  const besideBytes = Math.max(0, freeBytes - otherBytes);
  return Math.max(FREE_SHARE * besideBytes, Math.min(smallBytes, besideBytes), leastBytes);
}

/** Divides room for tokens: one conversation, prefixes, further conversations. */
function divide(room: number, { least, running, prefix, parts }: Targets): { running: number; prefix: number } {
  const first = Math.min(Math.max(room / parts, least), running.first);
  const kept = Math.min(room - first, prefix);
  const more = Math.min(room - first - kept, running.most - first);
  return { running: first + more, prefix: kept };
}

/** Chooses the context for a user who asks for none: more than usual only where the smallest plan has room for it. */
function usualContext({
  bytesPerToken,
  contextTokens,
  usualContextTokens = USUAL_CONTEXT_TOKENS,
}: MemoryNeeds): number {
  return Math.min(contextTokens, Math.max(usualContextTokens, blocksOf(SMALL_KV_BYTES / bytesPerToken)));
}

function blocksOf(tokens: number): number {
  return Math.floor(tokens / KV_BLOCK_TOKENS) * KV_BLOCK_TOKENS;
}

interface Chosen {
  readonly asked: number | undefined;
  /** Context where memory does not bound it. */
  readonly most: number;
  readonly capacityTokens: number;
  readonly prefixCacheBytes: number;
  readonly freeBytes: number | undefined;
}

function planOf(needs: MemoryNeeds, chosen: Chosen): MemoryPlan {
  const { asked, most, capacityTokens, prefixCacheBytes, freeBytes } = chosen;
  const contextTokens = Math.min(most, capacityTokens);
  const modelContextTokens = needs.contextTokens;
  return {
    capacityTokens,
    contextTokens,
    weightBytes: needs.weightBytes,
    processBytes: needs.processBytes,
    kvCacheBytes: capacityTokens * needs.bytesPerToken,
    prefixCacheBytes: Math.floor(prefixCacheBytes),
    modelContextTokens,
    freeBytes,
    contextBound:
      contextTokens === modelContextTokens
        ? "model"
        : contextTokens < most
          ? "memory"
          : asked === undefined
            ? "usual"
            : "option",
  };
}

/** @throws {RangeError} if the memory is too small, with its parts */
function checkMemory(
  needs: MemoryNeeds,
  tokens: number,
  { memoryBytes, prefixCacheBytes: prefixBytes = 0 }: MemoryOptions,
): void {
  const { weightBytes, processBytes, bytesPerToken } = needs;
  const keysAndValues = tokens * bytesPerToken;
  const leastBytes = Math.ceil(weightBytes + processBytes + keysAndValues + prefixBytes);
  if (memoryBytes === undefined || memoryBytes >= leastBytes) return;
  const parts = [
    `${megabytes(weightBytes)} of weights`,
    `${megabytes(processBytes)} of the process`,
    `${megabytes(keysAndValues)} of keys and values for ${tokens} tokens`,
    ...(prefixBytes > 0 ? [`${megabytes(prefixBytes)} of prefixes`] : []),
  ];
  throw new RangeError(
    `Expected \`memoryBytes\` (--memory) to be at least ${leastBytes}, ${parts.join(", ")}; got \`${memoryBytes}\``,
  );
}
