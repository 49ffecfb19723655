// A run of the benchmark writes all its results into a folder and can continue there.

import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type BenchSettings, dataFiles, numbersOf, type Suite } from "../../bench/kit/suite.ts";
import { interleave } from "../../bench/kit/turns.ts";
import { runSuites } from "../../bench/kit/run-suites.ts";
import { summaryTable } from "../../bench/kit/report.ts";
import { describe, expect, test } from "vitest";
import { temporaryFolder } from "../support/temporary-folder.ts";

const SETTINGS: BenchSettings = {
  model: "m",
  dense: undefined,
  data: [],
  quick: true,
  rounds: 2,
  seed: 1,
  threads: 2,
  cacheFolder: undefined,
  set: {},
};

/** A suite that records its measurements, so that a test sees which ones were made again. */
function counting(name: string, measured: string[], fails: readonly string[] = []): Suite {
  return {
    name,
    summary: "counts",
    async run(context) {
      const variants = ["a", "b", "c"].map((variant) => ({
        name: variant,
        measure: (seed: number) => {
          measured.push(`${variant}${seed}`);
          if (fails.includes(variant)) throw new Error(`${variant} is broken`);
          return Promise.resolve([{ metric: "speed", at: 8, value: measured.length }]);
        },
      }));
      const { samples, failures } = await interleave(context, "all", variants);
      const picture = {
        title: "P",
        description: "d",
        xTitle: "x",
        isLogarithmic: "both" as const,
        rows: [
          {
            panels: [
              {
                title: "y",
                curves: [
                  {
                    name: "a",
                    colour: "#000000",
                    points: [
                      [1, 2],
                      [8, 4],
                    ] as const,
                  },
                ],
              },
            ],
          },
        ],
      };
      return {
        tables: [summaryTable(samples, { title: "T", seed: 1 })],
        targets: [{ what: "w", value: 1, unit: "ms", wanted: "under", limit: 2 }],
        pictures: [{ name: "p", picture }],
        samples,
        notes: Array.from(failures, ([variant, why]) => `${variant}: ${why}`),
      };
    },
  };
}

const run = (
  folder: string,
  suites: readonly Suite[],
  settings: BenchSettings = SETTINGS,
): ReturnType<typeof runSuites> => runSuites(suites, { folder, settings, say: () => undefined });

describe("a run", () => {
  test("writes samples, a picture, a report and a summary, and notes failed measurements", async () => {
    const folder = await temporaryFolder();
    const measured: string[] = [];
    const { summary, failed } = await run(folder, [counting("one", measured, ["b"])]);
    // The one that fails is not tried again, and the others go on.
    expect(measured).toEqual(["a1", "b1", "c1", "c2", "a2"]);
    expect(failed).toEqual([]);
    expect(summary).toContain("- b: b is broken");
    expect(summary).toMatch(/\| w +\| 1\.00 ms \| under 2 ms \| met \|/);
    expect(summary).toMatch(/Wanted: 1 of 1 met[^#]*\| one +\| +w \| 1\.00 ms \| under 2 ms \| met \|[^#]*## one/);
    expect(summary).toContain("![P](one/p.svg)");
    expect(await readFile(join(folder, "summary.md"), "utf8")).toBe(summary);
    expect(await readFile(join(folder, "one", "report.md"), "utf8")).toContain("![P](p.svg)");
    expect(await readFile(join(folder, "one", "samples.csv"), "utf8")).toMatch(/\na,8,speed,0,0,1\nc,8,speed,0,2,3\n/);
    expect(await readFile(join(folder, "one", "p.svg"), "utf8")).toMatch(/^<svg/);
    const machine = JSON.parse(await readFile(join(folder, "machine.json"), "utf8")) as Record<string, unknown>;
    expect(machine).toMatchObject({ node: process.version, onnxRuntime: "1.30.0" });
  });

  test("gives a suite the settings for all suites, and its own instead if there are any", async () => {
    const given: unknown[] = [];
    const telling = (name: string): Suite => ({
      name,
      summary: "",
      run: ({ settings: { set } }) => {
        given.push(set);
        return Promise.resolve({ tables: [], samples: [] });
      },
    });
    const set = { "two.n": "3", n: "1", m: "2", "one.k": "4" };
    await run(await temporaryFolder(), [telling("one"), telling("two")], { ...SETTINGS, set });
    expect(given).toEqual([
      { n: "1", m: "2", k: "4" },
      { n: "3", m: "2" },
    ]);
  });

  test("continues in its folder with missing measurements, also after half a line", async () => {
    const folder = await temporaryFolder();
    const [first, second]: [string[], string[]] = [[], []];
    const before = await run(folder, [counting("one", first)]);
    const path = join(folder, "one", "measurements.jsonl");
    const lines = (await readFile(path, "utf8")).trimEnd().split("\n");
    expect(lines).toHaveLength(6);
    await writeFile(path, `${lines.slice(0, 4).join("\n")}\n${lines[4]?.slice(0, 9)}`);
    await run(folder, [counting("one", second)]);
    expect(second).toEqual(["b2", "a2"]);
    const third: string[] = [];
    await run(folder, [counting("one", third)]);
    expect(third).toEqual([]);
    expect(before.failed).toEqual([]);
  });

  test("repeats failed measurements, and ends at once when it is interrupted", async () => {
    const folder = await temporaryFolder();
    const measured: string[] = [];
    await run(folder, [counting("one", [], ["a", "b", "c"])]);
    await run(folder, [counting("one", measured)]);
    expect(measured).toEqual(["a1", "b1", "c1", "c2", "b2", "a2"]);

    const interrupt = new AbortController();
    const stopping: Suite = {
      ...counting("two", measured),
      run: (context) => {
        const variant = {
          name: "a",
          measure: (): Promise<never> => {
            interrupt.abort(new Error("enough"));
            return Promise.reject(new Error("its process ended"));
          },
        };
        return interleave(context, "all", [variant]).then(({ samples }) => ({ tables: [], samples }));
      },
    };
    const options = { folder, settings: SETTINGS, say: () => undefined, signal: interrupt.signal };
    await expect(runSuites([stopping, counting("three", measured)], options)).rejects.toThrow("enough");
    expect(measured).toHaveLength(6);
  });

  test("does not mix settings in one folder", async () => {
    const folder = await temporaryFolder();
    await run(folder, []);
    await expect(run(folder, [], { ...SETTINGS, seed: 2 })).rejects.toThrow(/one of a run with the same settings/);
  });

  test("names a suite that failed, and runs the others", async () => {
    const folder = await temporaryFolder();
    const broken: Suite = { name: "broken", summary: "b", run: () => Promise.reject(new RangeError("Expected more")) };
    const { summary, failed } = await run(folder, [broken, counting("one", [])]);
    expect(failed).toEqual(["broken"]);
    expect(summary).toContain("## broken\n\nFailed: Expected more");
    expect(summary).toContain("## one");
  });

  test("refuses two measurements with the same name", async () => {
    const twice: Suite = {
      name: "twice",
      summary: "t",
      run: async ({ keep }) => {
        await keep("x", () => Promise.resolve(1));
        await keep("x", () => Promise.resolve(2));
        return { tables: [], samples: [] };
      },
    };
    const { summary } = await run(await temporaryFolder(), [twice]);
    expect(summary).toContain("Failed: Two measurements are called x");
  });
});

test("settings accept whole numbers only, and errors name the setting", () => {
  expect(numbersOf({ ...SETTINGS, set: { n: "1, 8" } }, "n", [])).toEqual([1, 8]);
  expect(numbersOf(SETTINGS, "n", [3])).toEqual([3]);
  for (const text of ["1,x", "1.5", "", "-1"]) {
    expect(() => numbersOf({ ...SETTINGS, set: { n: text } }, "n", [])).toThrow(
      /Expected `--set n` to be whole numbers/,
    );
  }
});

test("data are files, and the .jsonl files of folders", async () => {
  const folder = await temporaryFolder();
  for (const name of ["b.jsonl", "a.jsonl.gz", "notes.txt"]) await writeFile(join(folder, name), "");
  expect(await dataFiles([folder, join(folder, "notes.txt")])).toEqual([
    { name: "a", path: join(folder, "a.jsonl.gz") },
    { name: "b", path: join(folder, "b.jsonl") },
    { name: "notes", path: join(folder, "notes.txt") },
  ]);
  await expect(dataFiles([await temporaryFolder()])).rejects.toThrow(/Expected `--data` to name files, or folders/);
});
