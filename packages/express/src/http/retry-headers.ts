/** Clients of the OpenAI API obey waits up to here. */
const MAX_SECONDS = 60;

/** What tells a client to try again, and when. */
export function retryHeaders(waitMs: number): Readonly<Record<string, string>> {
  const ms = Math.min(MAX_SECONDS * 1000, Math.max(1, Math.ceil(waitMs)));
  return { "retry-after": `${Math.ceil(ms / 1000)}`, "retry-after-ms": `${ms}`, "x-should-retry": "true" };
}
