// Rendezvous hashing (Thaler and Ravishankar, 1998) with weights: every key orders all workers by a hash of both, so a
// worker that joins or leaves changes the order of no two others.

/** A worker that keys can be assigned to. */
export interface Member {
  readonly id: string;
  /** Speed in any unit, above 0, the same for all members. */
  readonly capacity: number;
}

/** Orders members for a key. A member is first for a part of all keys that is proportional to its capacity. */
export function rendezvousOrder(key: string, members: readonly Member[]): readonly Member[] {
  const scored = members.map((member) => ({
    member,
    // The largest of these is the first event of Poisson processes whose rates are the capacities.
    score: -member.capacity / Math.log(uniformHash(`${key}\n${member.id}`)),
  }));
  return scored
    .toSorted((a, b) => b.score - a.score || (a.member.id < b.member.id ? -1 : 1))
    .map(({ member }) => member);
}

/** Hashes a text to a number between 0 and 1, both excluded (FNV-1a with the last mixing of MurmurHash3). */
function uniformHash(text: string): number {
  let hash = 0x811c9dc5;
  for (let index = 0; index < text.length; index++) hash = Math.imul(hash ^ text.charCodeAt(index), 0x01000193);
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return (((hash ^ (hash >>> 16)) >>> 0) + 0.5) / 2 ** 32;
}
