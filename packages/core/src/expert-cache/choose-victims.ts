import type { EvictionCandidate, EvictionPolicy } from "./eviction-policy.ts";

/**
 * Asks a policy for units until they make room.
 *
 * Where sizes differ, the last one asked for may be so large that earlier ones need not go: these stay, the most
 * valuable first.
 *
 * @param missingBytes - from 0 up
 * @param firstDecision - number of the first decision
 * @returns `undefined` when all of them together are not enough
 * @throws {TypeError} when the policy gives something that is not among those it was asked about
 */
export function chooseVictims(
  candidates: readonly EvictionCandidate[],
  missingBytes: number,
  policy: EvictionPolicy,
  firstDecision: number,
): readonly EvictionCandidate[] | undefined {
  const left = [...candidates];
  const chosen: EvictionCandidate[] = [];
  let room = 0;
  while (room < missingBytes) {
    if (left.length === 0) return undefined;
    const decision = firstDecision + chosen.length;
    const victim = policy(left.slice(), { missingBytes: missingBytes - room, decision });
    const place = left.indexOf(victim);
    if (place < 0) throw new TypeError("Expected the eviction policy to return one of its candidates");
    left.splice(place, 1);
    chosen.push(victim);
    room += victim.bytes;
  }
  return chosen.toReversed().filter(({ bytes }) => {
    if (room - bytes < missingBytes) return true;
    room -= bytes;
    return false;
  });
}
