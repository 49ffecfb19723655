// Stop strings: finding any of several strings in a text that arrives in pieces.

const ROOT = 0;

/**
 * Finds any of several strings in one pass over UTF-16 code units, in time that does not depend on their number (Aho
 * and Corasick, "Efficient String Matching: An Aid to Bibliographic Search", CACM 18(6), 1975). Immutable; sequences
 * may share it.
 */
export class StopAutomaton {
  readonly stops: readonly string[];
  // A node is a prefix of some stop; 0 is the empty one. Children are linked lists: most nodes have one child, and no
  // node has more children than there are stops.
  readonly #units: Uint16Array;
  readonly #firstChild: Int32Array;
  readonly #nextSibling: Int32Array;
  /** The longest other prefix that a node's prefix ends with. */
  readonly #fallback: Int32Array;
  readonly #depth: Int32Array;
  /** Index of the longest stop that a node's prefix ends with; -1 for none. */
  readonly #stop: Int32Array;

  /** @param stops - non-empty strings */
  constructor(stops: readonly string[]) {
    const capacity = stops.reduce((sum, stop) => sum + stop.length, 1);
    this.stops = stops;
    this.#units = new Uint16Array(capacity);
    this.#firstChild = new Int32Array(capacity);
    this.#nextSibling = new Int32Array(capacity);
    this.#fallback = new Int32Array(capacity);
    this.#depth = new Int32Array(capacity);
    this.#stop = new Int32Array(capacity).fill(-1);
    let numNodes = 1;
    for (const [index, stop] of stops.entries()) numNodes = this.#insert(stop, index, numNodes);
    this.#link();
  }

  /** Computes the state after `unit`; the first state is 0. */
  next(state: number, unit: number): number {
    for (let node = state; ; node = this.#fallback[node] ?? ROOT) {
      const child = this.#child(node, unit);
      if (child !== 0) return child;
      if (node === ROOT) return ROOT;
    }
  }

  /** Returns how many of the last units are the beginning of a stop; the largest such number. */
  depth(state: number): number {
    return this.#depth[state] ?? 0;
  }

  /** Returns the longest stop that ends at this state. */
  stop(state: number): string | undefined {
    return this.stops[this.#stop[state] ?? -1];
  }

  #child(node: number, unit: number): number {
    let child = this.#firstChild[node] ?? 0;
    while (child !== 0 && this.#units[child] !== unit) child = this.#nextSibling[child] ?? 0;
    return child;
  }

  #insert(stop: string, index: number, numNodes: number): number {
    let node = ROOT;
    let nodes = numNodes;
    for (let at = 0; at < stop.length; at++) {
      const unit = stop.charCodeAt(at);
      let child = this.#child(node, unit);
      if (child === 0) {
        child = nodes++;
        this.#units[child] = unit;
        this.#depth[child] = at + 1;
        this.#nextSibling[child] = this.#firstChild[node] ?? 0;
        this.#firstChild[node] = child;
      }
      node = child;
    }
    this.#stop[node] = index;
    return nodes;
  }

  /** Sets fallbacks breadth first, since each depends on those of shorter prefixes. */
  #link(): void {
    const queue = [ROOT];
    for (const node of queue) {
      for (let child = this.#firstChild[node] ?? 0; child !== 0; child = this.#nextSibling[child] ?? 0) {
        const fallback = node === ROOT ? ROOT : this.next(this.#fallback[node] ?? ROOT, this.#units[child] ?? 0);
        this.#fallback[child] = fallback;
        if (this.#stop[child] === -1) this.#stop[child] = this.#stop[fallback] ?? -1;
        queue.push(child);
      }
    }
  }
}

/** Result of pushing text into a `StopMatcher`. */
export interface StopResult {
  /** Text that is certain not to be in a stop string and was not returned before. */
  readonly text: string;
  /** The stop string that was found; all text before it has been returned. */
  readonly stopped?: { readonly stop: string };
}

/**
 * Cuts a completion before the first of its stop strings, while its text arrives in pieces of any size.
 *
 * The first stop string is the one that begins first; among those that begin together the shortest, because it is
 * complete first. Text is held back while it may be the beginning of a stop string, so at most as long as the longest
 * one, and never between the two halves of a surrogate pair. Time is linear in the text for any stop strings.
 */
export class StopMatcher {
  readonly #automaton: StopAutomaton;
  #state = 0;
  /** Text that is held back, in the pieces that it came in: one long text would be copied whenever it grows. */
  #held: string[] = [];
  /** Index of the first piece in `#held` that is still held back. */
  #first = 0;
  #numHeld = 0;
  /** The best stop so far, while an earlier one may still complete; `begin` is an index into the held text. */
  #found: { readonly begin: number; readonly stop: string } | undefined;
  #stopped: { readonly stop: string } | undefined;

  /** @param stops - non-empty strings, or a `StopAutomaton` of them that sequences share */
  constructor(stops: readonly string[] | StopAutomaton) {
    this.#automaton = stops instanceof StopAutomaton ? stops : new StopAutomaton(stops);
  }

  /** Takes the next piece of text. Returns no text after a stop. */
  push(text: string): StopResult {
    if (this.#stopped) return { text: "", stopped: this.#stopped };
    const from = this.#numHeld;
    this.#held.push(text);
    this.#numHeld += text.length;
    for (let end = from + 1; end <= this.#numHeld; end++) {
      this.#state = this.#automaton.next(this.#state, text.charCodeAt(end - from - 1));
      this.#note(end);
      // Nothing that may still become a stop string begins before the one that was found.
      if (this.#found && end - this.#automaton.depth(this.#state) >= this.#found.begin) return this.#stop(this.#found);
    }
    return { text: this.#release(this.#numHeld - this.#automaton.depth(this.#state)) };
  }

  /** Ends the text: the text held back is certain now. */
  flush(): StopResult {
    if (this.#stopped) return { text: "", stopped: this.#stopped };
    if (this.#found) return this.#stop(this.#found);
    this.#state = 0;
    return { text: this.#take(this.#numHeld) };
  }

  #note(end: number): void {
    const stop = this.#automaton.stop(this.#state);
    if (stop === undefined) return;
    const begin = end - stop.length;
    if (this.#found === undefined || begin < this.#found.begin) this.#found = { begin, stop };
  }

  #stop({ begin, stop }: { readonly begin: number; readonly stop: string }): StopResult {
    this.#stopped = { stop };
    return { text: this.#take(begin), stopped: this.#stopped };
  }

  #release(length: number): string {
    const text = this.#take(length);
    const lead = text.charCodeAt(text.length - 1);
    const isHalf = lead >= 0xd800 && lead <= 0xdbff;
    const safe = isHalf ? text.slice(0, -1) : text;
    if (isHalf) this.#putBack(text.slice(-1));
    if (this.#found) this.#found = { ...this.#found, begin: this.#found.begin - safe.length };
    return safe;
  }

  /** Removes the first `length` units of the held text. */
  #take(length: number): string {
    let [end, numUnits] = [this.#first, 0];
    while (numUnits < length) numUnits += this.#held[end++]?.length ?? 0;
    const text = this.#held.slice(this.#first, end).join("");
    this.#first = end;
    // Each piece is moved once on average.
    if (this.#first > this.#held.length / 2) [this.#held, this.#first] = [this.#held.slice(this.#first), 0];
    this.#numHeld -= numUnits;
    this.#putBack(text.slice(length));
    return text.slice(0, length);
  }

  /** Puts the end of what was taken back. */
  #putBack(text: string): void {
    this.#held[this.#first] = text + (this.#held[this.#first] ?? "");
    this.#numHeld += text.length;
  }
}
