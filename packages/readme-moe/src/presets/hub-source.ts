import { ReadMeError } from "@readme-moe/core";
import { downloadModel } from "@readme-moe/model";
import { showDownload } from "../download-progress.ts";

// Longer than a hub takes over any line that could bring the weights.
const FIRST_ANSWER_MS = 10_000;

/**
 * A model of the hub, as `downloadModel` gives it; but where the hub does not answer the very first request, that is
 * not waited for and tried again, since there is another source.
 */
export async function downloadPromptly(id: string, signal?: AbortSignal): Promise<string> {
  const silence = new AbortController();
  let hasAnswered = false;
  const promptly: typeof fetch = async (input, init) => {
    if (hasAnswered) return fetch(input, init);
    const timer = setTimeout(
      () => silence.abort(noAnswer(input, `within ${FIRST_ANSWER_MS / 1000} s`)),
      FIRST_ANSWER_MS,
    );
    try {
      const answer = await fetch(input, init);
      hasAnswered = true;
      return answer;
    } catch (cause) {
      silence.abort(noAnswer(input, reasonOf(cause), { cause }));
      throw cause;
    } finally {
      clearTimeout(timer);
    }
  };
  const signals = [silence.signal, ...(signal ? [signal] : [])];
  try {
    return await downloadModel(id, { signal: AbortSignal.any(signals), fetch: promptly, onProgress: showDownload });
  } finally {
    showDownload();
  }
}

function noAnswer(input: string | URL | Request, reason: string, options?: ErrorOptions): ReadMeError {
  const { origin } = new URL(input instanceof Request ? input.url : input);
  return new ReadMeError("ERR_HUB_UNREACHABLE", `${origin}: does not answer (${reason})`, options);
}

/** `fetch` only says "fetch failed"; why is in its cause. */
function reasonOf(error: unknown): string {
  const { cause, message } = error instanceof Error ? error : new Error(String(error));
  return cause instanceof Error && cause.message !== "" ? cause.message : message;
}
