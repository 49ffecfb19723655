/** Whose turn it is: a client that comes, and one that had its turn, go to the end of the row. */
export class Turns {
  readonly #turns = new Map<string, number>();
  #last = 0;

  get all(): ReadonlyMap<string, number> {
    return this.#turns;
  }

  /** Gives a place in the row to a client that has none. */
  join(client: string): void {
    if (!this.#turns.has(client)) this.#turns.set(client, ++this.#last);
  }

  had(clients: Iterable<string>): void {
    for (const client of clients) this.#turns.set(client, ++this.#last);
  }

  /** Forgets all others. */
  keepOnly(clients: ReadonlySet<string>): void {
    for (const client of this.#turns.keys()) if (!clients.has(client)) this.#turns.delete(client);
  }
}
