// Kept prompts of the caller's side, over a worker that is a list: keeps, releases, cancellations, failures and
// restarts in any order.

import { setImmediate as nextTurn } from "node:timers/promises";
import { ReadMeError, type EngineInfo, type Generation } from "@readme-moe/core";
import { expect, test } from "vitest";
import { type KeptPrompt, PromptKeeper } from "../../../packages/engine/src/host/kept-prompts.ts";
import type { CallName, Calls } from "../../../packages/engine/src/protocol.ts";
import * as fc from "../../support/fast-check.ts";
import { generationOf } from "../../support/generation.ts";

const failed = (): ReadMeError => new ReadMeError("ERR_ENGINE_FAILED", "The worker ended");

/** An engine's worker, whose calls take effect when the schedule says so. */
class PlainWorker {
  readonly #kept = new Map<number, string>();
  readonly #computing = new Map<number, string>();
  readonly #turn: () => Promise<void>;
  isRunning = true;

  constructor(turn: () => Promise<void>) {
    this.#turn = turn;
  }

  get prompts(): readonly string[] {
    return Array.from(this.#kept.values()).toSorted();
  }

  async call(name: CallName, args: Calls[CallName]["args"], signal?: AbortSignal): Promise<unknown> {
    await this.#enter(signal);
    const result = this.#answer(name, args as { readonly keptId: number; readonly prompt: string });
    // Cancelled while its answer is on the way.
    await this.#enter();
    if (name === "keepPrompt" && signal?.aborted) this.#forget(args as { readonly keptId: number });
    signal?.throwIfAborted();
    return result;
  }

  async compute(keptId: number, signal?: AbortSignal): Promise<void> {
    await this.#enter(signal);
    const prompt = this.#computing.get(keptId);
    if (prompt !== undefined) this.#kept.set(keptId, prompt);
  }

  async #enter(signal?: AbortSignal): Promise<void> {
    await this.#turn();
    if (!this.isRunning) throw failed();
    signal?.throwIfAborted();
  }

  #answer(name: CallName, { keptId, prompt }: { readonly keptId: number; readonly prompt: string }): unknown {
    if (name === "releasePrompt") return this.#forget({ keptId });
    if (name === "savePrompt") return undefined;
    const isSaved = prompt.startsWith("saved");
    (isSaved ? this.#kept : this.#computing).set(keptId, prompt);
    return { tokenIds: new Int32Array(20), keptTokens: 16, source: isSaved ? "saved" : "none" };
  }

  #forget({ keptId }: { readonly keptId: number }): void {
    this.#kept.delete(keptId);
    this.#computing.delete(keptId);
  }
}

type Step =
  | { readonly type: "keep"; readonly prompt: string; readonly leaves: boolean }
  | { readonly type: "release"; readonly index: number }
  | { readonly type: "restart" }
  /** Lets some calls go on. */
  | { readonly type: "wait"; readonly numTurns: number };

const steps: fc.Arbitrary<Step> = fc.oneof(
  fc.record({
    type: fc.constant("keep" as const),
    prompt: fc.constantFrom("saved a", "saved b", "c", "d"),
    leaves: fc.boolean(),
  }),
  fc.record({ type: fc.constant("release" as const), index: fc.nat(9) }),
  fc.constant({ type: "restart" as const }),
  fc.record({ type: fc.constant("wait" as const), numTurns: fc.constantFrom(1, 2, 3, 5, 8, 100) }),
);

test("a worker keeps what is kept and not released, whatever fails, restarts and happens at once", async () => {
  await fc.assert(
    fc.asyncProperty(fc.scheduler(), fc.array(steps, { maxLength: 30, size: "max" }), async (scheduler, history) => {
      const turn = (): Promise<void> => scheduler.schedule(Promise.resolve());
      let worker = new PlainWorker(turn);
      const info = { experts: ["none"], hasRouter: false, vocabSize: 9 } as unknown as EngineInfo;
      const prompts = new PromptKeeper({
        getInfo: () => info,
        call: (async (name: CallName, ...rest: [Calls[CallName]["args"], AbortSignal?]) =>
          worker.call(name, ...rest)) as never,
        compute: (_, keptId, { signal }): Generation => {
          const own = worker;
          return generationOf(
            (async function* () {
              await own.compute(keptId, signal);
              yield { choice: 0, text: "", tokens: [] };
            })(),
          );
        },
        emit: () => undefined,
      });
      /** Prompts that are kept and not released, with what releases them. */
      const held = new Map<KeptPrompt, string>();
      const work: Promise<unknown>[] = [];
      let restarting: Promise<unknown> = Promise.resolve();
      const keep = async (prompt: string, signal: AbortSignal): Promise<void> => {
        const kept = await prompts.keep(prompt, { signal }).catch((error: unknown) => {
          if (!signal.aborted) expect(error).toMatchObject({ code: "ERR_ENGINE_FAILED" });
        });
        if (kept) held.set(kept, prompt);
      };
      for (const step of history) {
        if (step.type === "keep") {
          const controller = new AbortController();
          work.push(keep(step.prompt, controller.signal));
          if (step.leaves) work.push(turn().then(() => controller.abort(new Error("left"))));
        } else if (step.type === "release") {
          const [kept] = [...held.keys()].slice(step.index % Math.max(1, held.size));
          if (!kept) continue;
          held.delete(kept);
          work.push(kept.release());
        } else if (step.type === "restart") {
          worker.isRunning = false;
          worker = new PlainWorker(turn);
          // A worker that fails while prompts are kept again is opened again.
          restarting = prompts.repeat().catch((error: unknown) => {
            expect(error).toMatchObject({ code: "ERR_ENGINE_FAILED" });
          });
          work.push(restarting);
        } else {
          for (let left = step.numTurns; left > 0 && scheduler.count() > 0; left--) await scheduler.waitOne();
          // A worker does not end between the arrival of an answer and what follows from it.
          await nextTurn();
        }
      }
      await scheduler.waitFor(Promise.all(work));
      expect(worker.prompts).toEqual([...held.values()].toSorted());
    }),
    { numRuns: 500 },
  );
});
