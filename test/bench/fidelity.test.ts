import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { differentDocuments, fidelityTables } from "../../bench/fidelity/figures.ts";
import { transformersTokens } from "../../bench/fidelity/token-readers.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

test("documents are different when one id is, or their length", () => {
  const own = [[1, 2, 3], [4], [], [5, 6]];
  expect(differentDocuments(own, own)).toEqual({ documents: 4, different: 0 });
  expect(differentDocuments(own, [[1, 2, 4], [4, 4], [], [5, 6]])).toEqual({ documents: 4, different: 2 });
  expect(() => differentDocuments(own, own.slice(1))).toThrow("Expected the ids of 4 documents, got those of 3");
});

test("losses are averaged over domains, and compared with the first engine's", () => {
  const losses = [
    { name: "ours", losses: [2, 4] },
    { name: "other", losses: [2.5, 4.5] },
  ];
  const tokens = [{ reader: "other", documents: 3, different: 1 }];
  const { tables, samples } = fidelityTables({ domains: ["a", "b"], tokens, losses });
  expect(tables[0]?.rows).toEqual([["other", "3", "1"]]);
  expect(tables[1]?.columns).toEqual(["engine", "a", "b", "mean", "above ours"]);
  expect(tables[1]?.rows).toEqual([
    ["ours", "2.0000", "4.0000", "3.0000", "0.0000"],
    ["other", "2.5000", "4.5000", "3.5000", "0.5000"],
  ]);
  expect(samples.map(({ value }) => value)).toEqual([3, 3.5]);
});

test("a Python program that fails is reported with its code", async () => {
  const python = join(await temporaryFolder(), "python");
  await writeFile(python, "#!/bin/sh\ncat > /dev/null\nexit 7\n", { mode: 0o755 });
  await expect(transformersTokens({ folder: "x", python, signal: undefined }, ["a"])).rejects.toThrow("code 7");
});
