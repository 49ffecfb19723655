/** Events in order of time; events of one time come in the order in which they were added. */
export class EventQueue<Event> {
  readonly #heap: { readonly atMs: number; readonly order: number; readonly event: Event }[] = [];
  #added = 0;

  add(atMs: number, event: Event): void {
    const heap = this.#heap;
    let place = heap.length;
    heap.push({ atMs, order: this.#added++, event });
    while (place > 0) {
      const parent = (place - 1) >> 1;
      if (!this.#isBefore(place, parent)) break;
      this.#swap(place, parent);
      place = parent;
    }
  }

  /** Removes the first event. @returns it with its time; `undefined` if there is none */
  take(): { readonly atMs: number; readonly event: Event } | undefined {
    const heap = this.#heap;
    const first = heap[0];
    const last = heap.pop();
    if (!first || !last || heap.length === 0) return first;
    heap[0] = last;
    for (let place = 0; ;) {
      let least = place;
      for (const child of [2 * place + 1, 2 * place + 2]) {
        if (child < heap.length && this.#isBefore(child, least)) least = child;
      }
      if (least === place) return first;
      this.#swap(place, least);
      place = least;
    }
  }

  #isBefore(a: number, b: number): boolean {
    const [one, other] = [this.#heap[a], this.#heap[b]];
    if (!one || !other) return false;
    return one.atMs < other.atMs || (one.atMs === other.atMs && one.order < other.order);
  }

  #swap(a: number, b: number): void {
    const [one, other] = [this.#heap[a], this.#heap[b]];
    if (!one || !other) return;
    this.#heap[a] = other;
    this.#heap[b] = one;
  }
}
