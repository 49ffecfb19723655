// Features that people expect of a chat: code, files, system prompts, reasoning, and conversations that can be kept.

import { readFile } from "node:fs/promises";
import { join } from "node:path";
import type { Browser, Locator, Page, Request } from "playwright-core";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { chatbot } from "../../examples/chatbot/server/chatbot.ts";
import type { OpenedModel } from "../../examples/chatbot/server/live-model.ts";
import {
  builtPage,
  lastAnswer,
  openStreamedModel,
  say,
  type Script,
  scripted,
  SCRIPTED_TOKENS,
  setOptions,
  violations,
  watchedPage,
} from "../support/chatbot.ts";
import { Deferred } from "../support/deferred.ts";
import { findChromium, launchChromium } from "../support/chromium.ts";
import { openExpertEngine, writeAdaptersOf, writeExpertBase } from "../support/expert-engine.ts";
import { listen, TINY_CONTEXT_TOKENS, type RunningServer } from "../support/served-model.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

const executablePath = await findChromium();

/** Ends the reading of a prompt that begins with "Read". */
const read = new Deferred();

/** Answers by the question's first word. */
const answers: Script = async function* (prompt, _, onProgress) {
  const [word = ""] = prompt.split("\n\n").at(-1)?.split(" ") ?? [];
  if (word === "Code") yield* ["Here it is:\n\n```ts\n", "const x: number = 1;\n", "```\n"];
  else if (word === "Think") yield* ["<think>Let me", " see.</think>", "It is 42."];
  else if (word === "Long") for (let count = 0; count < TINY_CONTEXT_TOKENS - 16; count++) yield ` word${count}`;
  else if (word === "Read") {
    onProgress?.({ promptTokens: SCRIPTED_TOKENS, cachedTokens: 0, readTokens: 4096, queuedMs: 0 });
    await read.promise;
    yield "I have read it.";
  } else yield `Answer to ${prompt}`;
};

describe.skipIf(executablePath === undefined)("the page (skipped without Chromium)", () => {
  let [browser, server] = [] as unknown as [Browser, RunningServer];
  let models: readonly OpenedModel[] = [];

  beforeAll(async () => {
    const [folder, path] = [await persistentFolder(), join(await persistentFolder(), "dense")];
    const legal = join(await persistentFolder(), "legal");
    await writeAdaptersOf(await writeExpertBase(path), { [legal]: { seed: 1 } });
    const tiny = await openStreamedModel(folder);
    models = [tiny, { name: "dense", title: "dense", engine: await openExpertEngine(path, { legal }) }];
    const told = { ...tiny, engine: scripted(tiny.engine, answers, { reasoningForm: "think" }) };
    server = await listen(chatbot({ models: [told, ...models.slice(1)], pageFolder: await builtPage(folder) }).app);
    browser = await launchChromium(executablePath ?? "");
  });
  afterAll(async () => {
    await browser?.close();
    await server?.[Symbol.asyncDispose]();
    await Promise.all(models.map(({ engine }) => engine.dispose()));
  });

  const open = (settings = {}) => watchedPage(browser, server.url, {}, { view: "text", live: false, ...settings });

  test("shows how far a long prompt is read", async () => {
    const { page, complaints } = await open();
    await say(page, "Read this");
    await page.getByText("Reading 4,096 of 17,466 tokens …").waitFor();
    read.resolve();
    expect(await lastAnswer(page)).toBe("I have read it.");
    await page.getByText("Reading 4,096 of 17,466 tokens …").waitFor({ state: "hidden" });
    expect(complaints).toEqual([]);
  });

  test("colours and copies code, and folds reasoning", async () => {
    const { page, complaints } = await open();
    await page.context().grantPermissions(["clipboard-read", "clipboard-write"]);
    await say(page, "Code please");
    await page.locator(".code .hljs-keyword", { hasText: "const" }).waitFor();
    await page.getByRole("button", { name: "Copy this code" }).click();
    await page.locator(".code").getByText("Copied").waitFor();
    expect(await page.evaluate("navigator.clipboard.readText()")).toBe("const x: number = 1;");
    await say(page, "Think please");
    expect(await lastAnswer(page)).toBe("It is 42.");
    const reasoning = page.getByText("Let me see.");
    expect(await reasoning.isVisible()).toBe(false);
    await page.getByText(/^Reasoned for/).click();
    expect(await reasoning.isVisible()).toBe(true);
    expect(await violations(page)).toEqual([]);
    expect(complaints).toEqual([]);
  });

  test("sends text files and the system prompt, and refuses what is no text or does not fit", async () => {
    const { page, complaints } = await open();
    await setOptions(page, { "System prompt": "Be brief." });
    const chips = page.getByRole("list", { name: "Attachments" }).last().getByRole("listitem");
    await attach(page, "notes.txt", "hello `there`\n");
    await chips.filter({ hasText: /^notes\.txt\d+ tokens/ }).waitFor();
    await drop(page, "more.txt", "more");
    await expect.poll(() => chips.count()).toBe(2);
    await page.getByRole("button", { name: "Remove more.txt" }).click();
    await attach(page, "picture.png", "\0\0");
    await page.getByRole("alert").getByText("picture.png is not a text file.").waitFor();
    await attach(page, "book.txt", "many words ".repeat(500));
    await page
      .getByText(/book\.txt has [\d,]+ (tokens|bytes)\. This model reads 192 tokens beside an answer\./)
      .waitFor();
    expect(await violations(page)).toEqual([]);
    const [sent] = await Promise.all([page.waitForRequest(/completions/), say(page, "What is in it?")]);
    expect(bodyOf(sent)).toMatchObject({
      messages: [
        { role: "system", content: "Be brief." },
        { role: "user", content: "notes.txt:\n```\nhello `there`\n```\n\nWhat is in it?" },
      ],
      max_tokens: TINY_CONTEXT_TOKENS,
    });
    await lastAnswer(page);
    // The message shows the file, the next one has none, and a new conversation has no system prompt.
    expect(await page.locator(".message.user .chips").innerText()).toContain("notes.txt");
    await page.getByRole("button", { name: "New conversation" }).click();
    const [next] = await Promise.all([page.waitForRequest(/completions/), say(page, "And now?")]);
    expect(bodyOf(next)).toMatchObject({ messages: [{ role: "user", content: "And now?" }] });
    expect(complaints).toEqual([]);
  });

  test("renames, finds, deletes, exports and imports conversations", async () => {
    const { page, complaints } = await open();
    const titles = () => page.locator(".conversations .open").allInnerTexts();
    const act = async (menu: string, action: string): Promise<void> => {
      await page.getByRole("button", { name: menu }).click();
      await page.getByRole("button", { name: action }).click();
    };
    await say(page, "First question");
    await lastAnswer(page);
    await page.getByRole("button", { name: "New conversation" }).click();
    await say(page, "Another one");
    await lastAnswer(page);
    await act("Actions on First question", "Rename");
    await page.getByLabel("Title of First question").fill("The sea");
    await page.keyboard.press("Enter");
    expect(await titles()).toEqual(["Another one", "The sea"]);
    await page.getByLabel("Search conversations").fill("SEA question");
    expect(await titles()).toEqual(["The sea"]);
    await page.getByLabel("Search conversations").fill("");
    expect(await saved(page, () => act("Actions on The sea", "Export as Markdown"))).toEqual([
      "The-sea.md",
      "# The sea\n\n## You\n\nFirst question\n\n## tiny · int8\n\nAnswer to First question\n",
    ]);
    const [name, json] = await saved(page, () => act("Export or import", "Export all"));
    expect([name, (JSON.parse(json) as { conversations: object[] }).conversations.length]).toEqual([
      "conversations.json",
      2,
    ]);
    await act("Actions on The sea", "Delete");
    await page.getByRole("button", { name: "Undo" }).click();
    expect(await titles()).toEqual(["Another one", "The sea"]);
    await act("Actions on The sea", "Delete");
    expect(await titles()).toEqual(["Another one"]);
    const importing = () => act("Export or import", "Import …");
    await choose(page, importing, "broken.json", "{}");
    await page.getByText("This file has no conversations of this chat").waitFor();
    await choose(page, importing, "conversations.json", json);
    await page.getByText("Imported 1; 1 were here already.").waitFor();
    expect(await titles()).toEqual(["Another one", "The sea"]);
    expect(complaints).toEqual([]);
  });

  test("takes the expert and the model of each message, and shows who wrote what", async () => {
    const { page, complaints } = await open();
    const expert = page.getByRole("combobox", { name: "Expert of the next answer" });
    await expert.selectOption("domain-1");
    const [routed] = await Promise.all([page.waitForRequest(/completions/), say(page, "One")]);
    expect(bodyOf(routed)).toMatchObject({ model: "tiny", read_me: { expert: "domain-1" } });
    await lastAnswer(page);
    await page.getByRole("combobox", { name: "Model" }).selectOption("dense");
    await expert.selectOption("legal");
    const [adapted] = await Promise.all([page.waitForRequest(/completions/), say(page, "Two")]);
    expect(bodyOf(adapted)).toMatchObject({ model: "dense:legal" });
    await lastAnswer(page);
    const authors = page.locator(".message.assistant .who");
    expect(await authors.allInnerTexts()).toEqual(["tiny · int8 · domain-1", "dense · fp32 · legal"]);
    const [first, second] = await colours(authors);
    expect(first).not.toBe(second);
    expect(complaints).toEqual([]);
  });

  test("says when a conversation fills the context, what it leaves out, and that a message is too long", async () => {
    const { page } = await open();
    await say(page, "Long please");
    await lastAnswer(page);
    await page.getByText(/This conversation fills 9\d % of the model's context\./).waitFor();
    await say(page, "And on");
    await page.getByText("The 2 oldest messages no longer fit into the model's context").waitFor();
    await say(page, "word ".repeat(TINY_CONTEXT_TOKENS));
    const tooLong = /This message has [\d,]+ tokens, and the model's context has 256\. Shorten it/;
    await page.locator(".note.failed").getByText(tooLong).waitFor();
    await page.getByRole("button", { name: "Edit" }).last().click();
    expect(await violations(page)).toEqual([]);
  });
});

function bodyOf(request: Request): object {
  return request.postDataJSON() as object;
}

/** Chooses a file in the dialog that an action opens. */
async function choose(page: Page, act: () => Promise<void>, name: string, text: string): Promise<void> {
  const [chooser] = await Promise.all([page.waitForEvent("filechooser"), act()]);
  await chooser.setFiles({ name, mimeType: "application/octet-stream", buffer: Buffer.from(text) });
}

function attach(page: Page, name: string, text: string): Promise<void> {
  return choose(page, () => page.getByRole("button", { name: "Attach text files" }).click(), name, text);
}

/** Drops a file on the chat. */
async function drop(page: Page, name: string, text: string): Promise<void> {
  const made = `(() => {
    const data = new DataTransfer();
    data.items.add(new File([${JSON.stringify(text)}], ${JSON.stringify(name)}));
    return data;
  })()`;
  await page.dispatchEvent(".chat", "drop", { dataTransfer: await page.evaluateHandle(made) });
}

/** Returns the name and the text of the file that an action saves. */
async function saved(page: Page, act: () => Promise<void>): Promise<[name: string, text: string]> {
  const [download] = await Promise.all([page.waitForEvent("download"), act()]);
  return [download.suggestedFilename(), await readFile(await download.path(), "utf8")];
}

function colours(authors: Locator): Promise<readonly string[]> {
  return authors.evaluateAll((all) =>
    all.map((one) =>
      (globalThis as unknown as Browserlike).getComputedStyle(one, "::before").getPropertyValue("background-color"),
    ),
  );
}

interface Browserlike {
  getComputedStyle(element: unknown, part: string): { getPropertyValue(name: string): string };
}
