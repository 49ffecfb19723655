import { addLoad, NO_LOAD, overflowOf, subtractLoad, type Load, type Overflow } from "./load.ts";

/** Sums of loads, all together and by client, with what all and what one client may come to. */
export class ClientLoads {
  readonly #limits: Load;
  readonly #clientLimits: Load;
  readonly #byClient = new Map<string, Load>();
  #all: Load = NO_LOAD;

  /** @param maxClientShare - the part of `limits` that one client may have, above 0 and at most 1 */
  constructor(limits: Load, maxClientShare: number) {
    const part = (limit: number): number => Math.ceil(limit * maxClientShare);
    const { requests, tokens, bytes } = limits;
    this.#limits = limits;
    this.#clientLimits = { requests: part(requests), tokens: part(tokens), bytes: part(bytes) };
  }

  get all(): Load {
    return this.#all;
  }

  /** The limit that all clients together would pass with `load` more. */
  overflow(load: Load): Overflow | undefined {
    return overflowOf(this.#all, load, this.#limits);
  }

  /** The part of a limit that the client would pass with `load` more; `undefined` for nobody in particular. */
  overflowOfClient(client: string | undefined, load: Load): Overflow | undefined {
    return client === undefined ? undefined : overflowOf(this.#of(client), load, this.#clientLimits);
  }

  /** Adds a load. @returns takes it away again; once is enough, more do no harm */
  take(client: string | undefined, load: Load): () => void {
    this.add(client, load);
    let isTaken = true;
    return () => {
      if (isTaken) this.subtract(client, load);
      isTaken = false;
    };
  }

  add(client: string | undefined, load: Load): void {
    this.#all = addLoad(this.#all, load);
    if (client !== undefined) this.#byClient.set(client, addLoad(this.#of(client), load));
  }

  subtract(client: string | undefined, load: Load): void {
    this.#all = subtractLoad(this.#all, load);
    if (client === undefined) return;
    const left = subtractLoad(this.#of(client), load);
    if (left.requests > 0) this.#byClient.set(client, left);
    else this.#byClient.delete(client);
  }

  #of(client: string): Load {
    return this.#byClient.get(client) ?? NO_LOAD;
  }
}
