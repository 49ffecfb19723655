// The chatbot over tiny models, and pages of it that are watched.

import { join } from "node:path";
import type { Engine, EngineInfo, GenerateChunk, GenerateRequest } from "@readme-moe/core";
import axe from "axe-core";
import type { Browser, Page } from "playwright-core";
import { onTestFinished } from "vitest";
import { buildPage } from "../../examples/chatbot/server/build-page.ts";
import type { TextStorage } from "../../examples/chatbot/page/state/conversation-store.ts";
import type { OpenedModel } from "../../examples/chatbot/server/live-model.ts";
import { generationOf } from "./generation.ts";
import { postJson } from "./post-json.ts";
import { openTinyEngine } from "./served-model.ts";

const LAYERS = [24, 24, 24, 24];
export const NUM_EXPERTS = 5;
/** Its router sends about as much to each expert. */
const BALANCED_SEED = 5;
/** Of one expert's layer of such a model in int8; what is asked of the engine is told by `stats`. */
const LEAST_BYTES = 64 << 10;

/** Built once for each file of tests. @param folder - a new one */
export async function builtPage(folder: string): Promise<string> {
  const page = join(folder, "page");
  await buildPage(page);
  return page;
}

/** A model with five experts of which few layers are in memory, four sequences in a step. @param folder - a new one */
export async function openStreamedModel(folder: string, name = "tiny"): Promise<OpenedModel> {
  const engine = await openTinyEngine(
    folder,
    { precision: "int8", expertCacheBytes: LEAST_BYTES, maxNumSeqs: 16, maxNumBatchedSeqs: 4 },
    { seed: BALANCED_SEED, numExperts: NUM_EXPERTS, expertSizes: LAYERS, sharedSizes: LAYERS.map(() => 16) },
  );
  const stats = await engine.stats();
  return { name, title: name, engine, layerBytes: stats.expertCache?.layerBytes };
}

/** What an engine is to write, in the place of what its model would. */
export type Script = (
  prompt: string,
  signal: AbortSignal,
  onProgress: GenerateRequest["onProgress"],
) => AsyncIterable<string>;

/** Tokens of every prompt of a script. */
export const SCRIPTED_TOKENS = 17_466;

/**
 * The engine, but for what it writes: texts of a script, the tokens of each on the next expert.
 *
 * @param info - what it says of itself instead
 */
export function scripted<Served extends Engine>(
  engine: Served,
  script: Script,
  info: Partial<EngineInfo> = {},
): Served {
  const generate: Engine["generate"] = ({ prompt, signal = new AbortController().signal, onProgress }) => {
    const asked = typeof prompt === "object" && "messages" in prompt ? prompt.messages.at(-1)?.content : prompt;
    const texts = script(typeof asked === "string" ? asked : "", signal, onProgress);
    return generationOf(chunks(texts), Promise.resolve({ promptTokens: SCRIPTED_TOKENS, experts: new Uint16Array() }));
  };
  return new Proxy(engine, {
    get(target, name) {
      if (name === "generate") return generate;
      if (name === "info") return { ...target.info, ...info };
      const value: unknown = Reflect.get(target, name, target);
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
}

async function* chunks(texts: AsyncIterable<string>): AsyncGenerator<GenerateChunk, void, undefined> {
  let count = 0;
  for await (const text of texts) yield { choice: 0, text, tokens: [{ id: 5, expert: count++ % NUM_EXPERTS }] };
  const usage = {
    promptTokens: 1,
    completionTokens: count + 1,
    cachedTokens: 0,
    acceptedDraftTokens: 0,
    rejectedDraftTokens: 0,
    queuedMs: 0,
  };
  yield { choice: 0, text: "", tokens: [{ id: 0 }], finishReason: "stop", usage };
}

export interface WatchedPage {
  readonly page: Page;
  /** Errors and warnings of its console, and errors that nobody caught. */
  readonly complaints: string[];
}

/** Choices of the page's user, by their names in its storage. */
export type Settings = Readonly<Record<string, string | number | boolean>>;

/**
 * Opens a page of its own, which is closed when the test ends. Answers are shown by expert and the live view is open,
 * unless `settings` differ.
 */
export async function watchedPage(
  browser: Browser,
  url: string,
  options: Parameters<Browser["newContext"]>[0] = {},
  settings: Settings = {},
): Promise<WatchedPage> {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, ...options });
  onTestFinished(() => context.close());
  await context.addInitScript(storeSettings, { view: "experts", live: true, ...settings });
  const page = await context.newPage();
  page.setDefaultTimeout(60_000);
  const complaints: string[] = [];
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) complaints.push(message.text());
  });
  page.on("pageerror", (error) => complaints.push(error.message));
  page.on("dialog", (dialog) => complaints.push(`dialog: ${dialog.message()}`));
  await page.goto(url);
  await page.locator("[data-ready]").waitFor();
  return { page, complaints };
}

/** Runs in the browser; a page that is loaded again keeps what its user has changed. */
function storeSettings(settings: Settings): void {
  const { localStorage: storage } = globalThis as unknown as { localStorage: TextStorage };
  for (const [name, value] of Object.entries(settings)) {
    const key = `readme-moe.setting.${name}`;
    if (storage.getItem(key) === null) storage.setItem(key, JSON.stringify(value));
  }
}

/** Changes fields of the page's options, by their names. */
export async function setOptions(page: Page, fields: Readonly<Record<string, string>>): Promise<void> {
  await page.getByRole("button", { name: "Options" }).click();
  const dialog = page.getByRole("dialog", { name: "Options" });
  for (const [name, value] of Object.entries(fields)) await dialog.getByLabel(name).fill(value);
  await page.keyboard.press("Escape");
}

/**
 * Makes every answer one word again and again, up to its limit: what a small model says of its own may be no word, or end at once.
 *
 * @param word - one token, such as ` the`
 */
export async function sayOnly(page: Page, url: string, word: string): Promise<void> {
  const { body: tokenized } = await postJson(`${url}/tokenize`, { prompt: word, add_special_tokens: false });
  const [token, ...others] = tokenized["tokens"] as readonly number[];
  if (token === undefined || others.length > 0) throw new Error(`Expected ${JSON.stringify(word)} to be one token`);
  await page.route(/completions/, (route) => {
    const body = route.request().postDataJSON() as Record<string, unknown>;
    return route.continue({ postData: JSON.stringify({ ...body, logit_bias: { [token]: 100 } }) });
  });
}

/** Sends a message with the keyboard. */
export async function say(page: Page, text: string): Promise<void> {
  await page.locator("#composer").fill(text);
  await page.locator("#composer").press("Enter");
}

/** The answer that came last, when it is whole. */
export async function lastAnswer(page: Page): Promise<string> {
  await page.getByRole("button", { name: "Regenerate" }).waitFor();
  return page.locator(".message.assistant").last().locator(".tokens, .markdown").innerText();
}

/** Returns the violations of accessibility that axe finds. */
export async function violations(page: Page): Promise<readonly string[]> {
  await page.evaluate(axe.source);
  const found = await page.evaluate<axe.AxeResults>("axe.run()");
  return found.violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(" ")}`);
}
