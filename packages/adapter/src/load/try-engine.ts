// Decides between engine and host for one model, and says so once when the host takes over.

import { messageOf, ReadMeError } from "@readme-moe/core";
import { isUnreadable, locate, type Located, type LocateRequest, Refused } from "./locate.ts";

const warned = new Set<string>();

/** Warns once per text in a process. */
export function warnOnce(text: string): void {
  if (warned.has(text)) return;
  warned.add(text);
  process.emitWarning(text, "ReadMeWarning");
}

/**
 * Loads a model through the engine; `undefined` leaves it to the host: models that the engine does not run, and those
 * with ONNX files that it cannot read, with a warning that says why.
 *
 * @throws {ReadMeError} as `load`; with `engine: "readme-moe"` for every model that is not loaded
 */
export async function tryEngine<Loaded>(
  request: LocateRequest,
  load: (located: Located) => Promise<Loaded>,
): Promise<Loaded | undefined> {
  const { id, adapter } = request;
  const isRequired = adapter.engine === "readme-moe";
  let isHosts = false;
  try {
    const located = await locate(request);
    if (located !== undefined) {
      ({ isHosts } = located);
      return await load(located);
    }
  } catch (error) {
    const cause = error instanceof Refused ? error.cause : error;
    if (isRequired || !(error instanceof Refused || (isHosts && isUnreadable(error)))) throw cause;
    const reason = messageOf(cause);
    warnOnce(`${id} is run by transformers.js, since the engine cannot read it: ${reason}`);
    return undefined;
  }
  if (!isRequired || (request.what ?? "model") !== "model") return undefined;
  const message = `${id}: \`engine\` is "readme-moe", but there are no safetensors, GGUF or ONNX file that it could run`;
  throw new ReadMeError("ERR_FILE_NOT_FOUND", message);
}
