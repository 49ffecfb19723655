// Decides what is compiled next, and what makes room for it. Plain data in, one move out.

export interface WaitingCompilation {
  readonly key: string;
  /** Names of those who wait for it. */
  readonly clients: readonly string[];
  /** Did not come to an end within a slice of time while others waited. */
  readonly isLong: boolean;
}

export interface RunningCompilation extends WaitingCompilation {
  readonly startedMs: number;
  /** Was given up; its thread has not ended yet. */
  readonly isEnding: boolean;
}

export interface KeptGrammar {
  readonly key: string;
  /** Who used it last. */
  readonly client: string;
  readonly isIdle: boolean;
  readonly usedMs: number;
}

export interface CompileState {
  /** In the order in which they came. */
  readonly waiting: readonly WaitingCompilation[];
  readonly running: readonly RunningCompilation[];
  /** The one used last is last. */
  readonly kept: readonly KeptGrammar[];
  /** Threads that answer a last question before they end. */
  readonly numRetiring: number;
  /** Threads of kept grammars that end now. */
  readonly numEnding: number;
  /** When each client has its turn; the least is next. */
  readonly turns: ReadonlyMap<string, number>;
  /** Threads there may be. */
  readonly maxGrammars: number;
  /** What runs longer makes room for others that wait. */
  readonly sliceMs: number;
  readonly nowMs: number;
}

export type Move =
  | { readonly type: "start"; readonly key: string }
  /** Goes on in the place for long compilations, so that another can start. */
  | { readonly type: "promote"; readonly key: string }
  /** Ends, and waits again; where it is long, for the place of those. */
  | { readonly type: "put-off"; readonly key: string; readonly isLong: boolean }
  /** Ends an idle grammar. */
  | { readonly type: "evict"; readonly key: string }
  /** Ends a busy grammar after the question that it answers now. */
  | { readonly type: "retire"; readonly key: string }
  /** Nothing can be done before something happens, or before so many ms have passed. */
  | { readonly type: "wait"; readonly forMs: number | undefined };

/** A grammar unused for longer has no claim on its place, whoever used it. */
const STALE_MS = 60_000;

/**
 * There are two places: one for compilations that have just begun, and one for those that turned out to be long. Clients
 * take turns, and one that has a compilation running comes after those that have none. So whatever one client asks for,
 * another one's grammar starts at once; and when several clients ask for slow ones, it waits a slice of time for each.
 */
export function nextMove(state: CompileState): Move {
  const { running, waiting, turns, sliceMs, nowMs, maxGrammars } = state;
  const idleFirst = (of: readonly WaitingCompilation[]): WaitingCompilation | undefined =>
    nextInTurn(
      of.filter((one) => !isBusy(one, running)),
      turns,
    ) ?? nextInTurn(of, turns);
  const fresh = idleFirst(waiting.filter(({ isLong }) => !isLong));
  const recent = running.find(({ isLong }) => !isLong);
  if (maxGrammars === 1) {
    if (running.length === 0) return start(nextInTurn(waiting, turns), state);
  } else {
    const long = idleFirst(waiting.filter(({ isLong }) => isLong));
    const isLongTaken = running.some(({ isLong }) => isLong);
    if (long && !isLongTaken) return start(long, state);
    if (fresh && !recent) return start(fresh, state);
    if (fresh && recent && !isLongTaken) return { type: "promote", key: recent.key };
  }
  // What is ending makes room by itself.
  if (!fresh || !recent || recent.isEnding) return { type: "wait", forMs: undefined };
  const others = running.filter((one) => one !== recent);
  if (isBusy(recent, others) && !isBusy(fresh, running)) return { type: "put-off", key: recent.key, isLong: false };
  const leftMs = recent.startedMs + sliceMs - nowMs;
  return leftMs <= 0 ? { type: "put-off", key: recent.key, isLong: true } : { type: "wait", forMs: leftMs };
}

/** Whether each of those who wait for it has a compilation among `running`. */
function isBusy({ clients }: WaitingCompilation, running: readonly RunningCompilation[]): boolean {
  return clients.every((client) => running.some((one) => one.clients.includes(client)));
}

function start(next: WaitingCompilation | undefined, state: CompileState): Move {
  const { running, kept, numRetiring, numEnding, maxGrammars } = state;
  const wait: Move = { type: "wait", forMs: undefined };
  if (!next) return wait;
  const numLasting = running.filter(({ isEnding }) => !isEnding).length + kept.length + numRetiring;
  const numTaken = running.length + kept.length + numRetiring + numEnding;
  if (numTaken < maxGrammars) return { type: "start", key: next.key };
  if (numLasting < maxGrammars) return wait;
  const idle = victim(
    kept.filter(({ isIdle }) => isIdle),
    state,
  );
  if (idle) return { type: "evict", key: idle.key };
  if (numLasting - numRetiring < maxGrammars) return wait;
  const other = victim(kept, state);
  return other ? { type: "retire", key: other.key } : wait;
}

/** Of those that wait, the one whose client's turn is next; of one client's, the first. */
function nextInTurn(
  waiting: readonly WaitingCompilation[],
  turns: ReadonlyMap<string, number>,
): WaitingCompilation | undefined {
  const turnOf = ({ clients }: WaitingCompilation): number =>
    clients.reduce((least, client) => Math.min(least, turns.get(client) ?? 0), Infinity);
  let next: WaitingCompilation | undefined;
  for (const one of waiting) if (!next || turnOf(one) < turnOf(next)) next = one;
  return next;
}

/** The stalest; where none is stale, the one used longest ago of the client who has the most. */
function victim(candidates: readonly KeptGrammar[], { kept, nowMs }: CompileState): KeptGrammar | undefined {
  const [oldest] = candidates;
  if (!oldest || oldest.usedMs + STALE_MS <= nowMs) return oldest;
  const counts = new Map<string, number>();
  for (const { client } of kept) counts.set(client, (counts.get(client) ?? 0) + 1);
  const shareOf = ({ client }: KeptGrammar): number => counts.get(client) as number;
  return candidates.reduce((most, one) => (shareOf(one) > shareOf(most) ? one : most), oldest);
}
