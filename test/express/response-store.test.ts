// The store of responses, against a plain model and its limits.

import { expect, test } from "vitest";
import {
  ResponseStore,
  type EndedResponse,
  type Item,
  type ResponsesOptions,
} from "../../packages/express/src/responses/store.ts";
import { keptResponse } from "../support/kept-response.ts";
import * as fc from "../support/fast-check.ts";

const CLIENTS = ["ann", "bob"] as const;
const IDS = ["a", "b", "c", "d", "e"] as const;

type Step =
  | {
      readonly kind: "keep";
      readonly client: string;
      readonly id: string;
      readonly length: number;
      readonly input: readonly string[];
      readonly output: readonly string[];
    }
  | { readonly kind: "get" | "item" | "delete"; readonly client: string; readonly id: string }
  | { readonly kind: "wait"; readonly ms: number };

const client = fc.constantFrom(...CLIENTS);
const id = fc.constantFrom(...IDS);
const ids = fc.array(id, { maxLength: 4 });
const step: fc.Arbitrary<Step> = fc.oneof(
  fc.record({ kind: fc.constant("keep" as const), client, id, length: fc.nat(1500), input: ids, output: ids }),
  fc.record({ kind: fc.constantFrom("get" as const, "item" as const, "item" as const, "delete" as const), client, id }),
  fc.record({ kind: fc.constant("wait" as const), ms: fc.nat(30) }),
);

const [MAX_RESPONSES, MAX_BYTES, MAX_AGE_MS] = [8, 16_000, 200];

const itemOf = (name: string, text: string): Item => ({ type: "message", id: name, role: "user", content: text });

/** Makes the response of a step. Its texts differ from those of all other steps. */
function endedBy(one: Extract<Step, { kind: "keep" }>, place: number): EndedResponse {
  const { response } = keptResponse(one.id, "");
  const items = (names: readonly string[], part: string): readonly Item[] =>
    names.map((name, index) => itemOf(name, `${part} ${index} of ${place}${"x".repeat(index === 0 ? one.length : 0)}`));
  return { response, history: [], input: items(one.input, "in"), output: items(one.output, "out") };
}

interface PlainEntry {
  readonly id: string;
  readonly client: string;
  readonly ended: EndedResponse;
  readonly bytes: number;
  readonly untilMs: number;
}

function sum(list: readonly { readonly bytes: number }[]): number {
  return list.reduce((total, one) => total + one.bytes, 0);
}

function itemsOf({ ended: { input, output } }: PlainEntry): readonly Item[] {
  return [...input, ...output];
}

/** Lists of entries that every question goes through. */
class PlainStore {
  /** The least recently used first. */
  entries: PlainEntry[] = [];
  /** In the order in which they were kept. */
  kept: PlainEntry[] = [];

  keep(owner: string, ended: EndedResponse, nowMs: number): void {
    const { id: name } = ended.response;
    const items = [...ended.input, ...ended.output];
    const bytes =
      JSON.stringify(ended.response).length + sum(items.map((one) => ({ bytes: JSON.stringify(one).length + 256 })));
    if (bytes > MAX_BYTES / 2) return;
    this.entries = this.entries.filter(
      (entry) => !(entry.id === name && entry.client === owner) && entry.untilMs > nowMs,
    );
    const own = () => this.entries.filter((entry) => entry.client === owner);
    while (own().length > MAX_RESPONSES / 2 - 1 || sum(own()) > MAX_BYTES / 2 - bytes) {
      this.entries.splice(this.entries.indexOf(own()[0] as PlainEntry), 1);
    }
    while (this.entries.length > MAX_RESPONSES - 1 || sum(this.entries) > MAX_BYTES - bytes) this.entries.shift();
    const entry = { id: name, client: owner, ended, bytes, untilMs: nowMs + MAX_AGE_MS };
    this.entries.push(entry);
    this.kept.push(entry);
  }

  get(owner: string, name: string, nowMs: number): EndedResponse | undefined {
    const index = this.entries.findIndex((entry) => entry.id === name && entry.client === owner);
    const [entry] = index === -1 ? [] : this.entries.splice(index, 1);
    if (!entry || entry.untilMs <= nowMs) return undefined;
    this.entries.push(entry);
    return entry.ended;
  }

  item(owner: string, name: string, nowMs: number): Item | undefined {
    const found = this.kept
      .filter((entry) => this.entries.includes(entry) && entry.client === owner)
      .findLast((entry) => itemsOf(entry).some((one) => one.id === name));
    return found && this.get(owner, found.id, nowMs) && itemsOf(found).findLast((one) => one.id === name);
  }
}

test("keeps, finds and removes as a plain list does, within its limits", () => {
  const seen = { get: 0, item: 0, delete: 0 };
  fc.assert(
    fc.property(fc.array(step, { minLength: 60, maxLength: 120, size: "max" }), (steps) => {
      let nowMs = 0;
      const options = { maxResponses: MAX_RESPONSES, maxBytes: MAX_BYTES, maxAgeMs: MAX_AGE_MS };
      const store = new ResponseStore(options, () => nowMs);
      const plain = new PlainStore();
      for (const [place, one] of steps.entries()) {
        if (one.kind === "wait") nowMs += one.ms;
        else if (one.kind === "keep") {
          const ended = endedBy(one, place);
          store.keep(one.client, ended);
          plain.keep(one.client, ended, nowMs);
        } else {
          const { kind, client: owner, id: name } = one;
          const known = kind === "item" ? plain.item(owner, name, nowMs) : plain.get(owner, name, nowMs);
          if (known) seen[kind]++;
          if (kind === "delete") {
            if (known) plain.entries.pop();
            expect(store.delete(name, owner)).toBe(known !== undefined);
          } else if (kind === "item") expect(store.item(name, owner)?.item).toStrictEqual(known);
          else expect(contentsOf(store.get(name, owner))).toStrictEqual(known);
        }
        const bytes = sum(plain.entries);
        expect(store.stats).toStrictEqual({ responses: plain.entries.length, bytes });
        expect(bytes).toBeLessThanOrEqual(MAX_BYTES);
      }
    }),
    { numRuns: 150 },
  );
  expect(Math.min(...Object.values(seen))).toBeGreaterThan(100);
});

/** Returns what was kept, as it was given to the store. */
function contentsOf(kept: ReturnType<ResponseStore["get"]>): EndedResponse | undefined {
  if (!kept) return undefined;
  const { json, history, input, output } = kept;
  const response = JSON.parse(json.toString()) as EndedResponse["response"];
  return { response, history, input: input.map(({ item }) => item), output: output.map(({ item }) => item) };
}

test("finds items of a client's own responses", () => {
  const store = new ResponseStore();
  store.keep("ann", keptResponse("a"));
  expect(store.item("out-a", "ann")?.item).toMatchObject({ role: "assistant" });
  expect(store.item("in-a", "ann")?.item).toMatchObject({ role: "user" });
  expect([store.item("out-a", "bob"), store.item("out-b", "ann")]).toEqual([undefined, undefined]);
});

test("clients with responses and items of equal ids do not disturb each other", () => {
  const store = new ResponseStore();
  store.keep("ann", keptResponse("a", "Ann's"));
  store.keep("bob", keptResponse("a", "Bob's"));
  expect(store.item("in-a", "ann")?.item).toMatchObject({ content: "Ann's" });
  expect(store.delete("a", "bob")).toBe(true);
  expect(store.item("in-a", "ann")?.item).toMatchObject({ content: "Ann's" });
});

test("looks at no item to find another, and at no item of the history to keep a response", () => {
  let numLooks = 0;
  const counted = (name: string): Item => ({
    ...itemOf(name, "x"),
    get id() {
      numLooks++;
      return name;
    },
  });
  const store = new ResponseStore();
  const input = Array.from({ length: 400 }, (_, index) => counted(`item-${index}`));
  for (let index = 0; index < 30; index++) store.keep("ann", { ...keptResponse(`${index}`), input });
  const history = store.get("3", "ann")?.input ?? [];
  numLooks = 0;
  for (let index = 0; index < 400; index++) expect(store.item(`item-${index}`, "ann")).toBeDefined();
  expect(numLooks).toBe(0);
  store.keep("ann", { ...keptResponse("next"), history });
  expect(numLooks).toBe(0);
});

test("ends running responses of the client alone", () => {
  const store = new ResponseStore();
  const [anns, bobs] = [store.begin("a", "ann"), store.begin("a", "bob")];
  anns.watch(() => keptResponse("a", "Ann's").response);
  expect([store.running("a", "ann")?.id, store.running("a", "bob")]).toEqual(["a", undefined]);
  const reason = new Error("Enough");
  expect(store.cancel("a", "bob", reason)).toBe(true);
  expect([anns.signal.aborted, bobs.signal.reason]).toEqual([false, reason]);
  bobs.end();
  expect([store.cancel("a", "bob", reason), store.cancel("b", "ann", reason)]).toEqual([false, false]);
  // A request that goes on with the response keeps it when the earlier one ends.
  const next = store.begin("a", "ann");
  anns.end();
  expect(store.cancel("a", "ann", reason)).toBe(true);
  expect([anns.signal.aborted, next.signal.reason]).toEqual([false, reason]);
  next.end();
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
