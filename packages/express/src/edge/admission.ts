// Who is let in. A request's place is kept from the moment it is known, before anything is done for it, and by the most
// that it can come to; so what is admitted fits, and what does not fit is told so before it has cost anything.

import { integerOption, numberOption, type Engine, type ReadMeEvents } from "@readme-moe/core";
import type { ApiError } from "../http/errors.ts";
import { ClientLoads } from "./admission/client-loads.ts";
import { displacedBy, type Load, type Overflow } from "./admission/load.ts";
import { resolveAdmissionOptions, type AdmissionOptions, type ResolvedAdmissionOptions } from "./admission/options.ts";
import type { Entrant, Ticket } from "./admission/ticket.ts";
import {
  overloaded,
  tooLarge,
  tookTooLong,
  tooManyOfKey,
  tooMuchOfClient,
  waitedTooLong,
} from "./admission/refusals.ts";
import { decidedPriority, type AdmissionPolicy } from "./admission/policy.ts";
import { Outlook, type Progress } from "./admission/outlook.ts";
import { NO_RETURN_TIMES, promiseReturn, recordRelease, type ReturnTimes } from "./admission/return-times.ts";

export type { Entrant, Ticket } from "./admission/ticket.ts";

/** What is in now, and how much may be. */
export interface AdmissionStats extends Load {
  /** Of `requests`, those without a first token. */
  readonly waiting: number;
  /** Bodies that still arrive. */
  readonly arriving: Pick<Load, "requests" | "bytes">;
  readonly limits: Load;
}

type Reason = Parameters<ReadMeEvents["request:rejected"]>[0]["reason"];

type Applicant = Pick<Entrant, "key" | "model" | "client">;

interface Place extends Entrant, Progress {
  priority: number;
  readonly controller: AbortController;
  readonly enteredMs: number;
  /** Stops its deadlines, and stops listening to the client. */
  readonly detach: () => void;
  load: Load;
  /** Its load is no longer counted. */
  hasLeft: boolean;
}

/**
 * Decides at once which requests are let in, within limits of requests, tokens and bytes. Who does not fit is told
 * when to come back.
 */
export class Admission {
  readonly #options: ResolvedAdmissionOptions;
  /** In the order in which they came. */
  readonly #places = new Set<Place>();
  readonly #waiting = new Set<Place>();
  readonly #outlook = new Outlook();
  readonly #requestsOfKey = new Map<string, number>();
  readonly #loads: ClientLoads;
  /** Bodies that arrive take memory before anything is known of them but their length and their sender. */
  readonly #arriving: ClientLoads;
  #times: ReturnTimes = NO_RETURN_TIMES;

  /** @throws {TypeError | RangeError} on wrong options */
  constructor(options: AdmissionOptions = {}) {
    this.#options = resolveAdmissionOptions(options);
    const { limits, maxClientShare } = this.#options;
    this.#loads = new ClientLoads(limits, maxClientShare);
    this.#arriving = new ClientLoads(limits, maxClientShare);
  }

  get stats(): AdmissionStats {
    const { requests, bytes } = this.#arriving.all;
    const arriving = { requests, bytes };
    return { ...this.#loads.all, waiting: this.#waiting.size, arriving, limits: this.#options.limits };
  }

  /** Learns from an engine's events what its steps cost, so that those who are turned away are told when to come back. */
  watch(model: string, engine: Pick<Engine, "events" | "info">): void {
    this.#outlook.watch(model, engine);
  }

  /**
   * Refuses, as `enter` will, a request of which no more is known than whose it is and how long its body is; so that
   * nothing has to be read of it. Keeps no place.
   * @param bytes - 0 where it does not say
   * @throws {ApiError} 503 `server_overloaded`, 429 `rate_limit_exceeded`
   */
  refuseIfFull(about: Applicant & Pick<Entrant, "bytes">): void {
    const load = { requests: 1, tokens: about.bytes, bytes: about.bytes };
    this.#refuseKey(about);
    // It may be of more priority than others.
    const overflow = this.#options.displaceWaiting ? undefined : this.#loads.overflow(load);
    if (overflow) throw this.#overloaded(about, overflow);
    this.#refuseShare(about, load, this.#loads);
  }

  /**
   * Keeps room for a body that begins to arrive, or refuses, at once.
   * @param about - `bytes` is the declared length, or the most that is read
   * @returns gives the room back; once is enough, more do no harm
   * @throws {ApiError} 503 `server_overloaded`, 429 `rate_limit_exceeded`
   */
  arrive(about: Applicant & Pick<Entrant, "bytes">): () => void {
    const { client, bytes } = about;
    const load: Load = { requests: 1, tokens: 0, bytes };
    this.#refuseShare(about, load, this.#arriving);
    const overflow = this.#arriving.overflow(load);
    if (overflow) throw this.#overloaded(about, overflow);
    return this.#arriving.take(client, load);
  }

  /**
   * Keeps a place, or refuses, at once.
   * @throws {TypeError | RangeError} on numbers that are none
   * @throws {ApiError} 503 `server_overloaded`, 429 `rate_limit_exceeded` where the key has too many under way, each with
   * `retry-after` and `retry-after-ms`; 413 on more bytes than fit at all
   */
  enter(entrant: Entrant): Ticket {
    const load = loadOf(entrant);
    const { limits, displaceWaiting } = this.#options;
    if (load.bytes > limits.bytes) {
      this.#tellRejected(entrant, "bytes", 0);
      throw tooLarge(load.bytes, limits.bytes);
    }
    this.#refuseKey(entrant);
    const overflow = this.#loads.overflow(load);
    const wanted = { load, priority: entrant.priority };
    const displaced = overflow && displaceWaiting ? displacedBy(wanted, this.#waiting, this.#loads.all, limits) : [];
    if (overflow && displaced.length === 0) throw this.#overloaded(entrant, overflow);
    this.#refuseShare(entrant, load, this.#loads);
    for (const place of displaced) this.#displace(place);
    return this.#admit(entrant, load);
  }

  #refuseKey(about: Applicant): void {
    const { maxRequestsPerKey } = this.#options;
    if (this.#ofKey(about.key) < maxRequestsPerKey) return;
    throw tooManyOfKey(maxRequestsPerKey, this.#reject(about, "key", 1));
  }

  #refuseShare(about: Applicant, load: Load, loads: ClientLoads): void {
    const overflow = loads.overflowOfClient(about.client, load);
    if (overflow) throw tooMuchOfClient(overflow.measure, this.#reject(about, "share", 1));
  }

  #overloaded(about: Applicant, { measure, excess }: Overflow): ApiError {
    const { all } = this.#loads;
    const meanLoad = all[measure] / Math.max(1, all.requests);
    const waitMs = this.#reject(about, measure, Math.ceil(excess / Math.max(1, meanLoad)));
    return overloaded(this.#options.overloadStatus, waitMs);
  }

  #admit(entrant: Entrant, load: Load): Ticket {
    const controller = new AbortController();
    const onGone = (): void => controller.abort(entrant.signal.reason);
    if (entrant.signal.aborted) onGone();
    entrant.signal.addEventListener("abort", onGone, { once: true });
    const { maxQueueMs, maxRequestMs, policy } = this.#options;
    const queueTimer = setTimeout(() => this.#expire(place), maxQueueMs);
    const onLate = (): void => controller.abort(tookTooLong(maxRequestMs));
    const requestTimer = maxRequestMs === Infinity ? undefined : setTimeout(onLate, maxRequestMs);
    const detach = (): void => {
      clearTimeout(queueTimer);
      clearTimeout(requestTimer);
      entrant.signal.removeEventListener("abort", onGone);
    };
    const enteredMs = performance.now();
    const progress = { promptTokens: undefined, expertTokens: [], completionTokens: 0, isStarted: false };
    const place: Place = { ...entrant, ...progress, controller, enteredMs, detach, load, hasLeft: false };
    this.#places.add(place);
    this.#waiting.add(place);
    this.#loads.add(place.client, load);
    if (place.key !== undefined) this.#requestsOfKey.set(place.key, this.#ofKey(place.key) + 1);
    const { model, key, bytes, choices, maxCompletionTokens } = entrant;
    if (isToldOf(entrant)) {
      this.#options.events.emit("request:admitted", { model, key, bytes, choices, maxCompletionTokens });
    }
    return {
      signal: controller.signal,
      correct: (promptTokens) => this.#correct(place, promptTokens),
      routed: (experts) => countExperts(place.expertTokens, experts),
      ...(policy && { consult: (experts) => this.#consult(policy, place, experts) }),
      progressed: (count) => void (place.completionTokens += count),
      started: () => this.#start(place, queueTimer),
      release: () => this.#leave(place),
    };
  }

  #correct(place: Place, promptTokens: number): void {
    integerOption("promptTokens", promptTokens, 0);
    if (place.hasLeft) return;
    const tokens = promptTokens + place.maxCompletionTokens * place.choices;
    const load = { ...place.load, tokens };
    this.#loads.subtract(place.client, place.load);
    this.#loads.add(place.client, load);
    place.load = load;
    place.promptTokens = promptTokens;
  }

  async #consult(policy: AdmissionPolicy, place: Place, experts: readonly string[]): Promise<number> {
    const { model, key, priority, choices, maxCompletionTokens, promptTokens = 0 } = place;
    const others = [...this.#places].filter((other) => other !== place && other.model === model);
    const byExpert = (of: readonly Place[]): readonly number[] =>
      experts.map((_, expert) => of.reduce((sum, { expertTokens }) => sum + (expertTokens[expert] ?? 0), 0));
    const [expertTokens, othersTokens] = [byExpert([place]), byExpert(others)];
    const about = { model, key, priority, choices, maxCompletionTokens, promptTokens, experts, expertTokens };
    const turnMs = this.#outlook.turnMs(others);
    place.priority = await decidedPriority(policy, { ...about, othersTokens, turnMs });
    return place.priority;
  }

  #start(place: Place, queueTimer: NodeJS.Timeout): void {
    if (place.hasLeft || place.isStarted) return;
    clearTimeout(queueTimer);
    place.isStarted = true;
    this.#waiting.delete(place);
    if (!isToldOf(place)) return;
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
    this.#places.delete(place);
    this.#waiting.delete(place);
    this.#outlook.ended(place);
    this.#loads.subtract(place.client, place.load);
    if (key !== undefined) {
      const left = this.#ofKey(key) - 1;
      if (left > 0) this.#requestsOfKey.set(key, left);
      else this.#requestsOfKey.delete(key);
    }
    const nowMs = performance.now();
    this.#times = recordRelease(this.#times, nowMs);
    if (isToldOf(place)) {
      this.#options.events.emit("request:released", { model, isStarted, durationMs: nowMs - enteredMs });
    }
  }

  /** @returns when to come back, in ms */
  #reject(about: Applicant, reason: Reason, places: number): number {
    const nowMs = performance.now();
    const forecast = this.#outlook.forecast(this.#places, nowMs);
    const turned = { places, numWaiting: this.#waiting.size, maxQueueMs: this.#options.maxQueueMs, forecast };
    const { times, waitMs } = promiseReturn(this.#times, turned, nowMs);
    this.#times = times;
    this.#tellRejected(about, reason, waitMs);
    return waitMs;
  }

  #tellRejected({ model, key }: Applicant, reason: Reason, retryAfterMs: number): void {
    this.#options.events.emit("request:rejected", { model, key, reason, retryAfterMs });
  }

  #ofKey(key: string | undefined): number {
    return key === undefined ? 0 : (this.#requestsOfKey.get(key) ?? 0);
  }
}

function countExperts(counts: number[], experts: ArrayLike<number>): void {
  for (let index = 0; index < experts.length; index++) {
    const expert = experts[index] as number;
    while (counts.length <= expert) counts.push(0);
    counts[expert] = (counts[expert] as number) + 1;
  }
}

function isToldOf({ isGeneration = true }: Entrant): boolean {
  return isGeneration;
}

function loadOf({ bytes, maxPromptTokens = bytes, maxCompletionTokens, choices, priority }: Entrant): Load {
  integerOption("bytes", bytes, 0);
  integerOption("maxCompletionTokens", maxCompletionTokens, 0);
  integerOption("choices", choices, 1);
  numberOption("priority", priority, -Infinity);
  const tokens = integerOption("maxCompletionTokens * choices", maxPromptTokens + maxCompletionTokens * choices, 0);
  return { requests: 1, tokens, bytes };
}
