// What requests take of a server, and whether one more fits. Plain data, whole numbers: sums are exact.

/** What one request takes, what all take together, or what all may take. */
export interface Load {
  readonly requests: number;
  /** Prompt and completion, as long as they can get. */
  readonly tokens: number;
  readonly bytes: number;
}

type Measure = keyof Load;

/** A limit that a request would pass. */
export interface Overflow {
  readonly measure: Measure;
  /** By how much. */
  readonly excess: number;
}

/** A request that waits for its first token. */
interface Waiting {
  readonly load: Load;
  readonly priority: number;
}

const MEASURES: readonly Measure[] = ["requests", "tokens", "bytes"];

export const NO_LOAD: Load = { requests: 0, tokens: 0, bytes: 0 };

export function addLoad(a: Load, b: Load): Load {
  return { requests: a.requests + b.requests, tokens: a.tokens + b.tokens, bytes: a.bytes + b.bytes };
}

export function subtractLoad(a: Load, b: Load): Load {
  return { requests: a.requests - b.requests, tokens: a.tokens - b.tokens, bytes: a.bytes - b.bytes };
}

/**
 * The first limit that `wanted` would pass, or `undefined` where it fits. A request that is larger than a limit by
 * itself fits where nobody else is: its size is an upper bound, and it could never get in otherwise.
 */
export function overflowOf(load: Load, wanted: Load, limits: Load): Overflow | undefined {
  if (load.requests === 0) return undefined;
  for (const measure of MEASURES) {
    const excess = load[measure] + wanted[measure] - limits[measure];
    if (excess > 0) return { measure, excess };
  }
  return undefined;
}

/**
 * Those who have to leave for `wanted` to fit: waiting ones of less priority, the least and the newest first; none where
 * it does not fit even without all of them.
 *
 * @param waiting - in the order in which they came
 */
export function displacedBy<Ticket extends Waiting>(
  wanted: Waiting,
  waiting: Iterable<Ticket>,
  load: Load,
  limits: Load,
): readonly Ticket[] {
  const newestFirst = [...waiting].toReversed();
  const below = newestFirst.filter(({ priority }) => priority < wanted.priority);
  below.sort((a, b) => a.priority - b.priority);
  const displaced: Ticket[] = [];
  let left = load;
  for (const ticket of below) {
    displaced.push(ticket);
    left = subtractLoad(left, ticket.load);
    if (!overflowOf(left, wanted.load, limits)) return displaced;
  }
  return [];
}
