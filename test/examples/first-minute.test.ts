// The first commands of a new user: `npm start`, which opens a chat with a model that can be had; later `npm run
// chatbot`.

import { once } from "node:events";
import { existsSync } from "node:fs";
import { cp, truncate } from "node:fs/promises";
import { join } from "node:path";
import { openModel, writeExpertSet } from "@readme-moe/model";
import express from "express";
import { expect, onTestFinished, test, vi } from "vitest";
import { talkingModel } from "../../examples/talking-model.ts";
import { lastAnswer, say, sayOnly, watchedPage } from "../support/chatbot.ts";
import { findChromium, launchChromium } from "../support/chromium.ts";
import { EXAMPLES, startProgram } from "../support/examples.ts";
import { POCKET } from "../support/pocket.ts";
import { PROGRAMS } from "../support/pocket-engine.ts";
import { listen } from "../support/served-model.ts";
import { persistentFolder, temporaryFolder } from "../support/temporary-folder.ts";
import { tinySet } from "../support/tiny-set.ts";

const executablePath = await findChromium();
const experts = join(await persistentFolder(), "experts");
const start = (talking: string, ...args: readonly string[]) =>
  startProgram([join(PROGRAMS, "first-minute.ts"), experts, talking, ...args]);

async function modelNames(url: string): Promise<readonly string[]> {
  const { data } = (await (await fetch(`${url}/v1/models`)).json()) as { data: readonly { readonly id: string }[] };
  return data.map(({ id }) => id);
}

test("npm start opens a chat with a model that talks, if it can be had", async () => {
  const { printed, output, stop } = start(POCKET, "--port", "0");
  const [, url = ""] = await printed(/Chat at (http:\S+) \(Ctrl-C stops it\)/);
  expect(output()).not.toContain("Making one expert");
  expect(await modelNames(url)).toEqual(["pocket"]);
  expect(await stop("SIGINT")).toBe(0);
});

test("npm start opens the loras that are named over a model", async () => {
  const model = await openModel(POCKET);
  const set = join(await persistentFolder(), "kinds");
  await writeExpertSet(set, await tinySet(model.config, { sea: { seed: 1 }, code: { seed: 2 } }, 3));
  await model.close();
  const { printed, stop } = start(`${POCKET}+${set}`, "--port", "0");
  const [, url = ""] = await printed(/Chat at (http:\S+)/);
  const names = await modelNames(url);
  expect(names).toEqual(expect.arrayContaining(["pocket:sea", "pocket:code"]));
  expect(await stop("SIGINT")).toBe(0);
});

test("what npm start cannot do ends it with one line", async () => {
  const damaged = join(await temporaryFolder(), "damaged");
  await cp(POCKET, damaged, { recursive: true });
  await truncate(join(damaged, "model.safetensors"), 100_000);
  await using taken = await listen(express());
  const calls: readonly (readonly [code: number, talking: string, args: readonly string[], message: RegExp])[] = [
    [2, POCKET, ["--port", "99999"], /^error: Expected --port to be a port number, from 0 to 65535\n$/],
    [2, POCKET, ["--prot", "1"], /^error: Unknown option '--prot'.*\n$/],
    [1, POCKET, ["--port", `${taken.port}`], /error: Cannot listen on .*EADDRINUSE.*; --port names another one, .*\n$/],
    [1, damaged, ["--port", "0"], /error: .*model\.safetensors.*; if the file is damaged, delete it, .*\n$/],
  ];
  for (const [code, talking, args, message] of calls) {
    const { child, output } = start(talking, ...args);
    if (child.exitCode === null) await once(child, "close");
    expect(output()).toMatch(message);
    expect(output()).not.toMatch(/^ +at /m);
    expect(child.exitCode).toBe(code);
  }
});

test("a machine without a network or a cache is told what was tried and what to do", async () => {
  for (const name of ["HF_ENDPOINT", "PIP_INDEX_URL"]) vi.stubEnv(name, "http://127.0.0.1:9");
  for (const name of ["HF_HOME", "README_MOE_CACHE"]) vi.stubEnv(name, "/dev/null/home");
  vi.stubEnv("README_MOE_SMOLLM2", "");
  onTestFinished(() => void vi.unstubAllEnvs());
  const found = await talkingModel({});
  expect(found).toHaveProperty("why");
  const { why } = found as { readonly why: string };
  for (const part of ["README_MOE_SMOLLM2", "127.0.0.1:9", "/dev/null/home"]) expect(why).toContain(part);
});

// Making experts takes most of the time, however few they are.
test(
  "npm start says why it takes the pocket model, makes experts and serves a chat",
  { timeout: 300_000 },
  async () => {
    const { printed, output, stop } = start("no-such-model", "--port", "0");
    const [, url = ""] = await printed(/Chat at (http:\S+) \(Ctrl-C stops it\)/);
    expect(output()).toMatch(/No model that talks: no-such-model: .*no model has this name/);
    expect(output()).toMatch(/Making one expert for each of 2 kinds of text/);
    expect(existsSync(join(experts, "config.json"))).toBe(true);
    expect(output()).toMatch(/The ship was.*\S/);
    expect(await modelNames(url)).toEqual(["experts", "pocket"]);
    expect(await (await fetch(url)).text()).toContain("<title>Read-ME chat</title>");
    expect(await stop("SIGINT")).toBe(0);
  },
);

test("npm start -- --exit ends by itself, and does not make the experts again", async () => {
  const { child, printed, output } = start(POCKET, "--pocket", "--exit", "--port", "0");
  await printed(/Chat at (http:\S+)$/m);
  if (child.exitCode === null) await new Promise((resolve) => child.once("close", resolve));
  expect(child.exitCode).toBe(0);
  expect(output()).not.toContain("Making");
});

test.skipIf(executablePath === undefined)(
  "npm run chatbot then opens a page that chats (skipped without Chromium)",
  { timeout: 300_000 },
  async () => {
    const args = ["--model", experts, "--model", POCKET, "--port", "0"];
    const { printed, stop } = startProgram([join(EXAMPLES, "chatbot", "main.ts"), ...args]);
    const [, url = ""] = await printed(/Chat at (http:\S+)/);
    const browser = await launchChromium(executablePath ?? "");
    onTestFinished(() => browser.close());
    const { page, complaints } = await watchedPage(browser, url, {}, { answerTokens: 12 });
    await sayOnly(page, url, " the");
    await say(page, "The ship was");
    expect(await lastAnswer(page)).toMatch(/^ ?the( the){11}$/);
    // Tokens have the colours of experts.
    await expect.poll(() => page.locator(".message.assistant .expert").count()).toBeGreaterThan(0);
    expect(complaints).toEqual([]);
    expect(await stop("SIGTERM")).toBe(0);
  },
);
