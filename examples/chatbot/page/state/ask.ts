// Requests one answer from the API and reads its stream.

import type { ModelChoice } from "../../shared/live.ts";
import { eventsOf } from "./events-of.ts";
import type { Message, Mode } from "./messages.ts";
import { continues, fittingMessages, transcriptOf, TURNS } from "./prompt.ts";

export interface AskOptions {
  readonly model: ModelChoice;
  readonly mode: Mode;
  /** The conversation so far, newest last. An answer at its end is continued. */
  readonly messages: readonly Message[];
  readonly temperature: number;
  readonly maxTokens: number;
  readonly signal: AbortSignal;
  /** @param id - name of the answer's sequence in events */
  readonly onStarted: (id: string) => void;
  /** @param expert - expert of the piece's last token; -1 for none */
  readonly onPiece: (text: string, tokens: number, expert: number) => void;
}

/** The server refused the request. */
class Refused extends Error {}

/** The connection broke, or the server is not reachable. */
export class ConnectionLost extends Error {}

interface Chunk {
  readonly id?: string;
  readonly error?: { readonly message?: string };
  readonly choices?: readonly {
    readonly text?: string;
    readonly delta?: { readonly content?: string };
    readonly finish_reason?: string | null;
    readonly read_me?: { readonly routes: readonly (number | null)[] };
  }[];
}

/** The end of an answer. */
export interface Asked {
  /** Number of messages that did not fit into the context. */
  readonly leftOut: number;
  /** Whether the answer ended at its largest number of tokens. */
  readonly isFull: boolean;
}

/**
 * Streams an answer.
 * @throws {Refused | ConnectionLost}; the reason of `signal`
 */
export async function ask(options: AskOptions): Promise<Asked> {
  const { model, mode, messages, maxTokens, signal } = options;
  const room = Math.max(16, model.contextTokens - Math.min(maxTokens, Math.floor(model.contextTokens / 2)));
  const asked = mode === "chat" ? messages : messages.slice(continues(messages) ? -2 : -1);
  const kept = await fittingMessages(asked, room, (some) => countTokens(options, some));
  const { path, body } = requestFor(options, kept);
  const response = await post(path, body, signal);
  if (!response.ok || !response.body) throw new Refused(await messageOf(response));
  let isFull = false;
  for await (const data of guarded(response.body, signal)) {
    if (data === "[DONE]") return { leftOut: asked.length - kept.length, isFull };
    const chunk = JSON.parse(data) as Chunk;
    if (chunk.error) throw new Refused(chunk.error.message ?? "The server ended the answer");
    if (chunk.id !== undefined) options.onStarted(chunk.id);
    for (const { text, delta, finish_reason: reason, read_me: readMe } of chunk.choices ?? []) {
      isFull ||= reason === "length";
      const routes = readMe?.routes ?? [];
      const piece = text ?? delta?.content ?? "";
      if (piece !== "" || routes.length > 0) options.onPiece(piece, routes.length, routes.at(-1) ?? -1);
    }
  }
  throw new ConnectionLost("The answer was cut off");
}

function requestFor(
  { model, mode, temperature, maxTokens }: AskOptions,
  kept: readonly Message[],
): { readonly path: string; readonly body: object } {
  const params = {
    model: model.name,
    stream: true,
    max_tokens: Math.min(maxTokens, Math.floor(model.contextTokens / 2)),
    temperature,
    read_me: { include: ["routes"] },
  };
  if (mode === "continue") {
    return { path: "/v1/completions", body: { ...params, prompt: kept.map(({ text }) => text).join("") } };
  }
  if (!model.hasChatTemplate) return { path: "/v1/completions", body: { ...params, prompt: transcriptOf(kept) } };
  const end = continues(kept) ? { continue_final_message: true } : {};
  return { path: "/v1/chat/completions", body: { ...params, ...end, messages: plain(kept) } };
}

async function countTokens({ model, signal }: AskOptions, messages: readonly Message[]): Promise<number> {
  const prompt = model.hasChatTemplate ? { messages: plain(messages) } : { prompt: transcriptOf(messages) };
  const response = await post("/tokenize", { model: model.name, ...prompt }, signal);
  if (!response.ok) throw new Refused(await messageOf(response));
  return ((await response.json()) as { readonly count: number }).count;
}

function plain(messages: readonly Message[]): readonly { readonly role: string; readonly content: string }[] {
  return messages.map(({ role, text }) => ({ role, content: text }));
}

/** Finds a turn of the user that the model has made up. @returns its position, or -1 */
export function madeUpTurn(text: string): number {
  return text.indexOf(TURNS.user.trimEnd());
}

async function post(path: string, body: object, signal: AbortSignal): Promise<Response> {
  const headers = { "content-type": "application/json" };
  try {
    return await fetch(path, { method: "POST", headers, body: JSON.stringify(body), signal });
  } catch (error) {
    if (signal.aborted) throw signal.reason;
    throw new ConnectionLost("The server does not answer", { cause: error });
  }
}

async function* guarded(
  body: ReadableStream<Uint8Array>,
  signal: AbortSignal,
): AsyncGenerator<string, void, undefined> {
  try {
    yield* eventsOf(body);
  } catch (error) {
    if (signal.aborted) throw signal.reason;
    throw new ConnectionLost("The answer was cut off", { cause: error });
  }
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
