/** What is measured of an engine. */
export const METRICS = {
  /** Importing the library and opening the model, with files in the system's cache. */
  load: "load, ms",
  /** By requests at once. */
  decode: "new tokens, tok/s",
  /** The same, of contenders that are all open and take turns within seconds. */
  byTurns: "new tokens by turns, tok/s",
  /** By requests at once: their median. */
  first: "first token, ms",
  /** How late the main thread's event loop is while 8 requests run; the monitor's period of 5 ms is in it. */
  loopP99: "event loop p99, ms",
  loopMax: "event loop max, ms",
  /** Of all processes together, after all batches. */
  peak: "peak memory, MB",
  /** By the prompt's length. */
  prefill: "prefill, tok/s",
  /** The same, of contenders that take turns: a prompt and its first new token. */
  prefillByTurns: "prefill by turns, tok/s",
  /** By the prompt's length. */
  contextDecode: "decode behind it, tok/s",
  /** The same as `peak`, after all prompts. */
  contextPeak: "peak memory with long prompts, MB",
  /** Mean over files of the mean loss of their tokens, once. */
  loss: "loss, nats",
} as const;
