// Conversations that are longer than the context or a request may be: the oldest turns are left out. A turn begins with
// a message of the user, so that no result of a tool is left without its call. Messages of the system always stay.

import type { ChatBody } from "../api/request-schemas.ts";
import type { KeptItem, Size } from "./store.ts";

type Messages = ChatBody["messages"];

/** Work to render a message beside its characters, in characters. */
const MESSAGE_WORK = 512;

/** Limits of a search for the turns that fit. */
interface SearchLimits {
  /** Characters of all renderings beside a first one of the whole conversation, and 512 for each message. */
  readonly maxWork: number;
  /** Most messages of a conversation that is rendered whole at first: longer ones hardly fit. */
  readonly likelyMessages: number;
}

/**
 * Leaves out the fewest of the oldest turns so that the rest fits. The last turn always stays. Leaves out more turns
 * than needed where further renderings would exceed `maxWork`.
 *
 * @param fits - renders messages. Shorter ones fit whenever longer ones do
 */
export async function fittingMessages(
  messages: Messages,
  fits: (messages: Messages) => Promise<boolean>,
  { maxWork, likelyMessages }: SearchLimits,
): Promise<Messages> {
  const ofUser = messages.flatMap(({ role }, index) => (role === "user" ? [index] : []));
  // The first turn stands for the whole conversation.
  const starts = [0, ...ofUser.slice(1)];
  const isLikely = messages.length <= likelyMessages;
  if (starts.length === 1 || (isLikely && (await fits(messages)))) return messages;
  const works = messages.map((message) => MESSAGE_WORK + JSON.stringify(message).length);
  const stays = (message: Messages[number], index: number, turn: number): boolean =>
    index >= (starts[turn] ?? 0) || isOfSystem(message);
  const from = (turn: number): Messages => messages.filter((message, index) => stays(message, index, turn));
  const workFrom = (turn: number): number =>
    messages.reduce((sum, message, index) => sum + (stays(message, index, turn) ? (works[index] ?? 0) : 0), 0);
  let [low, high, step, left] = [isLikely ? 1 : 0, starts.length - 1, 1, maxWork];
  // Goes back in steps that double, so that short ends of long conversations are found by rendering little.
  for (let isDoubling = true; low < high;) {
    const turn = isDoubling ? Math.max(low, high - step) : Math.floor((low + high) / 2);
    const work = workFrom(turn);
    const isCheap = work <= left;
    if (isCheap) left -= work;
    // oxlint-disable-next-line no-await-in-loop -- a search
    if (isCheap && (await fits(from(turn)))) {
      high = turn;
      step *= 2;
    } else {
      low = turn + 1;
      isDoubling = false;
    }
  }
  return from(high);
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
