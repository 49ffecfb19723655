// Conversations that are longer than the context: the oldest turns are left out.

import type { ChatBody } from "../api/request-schemas.ts";

type Messages = ChatBody["messages"];

/**
 * Leaves out the fewest of the oldest turns so that the rest fits. A turn begins with a message of the user, so that
 * no result of a tool is left without its call. Messages of the system and the last turn always stay.
 *
 * @param fits - whether messages fit; shorter ones fit whenever longer ones do
 */
export async function fittingMessages(
  messages: Messages,
  fits: (messages: Messages) => Promise<boolean>,
): Promise<Messages> {
  const starts = messages.flatMap(({ role }, index) => (role === "user" ? [index] : []));
  const from = (start: number): Messages =>
    messages.filter(({ role }, index) => index >= start || role === "system" || role === "developer");
  // The first start stands for the whole conversation.
  let [low, high] = [0, Math.max(0, starts.length - 1)];
  const candidates = [0, ...starts.slice(1)];
  while (low < high) {
    const middle = Math.floor((low + high) / 2);
    // oxlint-disable-next-line no-await-in-loop -- a binary search
    if (await fits(from(candidates[middle] ?? 0))) high = middle;
    else low = middle + 1;
  }
  return from(candidates[low] ?? 0);
}
