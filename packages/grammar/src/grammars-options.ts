import { integerOption, rejectUnknownKeys } from "@readme-moe/core";
import type { HomeCacheLimits } from "./matching/home-cache.ts";

/** Of `Grammars.open`: how much compiling grammars may take, in number, time and memory. */
export interface GrammarsOptions {
  /**
   * Grammars that are kept compiled, each in a thread with its own memory (some 20 to 100 MB with 49,152 tokens). At
   * least as many as answers are bound to at the same time: others are compiled again and again.
   * @default 8
   */
  readonly maxGrammars?: number | undefined;
  /** Grammars that wait to be compiled; more, and more than half of one client, get `ERR_QUEUE_FULL`. @default 32 */
  readonly maxWaiting?: number | undefined;
  /** A grammar that takes longer is refused. @default 10_000 */
  readonly maxCompileMs?: number | undefined;
  /** An answer whose next token takes longer fails. @default 5_000 */
  readonly maxMaskMs?: number | undefined;
  /** A grammar that takes more memory is refused. @default 512 * 2 ** 20 */
  readonly maxBytes?: number | undefined;
}

const DEFAULTS = { maxGrammars: 8, maxWaiting: 32, maxCompileMs: 10_000, maxMaskMs: 5_000, maxBytes: 512 * 2 ** 20 };
const LIMITS = {
  maxGrammars: 256,
  maxWaiting: Number.MAX_SAFE_INTEGER,
  maxCompileMs: 2 ** 31 - 1,
  maxMaskMs: 2 ** 31 - 1,
  maxBytes: 2 ** 31,
};

/** @throws {TypeError | RangeError} naming the option */
export function resolveGrammarsOptions(options: GrammarsOptions): HomeCacheLimits {
  const names = Object.keys(DEFAULTS) as (keyof typeof DEFAULTS)[];
  rejectUnknownKeys("Grammars.open", options, names);
  const entries = names.map((name) => [name, integerOption(name, options[name] ?? DEFAULTS[name], 1, LIMITS[name])]);
  return Object.fromEntries(entries);
}
