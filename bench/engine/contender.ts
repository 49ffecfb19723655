// What the benchmark asks of an engine, whoever made it. Each runs in a process of its own, fresh for every repetition.

/** One engine in one precision. */
export interface ContenderSpec {
  readonly engine: "readme-moe" | "transformers.js" | "node-llama-cpp";
  /** As that engine calls it: a precision, a dtype, or a GGUF file's type. */
  readonly variant: string;
}

/** Where everything is; the same for every contender. */
export interface Paths {
  /** What our engine opens. */
  readonly model: string;
  /** The exported folder; `undefined` when there is no dense model to export. */
  readonly onnx: string | undefined;
  /** GGUF files by their type, such as Q8_0. */
  readonly gguf: Readonly<Record<string, string>>;
  /** The folder that the peers are installed in. */
  readonly peers: string;
  readonly cacheFolder: string;
}

export interface OpenContender {
  readonly spec: ContenderSpec;
  readonly paths: Paths;
  readonly threads: number;
  /** Of one measurement. */
  readonly maxSequences: number;
  readonly seed: number;
}

export interface Contender {
  /** Makes room for this many sequences of this length, where an engine wants to know. Not timed. */
  reserve?(numSequences: number, tokensEach: number): Promise<void>;
  /** Continues all prompts at once by exactly `newTokens` each; end tokens do not end them. */
  generate(prompts: readonly (readonly number[])[], newTokens: number): Promise<void>;
  /** Of each sequence the sum of its tokens' log-probabilities given those before them, without the first token. */
  logProbabilities(sequences: readonly (readonly number[])[]): Promise<readonly number[]>;
  dispose(): Promise<void>;
}

export function nameOf({ engine, variant }: ContenderSpec): string {
  return `${engine} ${variant}`;
}
