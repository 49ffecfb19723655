// Faults of the cache of packed weights, through the engine and the command line: answers stay right, a failure to
// cache is reported once, and no half-written file remains.

import { chmod, cp, mkdir, readdir, readFile, rm, stat, utimes, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { isDeepStrictEqual } from "node:util";
import { beforeAll, describe, expect, test } from "vitest";
import { ENTRY_DAMAGES, onlyEntry } from "../support/cached-entry.ts";
import { RUNS_LONG_TESTS } from "../support/long-tests.ts";
import {
  canMount,
  ordinaryUser,
  outcomeOf,
  startCommand,
  startNode,
  type Surroundings,
} from "../support/node-process.ts";
import {
  answers,
  expectRightAnswers,
  expectRightReport,
  ISOLATIONS,
  openPocket,
  PROGRAMS,
} from "../support/pocket-engine.ts";
import { cases, POCKET, rightAnswers, type Report } from "../support/pocket.ts";
import { persistentFolder, temporaryFolder } from "../support/temporary-folder.ts";

const PAGE_BYTES = 4096;
const LONG_AGO = new Date(Date.now() - 2 * 3_600_000);

/** A user without a home, which the runtime's own telemetry would complain of. */
const HOMELESS: Surroundings = { uid: ordinaryUser, env: { ORT_DISABLE_TELEMETRY: "1" } };

const template = await persistentFolder();
beforeAll(async () => {
  expect(await expectRightAnswers(template)).toBeUndefined();
});

/** a cache with the pocket model in it. */
async function filledCache(): Promise<string> {
  const cache = await temporaryFolder();
  await cp(template, cache, { recursive: true });
  return cache;
}

describe.each(ISOLATIONS)("in a %s, an engine works without a cache that cannot be written:", (isolation) => {
  test("below a file", async () => {
    const file = join(await temporaryFolder(), "file");
    await writeFile(file, "");
    expect(await expectRightAnswers(join(file, "cache"), isolation)).toMatch(/^ENOTDIR: .*cache/);
  });

  test.skipIf(ordinaryUser === undefined)(
    "without permission (skipped where nobody may read the sources)",
    async () => {
      const cache = await temporaryFolder();
      await chmod(cache, 0o555);
      const { cacheFailure, files } = await expectRightReport(cache, isolation, HOMELESS);
      expect(cacheFailure).toMatch(/^EACCES: permission denied/);
      expect(files).toEqual([]);
    },
  );

  test.skipIf(!canMount)("on a disk that is read-only (skipped where mounting is not permitted)", async () => {
    const folder = await temporaryFolder();
    const { cacheFailure, files } = await expectRightReport(folder, isolation, { disk: { folder, options: "ro" } });
    expect(cacheFailure).toMatch(/^EROFS: read-only/);
    expect(files).toEqual([]);
  });

  test.skipIf(!canMount)("on a disk that is full (skipped where mounting is not permitted)", async () => {
    const folder = await temporaryFolder();
    const disk = { folder, options: "size=2m" };
    const { cacheFailure, files } = await expectRightReport(folder, isolation, { disk });
    expect(cacheFailure).toMatch(/weights\.bin: cannot be written \(ENOSPC: no space left/);
    expect(files.filter(isOfWeights)).toEqual(["kernels"]);
  });
});

/** Small or later files may still fit. */
function isOfWeights(name: string): boolean {
  return name.startsWith("kernels");
}

test.skipIf(process.getuid?.() !== 0 || ordinaryUser === undefined)(
  "files that another user left do no harm (skipped for others than root)",
  async () => {
    const cache = await temporaryFolder();
    const left = join(cache, "kernels", ".building-root");
    await mkdir(left, { recursive: true });
    await utimes(left, LONG_AGO, LONG_AGO);
    for (const folder of [cache, join(cache, "kernels")]) await chmod(folder, 0o1777);
    const { cacheFailure, files } = await expectRightReport(cache, "process", HOMELESS);
    expect(cacheFailure).toBeUndefined();
    expect(files).toContain(join("kernels", ".building-root"));
  },
);

test.skipIf(!canMount)(
  "a disk that becomes full at an entry's last file (skipped where mounting is not permitted)",
  async () => {
    // The template itself: copies have other times.
    const names = await readdir(template, { recursive: true });
    const states = await Promise.all(names.map(async (name) => ({ name, state: await stat(join(template, name)) })));
    const files = states.filter(({ state }) => state.isFile());
    const entry = files.find(({ name }) => isOfWeights(name) && name.endsWith("entry.json"));
    // Fingerprints of the model's texts are written after the weights.
    const before = files.filter(({ name, state }) => {
      if (name === entry?.name) return false;
      const isEarly = state.mtimeMs <= (entry?.state.mtimeMs ?? 0);
      return isOfWeights(name) || name.startsWith("models-used") || (name.startsWith("fingerprints") && isEarly);
    });
    const pages = before.reduce((sum, { state }) => sum + Math.ceil(state.size / PAGE_BYTES), 0);
    const folder = await temporaryFolder();
    const room = (numPages: number): Surroundings => ({ disk: { folder, options: `size=${numPages * PAGE_BYTES}` } });
    const full = await expectRightReport(folder, "thread", room(pages));
    expect(full.cacheFailure).toMatch(/entry\.json: cannot be written \(ENOSPC: no space left/);
    expect(full.files.filter(isOfWeights)).toEqual(["kernels"]);
    expect((await expectRightReport(folder, "thread", room(pages + 1))).cacheFailure).toBeUndefined();
  },
);

describe("the command line reports in one line that a model is not cached, and answers:", () => {
  const [first] = cases;
  const greedyFlags = ["--precision", "fp32", "--max-new-tokens", "32", "--temperature", "0", "--json"];
  const args = ["generate", POCKET, "--prompt", first?.text ?? "", ...greedyFlags];

  async function expectNote(cache: string, reason: RegExp, disk?: Surroundings["disk"]): Promise<void> {
    const outcome = await outcomeOf(startCommand(args, { disk, env: { README_MOE_CACHE: cache } }));
    expect(outcome).toMatchObject({ code: 0, stderr: expect.stringMatching(/^note: the model is not cached: .*\n$/) });
    expect(outcome.stderr).toMatch(reason);
    expect(JSON.parse(outcome.stdout)).toMatchObject({ tokens: first?.greedy_32 });
  }

  test("below a file", async () => {
    const file = join(await temporaryFolder(), "file");
    await writeFile(file, "");
    await expectNote(file, /ENOTDIR/);
  });

  test.skipIf(!canMount)("on a full or a read-only disk (skipped where mounting is not permitted)", async () => {
    const folder = await temporaryFolder();
    await expectNote(folder, /ENOSPC/, { folder, options: "size=2m" });
    await expectNote(folder, /EROFS/, { folder, options: "ro" });
  });
});

/** Reads a file of an entry; what the entry notes of a file's time, which another copy cannot share, is left out. */
async function contentOf(path: string): Promise<unknown> {
  const bytes = await readFile(path);
  if (!path.endsWith("entry.json")) return bytes;
  const states = JSON.parse(bytes.toString()) as Record<string, { bytes: number; crc32: number }>;
  return Object.entries(states)
    .map(([name, { bytes: length, crc32 }]) => ({ name, length, crc32 }))
    .toSorted((one, other) => one.name.localeCompare(other.name));
}

describe("a damaged entry is built again", () => {
  test.each(Object.entries(ENTRY_DAMAGES))("with %s", async (_, damage) => {
    const cache = await filledCache();
    await damage(await onlyEntry(cache));
    expect(await expectRightAnswers(cache)).toBeUndefined();
    const [rebuilt, original] = [await onlyEntry(cache), await onlyEntry(template)];
    for (const name of await readdir(original)) {
      // A changed bit of a weight rarely changes a token.
      const [content, wanted] = [await contentOf(join(rebuilt, name)), await contentOf(join(original, name))];
      expect({ name, same: isDeepStrictEqual(content, wanted) }).toEqual({ name, same: true });
    }
  });
});

test.each(RUNS_LONG_TESTS ? [0, 1, 2, 3] : [0, 1])(
  "two processes that build one entry at the same time both answer: round %i",
  async (round) => {
    const cache = round % 2 === 0 ? await temporaryFolder() : await filledCache();
    if (round % 2 === 1) await ENTRY_DAMAGES["a byte of the weights changed"]?.(await onlyEntry(cache));
    const args = [join(PROGRAMS, "answer.ts"), cache, ISOLATIONS[round % 2] as string, "together"];
    const children = [startNode(args), startNode(args)];
    const outcomes = Promise.all(children.map(outcomeOf));
    await Promise.all(children.map((child) => new Promise((resolve) => child.stdout?.once("data", resolve))));
    for (const child of children) child.stdin?.end();
    for (const { stdout, ...rest } of await outcomes) {
      expect(rest).toEqual({ code: 0, signal: null, stderr: "" });
      const report = JSON.parse(stdout.slice("ready\n".length)) as Report;
      expect(report.cacheFailure).toBeUndefined();
      expect(report.ids).toEqual(rightAnswers);
    }
    await onlyEntry(cache);
  },
);

test.each(ISOLATIONS)("in a %s, an engine whose entry is removed continues", async (isolation) => {
  const cache = await temporaryFolder();
  const engine = await openPocket(cache, isolation);
  await rm(cache, { recursive: true });
  await mkdir(cache);
  expect(await answers(engine)).toEqual(rightAnswers);
  expect(await readdir(cache)).toEqual([]);
  expect(await expectRightAnswers(cache, isolation)).toBeUndefined();
  await onlyEntry(cache);
  expect(await answers(engine)).toEqual(rightAnswers);
  await engine.dispose();
});

test.each(RUNS_LONG_TESTS ? [0, 0.5, 1] : [0.5, 1])(
  "files of a builder that is killed when %f of its weights are written are removed later",
  async (share) => {
    const cache = await temporaryFolder();
    const killed = await outcomeOf(startNode([join(PROGRAMS, "killed-builder.ts"), cache, String(share)]));
    expect(killed).toMatchObject({ signal: "SIGKILL", stderr: "" });
    const folder = join(cache, "kernels");
    const [left = "", ...others] = await readdir(folder);
    expect([left, others]).toEqual([expect.stringMatching(/^\.building-/), []]);
    expect(await expectRightAnswers(cache)).toBeUndefined();
    expect(await readdir(folder)).toHaveLength(2); // its builder might be alive
    for (const name of ["", ...(await readdir(join(folder, left)))])
      await utimes(join(folder, left, name), LONG_AGO, LONG_AGO);
    expect(await expectRightAnswers(cache)).toBeUndefined();
    await onlyEntry(cache);
  },
);
