// Aho and Corasick, "Efficient String Matching: An Aid to Bibliographic Search", CACM 18(6), 1975: all strings at once,
// in time that does not depend on how many there are.

const ROOT = 0;

/** Finds any of several strings in one pass over UTF-16 code units. Immutable; sequences may share it. */
export class StopAutomaton {
  readonly stops: readonly string[];
  // A node is a prefix of some stop; 0 is the empty one. Children are lists: most nodes have one, none more than
  // there are stops.
  readonly #units: Uint16Array;
  readonly #firstChild: Int32Array;
  readonly #nextSibling: Int32Array;
  /** The longest other prefix that a node's prefix ends with. */
  readonly #fallback: Int32Array;
  readonly #depth: Int32Array;
  /** Index of the longest stop that a node's prefix ends with; -1 for none. */
  readonly #stop: Int32Array;

  /** @param stops - non-empty */
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

  /** The state after `unit`; states begin at 0. */
  next(state: number, unit: number): number {
    for (let node = state; ; node = this.#fallback[node] as number) {
      const child = this.#child(node, unit);
      if (child !== 0) return child;
      if (node === ROOT) return ROOT;
    }
  }

  /** How many of the last units are the beginning of some stop: the most that it can be. */
  depth(state: number): number {
    return this.#depth[state] as number;
  }

  /** The longest stop that ends here. */
  stop(state: number): string | undefined {
    return this.stops[this.#stop[state] as number];
  }

  #child(node: number, unit: number): number {
    let child = this.#firstChild[node] as number;
    while (child !== 0 && this.#units[child] !== unit) child = this.#nextSibling[child] as number;
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
        this.#nextSibling[child] = this.#firstChild[node] as number;
        this.#firstChild[node] = child;
      }
      node = child;
    }
    this.#stop[node] = index;
    return nodes;
  }

  /** Sets fallbacks breadth first, as each needs those of shorter prefixes. */
  #link(): void {
    const queue = [ROOT];
    for (const node of queue) {
      for (let child = this.#firstChild[node] as number; child !== 0; child = this.#nextSibling[child] as number) {
        const fallback = node === ROOT ? ROOT : this.next(this.#fallback[node] as number, this.#units[child] as number);
        this.#fallback[child] = fallback;
        if (this.#stop[child] === -1) this.#stop[child] = this.#stop[fallback] as number;
        queue.push(child);
      }
    }
  }
}
