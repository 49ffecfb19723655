// Experts that are added and removed, over a worker that is a list and ends at times.

import { isAbsolute, resolve } from "node:path";
import { ReadMeError, type EngineInfo } from "@readme-moe/core";
import { expect, test } from "vitest";
import { ExpertChanges } from "../../../packages/engine/src/host/read-me-engine.ts";
import type { CallName, Calls } from "../../../packages/engine/src/protocol.ts";
import * as fc from "../../support/fast-check.ts";

/** Experts that the options name. */
const GIVEN: ReadonlyMap<string, string> = new Map([
  ["a", "/given/a"],
  ["b", "/given/b"],
]);

const name = fc.constantFrom("a", "b", "c");
const operations = fc.oneof(
  fc.record({ type: fc.constant("add" as const), name, path: fc.constantFrom("/one", "/two") }),
  fc.record({ type: fc.constant("remove" as const), name }),
  fc.record({ type: fc.constant("lose" as const), path: fc.constantFrom("/one", "/two") }),
  fc.record({ type: fc.constant("restart" as const), numCalls: fc.constantFrom(Infinity, Infinity, 0, 1, 2) }),
);

test("an engine that is opened again has the experts that it had, from the folders that they came from", async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(operations, { maxLength: 25, size: "max" }), async (history) => {
      let worker = new Map(GIVEN);
      /** Calls until the worker ends. */
      let callsLeft = Infinity;
      const lost = new Set<string>();
      let info = {
        experts: ["none", ...worker.keys()],
        expertKind: "lora",
        path: "/base",
      } as unknown as EngineInfo;
      const call = async (called: CallName, args: Calls[CallName]["args"]): Promise<unknown> => {
        if (callsLeft-- <= 0) throw new ReadMeError("ERR_ENGINE_FAILED", "The worker ended");
        const { name: expert, path } = args as Calls["addExpert"]["args"];
        if (called === "removeExpert") worker.delete(expert);
        else if (worker.has(expert)) throw new RangeError(`${expert} is taken`);
        else if (lost.has(path)) throw new ReadMeError("ERR_FILE_NOT_FOUND", path);
        else worker.set(expert, path);
        return ["none", ...worker.keys()];
      };
      const changes = new ExpertChanges({ getInfo: () => info, call: call as never }, (experts) => {
        info = { ...info, experts };
      });
      /** Path of each expert that the engine has. */
      const expected = new Map(GIVEN);
      for (const operation of history) {
        if (operation.type === "add") {
          const { name: added, path } = operation;
          const isRefused = expected.has(added) || lost.has(path);
          const adding = changes.add(added, path);
          if (isRefused) await expect(adding).rejects.toThrow();
          else {
            await adding;
            expected.set(added, resolve(path));
          }
        } else if (operation.type === "remove") {
          const removing = changes.remove(operation.name);
          if (expected.delete(operation.name)) await removing;
          else await expect(removing).rejects.toThrow(RangeError);
        } else if (operation.type === "lose") lost.add(operation.path);
        else {
          // The worker may end again before all is done.
          for (const numCalls of [operation.numCalls, Infinity]) {
            worker = new Map(GIVEN);
            info = { ...info, experts: ["none", ...worker.keys()] };
            callsLeft = numCalls;
            await changes
              .repeat()
              .catch((error: unknown) => expect(error).toMatchObject({ code: "ERR_ENGINE_FAILED" }));
          }
          for (const [one, path] of expected) if (lost.has(path)) expected.delete(one);
        }
        expect(worker).toEqual(expected);
        expect(info.experts.toSorted()).toEqual(["none", ...expected.keys()].toSorted());
        for (const path of worker.values()) expect(isAbsolute(path)).toBe(true);
      }
    }),
    { numRuns: 500 },
  );
});
