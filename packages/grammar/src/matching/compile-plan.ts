// Decides which grammar is compiled next, and which is evicted for it.

export interface WaitingCompilation {
  readonly key: string;
  /** Names of the clients that wait for it. */
  readonly clients: readonly string[];
  /** Whether it did not end within a time slice while others waited. */
  readonly isLong: boolean;
}

export interface RunningCompilation extends WaitingCompilation {
  readonly startedMs: number;
  /** Whether it was abandoned and its thread has not ended yet. */
  readonly isEnding: boolean;
}

export interface KeptGrammar {
  readonly key: string;
  /** Client that used it last. */
  readonly client: string;
  readonly isIdle: boolean;
  readonly usedMs: number;
}

export interface CompileState {
  /** Compilations in the order of their arrival. */
  readonly waiting: readonly WaitingCompilation[];
  readonly running: readonly RunningCompilation[];
  /** Grammars, the most recently used last. */
  readonly kept: readonly KeptGrammar[];
  /** Threads that answer a last question before they end. */
  readonly numRetiring: number;
  /** Threads of kept grammars that end now. */
  readonly numEnding: number;
  /** Place of each client in the order of turns; the least is next. */
  readonly turns: ReadonlyMap<string, number>;
  /** Largest number of threads. */
  readonly maxGrammars: number;
  /** Time after which a compilation makes room for others that wait. */
  readonly sliceMs: number;
  readonly nowMs: number;
}

export type Move =
  | { readonly type: "start"; readonly key: string }
  /** Moves a compilation to the place for long ones, so that another can start. */
  | { readonly type: "promote"; readonly key: string }
  /** Ends a compilation, which waits again; if it is long, for the place of the long ones. */
  | { readonly type: "put-off"; readonly key: string; readonly isLong: boolean }
  /** Ends an idle grammar's thread. */
  | { readonly type: "evict"; readonly key: string }
  /** Ends a busy grammar's thread after the question that it answers now. */
  | { readonly type: "retire"; readonly key: string }
  /** Waits for an event, or until this much time has passed. */
  | { readonly type: "wait"; readonly forMs: number | undefined };

/** A grammar unused for longer is evicted first, whichever client used it. */
const STALE_MS = 60_000;

/**
 * Decides the next move. There are two places: one for compilations that have just begun, one for those that turned
 * out to be long. Clients take turns, and a client with a running compilation comes after those without. So the
 * grammar of one client starts at once whatever another client requests; with several slow grammars it waits one
 * time slice for each.
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
  // An ending compilation makes room by itself.
  if (!fresh || !recent || recent.isEnding) return { type: "wait", forMs: undefined };
  const others = running.filter((one) => one !== recent);
  if (isBusy(recent, others) && !isBusy(fresh, running)) return { type: "put-off", key: recent.key, isLong: false };
  const leftMs = recent.startedMs + sliceMs - nowMs;
  return leftMs <= 0 ? { type: "put-off", key: recent.key, isLong: true } : { type: "wait", forMs: leftMs };
}

/** Whether each client that waits for it has a compilation among `running`. */
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

/** Finds the compilation whose client's turn is next; among those of one client, the first. */
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

/** Finds the stalest grammar; where none is stale, the least recently used one of the client with the most grammars. */
function victim(candidates: readonly KeptGrammar[], { kept, nowMs }: CompileState): KeptGrammar | undefined {
  const [oldest] = candidates;
  if (!oldest || oldest.usedMs + STALE_MS <= nowMs) return oldest;
  const counts = new Map<string, number>();
  for (const { client } of kept) counts.set(client, (counts.get(client) ?? 0) + 1);
  const shareOf = ({ client }: KeptGrammar): number => counts.get(client) ?? 0;
  return candidates.reduce((most, one) => (shareOf(one) > shareOf(most) ? one : most), oldest);
}

/** The order in which clients have their turns. A client that joins, or that had its turn, goes to the end. */
export class Turns {
  readonly #turns = new Map<string, number>();
  #last = 0;

  /** Place of each client; the least is next. */
  get all(): ReadonlyMap<string, number> {
    return this.#turns;
  }

  /** Adds a client that has no place yet. */
  join(client: string): void {
    if (!this.#turns.has(client)) this.#turns.set(client, ++this.#last);
  }

  /** Moves clients to the end. */
  had(clients: Iterable<string>): void {
    for (const client of clients) this.#turns.set(client, ++this.#last);
  }

  /** Removes all other clients. */
  keepOnly(clients: ReadonlySet<string>): void {
    for (const client of this.#turns.keys()) if (!clients.has(client)) this.#turns.delete(client);
  }
}

const BLANKS = " \t\n\r";

/** Blanks between the parts of JSON: seen in a text so far, and probable in what follows. */
export class JsonLayout {
  #isInString = false;
  #isEscaped = false;
  #depth = 0;
  /** Last character outside strings that is no blank. */
  #last = "";
  /** Blanks since then. */
  #blanks = "";
  #afterColon = " ";
  /** Blanks after a comma; `undefined` if none was seen: mostly as after a colon. */
  #afterComma: string | undefined;
  #afterOpen = "";
  /** Indentation of one level; `undefined` if members share a line. Models mostly begin with two blanks. */
  #indent: string | undefined = "  ";

  read(text: string): void {
    for (const character of text) this.#push(character);
  }

  /** Finds the blanks that probably come before a character that is no blank, without those that were read. */
  blanksBefore(next: string): string {
    const whole = this.#probableBlanks(next);
    return whole.startsWith(this.#blanks) ? whole.slice(this.#blanks.length) : "";
  }

  #probableBlanks(next: string): string {
    if (this.#depth === 0 || next === "," || next === ":") return "";
    const isClosing = next === "}" || next === "]";
    if (isClosing && (this.#last === "{" || this.#last === "[")) return "";
    if (!isClosing && !"{[,:".includes(this.#last)) return "";
    if (this.#last === ":") return this.#afterColon;
    if (this.#indent !== undefined) return `\n${this.#indent.repeat(Math.max(0, this.#depth - (isClosing ? 1 : 0)))}`;
    return this.#last === "," ? (this.#afterComma ?? this.#afterColon) : this.#afterOpen;
  }

  #push(character: string): void {
    if (this.#isInString) {
      if (this.#isEscaped) this.#isEscaped = false;
      else if (character === "\\") this.#isEscaped = true;
      else if (character === '"') this.#isInString = false;
      return;
    }
    if (BLANKS.includes(character)) {
      this.#blanks += character;
      return;
    }
    if (character !== "}" && character !== "]") this.#learn();
    this.#last = character;
    this.#blanks = "";
    if (character === '"') this.#isInString = true;
    else if (character === "{" || character === "[") this.#depth++;
    else if (character === "}" || character === "]") this.#depth = Math.max(0, this.#depth - 1);
  }

  /** Remembers the blanks before a character that does not close anything. */
  #learn(): void {
    if (this.#last === ":") this.#afterColon = this.#blanks;
    else if (this.#last === ",") this.#afterComma = this.#blanks;
    else if (this.#last === "{" || this.#last === "[") this.#afterOpen = this.#blanks;
    else return;
    if (this.#last === ":" || this.#depth === 0) return;
    const width = (this.#blanks.length - 1) / this.#depth;
    const isIndented = this.#blanks.startsWith("\n") && Number.isInteger(width);
    this.#indent = isIndented ? this.#blanks.slice(1, 1 + width) : undefined;
  }
}
