// Names of models with an expert, against an exhaustive search over small sets of names.

import * as fc from "../support/fast-check.ts";
import { describe, expect, test } from "vitest";
import {
  idsOfExpert,
  isExpertName,
  joinExpertId,
  type ModelNames,
  namedModel,
  splitExpertId,
} from "../../packages/express/src/edge/experts.ts";

const PARTS = ["a", "b", "a:b", "b:a", "a:b:a"] as const;
const EXPERTS = ["a", "b", "x"] as const;

const names = fc
  .record({
    served: fc.uniqueArray(fc.constantFrom(...PARTS), { minLength: 1 }),
    aliases: fc.dictionary(fc.constantFrom("a", "b", "c", "c:a", "a:x"), fc.constantFrom(...PARTS, "a:x", "b:x")),
  })
  .map(({ served, aliases }): ModelNames & { readonly served: readonly string[] } => ({
    served,
    // As `ServedModels` checks them: no alias has the name of a model.
    aliases: new Map(Object.entries(aliases).filter(([alias]) => !served.includes(alias as never))),
    isServed: (name) => served.includes(name as never),
  }));

/** Everything that a name can be read as, by trying all models, experts and aliases. The best reading is first. */
function readings(id: string, { served, aliases }: ModelNames & { readonly served: readonly string[] }) {
  const target = aliases.get(id) ?? id;
  const whole = served.filter((model) => model === target).map((model) => ({ model, expert: undefined }));
  const heads = new Map([...served.map((model) => [model, model] as const), ...aliases]);
  const joined = [...heads].flatMap(([head, model]) => {
    if (!served.includes(model) || !target.startsWith(`${head}:`)) return [];
    const expert = target.slice(head.length + 1);
    return expert === "" || expert.includes(":") ? [] : [{ model, expert }];
  });
  return [...whole, ...joined];
}

describe("a name", () => {
  test("stands for the model that it names, or for an expert of the model before its last colon", () => {
    fc.assert(
      fc.property(
        names,
        fc.constantFrom(...PARTS, "c", "a:x", "c:x", "c:a", ":", "a:", ":a", "b:x", "x"),
        (all, id) => {
          expect(namedModel(id, all)).toEqual(readings(id, all)[0]);
        },
      ),
      { numRuns: 2000 },
    );
  });

  test("is listed for an expert exactly if it stands for that expert", () => {
    fc.assert(
      fc.property(names, fc.constantFrom(...EXPERTS), (all, expert) => {
        const ids = [...all.served, ...all.aliases.keys()].flatMap((head) => [
          head,
          ...EXPERTS.map((x) => `${head}:${x}`),
        ]);
        for (const model of all.served) {
          const expected = new Set(
            ids.filter((id) => {
              const found = readings(id, all)[0];
              return found?.model === model && found.expert === expert;
            }),
          );
          expect(new Set(idsOfExpert({ model, expert }, all))).toEqual(expected);
        }
      }),
      { numRuns: 1000 },
    );
  });

  test("of an expert begins with the model's own name", () => {
    const all = { aliases: new Map([["gpt", "base"]]), isServed: (name: string) => name === "base" };
    expect(idsOfExpert({ model: "base", expert: "legal" }, all)).toEqual(["base:legal", "gpt:legal"]);
  });

  test("is the same after it was split and joined", () => {
    fc.assert(
      fc.property(fc.string(), (id) => {
        const split = splitExpertId(id);
        if (split) expect(joinExpertId(split)).toBe(id);
        else expect(/.:./s.test(id.slice(id.lastIndexOf(":") - 1))).toBe(false);
      }),
    );
  });
});

test.each([
  ["legal", true],
  ["9-lives_v1.2", true],
  ["x".repeat(64), true],
  ["x".repeat(65), false],
  ["", false],
  ["-legal", false],
  [".", false],
  ["..", false],
  ["a b", false],
  ["a:b", false],
  ["a/b", false],
  ["é", false],
  ["a\n", false],
  ["none", false],
  ["router", false],
])("%j may name a new expert: %j", (name, isAllowed) => {
  expect(isExpertName(name)).toBe(isAllowed);
});
