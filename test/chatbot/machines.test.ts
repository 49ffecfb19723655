// The live view of a fleet: the machines of `fleet status`, in a real browser.

import { join } from "node:path";
import { openPromptReader, type ReadMeEngine } from "@readme-moe/engine";
import { FleetEngine, FleetWorker } from "@readme-moe/fleet";
import type { Browser } from "playwright-core";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { chatbot } from "../../examples/chatbot/server/chatbot.ts";
import { builtPage, lastAnswer, say, sayOnly, watchedPage } from "../support/chatbot.ts";
import { findChromium, launchChromium } from "../support/chromium.ts";
import { noServer, startValkey, type ValkeyServer } from "../support/fleet/valkey.ts";
import { postJson } from "../support/post-json.ts";
import { listen, openTinyEngine, type RunningServer } from "../support/served-model.ts";
import { until } from "../support/serving-process.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

if (noServer !== undefined) console.log(`The test of the live view of a fleet did not run: ${noServer}`);

const executablePath = await findChromium();

const isUnable = noServer !== undefined || executablePath === undefined;
describe.skipIf(isUnable)("the page in front of a fleet (skipped without Valkey or Chromium)", () => {
  let [valkey, local, browser, server] = [] as unknown as [ValkeyServer, ReadMeEngine, Browser, RunningServer];
  let front: FleetEngine;
  const workers: FleetWorker[] = [];

  beforeAll(async () => {
    valkey = await startValkey();
    const folder = await persistentFolder();
    local = await openTinyEngine(folder);
    for (const id of ["anna", "bert"]) workers.push(FleetWorker.open({ fleet: valkey.url, engine: local, id }));
    front = await FleetEngine.open({ fleet: valkey.url, reader: await openPromptReader(join(folder, "tiny")) });
    await until(async () => (await front.status()).workers.length === 2);
    const models = [{ name: "tiny", title: "tiny", engine: front }];
    server = await listen(chatbot({ models, pageFolder: await builtPage(folder) }).app);
    browser = await launchChromium(executablePath ?? "");
  });

  afterAll(async () => {
    await browser?.close();
    await server?.[Symbol.asyncDispose]();
    await front?.dispose();
    await Promise.all(workers.map((worker) => worker.close()));
    await local?.dispose();
    await valkey?.stop();
  });

  test("lists its workers, and answers with them; settings are the workers' own", async () => {
    const { page, complaints } = await watchedPage(browser, server.url);
    const rows = page.getByRole("region", { name: "Machines" }).getByRole("row");
    await expect.poll(() => rows.count()).toBe(3);
    const { workers: published } = await front.status();
    const shown = await rows.allInnerTexts();
    for (const { id, freeSeqs } of published) {
      expect(shown.map((row) => row.split(/\s+/))).toContainEqual([id, "0", `${freeSeqs}`, "0.0"]);
    }
    await sayOnly(page, server.url, " the");
    await say(page, "The ship was");
    expect(await lastAnswer(page)).toMatch(/^( ?the)+ ?$/);
    expect(await page.getByText("Scheduler").count()).toBe(0);
    const refused = await postJson(`${server.url}/live/scheduling`, { model: "tiny", scheduler: "fcfs" });
    expect(refused).toMatchObject({ status: 400, body: { error: { message: expect.stringContaining("fleet") } } });
    expect(complaints).toEqual([]);
  });
});
