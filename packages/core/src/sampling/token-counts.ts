/** Which tokens a sequence has, and how often: what penalties look at. One per sequence, which keeps it up to date. */
export class TokenCounts {
  /** Ids that the prompt has. */
  readonly prompt: ReadonlySet<number>;
  readonly #completion = new Map<number, number>();
  #numCompletionTokens = 0;

  constructor(promptIds: Iterable<number> = []) {
    this.prompt = new Set(promptIds);
  }

  /** How often the completion has each of its ids, in the order in which they first came. */
  get completion(): ReadonlyMap<number, number> {
    return this.#completion;
  }

  get numCompletionTokens(): number {
    return this.#numCompletionTokens;
  }

  /** Counts the completion's next token. */
  add(id: number): void {
    this.#completion.set(id, (this.#completion.get(id) ?? 0) + 1);
    this.#numCompletionTokens++;
  }
}
