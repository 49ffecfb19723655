// Conversations that are longer than the context or a request may be: the oldest turns are left out. A turn begins with
// a message of the user, so that no result of a tool is left without its call. Messages of the system always stay.

import type { ChatBody } from "../api/request-schemas.ts";
import type { KeptItem, Size } from "./store.ts";

type Messages = ChatBody["messages"];

/** Work to render a message beside its characters, in characters. */
const MESSAGE_WORK = 512;
/** Tokens for each unit of work, before a rendering has shown them. */
const LIKELY_RATE = 1 / 4;
/** Turns that are tried by estimates, before the search halves what is left. */
const MAX_ESTIMATES = 4;

/** Limits of a search for the turns that fit. */
interface SearchLimits {
  /** Most tokens of the messages that stay. */
  readonly maxTokens: number;
  /** Characters of all renderings beside a first one of the whole conversation, and 512 for each message. */
  readonly maxWork: number;
  /** Most messages of a conversation that is rendered whole at first: longer ones hardly fit. */
  readonly likelyMessages: number;
}

/**
 * Leaves out the fewest of the oldest turns so that the rest fits. The last turn always stays. Leaves out more turns
 * than needed where further renderings would exceed `maxWork`. Renderings block the engine, so the tokens of earlier
 * ones predict which turns fit.
 *
 * @param tokensOf - renders messages, and counts their tokens: a number above `maxTokens` where they are more. Shorter
 *   ones have fewer
 */
export async function fittingMessages(
  messages: Messages,
  tokensOf: (messages: Messages) => Promise<number>,
  { maxTokens, maxWork, likelyMessages }: SearchLimits,
): Promise<Messages> {
  const ofUser = messages.flatMap(({ role }, index) => (role === "user" ? [index] : []));
  // The first turn stands for the whole conversation.
  const starts = [0, ...ofUser.slice(1)];
  const isLikely = messages.length <= likelyMessages;
  if (starts.length === 1 || (isLikely && (await tokensOf(messages)) <= maxTokens)) return messages;
  const works = worksFrom(messages, starts);
  const from = (turn: number): Messages =>
    messages.filter((message, index) => index >= (starts[turn] ?? 0) || isOfSystem(message));
  let [low, high, left] = [isLikely ? 1 : 0, starts.length - 1, maxWork];
  let known = { work: 0, tokens: 0 };
  let rate = LIKELY_RATE;
  for (let attempt = 0; low < high; attempt++) {
    const room = known.work + (maxTokens - known.tokens) / rate;
    const estimated = works.findIndex((work, turn) => turn >= low && (work <= room || turn === high - 1));
    const turn = attempt < MAX_ESTIMATES ? estimated : Math.floor((low + high) / 2);
    const work = works[turn] ?? 0;
    const isCheap = work <= left;
    if (isCheap) left -= work;
    // oxlint-disable-next-line no-await-in-loop -- a search
    const tokens = isCheap ? await tokensOf(from(turn)) : Infinity;
    if (tokens <= maxTokens) {
      high = turn;
      rate = Math.max(tokens - known.tokens, 1) / Math.max(work - known.work, 1);
      known = { work, tokens };
    } else {
      low = turn + 1;
      if (known.work === 0) rate *= 2;
    }
  }
  return from(high);
}

/** Computes the work to render the messages that stay from each turn on. */
function worksFrom(messages: Messages, starts: readonly number[]): readonly number[] {
  const works: number[] = [];
  let after = 0;
  let turn = starts.length - 1;
  let ofSystem = 0;
  const own = messages.map((message) => MESSAGE_WORK + JSON.stringify(message).length);
  for (const [index, message] of messages.entries()) if (isOfSystem(message)) ofSystem += own[index] ?? 0;
  for (const [index, message] of [...messages.entries()].toReversed()) {
    if (isOfSystem(message)) ofSystem -= own[index] ?? 0;
    after += own[index] ?? 0;
    if (index !== starts[turn]) continue;
    works[turn] = after + ofSystem;
    turn--;
  }
  return works;
}

/** Leaves out the fewest of the oldest turns of kept items so that the rest has room. */
export function fittingHistory(history: readonly KeptItem[], room: Size): readonly KeptItem[] {
  let { bytes, numParts } = room;
  const hasRoom = (kept: KeptItem): boolean => {
    bytes -= kept.bytes;
    numParts -= kept.numParts;
    return bytes >= 0 && numParts >= 0;
  };
  for (const kept of history) if (isOfSystem(kept.item)) hasRoom(kept);
  const others = history.filter(({ item }) => !isOfSystem(item)).toReversed();
  const numFitting = others.findIndex((kept) => !hasRoom(kept));
  if (numFitting === -1) return history;
  const first = others.slice(0, numFitting).findLast(({ item }) => item.type === "message" && item.role === "user");
  const start = first ? history.indexOf(first) : history.length;
  return history.filter(({ item }, index) => index >= start || isOfSystem(item));
}

function isOfSystem(message: object): boolean {
  return "role" in message && (message.role === "system" || message.role === "developer");
}
