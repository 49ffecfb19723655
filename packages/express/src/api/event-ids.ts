// Ids of a stream's events, with which a client that lost its connection gets the rest of the answer.

import { createHash } from "node:crypto";
import { ApiError } from "../http/errors.ts";
import { eventParts, type SseEvent } from "../http/reply.ts";

/** Place in the stream of an answer. */
export interface StreamPlace {
  /** Id of the answer. */
  readonly answerId: string;
  /** Seconds since 1970 that the answer is dated with. */
  readonly created: number;
  /** Events up to the place. */
  readonly numEvents: number;
  /** Hash of these events. */
  readonly check: string;
}

const EVENT_ID = /^([\w-]{1,100}):(\d{1,12}):([1-9]\d{0,8}):([0-9a-f]{16})$/;

/** Reads the header `Last-Event-ID`. @throws {ApiError} 404 for what is no id of an event */
export function readEventId(header: string | undefined): StreamPlace | undefined {
  if (header === undefined || header === "") return undefined;
  const [, answerId, created, numEvents, check] = EVENT_ID.exec(header) ?? [];
  if (answerId === undefined || check === undefined) throw streamNotFound();
  return { answerId, created: Number(created), numEvents: Number(numEvents), check };
}

/** Creates the error of a stream that is not kept, belongs to another client, or began with another body. */
export function streamNotFound(): ApiError {
  const message = "There is no stream of this request with this Last-Event-ID; send the request without the header";
  return new ApiError({ status: 404, type: "invalid_request_error", code: "stream_not_found", message });
}

/**
 * Numbers the events of one stream, and leaves out those that its client has. Each id has a hash of all events up to
 * its own, so that a stream goes on exactly where it ended, or not at all.
 */
export class EventNumbering {
  readonly #about: Pick<StreamPlace, "answerId" | "created">;
  readonly #known: Pick<StreamPlace, "numEvents" | "check">;
  #numEvents = 0;
  #check = "";

  /** @param known - place up to which the client has the stream. @default the beginning */
  constructor(about: Pick<StreamPlace, "answerId" | "created">, known?: StreamPlace) {
    this.#about = about;
    this.#known = known ?? { numEvents: 0, check: "" };
  }

  /** Whether the next event is one that the client has. */
  get isReplaying(): boolean {
    return this.#numEvents < this.#known.numEvents;
  }

  /**
   * Takes the next events of the stream.
   *
   * @returns those that the client does not have, with their ids
   * @throws {ApiError} 404 if those that it has are others
   */
  take(events: readonly SseEvent[]): readonly SseEvent[] {
    return events.flatMap((event) => {
      const wasReplaying = this.isReplaying;
      this.#numEvents++;
      const hash = createHash("sha256").update(this.#check);
      for (const part of eventParts(event)) hash.update(part);
      this.#check = hash.digest("hex").slice(0, 16);
      if (!wasReplaying) return [{ ...event, id: this.#id() }];
      if (!this.isReplaying && this.#check !== this.#known.check) throw streamNotFound();
      return [];
    });
  }

  #id(): string {
    const { answerId, created } = this.#about;
    return `${answerId}:${created}:${this.#numEvents}:${this.#check}`;
  }
}
