// The first commands of a new user: `npm start`, which opens a chat with a model that can be had; later `npm run
// chatbot`.

import { existsSync } from "node:fs";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { lastAnswer, say, sayOnly, watchedPage } from "../support/chatbot.ts";
import { findChromium, launchChromium } from "../support/chromium.ts";
import { EXAMPLES, startProgram } from "../support/examples.ts";
import { POCKET } from "../support/pocket.ts";
import { PROGRAMS } from "../support/pocket-engine.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

const executablePath = await findChromium();
const experts = join(await persistentFolder(), "experts");
const start = (talking: string, ...args: readonly string[]) =>
  startProgram([join(PROGRAMS, "first-minute.ts"), experts, talking, ...args]);

async function modelNames(url: string): Promise<readonly string[]> {
  const { data } = (await (await fetch(`${url}/v1/models`)).json()) as { data: readonly { readonly id: string }[] };
  return data.map(({ id }) => id);
}

test("npm start opens a chat with a model that talks, if it can be had", { timeout: 120_000 }, async () => {
  const { printed, output, stop } = start(POCKET, "--port", "0");
  const [, url = ""] = await printed(/Chat at (http:\S+) \(Ctrl-C stops it\)/);
  expect(output()).not.toContain("Making one expert");
  expect(await modelNames(url)).toEqual(["pocket"]);
  expect(await stop("SIGINT")).toBe(0);
});

// Making experts takes most of the time, however few they are.
test(
  "npm start says why it takes the pocket model, makes experts and serves a chat",
  { timeout: 240_000 },
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

test("npm start -- --exit ends by itself, and does not make the experts again", { timeout: 120_000 }, async () => {
  const { child, printed, output } = start(POCKET, "--pocket", "--exit", "--port", "0");
  await printed(/Chat at (http:\S+)$/m);
  if (child.exitCode === null) await new Promise((resolve) => child.once("close", resolve));
  expect(child.exitCode).toBe(0);
  expect(output()).not.toContain("Making");
});

test.skipIf(executablePath === undefined)(
  "npm run chatbot then opens a page that chats",
  { timeout: 120_000 },
  async () => {
    const args = ["--model", experts, "--model", POCKET, "--port", "0"];
    const { printed, stop } = startProgram([join(EXAMPLES, "chatbot", "main.ts"), ...args]);
    const [, url = ""] = await printed(/Chat at (http:\S+)/);
    const browser = await launchChromium(executablePath ?? "");
    onTestFinished(() => browser.close());
    const { page, complaints } = await watchedPage(browser, url);
    await page.getByLabel("Max. tokens").fill("12");
    await sayOnly(page, url, " the");
    await say(page, "The ship was");
    expect(await lastAnswer(page)).toMatch(/^ ?the( the){11}$/);
    // Tokens have the colours of experts.
    expect(await page.locator(".message.assistant .expert").count()).toBeGreaterThan(0);
    expect(complaints).toEqual([]);
    expect(await stop("SIGTERM")).toBe(0);
  },
);
