// Requests to the server's API, and their failures.

import type { Source } from "../../shared/live.ts";

/** The server refused the request. */
export class Refused extends Error {}

/** The connection broke, or the server is not reachable. */
export class ConnectionLost extends Error {}

/** @throws {Refused | ConnectionLost}; the reason of `signal` */
export async function post(path: string, body: object, signal?: AbortSignal): Promise<Response> {
  const headers = { "content-type": "application/json" };
  let response: Response;
  try {
    response = await fetch(path, {
      method: "POST",
      headers,
      body: JSON.stringify(body),
      ...(signal ? { signal } : {}),
    });
  } catch (error) {
    if (signal?.aborted) throw signal.reason;
    throw new ConnectionLost("The server does not answer", { cause: error });
  }
  if (!response.ok) throw new Refused(await messageOf(response));
  return response;
}

/** Counts the tokens of a body for `/tokenize`. @throws as `post` */
export async function countTokens(body: object, signal?: AbortSignal): Promise<number> {
  const response = await post("/tokenize", body, signal);
  return ((await response.json()) as { readonly count: number }).count;
}

/** Searches the server's documents. @returns sources, and the question with them. @throws as `post` */
export async function searchDocuments(
  question: string,
  signal: AbortSignal,
): Promise<{ readonly sources: readonly Source[]; readonly prompt: string }> {
  const response = await post("/documents/search", { question }, signal);
  const { sources, prompt } = (await response.json()) as Awaited<ReturnType<typeof searchDocuments>>;
  return { sources: sources.map(({ file, title, score }) => ({ file, title, score })), prompt };
}

async function messageOf(response: Response): Promise<string> {
  const fallback = `The server answered ${response.status}`;
  try {
    const { error } = (await response.json()) as { readonly error?: { readonly message?: string } };
    return error?.message ?? fallback;
  } catch {
    return fallback;
  }
}
