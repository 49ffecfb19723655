// Hostile texts of a model, and failures of the server. Engines follow a script here, so that tests know the order of
// events.

import { once } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import express from "express";
import type { Browser, CDPSession, Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { chatbot, loadingPage } from "../../examples/chatbot/server/chatbot.ts";
import type { OpenedModel } from "../../examples/chatbot/server/live-model.ts";
import {
  builtPage,
  lastAnswer,
  openStreamedModel,
  say,
  scripted,
  watchedPage,
  type Script,
} from "../support/chatbot.ts";
import { findChromium, launchChromium } from "../support/chromium.ts";
import { listen } from "../support/served-model.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

const HOSTILE = [
  "<script>window.ran = 1; alert(1)</script>",
  '<img src="x" onerror="window.ran = 2">',
  '<svg onload="window.ran = 3"></svg><iframe srcdoc="<script>parent.ran = 4</script>"></iframe>',
  '<style>body { display: none }</style><form action="/"><input name="password"></form>',
  "[a link](javascript:window.ran=5) ![a picture](http://127.0.0.1:9/track.png)",
  "```html\n<script>window.ran = 6</script>\n```",
  "<a href=\"data:text/html,<script>window.ran=7</script>\" onclick='window.ran=8'>click</a>",
];
const executablePath = await findChromium();

describe.skipIf(executablePath === undefined)("the page in trouble (skipped without Chromium)", () => {
  let [browser, model, pageFolder] = [] as unknown as [Browser, OpenedModel, string];

  beforeAll(async () => {
    const folder = await persistentFolder();
    [model, pageFolder] = await Promise.all([openStreamedModel(folder), builtPage(await persistentFolder())]);
    browser = await launchChromium(executablePath ?? "");
  });
  afterAll(async () => {
    await browser?.close();
    await model?.engine.dispose();
  });

  const appOf = (script: Script) =>
    chatbot({ models: [{ ...model, engine: scripted(model.engine, script) }], pageFolder }).app;
  const serve = async (script: Script): Promise<string> => {
    const server = await listen(appOf(script));
    onTestFinished(() => server[Symbol.asyncDispose]());
    return server.url;
  };

  test("shows how far the models are while they load, and goes on when they are there", async () => {
    let stage = "tiny: packing weights, 40 %";
    let app = loadingPage({ pageFolder }, () => stage);
    const real = appOf(async function* () {
      yield "done";
    });
    const server = await listen(express().use((request, response, next) => void app(request, response, next)));
    onTestFinished(() => server[Symbol.asyncDispose]());
    const context = await browser.newContext();
    onTestFinished(() => context.close());
    const page = await context.newPage();
    await page.goto(server.url);
    await page.getByText("Loading tiny: packing weights, 40 %").waitFor();
    stage = "tiny: measuring the speed";
    await page.getByText("Loading tiny: measuring the speed").waitFor();
    await page.locator("#composer:focus").waitFor();
    app = real;
    await page.locator("[data-ready]").waitFor();
    await say(page, "Hello");
    expect(await lastAnswer(page)).toBe("done");
    expect(await page.getByText("not reachable").count()).toBe(0);
  });

  test("does not take the focus on a phone, whose keyboard would cover the page", async () => {
    const url = await serve(async function* () {
      yield "done";
    });
    const { page } = await watchedPage(browser, url, { hasTouch: true, isMobile: true });
    expect(await page.locator("#composer:focus").count()).toBe(0);
  });

  test("shows text while it streams, and stops an answer", async () => {
    const [goOn, wasAborted] = [gate(), gate()];
    const url = await serve(async function* (_, signal) {
      signal.addEventListener("abort", wasAborted.open);
      yield "first";
      await goOn.opened;
      yield " second";
      if (!signal.aborted) await once(signal, "abort");
      signal.throwIfAborted();
    });
    const { page, complaints } = await watchedPage(browser, url);
    await say(page, "Hello");
    await page.locator(".tokens", { hasText: "first" }).waitFor();
    expect(await page.locator(".tokens").innerText()).toBe("first");
    goOn.open();
    await page.locator(".tokens", { hasText: " second" }).waitFor();
    await page.locator("#composer").press("Escape");
    await wasAborted.opened;
    await page.getByText("Stopped.").waitFor();
    expect(await lastAnswer(page)).toBe("first second");
    // The button does the same.
    await page.getByRole("button", { name: "Regenerate" }).click();
    await page.getByRole("button", { name: "Stop", exact: true }).click();
    await page.getByText("Stopped.").waitFor();
    expect(complaints).toEqual([]);
  });

  test("shows HTML and scripts of a model as text, and runs none", async () => {
    const url = await serve(async function* () {
      for (const line of HOSTILE) yield `${line}\n\n`;
    });
    const { page, complaints } = await watchedPage(browser, url);
    await say(page, "<b onclick='window.ran = 9'>bold</b>");
    expect((await lastAnswer(page)).trim()).toBe(HOSTILE.join("\n\n"));
    await showText(page);
    const shown = await lastAnswer(page);
    for (const seen of ["<script>window.ran = 1", "<svg onload=", "<style>body", "track.png", "window.ran = 6"]) {
      expect(shown).toContain(seen);
    }
    const made = page
      .locator(".message :is(.plain, .tokens, .markdown)")
      .locator("script, img, svg:not(.icon), iframe, style, form, input, b, [onclick], [style]");
    expect(await made.count()).toBe(0);
    const links = await page
      .locator(".markdown a")
      .evaluateAll((all) => all.map((one) => String(one.getAttribute("href"))));
    expect(links.filter((href) => href !== "null" && !/^https?:/.test(href))).toEqual([]);
    for (const link of await page.locator(".markdown a").all()) await link.click({ noWaitAfter: true });
    expect(await page.evaluate("window.ran")).toBeUndefined();
    // Nothing of it runs after a reload either.
    await page.reload();
    await lastAnswer(page);
    expect(await page.evaluate("window.ran")).toBeUndefined();
    expect(complaints).toEqual([]);
  });

  test("shows huge lines within its width", async () => {
    const url = await serve(async function* () {
      yield "x".repeat(200_000);
      yield `\n\n\`\`\`\n${"y".repeat(20_000)}\n\`\`\``;
    });
    const { page, complaints } = await watchedPage(browser, url, { viewport: { width: 360, height: 640 } });
    await say(page, "z".repeat(150));
    expect((await lastAnswer(page)).length).toBeGreaterThan(220_000);
    await showText(page);
    expect(await page.evaluate("document.documentElement.scrollWidth <= 360")).toBe(true);
    await say(page, "and on");
    await lastAnswer(page);
    expect(complaints).toEqual([]);
  });

  test("is no larger after a hundred messages than after fifty", async () => {
    const url = await serve(async function* (prompt) {
      for (let word = 0; word < 40; word++) yield ` ${prompt}-${word}`;
    });
    const { page, complaints } = await watchedPage(browser, url);
    const cdp = await page.context().newCDPSession(page);
    const talk = async (from: number, to: number): Promise<void> => {
      for (let turn = from; turn < to; turn++) {
        await say(page, `q${turn}`);
        await page.locator(".message.assistant .tokens", { hasText: `q${turn}-39` }).waitFor();
        await page.getByRole("button", { name: "Regenerate" }).waitFor();
      }
    };
    await talk(0, 25);
    const before = await sizeOf(page, cdp);
    await talk(25, 50);
    const after = await sizeOf(page, cdp);
    expect(
      await page.evaluate(
        "JSON.parse(Object.values(localStorage).find((text) => text.includes('q49')).split('\\n')[1]).messages.length",
      ),
    ).toBe(100);
    expect(after.elements).toBeLessThan(before.elements * 1.05);
    expect(after.nodes).toBeLessThan(before.nodes * 1.2);
    expect(after.listeners).toBeLessThan(before.listeners * 1.2);
    // The texts themselves are kept: 25 questions and answers.
    expect(after.heapBytes - before.heapBytes).toBeLessThan(2_000_000);
    // Earlier messages can be shown again, and do not stay in the page.
    for (let click = 0; click < 3; click++) await page.getByRole("button", { name: /^Earlier messages/ }).click();
    expect((await sizeOf(page, cdp)).elements).toBeLessThan(before.elements * 1.1);
    expect(complaints).toEqual([]);
  });

  test("shows that the server is gone during an answer, and continues when it is back", async () => {
    let port = 0;
    const start = async (script: Script) => {
      const server = createServer(appOf(script)).listen(port, "127.0.0.1");
      await once(server, "listening");
      port = (server.address() as AddressInfo).port;
      return async (): Promise<void> => {
        const closed = once(server, "close");
        server.close();
        server.closeAllConnections();
        await closed;
      };
    };
    const kill = await start(async function* (_, signal) {
      yield "a beginning";
      await once(signal, "abort");
    });
    const { page, complaints } = await watchedPage(browser, `http://127.0.0.1:${port}`);
    await say(page, "Hello");
    await page.locator(".tokens", { hasText: "a beginning" }).waitFor();
    await kill();
    await page.getByRole("alert").getByText("The server is not reachable").waitFor();
    await page.getByText("The connection to the server was lost.").first().waitFor();
    expect(await lastAnswer(page)).toBe("a beginning");
    await say(page, "Is anybody there?");
    await expect.poll(() => page.locator(".note.cut").count()).toBe(2);
    const killAgain = await start(async function* () {
      yield "here again";
    });
    onTestFinished(killAgain);
    await page.getByRole("alert").getByText("Connected again.").waitFor();
    await page.getByRole("button", { name: "Regenerate" }).click();
    await page.locator(".tokens", { hasText: "here again" }).waitFor();
    expect(await page.locator(".message.assistant .tokens").allInnerTexts()).toEqual(["a beginning", "here again"]);
    // The browser reports failed connections, and nothing else.
    expect(complaints.filter((text) => !/Failed to load resource|net::ERR_/.test(text))).toEqual([]);
  });

  test("shows the server's errors", async () => {
    const url = await serve(async function* () {
      yield* refuse();
    });
    const { page } = await watchedPage(browser, url);
    await say(page, "Hello");
    await page.locator(".note.failed").waitFor();
    expect(await page.locator(".note.failed").innerText()).not.toBe("");
    await page.locator("#composer").fill("still there");
  });
});

async function showText(page: Page): Promise<void> {
  await page.getByRole("button", { name: "Options" }).click();
  await page.getByRole("radio", { name: "Text", exact: true }).check();
  await page.keyboard.press("Escape");
}

interface Gate {
  readonly opened: Promise<void>;
  readonly open: () => void;
}

function gate(): Gate {
  const target = new EventTarget();
  const opened = once(target, "open").then(() => undefined);
  return { opened, open: () => void target.dispatchEvent(new Event("open")) };
}

async function sizeOf(page: Page, cdp: CDPSession) {
  await cdp.send("HeapProfiler.collectGarbage");
  const { nodes, jsEventListeners: listeners } = await cdp.send("Memory.getDOMCounters");
  const { usedSize: heapBytes } = await cdp.send("Runtime.getHeapUsage");
  return { nodes, listeners, heapBytes, elements: await page.locator("*").count() };
}

// oxlint-disable-next-line require-yield -- it fails before its first token
async function* refuse(): AsyncGenerator<string, void, undefined> {
  throw new RangeError("Expected something else");
}
