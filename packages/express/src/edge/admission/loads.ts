// What requests take of a server, and whether one more fits. Loads are whole numbers, so sums are exact.

import { integerOption, numberOption } from "@readme-moe/core";
import { answerTooLarge } from "../refusals.ts";

/** Load of one request, of all requests together, or the most that all may reach. */
export interface Load {
  readonly requests: number;
  /** Upper bound of the tokens of prompts and completions. */
  readonly tokens: number;
  readonly bytes: number;
}

type Measure = keyof Load;

/** A limit that a request would exceed. */
export interface Overflow {
  readonly measure: Measure;
  readonly excess: number;
}

/** A request that waits for its first token. */
interface Waiting {
  readonly load: Load;
  readonly priority: number;
}

/** Fields of a request that determine its load, and its priority. */
interface Entering {
  readonly bytes: number;
  readonly maxPromptTokens?: number | undefined;
  readonly maxCompletionTokens: number;
  readonly choices: number;
  readonly priority: number;
}

const MEASURES: readonly Measure[] = ["requests", "tokens", "bytes"];

const NO_LOAD: Load = { requests: 0, tokens: 0, bytes: 0 };

/**
 * Computes the worst-case load of a request.
 * @throws {TypeError | RangeError} on wrong numbers
 */
export function loadOf({ bytes, maxPromptTokens = bytes, maxCompletionTokens, choices, priority }: Entering): Load {
  integerOption("bytes", bytes, 0);
  integerOption("maxCompletionTokens", maxCompletionTokens, 0);
  integerOption("choices", choices, 1);
  numberOption("priority", priority, -Infinity);
  const tokens = integerOption("maxCompletionTokens * choices", maxPromptTokens + maxCompletionTokens * choices, 0);
  return { requests: 1, tokens, bytes };
}

function addLoad(a: Load, b: Load, sign: 1 | -1 = 1): Load {
  return {
    requests: a.requests + sign * b.requests,
    tokens: a.tokens + sign * b.tokens,
    bytes: a.bytes + sign * b.bytes,
  };
}

/**
 * Finds the first limit that `wanted` would exceed. A request that exceeds a limit by itself fits while no other
 * request is in: its size is an upper bound, and it could never be admitted otherwise.
 */
function overflowOf(load: Load, wanted: Load, limits: Load): Overflow | undefined {
  if (load.requests === 0) return undefined;
  for (const measure of MEASURES) {
    const excess = load[measure] + wanted[measure] - limits[measure];
    if (excess > 0) return { measure, excess };
  }
  return undefined;
}

/** Loads of all clients together and of each client, with their limits. */
export class ClientLoads {
  readonly #limits: Load;
  readonly #maxClientShare: number;
  readonly #byClient = new Map<string, Load>();
  #all: Load = NO_LOAD;

  /** @param maxClientShare - share of `limits` that one client may have, above 0 and at most 1 */
  constructor(limits: Load, maxClientShare: number) {
    this.#limits = limits;
    this.#maxClientShare = maxClientShare;
  }

  get all(): Load {
    return this.#all;
  }

  get size(): Pick<Load, "requests" | "bytes"> {
    const { requests, bytes } = this.#all;
    return { requests, bytes };
  }

  /** Adds the bytes of an answer, as far as one client's share has room for them. */
  withAnswer(load: Load, answerBytes = 0): Load {
    const bytes = Math.min(
      load.bytes + integerOption("answerBytes", answerBytes, 0),
      this.#shareOf(this.#limits).bytes,
    );
    return { ...load, bytes: Math.max(load.bytes, bytes) };
  }

  /**
   * Bounds the tokens of a request by the client's share. They are what it may take at most, and a single request that
   * exceeds the limit would otherwise keep all other clients out.
   */
  withinShare(client: string | undefined, load: Load): Load {
    if (client === undefined) return load;
    return { ...load, tokens: Math.min(load.tokens, this.#shareOf(this.#limits).tokens) };
  }

  /** Finds the limit that all clients together would exceed with `load` more. */
  overflow(load: Load): Overflow | undefined {
    return overflowOf(this.#all, load, this.#limits);
  }

  /** Finds the share that the client would exceed with `load` more. A request without a client has no share. */
  overflowOfClient(client: string | undefined, load: Load): Overflow | undefined {
    return client === undefined ? undefined : overflowOf(this.#of(client), load, this.#shareOf(this.#limits));
  }

  /** Finds the share of what other clients leave free that the client would exceed with `load` more. */
  overflowOfFree(client: string | undefined, load: Load): Overflow | undefined {
    if (client === undefined) return undefined;
    const own = this.#of(client);
    const others = addLoad(this.#all, own, -1);
    return overflowOf(own, load, this.#shareOf(addLoad(this.#limits, others, -1)));
  }

  /**
   * Selects the waiting requests of lower priority that have to leave for `wanted` to fit: the lowest priority first,
   * then the newest. Selects none if `wanted` would not fit even without all of them.
   *
   * @param waiting - in the order of arrival
   */
  displacedBy<Request extends Waiting>(wanted: Waiting, waiting: Iterable<Request>): readonly Request[] {
    const below = [...waiting].toReversed().filter(({ priority }) => priority < wanted.priority);
    below.sort((a, b) => a.priority - b.priority);
    let left = this.#all;
    for (const [index, request] of below.entries()) {
      left = addLoad(left, request.load, -1);
      if (!overflowOf(left, wanted.load, this.#limits)) return below.slice(0, index + 1);
    }
    return [];
  }

  /** Adds a load. @returns a function that subtracts it again, once */
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

  /** Counts another load in place of one. @returns the other */
  replace(client: string | undefined, before: Load, after: Load): Load {
    this.subtract(client, before);
    this.add(client, after);
    return after;
  }

  /**
   * Counts the bytes of an answer that is kept, where they are more than its load has, or the answer is whole.
   *
   * @param asked - load of a request, and the bytes of its body
   * @returns the load
   * @throws {ApiError} 413 when they are more than all may have
   */
  keep(
    asked: { readonly client?: string | undefined; readonly load: Load; readonly bytes: number },
    answerBytes: number,
    isWhole = false,
  ): Load {
    const { client, load } = asked;
    const bytes = asked.bytes + integerOption("answerBytes", answerBytes, 0);
    if (bytes > this.#limits.bytes) throw answerTooLarge(this.#limits.bytes);
    return bytes > load.bytes || isWhole ? this.replace(client, load, { ...load, bytes }) : load;
  }

  subtract(client: string | undefined, load: Load): void {
    this.#all = addLoad(this.#all, load, -1);
    if (client === undefined) return;
    const left = addLoad(this.#of(client), load, -1);
    if (left.requests > 0) this.#byClient.set(client, left);
    else this.#byClient.delete(client);
  }

  #shareOf({ requests, tokens, bytes }: Load): Load {
    const part = (limit: number): number => Math.ceil(limit * this.#maxClientShare);
    return { requests: part(requests), tokens: part(tokens), bytes: part(bytes) };
  }

  #of(client: string): Load {
    return this.#byClient.get(client) ?? NO_LOAD;
  }
}

/** Adds the experts of tokens to their counts by expert. */
export function countExperts(counts: number[], experts: ArrayLike<number>): void {
  for (const expert of Array.from(experts)) {
    while (counts.length <= expert) counts.push(0);
    counts[expert] = (counts[expert] ?? 0) + 1;
  }
}
