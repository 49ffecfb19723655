// Distribution of a batch's rows to experts.

/** Rows of one expert. */
export interface Share {
  readonly expert: number;
  /** Row indices, ascending; `undefined` for all rows. */
  readonly rows: Int32Array | undefined;
}

/** Groups rows by expert. @param experts - of each row */
export function dealRows(experts: Uint16Array): readonly Share[] {
  const counts = new Map<number, number>();
  for (const expert of experts) counts.set(expert, (counts.get(expert) ?? 0) + 1);
  return [...counts.keys()]
    .toSorted((a, b) => a - b)
    .map((expert) => ({ expert, rows: counts.size === 1 ? undefined : placesOf(experts, expert) }));
}

/** Selects the rows `[…, width]` of a share: a copy, unless the share has all rows. */
export function takeRows(all: Float32Array, { rows }: Share, width: number): Float32Array {
  if (!rows) return all;
  const taken = new Float32Array(rows.length * width);
  rows.forEach((row, place) => taken.set(all.subarray(row * width, (row + 1) * width), place * width));
  return taken;
}

/** Writes a share's rows to their places. @returns `all`, or `part` if it has all rows */
export function putRows(all: Float32Array, part: Float32Array, { rows }: Share, width: number): Float32Array {
  if (!rows) return part;
  rows.forEach((row, place) => all.set(part.subarray(place * width, (place + 1) * width), row * width));
  return all;
}

function placesOf(experts: Uint16Array, expert: number): Int32Array {
  return Int32Array.from(experts.keys()).filter((row) => experts[row] === expert);
}
