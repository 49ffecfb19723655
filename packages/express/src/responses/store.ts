// Responses that later requests can name: bounded by number, bytes and time, and apart for each client.

import { integerOption, numberOption, rejectUnknownKeys } from "@readme-moe/core";
import { MAX_TIMER_MS } from "../http/timers.ts";
import { LIMITS } from "../limits.ts";
import type { ResponseAnswer } from "./answer-schemas.ts";
import type { ConversationItem } from "./request-schemas.ts";

/** Limits of the responses that a server keeps in memory. */
export interface ResponsesOptions {
  /** Responses of all clients. 0 keeps none. @default 1,000 */
  readonly maxResponses?: number | undefined;
  /** Bytes of the kept conversations, as JSON. @default 64 MiB */
  readonly maxBytes?: number | undefined;
  /** Share of both that one client may have, above 0 and at most 1. @default 0.5 */
  readonly maxClientShare?: number | undefined;
  /** Time that a response is kept, in ms. @default one hour */
  readonly maxAgeMs?: number | undefined;
}

/** An item of a conversation with its id. */
export type KeptItem = ConversationItem & { readonly id: string };

/** A response with its conversation. */
export interface KeptResponse {
  readonly response: ResponseAnswer;
  /** Items of earlier responses that it continues. */
  readonly history: readonly KeptItem[];
  /** Items of its own request. */
  readonly input: readonly KeptItem[];
  /** Items of its answer. */
  readonly output: readonly KeptItem[];
}

interface Entry extends KeptResponse {
  readonly client: string;
  readonly bytes: number;
  readonly expiresMs: number;
}

/** A response that is being generated. */
interface Running {
  readonly client: string;
  readonly controller: AbortController;
  /** Returns the response so far. @default nothing is known before its first token */
  snapshot?: () => ResponseAnswer;
}

const NAMES = ["maxResponses", "maxBytes", "maxClientShare", "maxAgeMs"] as const;

/**
 * Keeps responses. The least recently used ones go first: those of a client that exceeds its share, then those of
 * everyone. An id of another client does not exist.
 */
export class ResponseStore {
  readonly #maxResponses: number;
  readonly #maxBytes: number;
  readonly #share: number;
  readonly #maxAgeMs: number;
  readonly #nowMs: () => number;
  /** Entries by id, the least recently used first. */
  readonly #entries = new Map<string, Entry>();
  readonly #running = new Map<string, Running>();
  #bytes = 0;

  /**
   * @param nowMs - a monotonic clock in ms
   * @throws {TypeError | RangeError} on wrong options
   */
  constructor(options: ResponsesOptions = {}, nowMs: () => number = () => performance.now()) {
    rejectUnknownKeys("responses", options, NAMES);
    const { responses, responseBytes, responseClientShare, responseMs } = LIMITS;
    this.#maxResponses = integerOption("responses.maxResponses", options.maxResponses ?? responses.value, 0);
    this.#maxBytes = integerOption("responses.maxBytes", options.maxBytes ?? responseBytes.value, 1);
    const share = options.maxClientShare ?? responseClientShare.value;
    this.#share = numberOption("responses.maxClientShare", share, Number.MIN_VALUE, 1);
    this.#maxAgeMs = integerOption("responses.maxAgeMs", options.maxAgeMs ?? responseMs.value, 1, MAX_TIMER_MS);
    this.#nowMs = nowMs;
  }

  /** Number of kept responses, and the bytes of their conversations. */
  get stats(): { readonly responses: number; readonly bytes: number } {
    return { responses: this.#entries.size, bytes: this.#bytes };
  }

  /** Returns a client's response, which counts as a use. */
  get(id: string, client: string): KeptResponse | undefined {
    const entry = this.#entries.get(id);
    if (!entry || entry.client !== client) return undefined;
    this.#entries.delete(id);
    if (entry.expiresMs <= this.#nowMs()) {
      this.#bytes -= entry.bytes;
      return undefined;
    }
    this.#entries.set(id, entry);
    return entry;
  }

  /** Finds an item of a client's responses. */
  item(id: string, client: string): KeptItem | undefined {
    for (const [key, { client: owner, output, input }] of this.#entries) {
      if (owner !== client) continue;
      const found = output.find((item) => item.id === id) ?? input.find((item) => item.id === id);
      if (found) return this.get(key, client) && found;
    }
    return undefined;
  }

  /** Keeps a response, and removes others as far as limits need it. A response beyond the limits is not kept. */
  keep(client: string, kept: KeptResponse): void {
    const bytes = Buffer.byteLength(JSON.stringify(kept));
    const ofClient = { count: Math.floor(this.#maxResponses * this.#share), bytes: this.#maxBytes * this.#share };
    const { id } = kept.response;
    if (bytes > ofClient.bytes || ofClient.count < 1) return;
    this.#remove(id);
    const nowMs = this.#nowMs();
    for (const [key, { expiresMs }] of this.#entries) if (expiresMs <= nowMs) this.#remove(key);
    this.#makeRoom((entry) => entry.client === client, ofClient.count - 1, ofClient.bytes - bytes);
    this.#makeRoom(() => true, this.#maxResponses - 1, this.#maxBytes - bytes);
    this.#entries.set(id, { ...kept, client, bytes, expiresMs: nowMs + this.#maxAgeMs });
    this.#bytes += bytes;
  }

  /** Removes a client's response. @returns whether it existed */
  delete(id: string, client: string): boolean {
    const exists = this.get(id, client) !== undefined;
    if (exists) this.#remove(id);
    return exists;
  }

  /** Notes that a response is being generated. A request that names another client's response is not noted. */
  begin(id: string, client: string): AbortController {
    const controller = new AbortController();
    if ((this.#running.get(id)?.client ?? client) === client) this.#running.set(id, { client, controller });
    return controller;
  }

  /** Makes the response so far known while it is being generated. */
  watch(id: string, snapshot: () => ResponseAnswer): void {
    const running = this.#running.get(id);
    if (running) running.snapshot = snapshot;
  }

  /** Returns the response of a client that is being generated, as far as it is known. */
  running(id: string, client: string): ResponseAnswer | undefined {
    const running = this.#running.get(id);
    return running?.client === client ? running.snapshot?.() : undefined;
  }

  /** @param signal - that of `begin`: another request may have gone on with the response since */
  end(id: string, signal: AbortSignal): void {
    if (this.#running.get(id)?.controller.signal === signal) this.#running.delete(id);
  }

  /** Ends a response of the client that is being generated. @returns whether there is one */
  cancel(id: string, client: string, reason: Error): boolean {
    const running = this.#running.get(id);
    if (!running || running.client !== client) return false;
    running.controller.abort(reason);
    return true;
  }

  #makeRoom(isMeant: (entry: Entry) => boolean, maxCount: number, maxBytes: number): void {
    const meant = [...this.#entries].filter(([, entry]) => isMeant(entry));
    let count = meant.length;
    let bytes = meant.reduce((sum, [, entry]) => sum + entry.bytes, 0);
    for (const [id, entry] of meant) {
      if (count <= maxCount && bytes <= maxBytes) return;
      this.#remove(id);
      count--;
      bytes -= entry.bytes;
    }
  }

  #remove(id: string): void {
    const entry = this.#entries.get(id);
    if (!entry) return;
    this.#entries.delete(id);
    this.#bytes -= entry.bytes;
  }
}
