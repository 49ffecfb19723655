// Which rows of a batch go to which expert.

/** One expert's rows. */
export interface Share {
  readonly expert: number;
  /** Ascending; `undefined` for all. */
  readonly rows: Int32Array | undefined;
}

/** @param experts - of each row */
export function dealRows(experts: Uint16Array): readonly Share[] {
  const counts = new Map<number, number>();
  for (const expert of experts) counts.set(expert, (counts.get(expert) ?? 0) + 1);
  return [...counts.keys()]
    .toSorted((a, b) => a - b)
    .map((expert) => ({ expert, rows: counts.size === 1 ? undefined : placesOf(experts, expert) }));
}

/** The rows `[…, width]` of a share: a copy, unless it is all of them. */
export function takeRows(all: Float32Array, { rows }: Share, width: number): Float32Array {
  if (!rows) return all;
  const taken = new Float32Array(rows.length * width);
  rows.forEach((row, place) => taken.set(all.subarray(row * width, (row + 1) * width), place * width));
  return taken;
}

/** Puts a share's rows where they belong. @returns `all`, or `part` where that is all */
export function putRows(all: Float32Array, part: Float32Array, { rows }: Share, width: number): Float32Array {
  if (!rows) return part;
  rows.forEach((row, place) => all.set(part.subarray(place * width, (place + 1) * width), row * width));
  return all;
}

function placesOf(experts: Uint16Array, expert: number): Int32Array {
  return Int32Array.from(experts.keys()).filter((row) => experts[row] === expert);
}
