// Aborted calls, abandoned compilations, and fair shares of clients.

import { getEventListeners, setMaxListeners } from "node:events";
import { Grammars, type Constraint } from "@readme-moe/grammar";
import { afterEach, expect, test } from "vitest";
import { allowedAfter, smallVocabulary, writeBound } from "../support/bound-text.ts";
import { RUNS_LONG_TESTS } from "../support/long-tests.ts";
import { randomInteger, seededRandom } from "../support/random.ts";
import { expectReadMeError } from "../support/rejection.ts";

const vocabulary = smallVocabulary();
const opened: Grammars[] = [];
afterEach(async () => {
  for (const grammars of opened.splice(0)) await grammars.dispose();
});

/** Opens grammars with an hour for each, so that a slow one does not end by itself. */
async function open(options: Parameters<typeof Grammars.open>[1] = {}): Promise<Grammars> {
  const grammars = await Grammars.open(vocabulary, { maxCompileMs: 3_600_000, ...options });
  opened.push(grammars);
  return grammars;
}

/** A grammar that takes more than a minute. */
const slow = (index: number): string => `((a{1,512}${index}){1,512}){1,512}`;
const gone = new Error("The client has gone");

async function reasonOf(promise: Promise<unknown>): Promise<unknown> {
  return promise.then(
    () => "compiled",
    (reason: unknown) => reason,
  );
}

test("rejects at once with the signal's reason when a call is aborted", async () => {
  const grammars = await open({ maxGrammars: 1 });
  const controller = new AbortController();
  const options = { signal: controller.signal };
  const asked = [
    grammars.jsonSchema({ type: "string", pattern: slow(0) }, options),
    grammars.jsonObject(options),
    grammars.grammar('root ::= "a"', "root", options),
    grammars.regex(slow(1), options),
    grammars.choice(["a"], options),
    grammars.tagged({ tags: [{ begin: "<", schema: true, end: ">" }] }, options),
  ].map(reasonOf);
  expect(getEventListeners(controller.signal, "abort")).toHaveLength(6);
  controller.abort(gone);
  expect(await Promise.all(asked)).toEqual(asked.map(() => gone));
  expect(getEventListeners(controller.signal, "abort")).toEqual([]);
  // There is room for one thread, so the compiling one has ended.
  await expect(grammars.choice(["b"])).resolves.toBeDefined();
  expect(await reasonOf(grammars.choice(["b"], options))).toBe(gone);
});

test("removes its listener from a signal that is not aborted", async () => {
  const grammars = await open();
  const { signal } = new AbortController();
  const constraint = await grammars.choice(["a"], { signal });
  await expect(grammars.regex("(", { signal })).rejects.toThrow(TypeError);
  await expect(grammars.grammar("root ::= (", "root", { signal })).rejects.toThrow(TypeError);
  await writeBound(constraint, vocabulary, seededRandom(1));
  expect(getEventListeners(signal, "abort")).toEqual([]);
});

test("continues a compilation while any call waits for it", async () => {
  const grammars = await open({ maxGrammars: 1 });
  const controllers = Array.from({ length: 3 }, () => new AbortController());
  const asked = controllers.map(({ signal }) => reasonOf(grammars.choice(["a"], { signal })));
  for (const controller of controllers.slice(0, 2)) controller.abort(gone);
  expect(await Promise.all(asked)).toEqual([gone, gone, "compiled"]);
});

test("compiles an abandoned grammar when it is requested again", async () => {
  const grammars = await open();
  for (let round = 0; round < 3; round++) {
    const controller = new AbortController();
    const asked = reasonOf(grammars.regex("[a-f]{3}", { signal: controller.signal }));
    controller.abort(gone);
    expect(await asked).toBe(gone);
  }
  await expect(grammars.regex("[a-f]{3}")).resolves.toBeDefined();
});

test("starts a client's grammar at once beside twelve slow ones of another client", async () => {
  const grammars = await open({ maxWaiting: 24 });
  const controller = new AbortController();
  setMaxListeners(0, controller.signal);
  const asked = Array.from({ length: 12 }, (_, index) =>
    reasonOf(grammars.regex(slow(index), { client: "slow", signal: controller.signal })),
  );
  // The short one ends although no slow one does.
  for (const word of ["a", "b", "c"]) await grammars.choice([word], { client: "other" });
  await expectReadMeError(grammars.regex(slow(12), { client: "slow" }), "ERR_QUEUE_FULL", "of this client");
  await grammars.choice(["d"], { client: "third" });
  controller.abort(gone);
  expect(await Promise.all(asked)).toEqual(asked.map(() => gone));
  await grammars.choice(["e"], { client: "slow" });
});

test("makes slow grammars of many clients share time slices", async () => {
  // A time slice is a fifth of this.
  const grammars = await open({ maxCompileMs: 5_000 });
  const controller = new AbortController();
  const asked = ["x", "y", "z"].map((client, index) =>
    reasonOf(grammars.regex(slow(index), { client, signal: controller.signal })),
  );
  await grammars.choice(["a"], { client: "other" });
  controller.abort(gone);
  for (const reason of await Promise.all(asked)) expect([gone.message, "too slow"]).toContain(told(reason));
});

function told(reason: unknown): string {
  return reason instanceof RangeError ? "too slow" : (reason as Error).message;
}

test("evicts busy grammars for others, and still answers their questions", async () => {
  const grammars = await open({ maxGrammars: 2 });
  const words = ["yes", "no", "maybe"];
  const constraints = await Promise.all(words.map((word) => grammars.choice([word])));
  const answers = await Promise.all(
    Array.from({ length: 60 }, async (_, index) => {
      const constraint = constraints[index % words.length] as Constraint;
      return allowedAfter(constraint, vocabulary, []);
    }),
  );
  for (const [index, ids] of answers.entries()) {
    expect(ids.filter((id) => id < 256)).toEqual([words[index % words.length]?.charCodeAt(0)]);
  }
});

test("does not compile an evicted grammar again for a request that ended", async () => {
  const grammars = await open({ maxGrammars: 1 });
  const constraint = await grammars.choice(["a"]);
  const blocker = new AbortController();
  const asked = reasonOf(grammars.regex(slow(0), { signal: blocker.signal }));
  const controller = new AbortController();
  const { signal } = controller;
  const row = new Float32Array(vocabulary.vocabSize);
  const context = { tokenIds: new Int32Array(), promptTokens: 0, choice: 0 };
  const masked = reasonOf(Promise.resolve(constraint.processor({ signal })(row, context)));
  controller.abort(gone);
  expect(await masked).toBe(gone);
  expect(getEventListeners(signal, "abort")).toEqual([]);
  blocker.abort(gone);
  expect(await asked).toBe(gone);
  expect(await allowedAfter(constraint, vocabulary, [])).toContain("a".charCodeAt(0));
});

test.each(RUNS_LONG_TESTS ? [1, 2, 3] : [1])(
  "serves all calls that are not aborted, whichever others are (seed %i)",
  async (seed) => {
    const random = seededRandom(seed);
    const grammars = await open({ maxGrammars: 1 + randomInteger(random, 3), maxWaiting: 200 });
    const asked = Array.from({ length: 40 }, async (_, index) => {
      const controller = new AbortController();
      const [client, isSlow] = [`c${randomInteger(random, 3)}`, random() < 0.3];
      const word = isSlow ? slow(index) : `w{1,${1 + randomInteger(random, 5)}}`;
      const isLeaving = isSlow || random() < 0.5;
      for (let turns = randomInteger(random, 4); turns > 0; turns--)
        await new Promise((resolve) => setImmediate(resolve));
      const outcome = reasonOf(grammars.regex(word, { client, signal: controller.signal }));
      for (let turns = randomInteger(random, 30); turns > 0; turns--)
        await new Promise((resolve) => setImmediate(resolve));
      if (isLeaving) controller.abort(gone);
      const result = await outcome;
      if (!isLeaving) expect(result).toBe("compiled");
      expect(getEventListeners(controller.signal, "abort")).toEqual([]);
    });
    await Promise.all(asked);
    await grammars.choice(["a"], { client: "last" });
  },
);

test("checks options", async () => {
  const grammars = await open();
  await expect(grammars.regex("a", { signal: {} as never })).rejects.toThrow("`signal`");
  await expect(grammars.choice(["a"], { client: 3 as never })).rejects.toThrow("`client`");
  await expect(grammars.tagged({ tags: [] }, { clint: "x" } as never)).rejects.toThrow("did you mean `client`");
  await expect(grammars.tagged({ tags: {} as never })).rejects.toThrow("`tags`");
});
