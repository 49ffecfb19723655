import { ReadMeError } from "@readme-moe/core";
import { downloadModel } from "../hub/download-model.ts";
import type { DownloadModelOptions } from "../hub/options.ts";

/** Longer than the hub takes to answer over any connection that could carry the weights. */
const FIRST_ANSWER_MS = 10_000;

/**
 * Downloads a model of the hub. If the hub does not answer the first request, it is not asked again, since there is
 * another source.
 */
export async function downloadPromptly(id: string, options: DownloadModelOptions = {}): Promise<string> {
  const silence = new AbortController();
  let hasAnswered = false;
  const request = options.fetch ?? fetch;
  const promptly: typeof fetch = async (input, init) => {
    if (hasAnswered) return request(input, init);
    const giveUp = (reason: string, cause?: ErrorOptions): void => {
      const { origin } = new URL(input instanceof Request ? input.url : input);
      silence.abort(new ReadMeError("ERR_HUB_UNREACHABLE", `${origin}: does not answer (${reason})`, cause));
    };
    const timer = setTimeout(() => giveUp(`within ${FIRST_ANSWER_MS / 1000} s`), FIRST_ANSWER_MS);
    try {
      const answer = await request(input, init);
      hasAnswered = true;
      return answer;
    } catch (cause) {
      giveUp(fetchFailure(cause), { cause });
      throw cause;
    } finally {
      clearTimeout(timer);
    }
  };
  const signals = [silence.signal, ...(options.signal ? [options.signal] : [])];
  return downloadModel(id, { ...options, signal: AbortSignal.any(signals), fetch: promptly });
}

/** Reads the reason of a failed `fetch`: its message is "fetch failed", and the reason is in its cause. */
export function fetchFailure(error: unknown): string {
  const { cause, message } = error instanceof Error ? error : new Error(String(error));
  return cause instanceof Error && cause.message !== "" ? cause.message : message;
}
