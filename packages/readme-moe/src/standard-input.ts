import { addAbortSignal } from "node:stream";
import { text } from "node:stream/consumers";

/** Reads all that is piped into this process, until `signal` aborts; `undefined` if standard input is a terminal. */
export async function pipedText(signal: AbortSignal): Promise<string | undefined> {
  if (process.stdin.isTTY) return undefined;
  return text(addAbortSignal(signal, process.stdin));
}
