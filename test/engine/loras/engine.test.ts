// Loras of a running engine: named by requests, added, removed and streamed, with the pocket model.

import { cp, rm } from "node:fs/promises";
import { join } from "node:path";
import { ReadMeEngine, type OpenOptions } from "@readme-moe/engine";
import { openModel } from "@readme-moe/model";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { complete, completeAll } from "../../support/complete.ts";
import { POCKET } from "../../support/pocket.ts";
import { expectReadMeError } from "../../support/rejection.ts";
import { persistentFolder, temporaryFolder } from "../../support/temporary-folder.ts";
import { writeTinyAdapter } from "../../support/tiny-adapter.ts";

const NAMES = ["legal", "support", "sales", "poetry"] as const;
const PARAMS = { temperature: 0, maxTokens: 24, ignoreEos: true } as const;
const PROMPT = "The ship was";

let folder = "";
const adapter = (name: string): string => join(folder, name);
const loras = Object.fromEntries(NAMES.map((name) => [name, ""]));

beforeAll(async () => {
  folder = await persistentFolder();
  const model = await openModel(POCKET);
  for (const [index, name] of NAMES.entries()) {
    loras[name] = adapter(name);
    // Different ranks have different sizes.
    await writeTinyAdapter(adapter(name), model.config, {
      seed: index,
      size: 0.2,
      rankOf: () => 8 + 12 * index,
      config: { r: 8 + 12 * index },
    });
  }
  await model.close();
});

function open(options: OpenOptions = {}): Promise<ReadMeEngine> {
  return ReadMeEngine.open(POCKET, { threads: 2, precision: "int8", isolation: "thread", ...options });
}

async function idsOf(
  engine: ReadMeEngine,
  expert: string | number | undefined,
  prompt = PROMPT,
): Promise<readonly number[]> {
  const { ids } = await complete(engine, { prompt, params: PARAMS, expert });
  return ids;
}

describe.each(["thread", "process"] as const)("in a %s", (isolation) => {
  let engine: ReadMeEngine;
  let plain: ReadMeEngine;

  beforeAll(async () => {
    [engine, plain] = [await open({ loras, isolation }), await open()];
  });
  afterAll(() => Promise.all([engine.dispose(), plain.dispose()]));

  test("names its experts, and answers with the one that a request names", async () => {
    expect(engine.info).toMatchObject({ experts: ["none", ...NAMES], expertKind: "lora", hasRouter: false });
    expect(plain.info).toMatchObject({ experts: ["dense"], expertKind: "lora" });
    const expected = await idsOf(plain, undefined);
    expect(await idsOf(engine, undefined)).toEqual(expected);
    expect(await idsOf(engine, "none")).toEqual(expected);
    const all = await Promise.all(NAMES.map((name) => idsOf(engine, name)));
    expect(new Set([expected, ...all].map((ids) => ids.join())).size).toBe(5);
    expect(await idsOf(engine, 2)).toEqual(all[1]);
    expect(() => engine.generate({ prompt: PROMPT, expert: "legl" })).toThrow("did you mean legal?");
    const { experts } = await engine.route(PROMPT, "sales");
    expect(new Set(experts)).toEqual(new Set([3]));
  });

  test("gives a request the same tokens alone and beside others", async () => {
    const requests = Array.from({ length: 16 }, (_, index) => ({
      prompt: `${PROMPT} ${index % 4}`,
      expert: ["none", ...NAMES][index % 5],
    }));
    const alone: (readonly number[])[] = [];
    for (const { prompt, expert } of requests) alone.push(await idsOf(engine, expert, prompt));
    expect(await Promise.all(requests.map(({ prompt, expert }) => idsOf(engine, expert, prompt)))).toEqual(alone);
  });
});

test("adds and removes experts while requests run, which go on as if nothing had happened", async () => {
  await using engine = await open({ loras: { legal: adapter("legal") } });
  await using reference = await open({ loras });
  const expected = await idsOf(reference, "legal");
  const sales = await idsOf(reference, "sales");
  const events: string[] = [];
  engine.events.on("expert:added", ({ name, index, bytes }) => events.push(`+${name} ${index} ${bytes > 0}`));
  engine.events.on("expert:removed", ({ name, index }) => events.push(`-${name} ${index}`));
  const streams = Array.from({ length: 4 }, () => idsOf(engine, "legal"));
  await Promise.all([engine.addExpert("sales", adapter("sales")), engine.addExpert("poetry", adapter("poetry"))]);
  expect(engine.info.experts.toSorted()).toEqual(["legal", "none", "poetry", "sales"]);
  expect(await idsOf(engine, "sales")).toEqual(sales);
  expect(await Promise.all(streams)).toEqual(streams.map(() => expected));
  // A request that runs keeps its expert, and a new one is refused at once.
  const last = idsOf(engine, "legal");
  const removal = engine.removeExpert("legal");
  expect(() => engine.generate({ prompt: PROMPT, expert: "legal" })).toThrow(RangeError);
  expect(await last).toEqual(expected);
  await removal;
  expect(engine.info.experts).not.toContain("legal");
  // Its number is another expert's now, and no prefix of it is left.
  await engine.addExpert("support", adapter("support"));
  expect(await idsOf(engine, "support")).toEqual(await idsOf(reference, "support"));
  // The first expert's event may come before there is a listener.
  expect(events.filter((event) => !event.startsWith("+legal")).toSorted()).toEqual([
    "+poetry 3 true",
    "+sales 2 true",
    "+support 1 true",
    "-legal 1",
  ]);
});

test("prefixes are not shared between experts, also when one takes the number of another", async () => {
  const prompt = `${PROMPT} ${"and the sea was wide and the night was long ".repeat(16)}`;
  await using engine = await open({ chunkTokens: 64, loras: { legal: adapter("legal"), sales: adapter("sales") } });
  const legal = await idsOf(engine, "legal", prompt);
  const again = await completeAll(engine, { prompt, params: PARAMS, expert: "legal" });
  expect(again.choices[0]?.ids).toEqual(legal);
  expect(again.usage?.cachedTokens).toBeGreaterThanOrEqual(128);
  const other = await completeAll(engine, { prompt, params: PARAMS, expert: "sales" });
  expect(other.usage?.cachedTokens).toBe(0);
  await engine.removeExpert("legal");
  await engine.addExpert("poetry", adapter("poetry"));
  const poetry = await completeAll(engine, { prompt, params: PARAMS, expert: "poetry" });
  expect(poetry.usage?.cachedTokens).toBe(0);
  await using reference = await open({ loras: { poetry: adapter("poetry") } });
  expect(poetry.choices[0]?.ids).toEqual(await idsOf(reference, "poetry", prompt));
});

test("holds a budget of one expert, with the same tokens as with all in memory", async () => {
  await using resident = await open({ loras });
  const requests = Array.from({ length: 7 }, (_, index) => ["none", ...NAMES][(index * 3) % 5]);
  const expected: (readonly number[])[] = [];
  for (const expert of requests) expected.push(await idsOf(resident, expert));
  // The largest of the four is the last one.
  await using engine = await open();
  let bytes = 0;
  engine.events.on("expert:added", (event) => (bytes = event.bytes));
  let numLoaded = 0;
  engine.events.on("expert:loaded", () => numLoaded++);
  await engine.addExpert("poetry", adapter("poetry"));
  await expect.poll(() => bytes).toBeGreaterThan(0);
  // Units are reported where they are streamed alone.
  expect(numLoaded).toBe(0);
  for (const [expertCacheBytes, kernel] of [
    [bytes, "native"],
    [3 * bytes, "native"],
    [2 * bytes, "wasm"],
  ] as const) {
    await using streamed = await open({ loras, expertCacheBytes, kernel });
    expect(await Promise.all(requests.map((expert) => idsOf(streamed, expert)))).toEqual(expected);
    const { expertCache } = await streamed.stats();
    expect(expertCache?.usedBytes).toBeLessThanOrEqual(expertCacheBytes);
    expect(expertCache?.loads).toBeGreaterThanOrEqual(4);
  }
  await expect(open({ loras, expertCacheBytes: bytes - 1 })).rejects.toThrow(RangeError);
});

test("has its experts again after a failure", async () => {
  await using engine = await open({
    isolation: "process",
    loras: { legal: adapter("legal"), poetry: adapter("poetry") },
  });
  await engine.addExpert("sales", adapter("sales"));
  await engine.removeExpert("poetry");
  const expected = await idsOf(engine, "sales");
  // Another one under the name of one that the options have.
  await engine.removeExpert("legal");
  await engine.addExpert("legal", adapter("support"));
  const support = await idsOf(engine, "legal");
  const failed = engine.whenFailed();
  engine.kill();
  await failed;
  await engine.restart();
  expect(engine.info.experts.filter((name) => name !== "").toSorted()).toEqual(["legal", "none", "sales"]);
  expect(await idsOf(engine, "sales")).toEqual(expected);
  expect(await idsOf(engine, "legal")).toEqual(support);
});

test("works after a failure without an added expert whose folder is gone", async () => {
  const gone = join(await temporaryFolder(), "gone");
  await cp(adapter("sales"), gone, { recursive: true });
  await using engine = await open({ isolation: "process", loras: { legal: adapter("legal") } });
  await engine.addExpert("gone", gone);
  await engine.addExpert("poetry", adapter("poetry"));
  const expected = await idsOf(engine, "poetry");
  await rm(gone, { recursive: true });
  const failed = engine.whenFailed();
  engine.kill();
  await failed;
  await engine.restart();
  expect(engine.info.experts).toEqual(["none", "legal", "poetry"]);
  expect(await idsOf(engine, "poetry")).toEqual(expected);
  await engine.addExpert("gone", adapter("sales"));
  expect(await idsOf(engine, "gone")).not.toEqual(expected);
});

test("refuses experts that cannot be added, and keeps those it has", async () => {
  await using engine = await open({ loras: { legal: adapter("legal") } });
  await expect(engine.addExpert("legal", adapter("sales"))).rejects.toThrow("`name` to be a new expert's, got `legal`");
  await expect(engine.addExpert("no/name", adapter("sales"))).rejects.toThrow(TypeError);
  await expect(engine.addExpert("none", adapter("sales"))).rejects.toThrow("`none`");
  await expectReadMeError(engine.addExpert("sales", await temporaryFolder()), "ERR_FILE_NOT_FOUND");
  await expect(engine.removeExpert("sales")).rejects.toThrow("Expected `expert` to be one of none, legal");
  await expect(engine.removeExpert("none")).rejects.toThrow("to be a lora");
  expect(engine.info.experts).toEqual(["none", "legal"]);
  await engine.addExpert("sales", adapter("sales"));
  expect(engine.info.experts).toEqual(["none", "legal", "sales"]);
});

test("fails the requests alone whose expert cannot be read", async () => {
  const cacheFolder = await temporaryFolder();
  const model = await openModel(POCKET);
  const large = await writeTinyAdapter(join(cacheFolder, "large"), model.config, {
    rankOf: () => 64,
    config: { r: 64 },
  });
  await model.close();
  await using engine = await open({
    cacheFolder,
    loras: { large, legal: adapter("legal") },
    expertCacheBytes: 20 << 20,
  });
  const expected = await idsOf(engine, "legal");
  // The budget holds either of them, so that each request reads its own.
  await engine.setExpertCacheBytes(await sizeOf(engine, large));
  expect(await idsOf(engine, "large")).toHaveLength(24);
  await rm(join(cacheFolder, "experts"), { recursive: true });
  await expectReadMeError(idsOf(engine, "legal"), "ERR_FILE_UNREADABLE");
  const [other, legal] = await Promise.allSettled([idsOf(engine, "none"), idsOf(engine, "legal")]);
  expect([other.status, legal.status]).toEqual(["fulfilled", "rejected"]);
  expect(other).not.toEqual({ status: "fulfilled", value: expected });
});

async function sizeOf(engine: ReadMeEngine, path: string): Promise<number> {
  let bytes = 0;
  engine.events.on("expert:added", (event) => (bytes = event.bytes));
  await engine.addExpert("measured", path);
  await expect.poll(() => bytes).toBeGreaterThan(0);
  await engine.removeExpert("measured");
  return bytes;
}
