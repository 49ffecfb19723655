// Damages bytes without knowing what they mean.

import type { Chance } from "../fuzz/chance.ts";

/** Integers that readers may take for sizes or offsets. */
export const NUMBERS: readonly bigint[] = [
  0n,
  1n,
  2n,
  3n,
  255n,
  256n,
  1024n,
  4097n,
  65_535n,
  65_536n,
  1n << 20n,
  100_000_000n,
  (1n << 31n) - 1n,
  1n << 31n,
  2_000_000_000n,
  (1n << 32n) - 1n,
  1n << 32n,
  1n << 40n,
  (1n << 53n) - 1n,
  1n << 53n,
  1n << 61n,
  1n << 63n,
  (1n << 64n) - 1n,
];

type Damage = (bytes: Buffer, chance: Chance) => Buffer;

const flipped: Damage = (bytes, chance) => {
  const copy = Buffer.from(bytes);
  for (let count = chance.pick([1, 1, 2, 8, 60]); count > 0; count--) {
    const at = placeIn(copy, chance);
    copy[at] = (copy[at] ?? 0) ^ (1 << chance.below(8));
  }
  return copy;
};

const cut: Damage = (bytes, chance) => bytes.subarray(0, placeIn(bytes, chance));

const numbered: Damage = (bytes, chance) => {
  const copy = Buffer.from(bytes);
  const size = chance.pick([1, 2, 4, 8]);
  const at = placeIn(copy, chance);
  const number = Buffer.alloc(8);
  number.writeBigUInt64LE(chance.pick(NUMBERS));
  number.copy(copy, at, 0, size);
  return copy;
};

/** Replaces, inserts or leaves out a run; what comes in is from elsewhere in the same file. */
const spliced: Damage = (bytes, chance) => {
  const [at, from] = [placeIn(bytes, chance), placeIn(bytes, chance)];
  const length = chance.pick([1, 4, 16, 100, 1000]);
  const inserted = chance.happens(0.3) ? Buffer.alloc(0) : bytes.subarray(from, from + length);
  return Buffer.concat([bytes.subarray(0, at), inserted, bytes.subarray(at + (chance.happens(0.5) ? length : 0))]);
};

const filled: Damage = (bytes, chance) => {
  const copy = Buffer.from(bytes);
  const at = placeIn(copy, chance);
  const end = Math.min(copy.length, at + chance.pick([4, 8, 64, 1024]));
  return copy.fill(chance.pick([0, 0xff, 0x7f, 0x20, 0x5b, 0x22]), at, end);
};

const DAMAGES: readonly Damage[] = [flipped, flipped, cut, numbered, numbered, spliced, spliced, filled];

/** Damages bytes once or a few times. */
export function damagedBytes(bytes: Buffer, chance: Chance): Buffer {
  let result = bytes;
  for (let count = chance.pick([1, 1, 1, 2, 4]); count > 0 && result.length > 0; count--)
    result = chance.pick(DAMAGES)(result, chance);
  return result;
}

/** Draws a place, in the first kilobytes more often: what comes before the weights is read with more care. */
function placeIn(bytes: Buffer, chance: Chance): number {
  return chance.below(Math.max(1, chance.happens(0.7) ? Math.min(bytes.length, 4096) : bytes.length));
}
