// Limits of admission: its options, what a request takes of each limit, and whether one more request fits.
// Loads are whole numbers, so sums are exact.

import {
  checkedOptions,
  describeValue,
  functionOption,
  integerCheck,
  integerOption,
  MAX_TIMER_MS,
  numberCheck,
  numberOption,
  type OptionChecks,
  ReadMeEmitter,
  switchCheck,
} from "@readme-moe/core";
import { answerTooLarge } from "../../http/errors.ts";
import { LIMITS } from "../../limits.ts";

/** Limits on the requests that a server holds at once. */
export interface AdmissionOptions {
  /** Requests that may be admitted at once, waiting ones included. @default 256 */
  readonly maxRequests?: number | undefined;
  /** Upper bound of the tokens of those requests, prompts and completions together. @default 1,048,576 */
  readonly maxTokens?: number | undefined;
  /** Bytes of their bodies. @default 64 MiB */
  readonly maxBytes?: number | undefined;
  /** Requests that one key may have admitted at once. @default `maxRequests` */
  readonly maxRequestsPerKey?: number | undefined;
  /**
   * Share of requests, tokens and bytes that one client may have, above 0 and at most 1. A client is a key, or an
   * address where there are no keys. The rest is kept for other clients, so that no client can fill the server alone.
   * @default 0.875
   */
  readonly maxClientShare?: number | undefined;
  /**
   * Longest wait of a request until the engine begins to read its prompt, or gives its first token where the engine
   * does not tell, in ms. @default 300,000
   */
  readonly maxQueueMs?: number | undefined;
  /** Longest time from a request's arrival to the end of its answer, in ms. @default no limit */
  readonly maxRequestMs?: number | undefined;
  /** Status of a full server's answer: 503, or 429 for gateways that know no other. @default 503 */
  readonly overloadStatus?: 503 | 429 | undefined;
  /**
   * Lets a request of higher priority take the places of waiting requests of lower priority, which are told when to
   * come back. Use it only where clients cannot choose their priority themselves.
   * @default false
   */
  readonly displaceWaiting?: boolean | undefined;
  /**
   * Sees a request's routes before the engine gets the request; see `AdmissionPolicy`. Prompts are routed separately
   * for it.
   * @default none
   */
  readonly policy?: AdmissionPolicy | undefined;
  /** Bus of `request:admitted` and the like. @default a bus of its own */
  readonly events?: ReadMeEmitter | undefined;
}

/** An admitted request, before the engine gets it. Plain data. */
export interface RoutedRequest {
  readonly model: string | undefined;
  readonly key: string | undefined;
  readonly priority: number;
  readonly choices: number;
  /** Limit of each choice. */
  readonly maxCompletionTokens: number;
  /** Tokens of all its prompts. */
  readonly promptTokens: number;
  /** Names of the model's experts. */
  readonly experts: readonly string[];
  /** Tokens of its prompts that go to each expert, `[numExperts]`. */
  readonly expertTokens: readonly number[];
  /** Tokens of the model's other admitted requests by expert, `[numExperts]`: experts that are needed anyway. */
  readonly othersTokens: readonly number[];
  /** Estimated time until it could begin to run if no later request goes first, in ms; `undefined` where unknown. */
  readonly turnMs: number | undefined;
}

/**
 * Sees where a request's tokens go. May give the request another priority, or throw an `ApiError`, which is the answer
 * then. Deadlines hold in any case.
 */
export type AdmissionPolicy = (request: RoutedRequest) => PolicyDecision | void | Promise<PolicyDecision | void>;

/** Changes of a request by a policy. */
export interface PolicyDecision {
  /** Larger numbers go first. @default the priority that the request asked for */
  readonly priority?: number | undefined;
}

/** A request that asks to be admitted. */
export interface Entrant {
  /** Bytes of the prompt or of the whole body. */
  readonly bytes: number;
  /** Upper bound of the prompt's tokens. @default `bytes`: no text has more tokens than bytes */
  readonly maxPromptTokens?: number | undefined;
  /** Limit of each choice. */
  readonly maxCompletionTokens: number;
  readonly choices: number;
  /** Most bytes of its answer that are kept. At most the rest of a client's share is reserved for them. @default 0 */
  readonly answerBytes?: number | undefined;
  /** Name of the API key. */
  readonly key: string | undefined;
  /** Key's name, or address, for fair shares. @default no client: the request counts against no share */
  readonly client?: string | undefined;
  /** Whether the request generates tokens. Events and metrics count only requests that do. @default true */
  readonly isGeneration?: boolean | undefined;
  /** Larger numbers go first. */
  readonly priority: number;
  /** Aborts when the client has disconnected. */
  readonly signal: AbortSignal;
  /** Name of the model. */
  readonly model?: string | undefined;
  /** Name of an expert of the model, if the request names one. */
  readonly expert?: string | undefined;
  /** Whether some clients must not see the expert's name. @default false */
  readonly isExpertPrivate?: boolean | undefined;
}

export function isGeneration({ isGeneration: generates = true }: Pick<Entrant, "isGeneration">): boolean {
  return generates;
}

/** The place of an admitted request. */
export interface Ticket {
  /** Corrects the reserved load once the prompts' real length is known. Has no effect after `release`. */
  correct(promptTokens: number): void;
  /**
   * Reports the bytes of the answer that are kept. More than were reserved are reserved, too.
   *
   * @param isWhole - whether there will be no more, so that the rest is given back
   * @throws {ApiError} 413 when they are more than the limit of bytes
   */
  kept(answerBytes: number, isWhole?: boolean): void;
  /**
   * Aborts with the reason of the request's own signal, or with an `ApiError`: 408 when its turn or the whole answer
   * was late; 503 when a request of higher priority took the place.
   */
  readonly signal: AbortSignal;
  /** Reports the expert of each token of a prompt, for what policies see of other requests. */
  routed(experts: ArrayLike<number>): void;
  /**
   * Asks the policy for the request's priority, where there is a policy. Call it after `routed`.
   * @param experts - names of the model's experts
   */
  readonly consult?: (experts: readonly string[]) => Promise<number>;
  /** Reports that the engine begins to read a prompt: the request no longer waits. */
  reading(): void;
  /** Reports the first token, before which `reading` may be left out. */
  started(): void;
  /** Releases the place. Further calls have no effect. */
  release(): void;
}

/** Load and limits of an `Admission`. */
export interface AdmissionStats extends Load {
  /** Admitted requests that the engine has not begun. */
  readonly waiting: number;
  /** Bodies that are still arriving. */
  readonly arriving: Pick<Load, "requests" | "bytes">;
  /** Answers that are not generated, and that their readers have not taken yet. */
  readonly sending: Pick<Load, "requests" | "bytes">;
  readonly limits: Load;
}

const CHECKS = {
  maxRequests: integerCheck(LIMITS.requests.value, 1),
  maxTokens: integerCheck(LIMITS.tokens.value, 1),
  maxBytes: integerCheck(LIMITS.bytes.value, 1),
  maxRequestsPerKey: (value: number | undefined, name: string) =>
    value === undefined ? undefined : integerOption(name, value, 1),
  maxClientShare: numberCheck(LIMITS.clientShare.value, Number.MIN_VALUE, 1),
  maxQueueMs: integerCheck(LIMITS.queueMs.value, 1, MAX_TIMER_MS),
  maxRequestMs: (value: number | undefined, name: string) =>
    value === undefined ? Infinity : integerOption(name, value, 1, MAX_TIMER_MS),
  overloadStatus(status: 503 | 429 = 503) {
    if ([503, 429].includes(status)) return status;
    throw new RangeError(`Expected \`overloadStatus\` to be 503 or 429, got \`${String(status)}\``);
  },
  displaceWaiting: switchCheck,
  policy: (policy: AdmissionPolicy | undefined, name: string) => functionOption(name, policy),
  events: (events = new ReadMeEmitter()) => events,
} satisfies OptionChecks<AdmissionOptions>;

export type ResolvedAdmissionOptions = ReturnType<typeof resolveAdmissionOptions>;

/** @throws {TypeError | RangeError} naming the option, the expectation and the value */
export function resolveAdmissionOptions(options: AdmissionOptions) {
  const checked = checkedOptions(options, CHECKS, "admission");
  const { maxRequests, maxTokens, maxBytes, maxRequestsPerKey, ...others } = checked;
  const limits: Load = { requests: maxRequests, tokens: maxTokens, bytes: maxBytes };
  return { ...others, limits, maxRequestsPerKey: maxRequestsPerKey ?? maxRequests };
}

/** @throws {TypeError} when the policy's priority is not a finite number, and whatever the policy throws */
export async function decidedPriority(policy: AdmissionPolicy, request: RoutedRequest): Promise<number> {
  const priority = (await policy(request))?.priority ?? request.priority;
  if (typeof priority === "number" && Number.isFinite(priority)) return priority;
  throw new TypeError(`Expected \`policy\` to give a finite \`priority\`, got ${describeValue(priority)}`);
}

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

interface Waiting {
  readonly load: Load;
  readonly priority: number;
}

const MEASURES: readonly Measure[] = ["requests", "tokens", "bytes"];

const NO_LOAD: Load = { requests: 0, tokens: 0, bytes: 0 };

/**
 * Computes the worst-case load of a request.
 * @throws {TypeError | RangeError} on wrong numbers
 */
export function loadOf(entrant: Omit<Entrant, "key" | "signal">): Load {
  const { bytes, maxPromptTokens = bytes, maxCompletionTokens, choices, priority } = entrant;
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

export function countExperts(counts: number[], experts: ArrayLike<number>): void {
  for (const expert of Array.from(experts)) {
    while (counts.length <= expert) counts.push(0);
    counts[expert] = (counts[expert] ?? 0) + 1;
  }
}
