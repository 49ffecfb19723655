// Which requests are admitted. Reserves a request's worst-case load on its arrival, and rejects a request that does not
// fit before any work is done for it. Rejected clients are told different times to return, as fast as places were
// released lately, so that a crowd does not return all at once.

import { integerOption, type ReadMeEvents } from "@readme-moe/core";
import {
  type ApiError,
  overloaded,
  tookTooLong,
  tooLarge,
  tooManyOfKey,
  tooMuchOfClient,
  waitedTooLong,
} from "../http/errors.ts";
import {
  type AdmissionOptions,
  type AdmissionPolicy,
  type AdmissionStats,
  ClientLoads,
  countExperts,
  decidedPriority,
  type Entrant,
  isGeneration,
  type Load,
  loadOf,
  type Overflow,
  resolveAdmissionOptions,
  type ResolvedAdmissionOptions,
  type Ticket,
} from "./admission/limits.ts";

interface ReturnTimes {
  /** Times of the latest releases, ascending. */
  readonly releasesMs: readonly number[];
  /** Time of the latest promised return. */
  readonly promisedUntilMs: number;
}

interface Refusal {
  /** Places that have to be released before the request fits, at least 1. */
  readonly places: number;
  /** Admitted requests that the engine has not begun. */
  readonly numWaiting: number;
  /** Longest time that a request may wait for its beginning. */
  readonly maxQueueMs: number;
}

const MAX_RELEASES = 32;
const WINDOW_MS = 60_000;
/** Time per release while none is known. */
const UNKNOWN_MS = 1000;
/** Clients of the OpenAI API ignore longer waits. */
const MAX_WAIT_MS = 60_000;

export const NO_RETURN_TIMES: ReturnTimes = { releasesMs: [], promisedUntilMs: 0 };

export function recordRelease({ releasesMs, promisedUntilMs }: ReturnTimes, nowMs: number): ReturnTimes {
  return { releasesMs: [...releasesMs.slice(1 - MAX_RELEASES), nowMs], promisedUntilMs };
}

/** Computes the mean time between two releases of the last minute, including the time since the last one. */
export function msPerRelease({ releasesMs }: ReturnTimes, nowMs: number): number | undefined {
  const recent = releasesMs.filter((ms) => nowMs - ms < WINDOW_MS);
  return recent[0] === undefined ? undefined : Math.max(1, (nowMs - recent[0]) / recent.length);
}

/**
 * Promises a return: after all earlier promises, and not before the queue is short enough for a request to begin within
 * `maxQueueMs`.
 *
 * @returns the updated times, and the wait in ms, an integer from 1 to 60,000
 */
export function promiseReturn(
  times: ReturnTimes,
  { places, numWaiting, maxQueueMs }: Refusal,
  nowMs: number,
): { readonly times: ReturnTimes; readonly waitMs: number } {
  const perReleaseMs = msPerRelease(times, nowMs) ?? UNKNOWN_MS;
  const promisedMs = Math.max(nowMs, times.promisedUntilMs) + places * perReleaseMs;
  const shortQueueMs = nowMs + numWaiting * perReleaseMs - maxQueueMs;
  const untilMs = Math.min(nowMs + MAX_WAIT_MS, Math.max(promisedMs, shortQueueMs));
  const waitMs = Math.min(MAX_WAIT_MS, Math.max(1, Math.ceil(untilMs - nowMs)));
  return { times: { ...times, promisedUntilMs: Math.min(untilMs, promisedMs) }, waitMs };
}

type Reason = Parameters<ReadMeEvents["request:rejected"]>[0]["reason"];

type Applicant = Pick<Entrant, "key" | "model" | "client">;

interface Place extends Entrant {
  priority: number;
  /** Whether its first token has been generated. */
  isStarted: boolean;
  promptTokens: number;
  /** Tokens of the prompts by expert; of each choice, where there are several. Empty until they are known. */
  readonly expertTokens: number[];
  readonly controller: AbortController;
  readonly enteredMs: number;
  /** Stops the deadlines, and stops listening to the client. */
  readonly detach: () => void;
  load: Load;
  /** Whether its load is no longer counted. */
  hasLeft: boolean;
}

/**
 * Decides at once which requests are admitted, within limits of requests, tokens and bytes. Tells a refused client when
 * to come back.
 */
export class Admission {
  readonly #options: ResolvedAdmissionOptions;
  /** Admitted requests in the order of arrival. */
  readonly #places = new Set<Place>();
  readonly #waiting = new Set<Place>();
  readonly #requestsOfKey = new Map<string | undefined, number>();
  readonly #loads: ClientLoads;
  /** Arriving bodies take memory while only their length and their client are known. */
  readonly #arriving: ClientLoads;
  /** Answers that are not generated take memory until their reader has taken them. */
  readonly #sending: ClientLoads;
  #times: ReturnTimes = NO_RETURN_TIMES;
  readonly #timesOfModel = new Map<string | undefined, ReturnTimes>();

  /** @throws {TypeError | RangeError} on wrong options */
  constructor(options: AdmissionOptions = {}) {
    this.#options = resolveAdmissionOptions(options);
    const { limits, maxClientShare } = this.#options;
    this.#loads = new ClientLoads(limits, maxClientShare);
    this.#arriving = new ClientLoads(limits, maxClientShare);
    this.#sending = new ClientLoads(limits, maxClientShare);
  }

  get stats(): AdmissionStats {
    const [arriving, sending] = [this.#arriving.size, this.#sending.size];
    return { ...this.#loads.all, waiting: this.#waiting.size, arriving, sending, limits: this.#options.limits };
  }

  /**
   * Refuses a request as `enter` would, while only its client and the length of its body are known, so that its body
   * need not be read. Reserves nothing.
   *
   * @param about - `bytes` is 0 where the length is unknown
   * @throws {ApiError} 503 `server_overloaded`, 429 `rate_limit_exceeded`
   */
  refuseIfFull(about: Applicant & Pick<Entrant, "bytes">): void {
    const load = this.#loads.withinShare(about.client, { requests: 1, tokens: about.bytes, bytes: about.bytes });
    this.#refuseKey(about);
    // The request may turn out to have a higher priority than waiting ones.
    const overflow = this.#options.displaceWaiting ? undefined : this.#loads.overflow(load);
    if (overflow) throw this.#overloaded(about, overflow);
    this.#refuseShare(about, this.#loads.overflowOfClient(about.client, load));
  }

  /**
   * Reserves room for a body that begins to arrive, or refuses it, at once.
   *
   * @param about - `bytes` is the declared length, or the most that will be read
   * @returns a function that releases the room; further calls have no effect
   * @throws {ApiError} 503 `server_overloaded`, 429 `rate_limit_exceeded`
   */
  arrive(about: Applicant & Pick<Entrant, "bytes">): () => void {
    return this.#hold(this.#arriving, about);
  }

  /** Reserves room for an answer that is not generated, as `arrive` does for bodies, but apart from them. */
  send(about: Applicant & Pick<Entrant, "bytes">): () => void {
    return this.#hold(this.#sending, about);
  }

  #hold(loads: ClientLoads, about: Applicant & Pick<Entrant, "bytes">): () => void {
    const { client, bytes } = about;
    const load: Load = { requests: 1, tokens: 0, bytes };
    // To send and to read slowly costs a client nothing: not even several can take all the room.
    this.#refuseShare(about, loads.overflowOfFree(client, load));
    const overflow = loads.overflow(load);
    if (overflow) throw this.#overloaded(about, overflow);
    return loads.take(client, load);
  }

  /**
   * Reserves a place, or refuses the request, at once.
   *
   * @throws {TypeError | RangeError} on wrong numbers
   * @throws {ApiError} 503 `server_overloaded`, or 429 `rate_limit_exceeded` where the key or client has too much under
   * way, each with `retry-after` and `retry-after-ms`; 413 on more bytes than the limit
   */
  enter(entrant: Entrant): Ticket {
    const { limits, displaceWaiting } = this.#options;
    if (entrant.bytes > limits.bytes) {
      this.#emitRejected(entrant, "bytes", 0);
      throw tooLarge(entrant.bytes, limits.bytes);
    }
    const whole = this.#loads.withAnswer(loadOf(entrant), entrant.answerBytes);
    const load = this.#loads.withinShare(entrant.client, whole);
    this.#refuseKey(entrant);
    const overflow = this.#loads.overflow(load);
    const wanted = { load, priority: entrant.priority };
    const displaced = overflow && displaceWaiting ? this.#loads.displacedBy(wanted, this.#waiting) : [];
    if (overflow && displaced.length === 0) throw this.#overloaded(entrant, overflow);
    this.#refuseShare(entrant, this.#loads.overflowOfClient(entrant.client, load));
    for (const place of displaced) this.#displace(place);
    return this.#admit(entrant, load);
  }

  #refuseKey(about: Applicant): void {
    const { maxRequestsPerKey } = this.#options;
    if (this.#ofKey(about.key) < maxRequestsPerKey) return;
    throw tooManyOfKey(maxRequestsPerKey, this.#reject(about, "key", 1));
  }

  #refuseShare(about: Applicant, overflow: Overflow | undefined): void {
    if (overflow) throw tooMuchOfClient(overflow.measure, this.#reject(about, "share", 1));
  }

  #overloaded(about: Applicant, { measure, excess }: Overflow): ApiError {
    const { all } = this.#loads;
    const meanLoad = all[measure] / Math.max(1, all.requests);
    const waitMs = this.#reject(about, measure, Math.ceil(excess / Math.max(1, meanLoad)));
    return overloaded(this.#options.overloadStatus, waitMs);
  }

  #admit(entrant: Entrant, load: Load): Ticket {
    const { maxQueueMs, maxRequestMs, policy, events } = this.#options;
    const controller = new AbortController();
    const onGone = (): void => controller.abort(entrant.signal.reason);
    if (entrant.signal.aborted) onGone();
    entrant.signal.addEventListener("abort", onGone, { once: true });
    const queueTimer = setTimeout(() => this.#expire(place), maxQueueMs);
    const onLate = (): void => controller.abort(tookTooLong(maxRequestMs));
    const requestTimer = maxRequestMs === Infinity ? undefined : setTimeout(onLate, maxRequestMs);
    const place: Place = {
      ...entrant,
      promptTokens: 0,
      expertTokens: [],
      isStarted: false,
      controller,
      enteredMs: performance.now(),
      detach: () => {
        clearTimeout(queueTimer);
        clearTimeout(requestTimer);
        entrant.signal.removeEventListener("abort", onGone);
      },
      load,
      hasLeft: false,
    };
    this.#places.add(place);
    this.#waiting.add(place);
    this.#loads.add(place.client, load);
    if (place.key !== undefined) this.#requestsOfKey.set(place.key, this.#ofKey(place.key) + 1);
    const { model, key, bytes, choices, maxCompletionTokens, expert, isExpertPrivate = false } = entrant;
    const named = expert === undefined ? {} : { expert, ...(isExpertPrivate && { isExpertPrivate }) };
    const event = { model, key, bytes, choices, maxCompletionTokens, ...named };
    if (isGeneration(entrant)) events.emit("request:admitted", event);
    return {
      signal: controller.signal,
      correct: (promptTokens) => this.#correct(place, promptTokens),
      kept: (answerBytes, isWhole) => {
        if (!place.hasLeft) place.load = this.#loads.keep(place, answerBytes, isWhole);
      },
      routed: (experts) => countExperts(place.expertTokens, experts),
      ...(policy && { consult: (experts) => this.#consult(policy, place, experts) }),
      reading: () => this.#begin(place, queueTimer),
      started: () => this.#start(place, queueTimer),
      release: () => this.#leave(place),
    };
  }

  #correct(place: Place, promptTokens: number): void {
    integerOption("promptTokens", promptTokens, 0);
    if (place.hasLeft) return;
    const tokens = promptTokens + place.maxCompletionTokens * place.choices;
    const load = this.#loads.withinShare(place.client, { ...place.load, tokens });
    place.load = this.#loads.replace(place.client, place.load, load);
    place.promptTokens = promptTokens;
  }

  async #consult(policy: AdmissionPolicy, place: Place, experts: readonly string[]): Promise<number> {
    const { model, key, priority, choices, maxCompletionTokens, promptTokens } = place;
    const others = [...this.#places].filter((other) => other !== place && other.model === model);
    const byExpert = (places: readonly Place[]): readonly number[] =>
      experts.map((_, expert) => places.reduce((sum, { expertTokens }) => sum + (expertTokens[expert] ?? 0), 0));
    const [expertTokens, othersTokens] = [byExpert([place]), byExpert(others)];
    const about = { model, key, priority, choices, maxCompletionTokens, promptTokens, experts, expertTokens };
    const turnMs = this.#turnMs(model, others);
    place.priority = await decidedPriority(policy, { ...about, othersTokens, turnMs });
    return place.priority;
  }

  /** Estimates when one more request of a model could begin to run; `undefined` while no release is known. */
  #turnMs(model: string | undefined, others: readonly Place[]): number | undefined {
    const numWaiting = others.filter((other) => this.#waiting.has(other)).length;
    if (numWaiting === 0) return 0;
    const perReleaseMs = msPerRelease(this.#timesOfModel.get(model) ?? NO_RETURN_TIMES, performance.now());
    return perReleaseMs === undefined ? undefined : numWaiting * perReleaseMs;
  }

  #begin(place: Place, queueTimer: NodeJS.Timeout): void {
    clearTimeout(queueTimer);
    this.#waiting.delete(place);
  }

  #start(place: Place, queueTimer: NodeJS.Timeout): void {
    if (place.hasLeft || place.isStarted) return;
    this.#begin(place, queueTimer);
    place.isStarted = true;
    if (!isGeneration(place)) return;
    this.#options.events.emit("request:started", { model: place.model, sinceMs: performance.now() - place.enteredMs });
  }

  /** Ends a request that has waited too long. Its place stays reserved until the request's work has ended. */
  #expire(place: Place): void {
    if (place.controller.signal.aborted) return;
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
    this.#places.delete(place);
    this.#waiting.delete(place);
    this.#loads.subtract(place.client, place.load);
    if (key !== undefined) {
      const left = this.#ofKey(key) - 1;
      if (left > 0) this.#requestsOfKey.set(key, left);
      else this.#requestsOfKey.delete(key);
    }
    const nowMs = performance.now();
    this.#times = recordRelease(this.#times, nowMs);
    this.#timesOfModel.set(model, recordRelease(this.#timesOfModel.get(model) ?? NO_RETURN_TIMES, nowMs));
    if (isGeneration(place)) {
      this.#options.events.emit("request:released", { model, isStarted, durationMs: nowMs - enteredMs });
    }
  }

  /** Counts a rejection. @returns when the client should come back, in ms */
  #reject(about: Applicant, reason: Reason, places: number): number {
    const nowMs = performance.now();
    const refusal = { places, numWaiting: this.#waiting.size, maxQueueMs: this.#options.maxQueueMs };
    const { times, waitMs } = promiseReturn(this.#times, refusal, nowMs);
    this.#times = times;
    this.#emitRejected(about, reason, waitMs);
    return waitMs;
  }

  #emitRejected({ model, key }: Applicant, reason: Reason, retryAfterMs: number): void {
    this.#options.events.emit("request:rejected", { model, key, reason, retryAfterMs });
  }

  #ofKey(key: string | undefined): number {
    return this.#requestsOfKey.get(key) ?? 0;
  }
}
