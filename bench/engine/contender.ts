// What the benchmark asks of an engine, whoever made it. Each runs in a process of its own, fresh for every measurement.

/** One engine in one precision. */
export interface ContenderSpec {
  readonly engine: string;
  /** As that engine calls it: a precision, a dtype, or a GGUF file's type. */
  readonly variant: string;
  /** URL of a module whose `open` opens it: an `OpenFunction`. The library is imported there, where its time counts. */
  readonly module: string;
  /** What it opens, as it knows it: files by their names. */
  readonly files: Readonly<Record<string, string>>;
  /** Of requests at once, where more are not worth the wait. */
  readonly maxConcurrency?: number;
}

/** What a contender is opened with, in the process that it has for itself. */
export interface OpenContender {
  readonly spec: ContenderSpec;
  readonly threads: number;
  /** Of one measurement. */
  readonly maxSequences: number;
  readonly seed: number;
  readonly cacheFolder: string | undefined;
}

type OpenFunction = (open: OpenContender) => Promise<Contender>;

/** An engine that is open, whoever made it. */
export interface Contender {
  /** Process whose memory is the engine's. @default the one that opened it, and those below it */
  readonly processId?: number | undefined;
  /** Makes room for this many sequences of this length, where an engine wants to know. Not timed. */
  reserve?(numSequences: number, tokensEach: number): Promise<void>;
  /**
   * Continues all prompts at once by exactly `newTokens` each; end tokens do not end them.
   * @returns when each one's first new token was there, in milliseconds from the call
   */
  generate(prompts: readonly (readonly number[])[], newTokens: number): Promise<readonly number[]>;
  /** Of each sequence the sum of its tokens' log-probabilities given those before them, without the first token. */
  logProbabilities(sequences: readonly (readonly number[])[]): Promise<readonly number[]>;
  dispose(): Promise<void>;
}

/** Each library is imported where it is used: its time counts, and its memory only for itself. */
export async function openContender(open: OpenContender): Promise<Contender> {
  const module = (await import(open.spec.module)) as { readonly open: OpenFunction };
  return module.open(open);
}

export function nameOf({ engine, variant }: Pick<ContenderSpec, "engine" | "variant">): string {
  return `${engine} ${variant}`;
}
