// `serve --keep-prompt` and `--prefix-disk`: prompts are read once, and saved for the next start.

import { readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { beforeAll, expect, test } from "vitest";
import { writeChattingPocket } from "../support/chatting-pocket.ts";
import { postJson } from "../support/post-json.ts";
import { startReady, until } from "../support/serving-process.ts";
import { persistentFolder, temporaryFolder } from "../support/temporary-folder.ts";

const SYSTEM = "The captain of the ship knew all of its ropes by their names. ".repeat(6);

let folder: string;
let model: string;
beforeAll(async () => {
  folder = await persistentFolder();
  model = join(folder, "model");
  await writeChattingPocket(model);
  await writeFile(join(folder, "system.txt"), SYSTEM);
});

/** Serves until a chat with the system message is answered. @returns its usage, and what the server wrote */
async function cachedTokens(savedPromptsFolder: string): Promise<{ readonly cached: number; readonly notes: string }> {
  const keeping = ["--keep-prompt", join(folder, "system.txt"), "--saved-prompts-folder", savedPromptsFolder];
  const { url, child, outcome } = await startReady(model, { args: ["--precision", "int8", ...keeping] });
  const messages = [
    { role: "system", content: SYSTEM },
    { role: "user", content: "Who?" },
  ];
  const { body } = await postJson(`${url}/v1/chat/completions`, { messages, max_tokens: 2 });
  const { usage } = body as unknown as { usage: { prompt_tokens_details: { cached_tokens: number } } };
  child.kill("SIGTERM");
  return { cached: usage.prompt_tokens_details.cached_tokens, notes: (await outcome).stderr };
}

test("the first chat with a kept system message finds it, also after a restart and with a damaged file", async () => {
  const savedPromptsFolder = await temporaryFolder();
  const first = await cachedTokens(savedPromptsFolder);
  expect(first.cached).toBeGreaterThan(64);
  const [name = ""] = await readdir(savedPromptsFolder);
  expect(await cachedTokens(savedPromptsFolder)).toEqual(first);
  await writeFile(join(savedPromptsFolder, name), "no prompt");
  const { cached, notes } = await cachedTokens(savedPromptsFolder);
  expect(cached).toBe(first.cached);
  expect(notes).toContain("note: a saved prompt was not used");
});

test.each([
  [[], [0, 0]],
  // All whole pages of the prompt but its last token.
  [
    ["--cache-sharing", "all"],
    [0, 240],
  ],
])("keys share the beginnings of prompts with %j only", async (flags, expected) => {
  const args = ["--precision", "int8", "--api-key", "a", "b", ...flags];
  const { url, child, outcome } = await startReady(model, { args });
  const cached: (number | undefined)[] = [];
  for (const key of ["a", "b"]) {
    const asked = { prompt: "The rope was long. ".repeat(40), max_tokens: 2 };
    const { body } = await postJson(`${url}/v1/completions`, asked, { authorization: `Bearer ${key}` });
    const { usage } = body as unknown as { usage?: { prompt_tokens_details: { cached_tokens: number } } };
    cached.push(usage?.prompt_tokens_details.cached_tokens);
  }
  child.kill("SIGTERM");
  await outcome;
  expect(cached).toEqual(expected);
});

const LONG_PROMPT = "The captain of the ship knew all of its ropes by their names. ".repeat(30);

/**
 * Serves with prompts on disk until a long prompt is answered and the server has ended.
 * @returns tokens that came from the cache, and from disk
 */
async function foundTokens(
  cacheFolder: string,
  { args = [], signal = "SIGTERM" }: { readonly args?: readonly string[]; readonly signal?: NodeJS.Signals } = {},
): Promise<{ readonly cached: number; readonly read: number | undefined }> {
  const disk = ["--prefix-disk", "100MB", "--cache-folder", cacheFolder];
  const { url, child, outcome, metrics } = await startReady(model, { args: ["--precision", "int8", ...disk, ...args] });
  const authorization = `Bearer ${args.at(-1) ?? "none"}`;
  const { body } = await postJson(`${url}/v1/completions`, { prompt: LONG_PROMPT, max_tokens: 2 }, { authorization });
  const { usage } = body as unknown as {
    usage: { prompt_tokens: number; prompt_tokens_details: { cached_tokens: number } };
  };
  const read = (await metrics()).value("readme_prefix_disk_tokens_total");
  // A server that is killed has saved what it had when it had nothing to do.
  if (signal === "SIGKILL")
    await until(async () => (await savedChunks(cacheFolder)) >= Math.floor(usage.prompt_tokens / 128));
  child.kill(signal);
  await outcome;
  return { cached: usage.prompt_tokens_details.cached_tokens, read };
}

async function savedChunks(cacheFolder: string): Promise<number> {
  const names = await readdir(join(cacheFolder, "prefixes")).catch(() => []);
  return names.filter((name) => name.endsWith(".kv")).length;
}

test("a prompt is read from disk after the server was killed, and after it has ended", async () => {
  const cacheFolder = await temporaryFolder();
  expect(await foundTokens(cacheFolder, { signal: "SIGKILL" })).toEqual({ cached: 0, read: 0 });
  const { cached, read } = await foundTokens(cacheFolder);
  expect(cached).toBeGreaterThanOrEqual(256);
  expect(read).toBe(cached);
  expect(await foundTokens(cacheFolder)).toEqual({ cached, read });
});

test("a prompt on disk belongs to the keys of the server that has read it", async () => {
  const cacheFolder = await temporaryFolder();
  const none = { cached: 0, read: 0 };
  expect(await foundTokens(cacheFolder)).toEqual(none);
  expect(await foundTokens(cacheFolder, { args: ["--api-key", "first"] })).toEqual(none);
  expect(await foundTokens(cacheFolder, { args: ["--api-key", "second"] })).toEqual(none);
  expect((await foundTokens(cacheFolder, { args: ["--api-key", "first"] })).read).toBeGreaterThanOrEqual(256);
});
