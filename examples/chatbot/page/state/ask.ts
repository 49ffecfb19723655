// Requests one answer from the API and reads its stream.

import type { ModelChoice } from "../../shared/live.ts";
import { ConnectionLost, countTokens, post, Refused } from "./api.ts";
import { eventsOf } from "./events-of.ts";
import type { Ending, Message, Mode } from "./messages.ts";
import { apiMessages, contentOf, continues, fittingMessages, mostTokens, transcriptOf } from "./prompt.ts";
import { roomFor, type Room } from "./room.ts";
import type { Piece } from "./written-answer.ts";

export interface AskOptions {
  readonly model: ModelChoice;
  /** Expert of all tokens; absent where the model decides. */
  readonly expert: string | undefined;
  readonly mode: Mode;
  readonly system: string | undefined;
  /** The conversation so far, newest last. An answer at its end is continued. */
  readonly messages: readonly Message[];
  readonly temperature: number;
  /** The user's limit; 0 for none. */
  readonly maxTokens: number;
  readonly signal: AbortSignal;
  /** @param id - name of the answer's sequence in events */
  readonly onStarted: (id: string) => void;
  /** Called while the model reads the prompt. */
  readonly onReading: (progress: ReadingProgress) => void;
  readonly onPiece: (piece: Piece) => void;
}

/** How far the model has read a prompt. */
export interface ReadingProgress {
  readonly readTokens: number;
  readonly promptTokens: number;
}

interface Chunk {
  readonly id?: string;
  readonly error?: { readonly message?: string };
  readonly usage?: { readonly total_tokens: number } | null;
  readonly read_me?: { readonly progress?: { readonly read_tokens: number; readonly prompt_tokens: number } };
  readonly choices?: readonly {
    readonly text?: string;
    readonly delta?: { readonly content?: string; readonly reasoning_content?: string };
    readonly finish_reason?: string | null;
    readonly read_me?: { readonly routes: readonly (number | null)[] };
  }[];
}

/** The end of an answer. */
export interface Asked {
  /** Number of messages that did not fit into the context. */
  readonly leftOut: number;
  readonly ending: Ending;
  /** Tokens of the prompt and the answer together. */
  readonly contextTokens: number;
}

/**
 * Streams an answer.
 * @throws {Refused | ConnectionLost}; the reason of `signal`
 */
export async function ask(options: AskOptions): Promise<Asked> {
  const { model, mode, messages, system = "", signal } = options;
  const room = roomFor({ ...options, ...model });
  const asked = mode === "chat" ? messages : messages.slice(continues(messages) ? -2 : -1);
  const kept = await fittingMessages(
    asked,
    room.promptTokens,
    (some) => promptTokens(options, some),
    3 * system.length,
  );
  await checkFits(options, kept);
  const { path, body } = requestFor(options, kept, room);
  const response = await post(path, body, signal);
  if (!response.body) throw new Refused("The server sent no answer");
  let [isFull, contextTokens] = [false, 0];
  for await (const data of guarded(response.body, signal)) {
    if (data === "[DONE]") {
      const ending = !isFull ? "done" : contextTokens >= model.contextTokens ? "context" : "full";
      return { leftOut: asked.length - kept.length, ending, contextTokens };
    }
    const chunk = JSON.parse(data) as Chunk;
    if (chunk.error) throw new Refused(chunk.error.message ?? "The server ended the answer");
    if (chunk.id !== undefined) options.onStarted(chunk.id);
    const progress = chunk.read_me?.progress;
    if (progress) options.onReading({ readTokens: progress.read_tokens, promptTokens: progress.prompt_tokens });
    contextTokens = chunk.usage?.total_tokens ?? contextTokens;
    for (const { text, delta, finish_reason: reason, read_me: readMe } of chunk.choices ?? []) {
      isFull ||= reason === "length";
      const routes = readMe?.routes ?? [];
      const piece = {
        text: text ?? delta?.content ?? "",
        reasoning: delta?.reasoning_content ?? "",
        tokens: routes.length,
        expert: routes.at(-1) ?? -1,
      };
      if (piece.text !== "" || piece.reasoning !== "" || piece.tokens > 0) options.onPiece(piece);
    }
  }
  throw new ConnectionLost("The answer was cut off");
}

/** @throws {Refused} when even the last message alone leaves no room for an answer */
async function checkFits(options: AskOptions, kept: readonly Message[]): Promise<void> {
  const { contextTokens } = options.model;
  if (kept.length > 1 || mostTokens(kept) + 3 * (options.system?.length ?? 0) < contextTokens) return;
  const tokens = await promptTokens(options, kept);
  if (tokens < contextTokens) return;
  throw new Refused(
    `This message has ${tokens.toLocaleString("en")} tokens, and the model's context has ` +
      `${contextTokens.toLocaleString("en")}. Shorten it, or remove an attachment.`,
  );
}

/** Measured: small models repeat themselves without them (docs/how-to/choose-sampling.md). */
const AGAINST_LOOPS = { min_p: 0.05, repetition_penalty: 1.1 };

function requestFor(
  { model, expert, mode, system, temperature }: AskOptions,
  kept: readonly Message[],
  { answerTokens }: Room,
): { readonly path: string; readonly body: object } {
  const isAdapter = expert !== undefined && model.expertKind === "lora";
  const params = {
    model: isAdapter ? `${model.name}:${expert}` : model.name,
    stream: true,
    stream_options: { include_usage: true },
    max_tokens: answerTokens,
    temperature,
    ...AGAINST_LOOPS,
    read_me: { include: ["routes", "progress"], ...(expert === undefined || isAdapter ? {} : { expert }) },
  };
  if (mode === "continue") {
    return { path: "/v1/completions", body: { ...params, prompt: kept.map(contentOf).join("") } };
  }
  if (!model.hasChatTemplate) {
    return { path: "/v1/completions", body: { ...params, prompt: transcriptOf(kept, system) } };
  }
  const end = continues(kept) ? { continue_final_message: true } : {};
  return { path: "/v1/chat/completions", body: { ...params, ...end, messages: apiMessages(kept, system) } };
}

function promptTokens(options: AskOptions, messages: readonly Message[]): Promise<number> {
  const { model, mode, system, signal } = options;
  const prompt =
    mode === "continue"
      ? { prompt: messages.map(contentOf).join("") }
      : model.hasChatTemplate
        ? { messages: apiMessages(messages, system) }
        : { prompt: transcriptOf(messages, system) };
  return countTokens({ model: model.name, ...prompt }, signal);
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
