// Responses that later requests can name: bounded by number, bytes and time, and apart for each client.

import {
  type CheckedOptions,
  checkedOptions,
  integerCheck,
  MAX_TIMER_MS,
  numberCheck,
  type OptionChecks,
} from "@readme-moe/core";
import { numPartsOf } from "../api/body.ts";
import { jsonParts, sumOfBytes } from "../http/reply.ts";
import { LIMITS } from "../limits.ts";
import type { ConversationItem, ResponseAnswer } from "./schemas.ts";

/** Limits of the responses that a server keeps in memory. */
export interface ResponsesOptions {
  /** Responses of all clients. 0 keeps none. @default 1,000 */
  readonly maxResponses?: number | undefined;
  /** Bytes of the kept responses and their conversations: as JSON, and 256 for each item. @default 64 MiB */
  readonly maxBytes?: number | undefined;
  /** Share of both that one client may have, above 0 and at most 1. @default 0.5 */
  readonly maxClientShare?: number | undefined;
  /** Time that a response is kept, in ms. @default one hour */
  readonly maxAgeMs?: number | undefined;
}

export type Item = ConversationItem & { readonly id: string };

/** Size of items. */
export interface Size {
  /** Bytes of their JSON. */
  readonly bytes: number;
  /** Number of the items and their parts, which requests have a limit of. */
  readonly numParts: number;
}

export interface KeptItem extends Size {
  readonly item: Item;
  readonly responseId: string;
}

interface Conversation<Own> {
  /** Items of earlier responses that it continues. */
  readonly history: readonly KeptItem[];
  /** Items of its own request. */
  readonly input: readonly Own[];
  /** Items of its answer. */
  readonly output: readonly Own[];
}

export interface EndedResponse extends Conversation<Item> {
  readonly response: ResponseAnswer;
}

/** A response that is kept, as clients read it and go on with it. */
export interface KeptResponse extends Conversation<KeptItem> {
  readonly id: string;
  /** The response as JSON. It is not changed. */
  readonly json: Buffer;
}

interface Entry extends KeptResponse {
  readonly owner: Owner;
  readonly bytes: number;
  readonly expiresMs: number;
}

interface Owner {
  readonly client: string;
  /** Entries by id, the least recently used first. */
  readonly entries: Map<string, Entry>;
  /** Items by id, those of the response that was kept last at the end. Clients may give ids twice. */
  readonly items: Map<string, KeptItem[]>;
  bytes: number;
}

/** A response that is being generated. */
interface Running {
  readonly controller: AbortController;
  /** Returns the response so far. @default nothing is known before its first token */
  snapshot?: () => ResponseAnswer;
}

/** A response that is being generated, for the request that generates it. */
interface Generating {
  /** Aborts when the client cancels the response. */
  readonly signal: AbortSignal;
  /** Makes the response so far known. */
  readonly watch: (snapshot: () => ResponseAnswer) => void;
  readonly end: () => void;
}

/** Memory of an item beside its JSON. */
const ITEM_BYTES = 256;

const CHECKS = {
  maxResponses: integerCheck(LIMITS.responses.value, 0),
  maxBytes: integerCheck(LIMITS.responseBytes.value, 1),
  maxClientShare: numberCheck(LIMITS.responseClientShare.value, Number.MIN_VALUE, 1),
  maxAgeMs: integerCheck(LIMITS.responseMs.value, 1, MAX_TIMER_MS),
} satisfies OptionChecks<ResponsesOptions>;

/**
 * Keeps responses. The least recently used ones go first: those of a client that exceeds its share, then those of
 * everyone. An id of another client does not exist.
 */
export class ResponseStore {
  readonly #limits: CheckedOptions<typeof CHECKS>;
  readonly #nowMs: () => number;
  readonly #owners = new Map<string, Owner>();
  /** Entries, the least recently used first. */
  readonly #byUse = new Set<Entry>();
  /** Entries, the oldest first. */
  readonly #byAge = new Set<Entry>();
  readonly #running = new Map<string, Running>();
  #bytes = 0;

  /**
   * @param nowMs - a monotonic clock in ms
   * @throws {TypeError | RangeError} on wrong options
   */
  constructor(options: ResponsesOptions = {}, nowMs: () => number = () => performance.now()) {
    this.#limits = checkedOptions(options, CHECKS, "responses", "responses.");
    this.#nowMs = nowMs;
  }

  /** Number of kept responses, and the bytes of their conversations. */
  get stats(): { readonly responses: number; readonly bytes: number } {
    return { responses: this.#byUse.size, bytes: this.#bytes };
  }

  /** Returns a client's response, which counts as a use. */
  get(id: string, client: string): KeptResponse | undefined {
    return this.#use(id, client);
  }

  /**
   * Finds an item of a client's responses, which counts as a use of its response. Of several items with the id, finds
   * that of the response that was kept last, and in it the last one.
   */
  item(id: string, client: string): KeptItem | undefined {
    const found = this.#owners.get(client)?.items.get(id)?.at(-1);
    return found && this.get(found.responseId, client) && found;
  }

  /** Keeps a response, and removes others as far as limits need it. A response beyond the limits is not kept. */
  keep(client: string, { response, history, input, output }: EndedResponse): void {
    const { id } = response;
    const kept = {
      id,
      json: Buffer.concat(jsonParts(response)),
      history,
      input: input.map((item) => keptItem(item, id)),
      output: output.map((item) => keptItem(item, id)),
    };
    const bytes = kept.json.length + bytesOf(history) + bytesOf(kept.input) + bytesOf(kept.output);
    const { maxResponses, maxBytes, maxClientShare, maxAgeMs } = this.#limits;
    const ofClient = { count: Math.floor(maxResponses * maxClientShare), bytes: maxBytes * maxClientShare };
    if (bytes > ofClient.bytes || ofClient.count < 1) return;
    const nowMs = this.#nowMs();
    for (const entry of this.#byAge) {
      if (entry.expiresMs > nowMs) break;
      this.#remove(entry);
    }
    const before = this.#owners.get(client);
    const same = before?.entries.get(id);
    if (same) this.#remove(same);
    for (const entry of before?.entries.values() ?? []) {
      if (before && before.entries.size < ofClient.count && before.bytes + bytes <= ofClient.bytes) break;
      this.#remove(entry);
    }
    for (const entry of this.#byUse) {
      if (this.#byUse.size < maxResponses && this.#bytes + bytes <= maxBytes) break;
      this.#remove(entry);
    }
    const owner = this.#owners.get(client) ?? { client, entries: new Map(), items: new Map(), bytes: 0 };
    this.#add({ ...kept, owner, bytes, expiresMs: nowMs + maxAgeMs });
  }

  /** Removes a client's response. @returns whether it existed */
  delete(id: string, client: string): boolean {
    const entry = this.#use(id, client);
    if (entry) this.#remove(entry);
    return entry !== undefined;
  }

  /** Notes that a client's response is being generated. A later request that goes on with it takes its place. */
  begin(id: string, client: string): Generating {
    const [key, running]: [string, Running] = [runningKey(id, client), { controller: new AbortController() }];
    this.#running.set(key, running);
    return {
      signal: running.controller.signal,
      watch: (snapshot) => void (running.snapshot = snapshot),
      end: () => {
        if (this.#running.get(key) === running) this.#running.delete(key);
      },
    };
  }

  /** Returns the response of a client that is being generated, as far as it is known. */
  running(id: string, client: string): ResponseAnswer | undefined {
    return this.#running.get(runningKey(id, client))?.snapshot?.();
  }

  /** Ends a response of the client that is being generated. @returns whether there is one */
  cancel(id: string, client: string, reason: Error): boolean {
    const running = this.#running.get(runningKey(id, client));
    running?.controller.abort(reason);
    return running !== undefined;
  }

  #use(id: string, client: string): Entry | undefined {
    const entry = this.#owners.get(client)?.entries.get(id);
    if (!entry) return undefined;
    if (entry.expiresMs <= this.#nowMs()) {
      this.#remove(entry);
      return undefined;
    }
    entry.owner.entries.delete(id);
    entry.owner.entries.set(id, entry);
    this.#byUse.delete(entry);
    this.#byUse.add(entry);
    return entry;
  }

  #add(entry: Entry): void {
    const { id, owner, bytes, input, output } = entry;
    this.#owners.set(owner.client, owner);
    owner.entries.set(id, entry);
    this.#byUse.add(entry);
    this.#byAge.add(entry);
    owner.bytes += bytes;
    this.#bytes += bytes;
    for (const kept of [...input, ...output]) {
      const others = owner.items.get(kept.item.id);
      if (others) others.push(kept);
      else owner.items.set(kept.item.id, [kept]);
    }
  }

  #remove(entry: Entry): void {
    const { id, owner, bytes, input, output } = entry;
    owner.entries.delete(id);
    this.#byUse.delete(entry);
    this.#byAge.delete(entry);
    owner.bytes -= bytes;
    this.#bytes -= bytes;
    for (const kept of [...input, ...output]) {
      const all = owner.items.get(kept.item.id) ?? [];
      all.splice(all.indexOf(kept), 1);
      if (all.length === 0) owner.items.delete(kept.item.id);
    }
    if (owner.entries.size === 0) this.#owners.delete(owner.client);
  }
}

function keptItem(item: Item, responseId: string): KeptItem {
  return { item, responseId, bytes: sumOfBytes(jsonParts(item)), numParts: numPartsOf(item) };
}

function bytesOf(items: readonly KeptItem[]): number {
  return items.reduce((sum, { bytes }) => sum + bytes + ITEM_BYTES, 0);
}

/** Names a running response. Clients choose ids when they go on with a stream. */
function runningKey(id: string, client: string): string {
  return JSON.stringify([client, id]);
}
