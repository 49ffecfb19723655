// The chatbot's real process is killed during an answer and replaced by another one.

import { cp, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { lastAnswer, say, sayOnly, setOptions, watchedPage } from "../support/chatbot.ts";
import { findChromium, launchChromium } from "../support/chromium.ts";
import { EXAMPLES, startProgram, type RunningProgram } from "../support/examples.ts";
import { POCKET } from "../support/pocket.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const executablePath = await findChromium();
const browser = executablePath === undefined ? undefined : await launchChromium(executablePath);
afterAll(() => browser?.close());

describe.skipIf(browser === undefined)("a server that is killed while it answers (skipped without Chromium)", () => {
  test(
    "is told on the page, which keeps what was written and goes on with the next server",
    { timeout: 300_000 },
    async () => {
      if (!browser) return;
      const model = await endlessPocket();
      const first = serve(model, 0);
      const [, url = "", port] = await first.printed(/Chat at (http:\S+:(\d+))/);
      const { page, complaints } = await watchedPage(browser, url, {}, { answerTokens: 60_000 });
      const answers = page.locator(".message.assistant").locator(".tokens, .markdown");
      await sayOnly(page, url, " the");
      await say(page, "The ship was three days out of port when the captain");
      await answers.filter({ hasText: /\S{3}/ }).waitFor();
      expect(await first.stop("SIGKILL")).toBe("SIGKILL");
      await page.getByRole("alert").getByText("The server is not reachable").waitFor();
      await page.getByText("The connection to the server was lost.").first().waitFor();
      const beginning = await lastAnswer(page);
      expect(beginning).toMatch(/^ ?the\b/);
      const second = serve(model, Number(port));
      await second.printed(/Chat at/);
      await page.getByRole("alert").getByText("Connected again.").waitFor();
      expect(await lastAnswer(page)).toBe(beginning);
      await setOptions(page, { "Max. tokens": "12" });
      await say(page, "And then?");
      await answers.nth(1).filter({ hasText: "the" }).waitFor();
      expect(await lastAnswer(page)).toMatch(/^ ?the( the){11}$/);
      expect(await page.locator(".note.failed").count()).toBe(0);
      // The browser reports failed connections, and nothing else.
      expect(complaints.filter((text) => !/Failed to load resource|net::ERR_/.test(text))).toEqual([]);
      expect(await second.stop("SIGTERM")).toBe(0);
    },
  );
});

/** Copies the pocket model, with a context that no answer fills before its server is killed. */
async function endlessPocket(): Promise<string> {
  const path = join(await temporaryFolder(), "pocket");
  await cp(POCKET, path, { recursive: true });
  const file = join(path, "config.json");
  const config = JSON.parse(await readFile(file, "utf8")) as object;
  await writeFile(file, JSON.stringify({ ...config, max_position_embeddings: 65_536 }));
  return path;
}

function serve(model: string, port: number): RunningProgram {
  const args = ["--model", model, "--port", String(port)];
  return startProgram([join(EXAMPLES, "chatbot", "main.ts"), ...args]);
}
