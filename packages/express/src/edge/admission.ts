// Who is let in. A request's place is kept from the moment it is known, before anything is done for it, and by the most
// that it can come to; so what is admitted fits, and what does not fit is told so before it has cost anything.

import { integerOption, numberOption, type ReadMeEvents } from "@readme-moe/core";
import { addLoad, displacedBy, NO_LOAD, overflowOf, subtractLoad, type Load } from "./admission/load.ts";
import { resolveAdmissionOptions, type AdmissionOptions, type ResolvedAdmissionOptions } from "./admission/options.ts";
import { overloaded, tooLarge, tookTooLong, tooManyOfKey, waitedTooLong } from "./admission/refusals.ts";
import { NO_RETURN_TIMES, promiseReturn, recordRelease, type ReturnTimes } from "./admission/return-times.ts";

/** A request that wants to be let in. */
export interface Entrant {
  /** Of the prompt or the whole body: no text has more tokens than bytes. */
  readonly bytes: number;
  /** Of each choice. */
  readonly maxCompletionTokens: number;
  readonly choices: number;
  /** Whose request it is. */
  readonly key: string | undefined;
  /** Larger numbers go first. */
  readonly priority: number;
  /** Aborted when the client has gone. */
  readonly signal: AbortSignal;
  /** Name of the model, for events. */
  readonly model?: string | undefined;
}

/** The place of a request that was let in. */
export interface Ticket {
  /** States how long the prompt really is, once that is known. Says nothing after `release`. */
  correct(promptTokens: number): void;
  /**
   * Aborted with the reason of the request's own signal, or with an `ApiError`: 408 when no first token came in time, or
   * the whole answer did not; 503 when its place was given to a request of more priority.
   */
  readonly signal: AbortSignal;
  /** The first token is there: from now on the request runs, and does not wait. */
  started(): void;
  /** Gives the place back; once is enough, more do no harm. */
  release(): void;
}

export interface AdmissionStats extends Load {
  /** Of `requests`, those without a first token. */
  readonly waiting: number;
  readonly limits: Load;
}

type Reason = Parameters<ReadMeEvents["request:rejected"]>[0]["reason"];

interface Place extends Entrant {
  readonly controller: AbortController;
  readonly enteredMs: number;
  /** Stops its deadlines, and stops listening to the client. */
  readonly detach: () => void;
  load: Load;
  isStarted: boolean;
  /** Its load is no longer counted. */
  hasLeft: boolean;
}

export class Admission {
  readonly #options: ResolvedAdmissionOptions;
  readonly #waiting = new Set<Place>();
  readonly #requestsOfKey = new Map<string, number>();
  #load: Load = NO_LOAD;
  #times: ReturnTimes = NO_RETURN_TIMES;

  /** @throws {TypeError | RangeError} on wrong options */
  constructor(options: AdmissionOptions = {}) {
    this.#options = resolveAdmissionOptions(options);
  }

  get stats(): AdmissionStats {
    return { ...this.#load, waiting: this.#waiting.size, limits: this.#options.limits };
  }

  /**
   * Keeps a place, or refuses, at once.
   * @throws {TypeError | RangeError} on numbers that are none
   * @throws {ApiError} 503 `server_overloaded`, 429 `rate_limit_exceeded` where the key has too many under way, each with
   * `retry-after` and `retry-after-ms`; 413 on more bytes than fit at all
   */
  enter(entrant: Entrant): Ticket {
    const load = loadOf(entrant);
    const { limits, maxRequestsPerKey, overloadStatus, displaceWaiting } = this.#options;
    if (load.bytes > limits.bytes) {
      this.#tellRejected(entrant, "bytes", 0);
      throw tooLarge(load.bytes, limits.bytes);
    }
    if (this.#ofKey(entrant.key) >= maxRequestsPerKey) {
      throw tooManyOfKey(maxRequestsPerKey, this.#reject(entrant, "key", 1));
    }
    const overflow = overflowOf(this.#load, load, limits);
    if (overflow) {
      const wanted = { load, priority: entrant.priority };
      const displaced = displaceWaiting ? displacedBy(wanted, this.#waiting, this.#load, limits) : [];
      if (displaced.length === 0) {
        const meanLoad = this.#load[overflow.measure] / this.#load.requests;
        const waitMs = this.#reject(entrant, overflow.measure, Math.ceil(overflow.excess / Math.max(1, meanLoad)));
        throw overloaded(overloadStatus, waitMs);
      }
      for (const place of displaced) this.#displace(place);
    }
    return this.#admit(entrant, load);
  }

  #admit(entrant: Entrant, load: Load): Ticket {
    const controller = new AbortController();
    const onGone = (): void => controller.abort(entrant.signal.reason);
    if (entrant.signal.aborted) onGone();
    entrant.signal.addEventListener("abort", onGone, { once: true });
    const { maxQueueMs, maxRequestMs } = this.#options;
    const queueTimer = setTimeout(() => this.#expire(place), maxQueueMs);
    const onLate = (): void => controller.abort(tookTooLong(maxRequestMs));
    const requestTimer = maxRequestMs === Infinity ? undefined : setTimeout(onLate, maxRequestMs);
    const detach = (): void => {
      clearTimeout(queueTimer);
      clearTimeout(requestTimer);
      entrant.signal.removeEventListener("abort", onGone);
    };
    const enteredMs = performance.now();
    const place: Place = { ...entrant, controller, enteredMs, detach, load, isStarted: false, hasLeft: false };
    this.#waiting.add(place);
    this.#load = addLoad(this.#load, load);
    if (place.key !== undefined) this.#requestsOfKey.set(place.key, this.#ofKey(place.key) + 1);
    const { model, key, bytes, choices, maxCompletionTokens } = entrant;
    this.#options.events.emit("request:admitted", { model, key, bytes, choices, maxCompletionTokens });
    return {
      signal: controller.signal,
      correct: (promptTokens) => this.#correct(place, promptTokens),
      started: () => this.#start(place, queueTimer),
      release: () => this.#leave(place),
    };
  }

  #correct(place: Place, promptTokens: number): void {
    integerOption("promptTokens", promptTokens, 0);
    if (place.hasLeft) return;
    const tokens = promptTokens + place.maxCompletionTokens * place.choices;
    const load = { ...place.load, tokens };
    this.#load = addLoad(subtractLoad(this.#load, place.load), load);
    place.load = load;
  }

  #start(place: Place, queueTimer: NodeJS.Timeout): void {
    if (place.hasLeft || place.isStarted) return;
    clearTimeout(queueTimer);
    place.isStarted = true;
    this.#waiting.delete(place);
    this.#options.events.emit("request:started", { model: place.model, sinceMs: performance.now() - place.enteredMs });
  }

  /** The place stays kept until the request's work has ended and gives it back. */
  #expire(place: Place): void {
    if (place.hasLeft || place.controller.signal.aborted) return;
    const { maxQueueMs } = this.#options;
    place.controller.abort(waitedTooLong(maxQueueMs, this.#reject(place, "queue-deadline", 1)));
  }

  #displace(place: Place): void {
    const waitMs = this.#reject(place, "displaced", 1);
    this.#leave(place);
    place.controller.abort(overloaded(503, waitMs));
  }

  #leave(place: Place): void {
    if (place.hasLeft) return;
    const { model, key, isStarted, enteredMs } = place;
    place.hasLeft = true;
    place.detach();
    this.#waiting.delete(place);
    this.#load = subtractLoad(this.#load, place.load);
    if (key !== undefined) {
      const left = this.#ofKey(key) - 1;
      if (left > 0) this.#requestsOfKey.set(key, left);
      else this.#requestsOfKey.delete(key);
    }
    const nowMs = performance.now();
    this.#times = recordRelease(this.#times, nowMs);
    this.#options.events.emit("request:released", { model, isStarted, durationMs: nowMs - enteredMs });
  }

  /** @returns when to come back, in ms */
  #reject(entrant: Entrant, reason: Reason, places: number): number {
    const turned = { places, numWaiting: this.#waiting.size, maxQueueMs: this.#options.maxQueueMs };
    const { times, waitMs } = promiseReturn(this.#times, turned, performance.now());
    this.#times = times;
    this.#tellRejected(entrant, reason, waitMs);
    return waitMs;
  }

  #tellRejected({ model, key }: Entrant, reason: Reason, retryAfterMs: number): void {
    this.#options.events.emit("request:rejected", { model, key, reason, retryAfterMs });
  }

  #ofKey(key: string | undefined): number {
    return key === undefined ? 0 : (this.#requestsOfKey.get(key) ?? 0);
  }
}

function loadOf({ bytes, maxCompletionTokens, choices, priority }: Entrant): Load {
  integerOption("bytes", bytes, 0);
  integerOption("maxCompletionTokens", maxCompletionTokens, 0);
  integerOption("choices", choices, 1);
  numberOption("priority", priority, -Infinity);
  const tokens = integerOption("maxCompletionTokens * choices", bytes + maxCompletionTokens * choices, 0);
  return { requests: 1, tokens, bytes };
}
