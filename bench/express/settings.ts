/** What all suites take from the command line. */
export interface Settings {
  readonly path: string;
  /** Of a measurement, where its length is a time. */
  readonly seconds: number;
  readonly rounds: number;
  /** Sequences that run at once. */
  readonly batch: number;
  /** Tokens of an answer. */
  readonly tokens: number;
  /** Of a suite that counts requests or swaps; each has its own default. */
  readonly count: number | undefined;
  readonly threads: number;
}
