// The caller's side of requests over a worker that is a list: ids that are used again, callers who leave, failures.

import { setImmediate as nextTurn } from "node:timers/promises";
import { expect, test } from "vitest";
import { RunningRequests } from "../../packages/engine/src/host/running-requests.ts";
import type { RequestNews, ToWorker, WireRequest } from "../../packages/engine/src/protocol.ts";
import * as fc from "../support/fast-check.ts";

const USAGE = {
  promptTokens: 1,
  completionTokens: 1,
  cachedTokens: 0,
  acceptedDraftTokens: 0,
  rejectedDraftTokens: 0,
  queuedMs: 0,
};

/** Messages on their way to a worker and back, and the requests that it runs. */
class PlainWorker {
  readonly toWorker: ToWorker[] = [];
  /** News of each step. */
  readonly fromWorker: (readonly RequestNews[])[] = [];
  /** Number of chunks so far, and the request's mark, by id. */
  readonly #running = new Map<string, { readonly mark: number; count: number }>();

  /** Takes all messages, and runs a step in which every `endsEvery`th request ends. */
  step(endsEvery: number): void {
    const news: RequestNews[] = [];
    for (const message of this.toWorker.splice(0)) {
      if (message.type === "abort") {
        this.#running.delete(message.requestId);
        news.push({ type: "left", requestId: message.requestId });
      } else if (message.type === "generate") {
        expect(this.#running.has(message.requestId)).toBe(false);
        this.#running.set(message.requestId, { mark: message.seed, count: 0 });
      }
    }
    for (const [index, [requestId, request]] of Array.from(this.#running).entries()) {
      const isLast = (index + 1) % endsEvery === 0;
      if (isLast) this.#running.delete(requestId);
      const chunk = { choice: 0, text: `${request.mark}.${request.count++}`, tokens: [] };
      news.push({ type: "chunk", requestId, chunk: isLast ? { ...chunk, usage: USAGE } : chunk });
    }
    this.fromWorker.push(news);
  }
}

interface Asked {
  readonly mark: number;
  readonly texts: string[];
  readonly leave: (bySignal: boolean) => void;
  /** How the iteration ended. */
  end?: "end" | "left" | "failed";
}

const operations = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({ type: fc.constant("begin" as const), id: fc.constantFrom("a", "b", "c") }),
  },
  {
    weight: 3,
    arbitrary: fc.record({ type: fc.constant("leave" as const), index: fc.nat(9), bySignal: fc.boolean() }),
  },
  {
    weight: 4,
    arbitrary: fc.record({ type: fc.constant("step" as const), endsEvery: fc.integer({ min: 1, max: 4 }) }),
  },
  { weight: 4, arbitrary: fc.constant({ type: "receive" as const }) },
  { weight: 1, arbitrary: fc.constant({ type: "restart" as const }) },
);

test("every request gets its own chunks from the first to its end, whoever had its id before", async () => {
  const ends = { end: 0, left: 0, failed: 0 };
  await fc.assert(
    fc.asyncProperty(fc.array(operations, { minLength: 10, maxLength: 60, size: "max" }), async (history) => {
      let worker = new PlainWorker();
      let numHeld = 0;
      const link = {
        post: (message: ToWorker) => worker.toWorker.push(message),
        hold: () => numHeld++,
        release: () => numHeld--,
      };
      const requests = new RunningRequests({
        getLink: () => link as never,
        getInfo: () => ({ vocabSize: 9 }),
        refusal: () => undefined,
      });
      const asked: Asked[] = [];
      const readers: Promise<void>[] = [];
      /** The last request of each id. */
      const taken = new Map<string, Asked>();

      const begin = (id: string): void => {
        const controller = new AbortController();
        const mark = asked.length;
        const wire = { requestId: id, seed: mark } as WireRequest;
        const before = taken.get(id);
        if (before && before.end === undefined) {
          expect(() => requests.begin(wire, controller.signal)).toThrow("`id` to be new");
          return;
        }
        const stream = requests.begin(wire, controller.signal);
        const leave = (bySignal: boolean): void => {
          own.end ??= "left";
          if (bySignal) controller.abort(new Error("left"));
          else void stream.return();
        };
        const own: Asked = { mark, texts: [], leave };
        asked.push(own);
        taken.set(id, own);
        readers.push(
          (async () => {
            try {
              for await (const { text } of stream) if (own.end === undefined) own.texts.push(text);
              own.end ??= "end";
            } catch {
              own.end ??= "failed";
            }
          })(),
        );
      };
      for (const operation of history) {
        if (operation.type === "begin") begin(operation.id);
        else if (operation.type === "leave") {
          const underWay = asked.filter(({ end }) => end === undefined);
          underWay[operation.index % Math.max(1, underWay.length)]?.leave(operation.bySignal);
        } else if (operation.type === "step") worker.step(operation.endsEvery);
        else if (operation.type === "receive") {
          for (const news of worker.fromWorker.shift() ?? []) requests.receive(news);
        } else {
          requests.failAll(new Error("The worker ended"));
          worker = new PlainWorker();
        }
        await nextTurn();
      }
      for (let round = 0; round < 3; round++) {
        worker.step(1);
        for (const news of worker.fromWorker.splice(0).flat()) requests.receive(news);
      }
      await Promise.all(readers);
      for (const { mark, texts, end } of asked) {
        expect(texts).toEqual(texts.map((_, count) => `${mark}.${count}`));
        if (end === "end") expect(texts.length).toBeGreaterThan(0);
        if (end) ends[end]++;
      }
      expect(numHeld).toBe(0);
    }),
    { numRuns: 300 },
  );
  expect(Math.min(...Object.values(ends))).toBeGreaterThan(50);
});
