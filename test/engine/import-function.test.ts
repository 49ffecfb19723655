// Modules of callers' functions: their options, and their import.

import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { expect, test } from "vitest";
import { functionModuleOption, importFunction } from "../../packages/engine/src/function-module.ts";
import { resolveSchedulingOptions, schedulerOf } from "../../packages/engine/src/engine-options.ts";
import { idsOf, schedulable, stateOf } from "../support/scheduling.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

test("a module is named by path, URL or package, and exports `default` unless another name is given", () => {
  const url = new URL("file:///functions/mine.js");
  expect(functionModuleOption("scheduler", { module: url })).toEqual({ module: url.href, export: "default" });
  expect(functionModuleOption("scheduler", { module: "some-package", export: "mine" })).toEqual({
    module: "some-package",
    export: "mine",
  });
  const path = join(import.meta.dirname, "mine.js");
  expect(functionModuleOption("scheduler", { module: path })?.module).toBe(pathToFileURL(path).href);
  for (const value of ["fcfs", undefined, null, 3]) expect(functionModuleOption("scheduler", value)).toBeUndefined();
});

test.each<[unknown, string]>([
  [() => [], "Expected `policy` to be a name or `{ module, export }`, got a function, which cannot be sent"],
  [{}, "Expected `policy.module` to be a path, URL or package, got `undefined`"],
  [{ module: "" }, "Expected `policy.module` to be a path, URL or package, got"],
  [{ module: 3 }, "Expected `policy.module` to be a path, URL or package, got `3`"],
  [{ module: "a", export: 3 }, "Expected `policy.export` to be a string, got `3`"],
])("%o is refused", (value, message) => {
  expect(() => functionModuleOption("policy", value)).toThrow(TypeError);
  expect(() => functionModuleOption("policy", value)).toThrow(message);
});

test("a function is imported; one that is missing, or no function, is an error that names the module", async () => {
  const folder = await temporaryFolder();
  const path = join(folder, "schedulers.mjs");
  await writeFile(
    path,
    "export default ({ sequences }) => sequences.slice(-1).map(({ id }) => ({ id, numTokens: 1 }));\n" +
      "export const first = ({ sequences }) => sequences.slice(0, 1).map(({ id }) => ({ id, numTokens: 1 }));\n" +
      "export const number = 7;\n",
  );
  const state = stateOf([schedulable(1), schedulable(2)]);
  const chosen = async (scheduler: object): Promise<readonly string[]> =>
    idsOf((await schedulerOf(resolveSchedulingOptions({ scheduler: { module: path, ...scheduler } })))(state));
  expect(await chosen({})).toEqual(["s2"]);
  expect(await chosen({ export: "first" })).toEqual(["s1"]);
  await expect(chosen({ export: "number" })).rejects.toMatchObject({
    code: "ERR_MODULE",
    message: `${pathToFileURL(path).href}: expected \`number\` to be a function, got \`7\` (number)`,
  });
  await expect(chosen({ export: "other" })).rejects.toMatchObject({ code: "ERR_MODULE" });
  const missing = importFunction({ module: pathToFileURL(join(folder, "missing.mjs")).href, export: "default" });
  await expect(missing).rejects.toMatchObject({
    code: "ERR_MODULE",
    message: expect.stringMatching(/missing\.mjs cannot be imported: ./) as unknown,
    cause: expect.any(Error) as unknown,
  });
});

test.each(["fcfs", "read-me", "cost-aware"] as const)(
  "the scheduler %s takes the options that are given",
  async (scheduler) => {
    const options = resolveSchedulingOptions({ scheduler, maxDelayMs: 40 });
    expect(options).toEqual({ scheduler, maxDelayMs: 40 });
    const run = await schedulerOf(options);
    const limits = { maxNumBatchedSeqs: 1, maxNumBatchedTokens: 128, chunkTokens: 128 };
    // The later one has waited for too long, so that it goes first.
    const sequences = [schedulable(1, { waitingSinceMs: 100 }), schedulable(2, { waitingSinceMs: 59 })];
    expect(idsOf(run(stateOf(sequences, { limits, nowMs: 100 })))).toEqual(["s2"]);
  },
);
