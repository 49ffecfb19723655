// The store of responses, against a plain model and its limits.

import { expect, test } from "vitest";
import { ResponseStore, type ResponsesOptions } from "../../packages/express/src/responses/store.ts";
import { keptResponse } from "../support/kept-response.ts";
import * as fc from "../support/fast-check.ts";

const CLIENTS = ["ann", "bob", "eve"] as const;
const IDS = ["a", "b", "c", "d", "e", "f"] as const;

type Step =
  | { readonly kind: "keep"; readonly client: string; readonly id: string; readonly length: number }
  | { readonly kind: "get" | "delete"; readonly client: string; readonly id: string }
  | { readonly kind: "wait"; readonly ms: number };

const client = fc.constantFrom(...CLIENTS);
const id = fc.constantFrom(...IDS);
const step: fc.Arbitrary<Step> = fc.oneof(
  fc.record({ kind: fc.constant("keep" as const), client, id, length: fc.nat(3000) }),
  fc.record({ kind: fc.constantFrom("get" as const, "delete" as const), client, id }),
  fc.record({ kind: fc.constant("wait" as const), ms: fc.nat(60) }),
);

const [MAX_RESPONSES, MAX_BYTES, MAX_AGE_MS] = [4, 8000, 100];

function sum(list: readonly { readonly bytes: number }[]): number {
  return list.reduce((total, one) => total + one.bytes, 0);
}

/** A list of entries, the least recently used first. */
class PlainStore {
  entries: { readonly id: string; readonly client: string; readonly bytes: number; readonly untilMs: number }[] = [];

  keep(owner: string, name: string, { bytes, nowMs }: { readonly bytes: number; readonly nowMs: number }): void {
    if (bytes > MAX_BYTES / 2) return;
    this.entries = this.entries.filter((entry) => entry.id !== name && entry.untilMs > nowMs);
    const own = () => this.entries.filter((entry) => entry.client === owner);
    while (own().length > MAX_RESPONSES / 2 - 1 || sum(own()) > MAX_BYTES / 2 - bytes) {
      this.entries.splice(this.entries.indexOf(own()[0] as (typeof this.entries)[number]), 1);
    }
    while (this.entries.length > MAX_RESPONSES - 1 || sum(this.entries) > MAX_BYTES - bytes) this.entries.shift();
    this.entries.push({ id: name, client: owner, bytes, untilMs: nowMs + MAX_AGE_MS });
  }

  get(owner: string, name: string, nowMs: number): boolean {
    const index = this.entries.findIndex((entry) => entry.id === name && entry.client === owner);
    const [entry] = index === -1 ? [] : this.entries.splice(index, 1);
    if (!entry || entry.untilMs <= nowMs) return false;
    this.entries.push(entry);
    return true;
  }
}

test("keeps, finds and removes as a plain list does, within its limits", () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      let nowMs = 0;
      const options = { maxResponses: MAX_RESPONSES, maxBytes: MAX_BYTES, maxAgeMs: MAX_AGE_MS };
      const store = new ResponseStore(options, () => nowMs);
      const plain = new PlainStore();
      for (const one of steps) {
        if (one.kind === "wait") nowMs += one.ms;
        else if (one.kind === "keep") {
          const kept = keptResponse(one.id, "x".repeat(one.length));
          store.keep(one.client, kept);
          plain.keep(one.client, one.id, { bytes: JSON.stringify(kept).length, nowMs });
        } else {
          const known = plain.get(one.client, one.id, nowMs);
          if (one.kind === "get") expect(store.get(one.id, one.client) !== undefined).toBe(known);
          else expect(store.delete(one.id, one.client)).toBe(known);
          if (one.kind === "delete" && known) plain.entries.pop();
        }
        const bytes = sum(plain.entries);
        expect(store.stats).toEqual({ responses: plain.entries.length, bytes });
        expect(bytes).toBeLessThanOrEqual(MAX_BYTES);
      }
    }),
    { numRuns: 300 },
  );
});

test("finds items of a client's own responses", () => {
  const store = new ResponseStore();
  store.keep("ann", keptResponse("a"));
  expect(store.item("out-a", "ann")).toMatchObject({ role: "assistant" });
  expect(store.item("in-a", "ann")).toMatchObject({ role: "user" });
  expect([store.item("out-a", "bob"), store.item("out-b", "ann")]).toEqual([undefined, undefined]);
});

test("ends running responses of the client alone", () => {
  const store = new ResponseStore();
  const { signal } = store.begin("a", "ann");
  store.begin("a", "bob");
  const reason = new Error("Enough");
  expect([store.cancel("a", "bob", reason), signal.aborted]).toEqual([false, false]);
  expect([store.cancel("a", "ann", reason), signal.reason]).toEqual([true, reason]);
  // A request that has gone on with the response since keeps it.
  store.end("a", new AbortController().signal);
  expect(store.cancel("a", "ann", reason)).toBe(true);
  store.end("a", signal);
  expect(store.cancel("a", "ann", reason)).toBe(false);
});

test.each([
  [{ maxResponses: -1 }, /maxResponses/],
  [{ maxBytes: 0 }, /maxBytes/],
  [{ maxClientShare: 0 }, /maxClientShare/],
  [{ maxClientShare: 2 }, /maxClientShare/],
  [{ maxAgeMs: 0.5 }, /maxAgeMs/],
  [{ max: 3 }, /max/],
])("wrong options are refused: %j", (options, message) => {
  expect(() => new ResponseStore(options as ResponsesOptions)).toThrow(message);
});
