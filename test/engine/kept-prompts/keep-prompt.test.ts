// Effects of a kept prompt on requests, memory, failures and files.

import { readdir, readFile, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { ChatMessage } from "@readme-moe/core";
import { type EngineOptions, ReadMeEngine } from "@readme-moe/engine";
import { beforeAll, describe, expect, test } from "vitest";
import { commonBeginning } from "../../../packages/engine/src/worker/calls.ts";
import { writeChattingPocket } from "../../support/chatting-pocket.ts";
import { complete, completeAll } from "../../support/complete.ts";
import { withByte } from "../../support/damage.ts";
import { writeAdaptersOf, writeExpertBase } from "../../support/expert-engine.ts";
import { expectReadMeError } from "../../support/rejection.ts";
import { persistentFolder, temporaryFolder } from "../../support/temporary-folder.ts";

const TEXT = "The ship was in the harbour, and the captain knew all of its ropes by their names. ".repeat(12);
const SYSTEM: ChatMessage = { role: "system", content: TEXT };
const chat = (content: string) => ({ messages: [SYSTEM, { role: "user", content }] });
const PARAMS = { temperature: 0, maxTokens: 4, logprobs: 2 } as const;

let model: string;
let cacheFolder: string;
beforeAll(async () => {
  cacheFolder = await persistentFolder();
  model = join(cacheFolder, "model");
  await writeChattingPocket(model);
});

function open(options: EngineOptions = {}): Promise<ReadMeEngine> {
  return ReadMeEngine.open(model, { isolation: "thread", threads: 1, precision: "int8", cacheFolder, ...options });
}

async function cachedOf(
  engine: ReadMeEngine,
  prompt: Parameters<ReadMeEngine["generate"]>[0]["prompt"],
): Promise<number> {
  return (await completeAll(engine, { prompt, params: PARAMS })).usage?.cachedTokens ?? -1;
}

test("a system message is the beginning of every chat with it", async () => {
  await using engine = await open();
  const kept = await engine.keepPrompt({ messages: [SYSTEM] });
  const whole = await engine.tokenize(chat("Where?"));
  expect(kept.source).toBe("computed");
  expect(kept.promptTokens).toBe(commonBeginning(whole, await engine.tokenize(chat("1"))).length);
  expect(kept.keptTokens).toBe(Math.floor(kept.promptTokens / 16) * 16);
  expect(kept.keptTokens).toBeGreaterThan(128);
  for (const content of ["Where?", "Who was there, and why?"]) {
    expect(await cachedOf(engine, chat(content))).toBe(kept.keptTokens);
  }
  expect(await cachedOf(engine, { messages: [{ role: "user", content: "Where?" }] })).toBe(0);
});

test("chats that go on are cached behind the kept prompt", async () => {
  await using engine = await open({ chunkTokens: 64, maxNumBatchedTokens: 64 });
  const { keptTokens } = await engine.keepPrompt({ messages: [SYSTEM] });
  const long = chat("He asked for the rope again and again. ".repeat(20));
  expect(await cachedOf(engine, long)).toBe(keptTokens);
  const again = await cachedOf(engine, long);
  expect(again).toBeGreaterThan(keptTokens + 64);
  expect(again % 64).toBe(0);
});

test("a kept prompt stays while others come and go, until it is released", async () => {
  // 6 layers have 2 heads of 64 numbers in half precision.
  const bytesPerToken = 2 * 6 * 2 * 64 * 2;
  await using engine = await open({ prefixCacheBytes: 512 * bytesPerToken, chunkTokens: 64 });
  const kept = await engine.keepPrompt({ messages: [SYSTEM] });
  const others = Array.from({ length: 8 }, (_, index) => `${index} ${"and the rope was long ".repeat(60)}`);
  for (const prompt of others) await complete(engine, { prompt, params: PARAMS });
  expect(await cachedOf(engine, chat("Who?"))).toBe(kept.keptTokens);
  await kept.release();
  await kept.release();
  for (const prompt of others) await complete(engine, { prompt, params: PARAMS });
  expect(await cachedOf(engine, chat("Who?"))).toBeLessThan(kept.keptTokens);
});

test("a prompt that is kept twice is computed once, and stays until both are released", async () => {
  await using engine = await open();
  const first = await engine.keepPrompt({ messages: [SYSTEM] });
  const second = await engine.keepPrompt({ messages: [SYSTEM] });
  expect([first.source, second.source]).toEqual(["computed", "memory"]);
  await first.release();
  expect(await cachedOf(engine, chat("Who?"))).toBe(second.keptTokens);
});

test("prompts of less than a page, wrong prompts and prompts without room are told apart", async () => {
  await using engine = await open({ prefixCacheBytes: 4096 });
  const short = await engine.keepPrompt([1, 2, 3]);
  expect(short).toMatchObject({ promptTokens: 3, keptTokens: 0 });
  await short.release();
  await expect(engine.keepPrompt({ messages: [SYSTEM] })).rejects.toThrow(
    /^Expected `prefixCacheBytes` to have room for the prompt, \d+ bytes, got room for 4096$/,
  );
  await expect(engine.keepPrompt(3 as never)).rejects.toThrow(TypeError);
  await expect(engine.keepPrompt("a", { experts: 1 } as never)).rejects.toThrow("experts");
  await expect(engine.keepPrompt("a", { expert: "legal" })).rejects.toThrow(RangeError);
  await expectReadMeError(engine.keepPrompt("The ship ".repeat(1000)), "ERR_CONTEXT_LENGTH");
  const gone = AbortSignal.abort(new Error("left"));
  await expect(engine.keepPrompt({ messages: [SYSTEM] }, { signal: gone })).rejects.toThrow("left");
});

test("an engine that is opened again after a failure keeps its prompts", async () => {
  const savedPromptsFolder = await temporaryFolder();
  await using engine = await open({ isolation: "process", savedPromptsFolder });
  const sources: string[] = [];
  engine.events.on("prompt:kept", ({ source }) => sources.push(source));
  const kept = await engine.keepPrompt({ messages: [SYSTEM] });
  engine.kill();
  await engine.whenFailed();
  await engine.restart();
  expect(sources).toEqual(["computed", "saved"]);
  expect(await cachedOf(engine, chat("Who?"))).toBe(kept.keptTokens);
  await kept.release();
});

test.each([true, false])("prompts of experts are kept again with their experts (saved: %j)", async (saves) => {
  const folder = await temporaryFolder();
  const base = await writeExpertBase(join(folder, "base"));
  const adapters = { one: { seed: 1 }, two: { seed: 2 }, three: { seed: 3 } };
  const folderOf = (name: string): string => join(folder, name);
  await writeAdaptersOf(base, Object.fromEntries(Object.entries(adapters).map(([name, one]) => [folderOf(name), one])));
  const saved = saves ? { savedPromptsFolder: join(folder, "saved") } : {};
  await using engine = await ReadMeEngine.open(base, { precision: "fp32", isolation: "process", threads: 1, ...saved });
  for (const name of Object.keys(adapters)) await engine.addExpert(name, folderOf(name));
  const sources: string[] = [];
  engine.events.on("prompt:kept", ({ source }) => sources.push(source));
  const text = TEXT.slice(0, 300);
  const { keptTokens } = await engine.keepPrompt(text, { expert: "two", signal: new AbortController().signal });
  // Its number is another one's when the engine is opened again, since an expert before it has left.
  await engine.keepPrompt(text, { expert: engine.info.experts.indexOf("three") });
  await engine.keepPrompt(text, { expert: "one" });
  const cached = async (): Promise<readonly number[]> => {
    const each: number[] = [];
    for (const expert of ["none", "two", "three"]) {
      const { usage } = await completeAll(engine, { prompt: `${text} And`, params: PARAMS, expert });
      each.push(usage?.cachedTokens ?? -1);
    }
    return each;
  };
  const restart = async (): Promise<readonly string[]> => {
    sources.length = 0;
    engine.kill();
    await engine.whenFailed();
    await engine.restart();
    return sources;
  };
  expect(await cached()).toEqual([0, keptTokens, keptTokens]);
  await engine.removeExpert("one");
  const again = saves ? "saved" : "computed";
  expect(await restart()).toEqual([again, again]);
  expect(engine.info.experts).toEqual(["none", "two", "three"]);
  expect(await cached()).toEqual([0, keptTokens, keptTokens]);
  // A prompt that was left out is not kept later.
  await engine.addExpert("one", folderOf("one"));
  expect(await restart()).toEqual([again, again]);
});

/** Keeps a prompt in an engine of its own. @returns the file that it wrote */
async function savedIn(savedPromptsFolder: string): Promise<{ readonly path: string; readonly bytes: Buffer }> {
  await using engine = await open({ savedPromptsFolder });
  await engine.keepPrompt({ messages: [SYSTEM] });
  const [name = ""] = await readdir(savedPromptsFolder);
  const path = join(savedPromptsFolder, name);
  return { path, bytes: await readFile(path) };
}

describe("files", () => {
  test("damaged ones are refused by name, and written again", async () => {
    const savedPromptsFolder = await temporaryFolder();
    const { path, bytes } = await savedIn(savedPromptsFolder);
    const damaged: readonly (readonly [Uint8Array, string])[] = [
      [withByte(bytes, 40, bytes[40]! ^ 1), "belongs to another version, model or prompt, or is damaged"],
      [withByte(bytes, bytes.length >> 1, bytes[bytes.length >> 1]! ^ 4), "its checksum is wrong"],
      [bytes.subarray(0, bytes.length - 5), `has ${bytes.length - 5} bytes instead of ${bytes.length}`],
      [new Uint8Array(0), "is no saved prompt"],
    ];
    await using reference = await open();
    const expected = await complete(reference, { prompt: chat("Who?"), params: PARAMS });
    for (const [content, reason] of damaged) {
      await writeFile(path, content);
      await using engine = await open({ savedPromptsFolder });
      const refusals: (string | undefined)[] = [];
      engine.events.on("prompt:kept", ({ refusal }) => refusals.push(refusal));
      const { source } = await engine.keepPrompt({ messages: [SYSTEM] });
      expect([source, ...refusals]).toEqual(["computed", `${path}: ${reason}`]);
      expect(await complete(engine, { prompt: chat("Who?"), params: PARAMS })).toEqual(expected);
      expect((await readFile(path)).equals(bytes)).toBe(true);
    }
  });

  test("a folder that cannot be written is told, and the prompt is kept", async () => {
    const file = join(await temporaryFolder(), "file");
    await writeFile(file, "");
    await using engine = await open({ savedPromptsFolder: join(file, "below") });
    const failures: (string | undefined)[] = [];
    engine.events.on("prompt:kept", ({ saveFailure }) => failures.push(saveFailure));
    const kept = await engine.keepPrompt({ messages: [SYSTEM] });
    expect(failures[0]).toContain(file);
    expect(await cachedOf(engine, chat("Who?"))).toBe(kept.keptTokens);
  });

  test("stay within their bytes", async () => {
    const savedPromptsFolder = await temporaryFolder();
    const { path } = await savedIn(savedPromptsFolder);
    const { size } = await stat(path);
    await using engine = await open({ savedPromptsFolder, savedPromptsBytes: size });
    await engine.keepPrompt("The ship was late. ".repeat(10));
    const [only, ...rest] = await readdir(savedPromptsFolder);
    expect(rest).toEqual([]);
    expect(join(savedPromptsFolder, only ?? "")).not.toBe(path);
    const failures: (string | undefined)[] = [];
    engine.events.on("prompt:kept", ({ saveFailure }) => failures.push(saveFailure));
    await engine.keepPrompt({ messages: [{ ...SYSTEM, content: TEXT + TEXT }] });
    expect(failures[0]).toMatch(/takes \d+ bytes, and `savedPromptsBytes` is \d+$/);
    expect(await readdir(savedPromptsFolder)).toEqual([only]);
  });

  test("several engines may keep the same prompt at once", async () => {
    const savedPromptsFolder = await temporaryFolder();
    const engines = await Promise.all(Array.from({ length: 3 }, () => open({ savedPromptsFolder })));
    const kept = await Promise.all(engines.map((engine) => engine.keepPrompt({ messages: [SYSTEM] })));
    for (const { source } of kept) expect(["computed", "saved"]).toContain(source);
    await Promise.all(engines.map((engine) => engine.dispose()));
    expect(await readdir(savedPromptsFolder)).toHaveLength(1);
    await using engine = await open({ savedPromptsFolder });
    expect((await engine.keepPrompt({ messages: [SYSTEM] })).source).toBe("saved");
  });
});
