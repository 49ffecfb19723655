// The page in a real browser, with a real engine.

import type { Browser, Route } from "playwright-core";
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { chatbot } from "../../examples/chatbot/server/chatbot.ts";
import type { OpenedModel } from "../../examples/chatbot/server/live-model.ts";
import { builtPage, lastAnswer, openStreamedModel, say, sayOnly, violations, watchedPage } from "../support/chatbot.ts";
import { findChromium, launchChromium } from "../support/chromium.ts";
import { listen, openTinyEngine, type RunningServer } from "../support/served-model.ts";
import { persistentFolder } from "../support/temporary-folder.ts";
import { postJson } from "../support/post-json.ts";

const executablePath = await findChromium();

describe.skipIf(executablePath === undefined)("the page (skipped without Chromium)", () => {
  let [browser, server] = [] as unknown as [Browser, RunningServer];
  let models: readonly OpenedModel[] = [];

  beforeAll(async () => {
    const folder = await persistentFolder();
    const dense = await openTinyEngine(await persistentFolder(), {}, { numExperts: 1, hasRouter: false });
    models = [await openStreamedModel(folder), { name: "dense", title: "dense", engine: dense }];
    server = await listen(chatbot({ models, pageFolder: await builtPage(folder) }).app);
    browser = await launchChromium(executablePath ?? "");
  });
  afterAll(async () => {
    await browser?.close();
    await server?.[Symbol.asyncDispose]();
    await Promise.all(models.map(({ engine }) => engine.dispose()));
  });

  // Chats that go on would change what the next test sees.
  const stopChats = async (): Promise<void> => {
    await postJson(`${server.url}/live/load`, { model: "tiny", chats: 0 });
  };

  test("colours each token by its expert in the server's routes", async () => {
    const { page, complaints } = await watchedPage(browser, server.url, {}, { temperature: 0, answerTokens: 40 });
    await say(page, "The ship was");
    const answer = await lastAnswer(page);
    const colours = await page
      .locator(".message.assistant .tokens span")
      .evaluateAll((spans) =>
        spans.map((span) => [span.textContent, Number((span as { dataset?: { expert?: string } }).dataset?.expert)]),
      );
    const request = { messages: [{ role: "user", content: "The ship was" }], temperature: 0, max_tokens: 40 };
    const { body } = await postJson(`${server.url}/v1/chat/completions`, {
      model: "tiny",
      ...request,
      // As the page, which keeps small models from loops.
      min_p: 0.05,
      repetition_penalty: 1.1,
      read_me: { include: ["routes", "progress"] },
    });
    const [choice] = (body as { choices: { message: { content: string }; read_me: { routes: (number | null)[] } }[] })
      .choices;
    expect(colours.map(([text]) => text).join("")).toBe(choice?.message.content);
    expect(answer.trim()).toBe(choice?.message.content.trim());
    const routes = choice?.read_me.routes.map((expert) => expert ?? -1) ?? [];
    // Tokens whose text is only known with the next one have no span of their own.
    expect(
      isWithin(
        colours.map(([, expert]) => Number(expert)),
        routes,
      ),
    ).toBe(true);
    expect(new Set(colours.map(([, expert]) => expert)).size).toBeGreaterThan(1);
    // The same as text.
    const figures = await page.locator(".message.assistant .figures").innerText();
    expect(figures).toContain("40 tokens");
    expect(figures).toMatch(/domain-\d \d+/);
    expect(complaints).toEqual([]);
  });

  test("highlights the tokens of one expert, and numbers experts for people who cannot see colours", async () => {
    const { page } = await watchedPage(browser, server.url, {}, { temperature: 0, answerTokens: 40, numbers: true });
    await say(page, "import os");
    await lastAnswer(page);
    const used = Number(await page.locator(".tokens [data-number]").first().getAttribute("data-number")) - 1;
    await page
      .getByRole("button", { name: `domain-${used}` })
      .first()
      .click();
    expect(await page.locator(`.tokens [data-expert="${used}"].dim`).count()).toBe(0);
    expect(await page.locator(`.tokens span:not([data-expert="${used}"]):not(.dim)`).count()).toBe(0);
    expect(await page.locator(".tokens[data-numbers] [data-number]").count()).toBeGreaterThan(0);
  });

  test("regenerates an answer, edits a question, and keeps conversations after a reload", async () => {
    const { page, complaints } = await watchedPage(browser, server.url, {}, { temperature: 0, answerTokens: 12 });
    await say(page, "First question");
    await lastAnswer(page);
    await page.getByRole("button", { name: "Regenerate" }).click();
    await lastAnswer(page);
    expect(await page.locator(".message").count()).toBe(2);
    await page.getByRole("button", { name: "Edit" }).click();
    const editor = page.getByLabel("Edited message");
    expect(await editor.inputValue()).toBe("First question");
    // Escape leaves the message as it was, and returns to the button.
    await editor.fill("Something else");
    await editor.press("Escape");
    await page.locator("button:focus", { hasText: "Edit" }).press("Enter");
    await editor.fill("Better question");
    await editor.press("Enter");
    const answer = await lastAnswer(page);
    expect(await page.locator(".message.user > .plain").allInnerTexts()).toEqual(["Better question"]);
    await page.reload();
    expect(await lastAnswer(page)).toBe(answer);
    await page.getByRole("button", { name: "New conversation" }).first().click();
    expect(await page.locator(".message").count()).toBe(0);
    await say(page, "Another one");
    await lastAnswer(page);
    await page.getByRole("button", { name: "Better question", exact: true }).click();
    expect(await lastAnswer(page)).toBe(answer);
    expect(complaints).toEqual([]);
  });

  test("says that an answer was cut, and continues it from where it ended", async () => {
    const { page, complaints } = await watchedPage(browser, server.url, {}, { temperature: 0, answerTokens: 6 });
    await page.context().grantPermissions(["clipboard-read", "clipboard-write"]);
    await sayOnly(page, server.url, " the");
    await say(page, "First question");
    const begun = await lastAnswer(page);
    await page.getByText("The answer reached the largest number of tokens.").waitFor();
    const sent = page.waitForRequest(/completions/);
    await page.getByRole("button", { name: "Continue", exact: true }).click();
    const { messages, ...rest } = (await sent).postDataJSON() as { messages: object[] };
    expect(messages).toEqual([
      { role: "user", content: "First question" },
      { role: "assistant", content: expect.stringContaining(begun.trim()) as string },
    ]);
    expect(rest).toMatchObject({ continue_final_message: true });
    await page.getByText("12 tokens").waitFor();
    expect(await lastAnswer(page)).toBe(`${begun}${begun.startsWith(" ") ? "" : " "}${begun}`);
    expect(await page.locator(".message.assistant").count()).toBe(1);
    await page.locator(".assistant").getByRole("button", { name: "Copy" }).click();
    await page.getByRole("button", { name: "Copied" }).waitFor();
    expect(complaints).toEqual([]);
  });

  test("continues a text, and switches to another model", async () => {
    const { page, complaints } = await watchedPage(
      browser,
      server.url,
      {},
      { temperature: 0, answerTokens: 8, mode: "continue" },
    );
    await say(page, "Once upon a time");
    await lastAnswer(page);
    await page.getByRole("combobox", { name: "Model" }).selectOption("dense");
    await page.getByText("A dense model: all tokens use the same weights.").waitFor();
    await say(page, "Once upon a time");
    await lastAnswer(page);
    expect(await page.locator(".message.assistant .who").allInnerTexts()).toEqual(["tiny · int8", "dense · fp32"]);
    expect(complaints).toEqual([]);
  });

  test("shows the effects of schedulers and memory while the engine runs", async () => {
    const { page, complaints } = await watchedPage(browser, server.url);
    const live = page.getByRole("region", { name: "Live view" });
    onTestFinished(stopChats);
    await live.getByLabel("Number of simulated chats").selectOption("16");
    await live.getByRole("button", { name: "Simulate" }).click();
    await live.getByText("Simulated 1", { exact: true }).waitFor();
    const experts = async (scheduler: string, words: string): Promise<number> => {
      await live.getByRole("radio", { name: scheduler }).check();
      await live.getByText(words).waitFor();
      const stepNow = async (): Promise<number> => Number((await live.locator(".step h3 .small").innerText()).slice(5));
      const start = await stepNow();
      // All bars are of this scheduler's steps then.
      await expect.poll(stepNow).toBeGreaterThan(start + 60);
      return Number.parseFloat(await live.locator(".bars .small").innerText());
    };
    const byArrival = await experts("By arrival", "Requests run in the order");
    const byQueue = await experts("By expert", "The expert that most tokens wait for");
    expect(byQueue).toBeLessThan(byArrival);
    expect((await counted(models[0]))?.evictions).toBeGreaterThan(0);
    await live.getByRole("slider").press("End");
    const allBytes = Number(await live.getByRole("slider").getAttribute("max"));
    await expect.poll(async () => (await counted(models[0]))?.budgetBytes).toBe(allBytes);
    // Nothing is evicted any more, and the page shows the engine's counters.
    const last = (await counted(models[0]))?.evictions ?? 0;
    await expect.poll(() => live.locator('.memory [aria-label="4 of 4 layers"]').count()).toBeGreaterThan(1);
    await expect
      .poll(() => live.locator("dl > div", { hasText: "experts evicted" }).locator("dd").innerText())
      .toBe(last.toLocaleString("en"));
    expect((await counted(models[0]))?.evictions).toBe(last);
    await live.getByRole("button", { name: "Stop 16 chats" }).click();
    await live.getByText("Nothing. Send a message").waitFor();
    expect(complaints).toEqual([]);
  });

  test("shows a chosen scheduler at once, while older snapshots arrive before the server's answer", async () => {
    const { page } = await watchedPage(browser, server.url);
    onTestFinished(stopChats);
    const live = page.getByRole("region", { name: "Live view" });
    await live.getByRole("radio", { name: "By expert" }).check();
    await live.getByText("The expert that most tokens wait for").waitFor();
    await live.getByRole("button", { name: "Simulate" }).click();
    const held: Route[] = [];
    await page.route("**/live/scheduling", (route) => void held.push(route));
    const step = live.locator(".step h3 .small");
    await expect.poll(() => step.count()).toBe(1);
    await live.getByRole("radio", { name: "By arrival" }).click();
    const shown = await step.innerText();
    await expect.poll(() => step.innerText()).not.toBe(shown);
    expect(await live.getByRole("radio", { name: "By arrival" }).isChecked()).toBe(true);
    // The description still shows the older scheduler, which is active.
    expect(await live.getByText("The expert that most tokens wait for").count()).toBe(1);
    await held[0]?.continue();
    await live.getByText("Requests run in the order").waitFor();
  });

  test("works by keyboard alone, and returns the focus to what opened something", async () => {
    const { page, complaints } = await watchedPage(
      browser,
      server.url,
      {},
      { live: false, temperature: 0, answerTokens: 8 },
    );
    const focused = () => page.evaluate<string>(FOCUSED);
    // A page that is opened has the focus in the message box, and its first link leads there, too.
    await page.locator("textarea:focus").waitFor();
    await page.locator(".skip").first().press("Enter");
    await page.locator("textarea:focus").waitFor();
    await page.keyboard.type("Hello");
    await page.keyboard.press("Enter");
    await lastAnswer(page);
    for (const [opener, inside] of [
      ["Live view", ".live"],
      ["Options", ".options button"],
      ["Actions on Hello", ".menu button"],
    ] as const) {
      const button = page.getByRole("button", { name: opener });
      await button.press("Enter");
      await page.locator(`${inside}:focus`).waitFor();
      await page.keyboard.press("Escape");
      await button.and(page.locator(":focus")).waitFor();
    }
    await page.getByRole("button", { name: "Live view" }).press("Enter");
    await page.locator(".live:focus").waitFor();
    await page.getByRole("slider").waitFor();
    await page.locator(".skip").first().focus();
    const reached = [await focused()];
    for (let step = 0; step < 60; step++) {
      await page.keyboard.press("Tab");
      reached.push(await focused());
    }
    // In this order.
    const names = `Skip to the message box, Skip to the messages, New conversation, Search, Actions on Hello, Model,
      Options, Messages, Edit, Regenerate, Message, Attach, Expert of, Close the live view, Simulate, By cost,
      Memory for experts`.split(/,\s+/);
    const found = names.filter((name) => reached.splice(0, reached.findIndex((one) => one.includes(name)) + 1).length);
    expect(found).toEqual(names);
    // A choice by arrow keys is sent to the server.
    await page.getByRole("radio", { name: "By cost" }).focus();
    await page.keyboard.press("ArrowRight");
    await page.getByText("The expert that most tokens wait for").waitFor();
    await page.getByRole("button", { name: "Regenerate" }).focus();
    await page.keyboard.press("Enter");
    await page.locator("#composer:focus").waitFor();
    await lastAnswer(page);
    expect(complaints).toEqual([]);
  });

  test("works on a phone of 360 pixels", async () => {
    const viewport = { width: 360, height: 640 };
    const { page, complaints } = await watchedPage(browser, server.url, { viewport, hasTouch: true, isMobile: true });
    const fits = () => page.evaluate<boolean>("document.documentElement.scrollWidth <= 360");
    await say(page, `A word of ${"l".repeat(400)}ength`);
    await lastAnswer(page);
    expect(await fits()).toBe(true);
    expect(await violations(page)).toEqual([]);
    for (const [button, role] of [
      ["Live view", "region"],
      ["Conversations", "navigation"],
    ] as const) {
      await page.getByRole("button", { name: button }).tap();
      await page.getByRole(role, { name: button }).waitFor();
      expect(await fits()).toBe(true);
      expect(await violations(page)).toEqual([]);
      // What covers the chat goes with Escape or its own button.
      if (role === "region") await page.keyboard.press("Escape");
      else await page.getByRole("button", { name: "Close conversations" }).tap();
      await page.getByRole(role, { name: button }).waitFor({ state: "detached" });
    }
    expect(await page.locator("#composer").isVisible()).toBe(true);
    expect(complaints).toEqual([]);
  });

  test.each(["light", "dark"] as const)("has no accessibility violations, in %s", async (colorScheme) => {
    const { page, complaints } = await watchedPage(
      browser,
      server.url,
      { colorScheme },
      { temperature: 0, answerTokens: 8 },
    );
    expect(await violations(page)).toEqual([]);
    await say(page, "Hello there");
    await lastAnswer(page);
    expect(await violations(page)).toEqual([]);
    await page.getByRole("button", { name: "Options" }).click();
    expect(await violations(page)).toEqual([]);
    await page.getByRole("radio", { name: "Text", exact: true }).check();
    // A theme chosen by hand looks the same as the system's.
    const paper = () => page.evaluate<string>("getComputedStyle(document.body).backgroundColor");
    const before = await paper();
    await page.getByRole("radio", { name: colorScheme === "light" ? "Dark" : "Light" }).check();
    expect(await paper()).not.toBe(before);
    await page.keyboard.press("Escape");
    expect(await violations(page)).toEqual([]);
    expect(complaints).toEqual([]);
  });
});

/** Name of the focused element, as a screen reader says it. */
const FOCUSED = `(({ activeElement: it }) =>
  [it.getAttribute("aria-label"), it.labels?.[0]?.innerText, it.innerText].join(" "))(document)`;

/** Tells whether `all` has all of `some` in this order. */
function isWithin(some: readonly number[], all: readonly number[]): boolean {
  let at = 0;
  for (const one of all) if (one === some[at]) at++;
  return at === some.length;
}

/** Returns the engine's own counters. */
async function counted(model: OpenedModel | undefined) {
  return (await model?.engine.stats())?.expertCache;
}
