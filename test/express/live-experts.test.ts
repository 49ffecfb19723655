// Loads and unloads of experts at the same time, with failures of the engine, against a plain model of them.

import * as fc from "../support/fast-check.ts";
import { ReadMeError } from "@readme-moe/core";
import { ApiError } from "@readme-moe/express";
import { describe, expect, test } from "vitest";
import { liveExperts } from "../../packages/express/src/edge/experts.ts";
import { GatedExperts } from "../support/gated-experts.ts";

const SIGNAL = new AbortController().signal;
const NAMES = ["a", "b", "built-in"] as const;
type Name = (typeof NAMES)[number];

type Outcome = "done" | "adapter_exists" | "adapter_not_found" | "ERR_MODEL_INVALID" | "ERR_ENGINE_FAILED";
interface Asked {
  readonly kind: "load" | "unload";
  readonly name: Name;
  readonly isBad: boolean;
  outcome?: Outcome;
}

/** What has to happen, as one would write it down without concurrency. */
class PlainExperts {
  readonly present = new Set<Name>(["built-in"]);
  readonly leaving = new Set<Name>();
  readonly order: Name[] = [];
  readonly #queues = new Map<Name, Asked[]>(NAMES.map((name) => [name, []]));
  #hasFailed = false;

  ask(asked: Asked): void {
    const queue = this.#queueOf(asked.name);
    queue.push(asked);
    if (queue.length === 1) this.#begin(asked.name);
  }

  settle(name: Name): void {
    const [asked] = this.#queueOf(name);
    if (asked) this.#end(asked, asked.isBad ? "ERR_MODEL_INVALID" : "done");
  }

  crash(): void {
    this.#hasFailed = true;
    for (const [asked] of this.#queues.values()) if (asked) this.#endByFailure(asked);
  }

  restart(): void {
    this.#hasFailed = false;
  }

  #begin(name: Name): void {
    const [asked] = this.#queueOf(name);
    if (!asked) return;
    const isPresent = this.present.has(name);
    if (asked.kind === "load" && isPresent) this.#end(asked, "adapter_exists");
    else if (asked.kind === "unload" && !isPresent) this.#end(asked, "adapter_not_found");
    else if (this.#hasFailed) this.#endByFailure(asked);
    else if (asked.kind === "unload") this.leaving.add(name);
  }

  #endByFailure(asked: Asked): void {
    this.#end(asked, asked.kind === "load" ? "ERR_ENGINE_FAILED" : "done");
  }

  #end(asked: Asked, outcome: Outcome): void {
    const { kind, name } = asked;
    asked.outcome = outcome;
    if (outcome === "done") {
      this.leaving.delete(name);
      if (kind === "load") this.present.add(name);
      else this.present.delete(name);
      if (this.order.includes(name)) this.order.splice(this.order.indexOf(name), 1);
      if (kind === "load") this.order.push(name);
    }
    this.#queueOf(name).shift();
    this.#begin(name);
  }

  #queueOf(name: Name): Asked[] {
    return this.#queues.get(name) ?? [];
  }
}

async function outcomeOf(change: Promise<void>): Promise<string> {
  return change.then(
    () => "done",
    (error: unknown) => {
      if (error instanceof ApiError || error instanceof ReadMeError) return error.code ?? "";
      throw error;
    },
  );
}

const flush = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

const name = fc.constantFrom(...NAMES);
const step = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({
      do: fc.constant("load" as const),
      name,
      isBad: fc.integer({ min: 0, max: 3 }).map((n) => n === 0),
    }),
  },
  { weight: 5, arbitrary: fc.record({ do: fc.constant("unload" as const), name }) },
  { weight: 5, arbitrary: fc.record({ do: fc.constant("settle" as const), name }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant("crash" as const) }) },
);

describe("experts of a running engine", () => {
  test("change as in plain models of two engines, one name at a time, and come back after failures", async () => {
    const seen = new Set<string>();
    await fc.assert(
      fc.asyncProperty(fc.array(fc.tuple(fc.nat(1), step), { maxLength: 120, size: "max" }), async (steps) => {
        // Both have experts of the same names, from the same folders.
        const sides = [0, 1].map(() => {
          const [gated, plain] = [new GatedExperts(["built-in"]), new PlainExperts()];
          return { gated, plain, outcomes: [] as { readonly asked: Asked; readonly outcome: Promise<string> }[] };
        });
        for (const [side, one] of steps) {
          const { gated, plain, outcomes } = sides[side] as (typeof sides)[number];
          const experts = liveExperts(gated.engine);
          if (one.do === "load" || one.do === "unload") {
            const asked: Asked = { kind: one.do, name: one.name, isBad: one.do === "load" && one.isBad };
            const path = asked.isBad ? "bad" : "good";
            const change =
              asked.kind === "load" ? experts.load(one.name, path, SIGNAL) : experts.unload(one.name, SIGNAL);
            outcomes.push({ asked, outcome: outcomeOf(change) });
            plain.ask(asked);
          } else if (one.do === "settle") {
            gated.settle(one.name);
            plain.settle(one.name);
          } else {
            gated.crash();
            plain.crash();
            // oxlint-disable-next-line no-await-in-loop -- step by step
            await flush();
            gated.restart();
            gated.isOpen = true;
            // oxlint-disable-next-line no-await-in-loop -- step by step
            expect(await experts.restore()).toStrictEqual([]);
            gated.isOpen = false;
            plain.restart();
            expect(gated.experts.filter((each) => each !== "built-in")).toStrictEqual([
              "none",
              ...plain.order.filter((each) => each !== "built-in"),
            ]);
          }
          // oxlint-disable-next-line no-await-in-loop -- step by step
          await flush();
          for (const { gated: engine, plain: model } of sides) {
            const usable = [...model.present].filter((each) => !model.leaving.has(each));
            expect(new Set(liveExperts(engine.engine).names)).toStrictEqual(new Set(usable));
          }
        }
        for (const { gated, plain, outcomes } of sides) {
          while (gated.pending.length > 0) {
            for (const each of NAMES) {
              gated.settle(each);
              plain.settle(each);
              // oxlint-disable-next-line no-await-in-loop -- step by step
              await flush();
            }
          }
          for (const { asked, outcome } of outcomes) {
            // oxlint-disable-next-line no-await-in-loop -- all have ended
            expect(await outcome).toBe(asked.outcome);
            seen.add(asked.outcome ?? "");
          }
          expect(new Set(gated.experts)).toStrictEqual(new Set(["none", ...plain.present]));
        }
      }),
      { numRuns: 100 },
    );
    expect([...seen].toSorted()).toEqual([
      "ERR_ENGINE_FAILED",
      "ERR_MODEL_INVALID",
      "adapter_exists",
      "adapter_not_found",
      "done",
    ]);
  });

  test("that are loaded twice at once are loaded once, and a second load succeeds if the first fails", async () => {
    const gated = new GatedExperts([]);
    const experts = liveExperts(gated.engine);
    const [first, second, third] = ["bad", "good", "good"].map((path) => outcomeOf(experts.load("a", path, SIGNAL)));
    await flush();
    expect(gated.pending).toHaveLength(1);
    gated.settle("a");
    await flush();
    gated.settle("a");
    expect([await first, await second, await third]).toEqual(["ERR_MODEL_INVALID", "done", "adapter_exists"]);
  });

  test("are not loaded for a client that left while it waited for its turn", async () => {
    const gated = new GatedExperts(["a"]);
    const experts = liveExperts(gated.engine);
    const left = new AbortController();
    const unload = experts.unload("a", SIGNAL);
    const load = experts.load("a", "good", left.signal);
    await flush();
    left.abort(new Error("gone"));
    gated.settle("a");
    await unload;
    await expect(load).rejects.toThrow("gone");
    expect(gated.experts).toEqual(["none"]);
  });

  test("stay if the engine cannot unload them, and are there after a failure then", async () => {
    const gated = new GatedExperts([]);
    const experts = liveExperts(gated.engine);
    gated.isOpen = true;
    await experts.load("a", "good", SIGNAL);
    gated.isOpen = false;
    const unload = experts.unload("a", SIGNAL);
    await flush();
    expect(experts.names).toEqual([]);
    gated.pending[0]?.settle(new ReadMeError("ERR_RUNTIME", "no"));
    await expect(unload).rejects.toMatchObject({ code: "ERR_RUNTIME" });
    expect(experts.names).toEqual(["a"]);
    gated.restart();
    gated.isOpen = true;
    expect(await experts.restore()).toEqual([]);
    expect(gated.experts).toEqual(["none", "a"]);
  });

  test("whose folder is gone when the engine comes back are reported, and the others are there", async () => {
    const gated = new GatedExperts([]);
    const experts = liveExperts(gated.engine);
    gated.isOpen = true;
    await experts.load("a", "good", SIGNAL);
    await experts.load("b", "good", SIGNAL);
    gated.crash();
    gated.restart();
    gated.isOpen = false;
    const restored = experts.restore();
    await flush();
    gated.pending[0]?.settle(new ReadMeError("ERR_FILE_NOT_FOUND", "no folder"));
    await flush();
    gated.settle("b");
    expect(await restored).toMatchObject([{ expert: "a", causes: [{ code: "ERR_FILE_NOT_FOUND" }] }]);
    expect(experts.names).toEqual(["b"]);
    gated.crash();
    gated.restart();
    gated.isOpen = true;
    expect(await experts.restore()).toEqual([]);
    expect(gated.experts).toEqual(["none", "b"]);
  });

  test("are not forgotten if the engine fails again while it comes back", async () => {
    const gated = new GatedExperts([]);
    const experts = liveExperts(gated.engine);
    gated.isOpen = true;
    await experts.load("a", "good", SIGNAL);
    gated.crash();
    gated.restart();
    gated.isOpen = false;
    const restored = experts.restore();
    await flush();
    gated.crash();
    await expect(restored).rejects.toMatchObject({ code: "ERR_ENGINE_FAILED" });
    gated.restart();
    gated.isOpen = true;
    await experts.restore();
    expect(gated.experts).toEqual(["none", "a"]);
  });

  test("beside none cannot be changed where the model has other experts", async () => {
    const engine = { info: { experts: ["law", "code"], hasRouter: true } };
    const experts = liveExperts(engine as never);
    expect(experts.addressable).toEqual([]);
    await expect(experts.load("a", "good", SIGNAL)).rejects.toMatchObject({ status: 400, param: "lora_name" });
    await expect(experts.unload("law", SIGNAL)).rejects.toMatchObject({ status: 400 });
    expect(await experts.restore()).toEqual([]);
  });

  test("none can be named beside a model only where the model's name means the router", async () => {
    expect(liveExperts(new GatedExperts(["a"]).engine).addressable).toEqual(["a"]);
    const routed = liveExperts(new GatedExperts(["a"], { hasRouter: true }).engine);
    expect(routed.addressable).toEqual(["none", "a"]);
    await expect(routed.unload("none", SIGNAL)).rejects.toMatchObject({ status: 404, code: "adapter_not_found" });
  });
});
