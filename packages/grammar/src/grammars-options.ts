import { describeValue, integerOption, MAX_TIMER_MS, rejectUnknownKeys, textOption } from "@readme-moe/core";

/** Options of `Grammars.open`: limits of compiling grammars in number, time and memory. */
export interface GrammarsOptions {
  /**
   * Grammars that are kept compiled, each in a thread with its own memory (some 20 to 100 MB with 49,152 tokens). At
   * least as many as there are grammars in use at the same time: with fewer, grammars are compiled again and again.
   * @default 8
   */
  readonly maxGrammars?: number | undefined;
  /**
   * Grammars that wait to be compiled. Further ones, and more than half of one client, get `ERR_QUEUE_FULL`.
   * @default 32
   */
  readonly maxWaiting?: number | undefined;
  /** Longest time to compile a grammar; a grammar that takes longer is refused. @default 10_000 */
  readonly maxCompileMs?: number | undefined;
  /** Longest time to find the next token; an answer that takes longer fails. @default 5_000 */
  readonly maxMaskMs?: number | undefined;
  /** Largest memory of a grammar; a grammar that takes more is refused. @default 512 * 2 ** 20 */
  readonly maxBytes?: number | undefined;
}

/** Resolved options. */
export type GrammarLimits = { readonly [Name in keyof GrammarsOptions]-?: number };

const DEFAULTS: GrammarLimits = {
  maxGrammars: 8,
  maxWaiting: 32,
  maxCompileMs: 10_000,
  maxMaskMs: 5_000,
  maxBytes: 512 * 2 ** 20,
};
const LIMITS: GrammarLimits = {
  maxGrammars: 256,
  maxWaiting: Number.MAX_SAFE_INTEGER,
  maxCompileMs: MAX_TIMER_MS,
  maxMaskMs: MAX_TIMER_MS,
  maxBytes: 2 ** 31,
};

const NAMES = ["maxGrammars", "maxWaiting", "maxCompileMs", "maxMaskMs", "maxBytes"] as const;

/** @throws {TypeError | RangeError} naming the option */
export function resolveGrammarsOptions(options: GrammarsOptions): GrammarLimits {
  rejectUnknownKeys("Grammars.open", options, NAMES);
  const entries = NAMES.map((name) => [name, integerOption(name, options[name] ?? DEFAULTS[name], 1, LIMITS[name])]);
  return Object.fromEntries(entries);
}

/** The caller of a grammar: its client, and the signal that ends the call. */
export interface Asker {
  /**
   * Signal that ends the wait: the call rejects with the signal's reason at once, and a grammar that no other call
   * waits for is no longer compiled.
   */
  readonly signal?: AbortSignal | undefined;
  /**
   * Any name of the client, such as that of an API key. Clients take turns, and one client may fill half of
   * `maxWaiting`. A call without a name is a client of its own.
   */
  readonly client?: string | undefined;
}

export const ASKER_NAMES: readonly (keyof Asker)[] = ["signal", "client"];

/** @throws {TypeError} naming the option; the signal's reason where it is aborted */
export function resolveAsker({ signal, client }: Asker): Asker {
  if (signal !== undefined && !(signal instanceof AbortSignal)) {
    throw new TypeError(`Expected \`signal\` to be an AbortSignal, got ${describeValue(signal)}`);
  }
  if (client !== undefined) textOption("client", client);
  signal?.throwIfAborted();
  return { signal, client };
}
