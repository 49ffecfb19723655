import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Files, type Kind, KINDS, readBases, writeBases } from "../../bench/fuzz-models/bases.ts";
import { fuzzModels, replayCase, storedCase } from "../../bench/fuzz-models/fuzz.ts";
import { caseOf } from "../../bench/fuzz-models/model-case.ts";

const SEED = 20_261_130;

describe("the fuzzer of model files", () => {
  let root: string;
  let bases: ReadonlyMap<Kind, Files>;
  beforeAll(async () => {
    root = await mkdtemp(join(tmpdir(), "readme-moe-fuzz-bases-"));
    await writeBases(root);
    bases = await readBases(root);
  });
  afterAll(() => rm(root, { recursive: true, force: true }));

  test("makes the same case of the same seed and index, and damages every kind of model", () => {
    const kinds = new Set<Kind>();
    for (let index = 0; index < 300; index++) {
      const one = caseOf(SEED, index, bases);
      kinds.add(one.kind);
      expect(storedCase(caseOf(SEED, index, bases))).toStrictEqual(storedCase(one));
    }
    expect([...kinds].toSorted()).toStrictEqual([...KINDS].toSorted());
  });

  test("finds a model that is refused although it is valid, and one that leaves no problem", async () => {
    const broken = [{ name: "config.json", content: Buffer.from("{").toString("base64") }];
    const valid = { kind: "dense", way: "valid", use: "described", files: [] } as const;
    expect(await replayCase({ ...valid, files: broken })).toStrictEqual([
      expect.stringMatching(/^refused a valid model: .*config\.json/),
    ]);
    expect(await replayCase(valid)).toStrictEqual([]);
  });

  test("damaged and hostile files are refused by name, or opened and used", async () => {
    const kinds = new Set<Kind>();
    const result = await fuzzModels({
      seed: SEED,
      first: 0,
      numCases: 300,
      workers: 1,
      // Times are judged by the command alone: the machine may be busy.
      maxCaseMs: Infinity,
      onReport: ({ kind }) => void kinds.add(kind),
    });
    expect(result.failures.map(({ case: { index, way }, problems }) => ({ index, way, problems }))).toStrictEqual([]);
    expect(result.numCases).toBe(300);
    expect(kinds.size).toBe(KINDS.length);
  });
});
