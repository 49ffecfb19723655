/** Names of an engine's metrics. */
export const METRICS = {
  /** Importing the library and opening the model, with files in the system's cache. */
  load: "load, ms",
  /** Speed by requests at once. */
  decode: "new tokens, tok/s",
  /** The same of contenders that take turns within seconds. */
  byTurns: "new tokens by turns, tok/s",
  /** Median of the requests, by requests at once. */
  first: "first token, ms",
  /** Delay of the main thread's event loop while 8 requests run, including the monitor's period of 5 ms. */
  loopP99: "event loop p99, ms",
  loopMax: "event loop max, ms",
  /** Memory of all processes together, after all batches. */
  peak: "peak memory, MB",
  /** Speed by the prompt's length. */
  prefill: "prefill, tok/s",
  /** The same of contenders that take turns: a prompt and its first new token. */
  prefillByTurns: "prefill by turns, tok/s",
  /** Speed by the prompt's length. */
  contextDecode: "decode behind it, tok/s",
  /** The same as `peak`, after all prompts. */
  contextPeak: "peak memory with long prompts, MB",
  /** Mean over files of the mean loss of their tokens, once. */
  loss: "loss, nats",
} as const;
