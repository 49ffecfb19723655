// Which size each tensor gets, so that all together err least within a number of bytes.

/** One way to store a tensor. */
export interface Choice {
  readonly bytes: number;
  /** Squared; 0 for what loses nothing. */
  readonly error: number;
}

/**
 * Picks one choice for each tensor: of all picks that take no more bytes than this one, none errs less. What is left of
 * `maxBytes` is less than one step of one tensor takes.
 *
 * @param choices - by tensor, at least one each
 * @returns an index into each tensor's choices; `undefined` where even the smallest choices do not fit
 */
export function allocate(choices: readonly (readonly Choice[])[], maxBytes: number): readonly number[] | undefined {
  const hulls = choices.map(convexHull);
  const picks = hulls.map(() => 0);
  let bytes = hulls.reduce((sum, hull) => sum + (hull[0] as Corner).bytes, 0);
  if (bytes > maxBytes) return undefined;
  // Along a hull each step gains less per byte than the one before, so that steps of all tensors can be taken by gain.
  const steps = hulls.flatMap((hull, tensor) =>
    hull.slice(1).map((corner, before) => ({ tensor, to: before + 1, ...stepBetween(hull[before] as Corner, corner) })),
  );
  steps.sort((a, b) => b.gain - a.gain || a.tensor - b.tensor || a.to - b.to);
  for (const { tensor, to, bytes: more } of steps) {
    if (bytes + more > maxBytes) break;
    bytes += more;
    picks[tensor] = to;
  }
  return picks.map((pick, tensor) => ((hulls[tensor] as readonly Corner[])[pick] as Corner).index);
}

interface Corner extends Choice {
  readonly index: number;
}

/** The choices that are best for some price of a byte, by size. */
function convexHull(choices: readonly Choice[]): readonly Corner[] {
  const sorted = choices
    .map(({ bytes, error }, index) => ({ bytes, error, index }))
    .toSorted((a, b) => a.bytes - b.bytes || a.error - b.error || a.index - b.index);
  const hull: Corner[] = [];
  for (const corner of sorted) {
    if (hull.length > 0 && corner.error >= (hull.at(-1) as Corner).error) continue;
    while (hull.length > 1) {
      const [first, second] = hull.slice(-2) as [Corner, Corner];
      if (stepBetween(first, second).gain > stepBetween(second, corner).gain) break;
      hull.pop();
    }
    hull.push(corner);
  }
  return hull;
}

function stepBetween(from: Choice, to: Choice): { readonly bytes: number; readonly gain: number } {
  const bytes = to.bytes - from.bytes;
  return { bytes, gain: bytes > 0 ? (from.error - to.error) / bytes : Infinity };
}
