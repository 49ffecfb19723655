// The interface of measured engines. Each runs in a fresh process for every measurement.

/** One engine in one precision. */
export interface ContenderSpec {
  readonly engine: string;
  /** The engine's own name of a precision, a dtype, or a GGUF file's type. */
  readonly variant: string;
  /** URL of a module whose `open` opens it: an `OpenFunction`. The library is imported there, where its time counts. */
  readonly module: string;
  /** Files to open, by the engine's own names. */
  readonly files: Readonly<Record<string, string>>;
  /** Most requests at once, for engines that are too slow with more. */
  readonly maxConcurrency?: number;
}

/** Options of a contender in its own process. */
export interface OpenContender {
  readonly spec: ContenderSpec;
  readonly threads: number;
  /** Most sequences of one measurement. */
  readonly maxSequences: number;
  /** Most tokens of a sequence, for engines whose default is less. */
  readonly tokensEach?: number;
  readonly seed: number;
  readonly cacheFolder: string | undefined;
}

type OpenFunction = (open: OpenContender) => Promise<Contender>;

/** An open engine. */
export interface Contender {
  /** Process whose memory is measured, with its descendants. @default the process that opened it */
  readonly processId?: number | undefined;
  /** Reserves memory for sequences, in engines that need it before. Not timed. */
  reserve?(numSequences: number, tokensEach: number): Promise<void>;
  /**
   * Continues all prompts at once by exactly `newTokens` each; end tokens do not end them.
   * @returns the time of each one's first new token, in ms from the call
   */
  generate(prompts: readonly (readonly number[])[], newTokens: number): Promise<readonly number[]>;
  /** Sums each sequence's log-probabilities of its tokens after the first. */
  logProbabilities(sequences: readonly (readonly number[])[]): Promise<readonly number[]>;
  dispose(): Promise<void>;
}

/** Opens a contender. Its library is imported here, so that its time and memory count. */
export async function openContender(open: OpenContender): Promise<Contender> {
  const module = (await import(open.spec.module)) as { readonly open: OpenFunction };
  return module.open(open);
}

export function nameOf({ engine, variant }: Pick<ContenderSpec, "engine" | "variant">): string {
  return `${engine} ${variant}`;
}
