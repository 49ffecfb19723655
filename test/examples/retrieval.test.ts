// Retrieval over a folder of Markdown, with a tiny encoder and the pocket model: the index, its routes, and the page that
// cites its sources.

import { mkdir, rm, writeFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { ReadMeEngine } from "@readme-moe/engine";
import Database from "libsql";
import type { Browser } from "playwright-core";
import { getLoadablePath } from "sqlite-vec";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { chatbot } from "../../examples/chatbot/server/chatbot.ts";
import {
  documentRoutes,
  openDocuments,
  promptOf,
  type Documents,
  type Source,
} from "../../examples/retrieval/retrieval.ts";
import { builtPage, lastAnswer, say, sayOnly, violations, watchedPage } from "../support/chatbot.ts";
import { writeChattingPocket } from "../support/chatting-pocket.ts";
import { findChromium, launchChromium } from "../support/chromium.ts";
import { writeEmbedder } from "../support/encoder-models.ts";
import { EXAMPLES, startProgram } from "../support/examples.ts";
import { postJson } from "../support/post-json.ts";
import { listen, type RunningServer } from "../support/served-model.ts";
import { persistentFolder, temporaryFolder } from "../support/temporary-folder.ts";

const FILES = {
  "dogs.md": "# Dogs\n\nA dog runs.\n\n## Walks\n\n<!-- not for readers -->\nA dog walks.\n\n```sh\n# dog\n```\n",
  "green/house.md": `Green paper.\n\n# House\n\n${"house paper walk. ".repeat(30)}\n\n${"green dog, runs.\n".repeat(30)}`,
  "empty.md": "\n",
  "notes.txt": "# No Markdown",
  "node_modules/other/README.md": "# Not ours\n\nA dog.",
};
const QUESTION = "dog walks";

const executablePath = await findChromium();
let [encoder, folder] = [] as unknown as [ReadMeEngine, string];
let documents: Documents;
beforeAll(async () => {
  encoder = await ReadMeEngine.open(await writeEmbedder("bert"), { isolation: "thread", threads: 1 });
  folder = await persistentFolder();
  await write(folder, FILES);
  documents = await openDocuments({ folder, encoder, minScore: -1 });
});
afterAll(async () => {
  documents?.close();
  await encoder?.dispose();
});

async function write(path: string, files: Readonly<Record<string, string>>): Promise<void> {
  for (const [name, text] of Object.entries(files)) {
    await mkdir(dirname(join(path, name)), { recursive: true });
    await writeFile(join(path, name), text);
  }
}

/** Reads all pieces of an index. */
function piecesIn(index: string): readonly Source[] {
  const db = new Database(index);
  db.loadExtension(getLoadablePath());
  const table = `pieces_${encoder.info.embedding?.dimensions}`;
  const pieces = db.prepare(`select file, title, text from ${table} order by file, rowid`).all() as readonly Source[];
  db.close();
  return pieces;
}

test("sections are pieces under their headings, and long ones are cut so that the encoder reads them whole", async () => {
  const index = join(await temporaryFolder(), "index.db");
  const opened = await openDocuments({ folder, encoder, index });
  opened.close();
  const pieces = piecesIn(index);
  expect([opened.numFiles, opened.numPieces]).toEqual([3, pieces.length]);
  expect([...new Set(pieces.map(({ file, title }) => `${file}: ${title}`))]).toEqual([
    "dogs.md: Dogs",
    "dogs.md: Dogs › Walks",
    "green/house.md: ",
    "green/house.md: House",
  ]);
  expect(pieces[1]?.text).toBe("A dog walks.\n\n```sh\n# dog\n```");
  for (const { title, text } of pieces) {
    expect((await encoder.tokenize(`${title}\n${text}`)).length).toBeLessThanOrEqual(encoder.info.contextTokens);
  }
  const cut = pieces.filter(({ title }) => title === "House").map(({ text }) => text);
  expect(cut.length).toBeGreaterThan(1);
  expect(cut.join(" ").split(/\s+/)).toEqual(FILES["green/house.md"].split("# House")[1]?.trim().split(/\s+/));
});

test("the sources are the pieces with the largest cosines", async () => {
  const index = join(await temporaryFolder(), "index.db");
  const opened = await openDocuments({ folder, encoder, index, minScore: -1 });
  const found = await opened.search(QUESTION);
  opened.close();
  const between = (Number(found[1]?.score) + Number(found[2]?.score)) / 2;
  const strict = await openDocuments({ folder, encoder, index, minScore: between });
  expect(await strict.search(QUESTION)).toEqual(found.slice(0, 2));
  strict.close();
  // Without sources the model is not asked what it knows of its own.
  expect(promptOf(QUESTION, [])).not.toContain(QUESTION);
  const pieces = piecesIn(index);
  const inputs = [QUESTION, ...pieces.map(({ title, text }) => `${title}\n${text}`)];
  const [query = new Float32Array(), ...embeddings] = (await encoder.embed({ inputs })).embeddings;
  const best = pieces
    .map((piece, at) => ({ ...piece, score: cosine(query, embeddings[at] ?? query) }))
    .sort((a, b) => b.score - a.score)
    .slice(0, 5);
  expect(found.map(({ text }) => text)).toEqual(best.map(({ text }) => text));
  for (const [at, { score }] of found.entries()) expect(score).toBeCloseTo(best[at]?.score ?? NaN, 5);
});

test("an index on disk embeds changed files again, forgets removed ones, and keeps the others", async () => {
  const [own, index] = [await temporaryFolder(), join(await temporaryFolder(), "index.db")];
  await write(own, FILES);
  const read = async (): Promise<readonly string[]> => {
    const files: string[] = [];
    const opened = await openDocuments({ folder: own, encoder, index, onFile: (file) => void files.push(file) });
    opened.close();
    return files;
  };
  expect(await read()).toEqual(["dogs.md", "empty.md", "green/house.md"]);
  const before = piecesIn(index);
  expect(await read()).toEqual([]);
  expect(piecesIn(index)).toEqual(before);
  await write(own, { "dogs.md": "# Cats\n\nA paper dog." });
  await rm(join(own, "green/house.md"));
  expect(await read()).toEqual(["dogs.md"]);
  expect(piecesIn(index)).toEqual([{ file: "dogs.md", title: "Cats", text: "A paper dog." }]);
});

test("the example reads a folder, serves both models with the page, and ends when it is told to", async () => {
  const model = join(await temporaryFolder(), "pocket");
  await writeChattingPocket(model);
  const flags = ["--documents", folder, "--encoder", await writeEmbedder("bert"), "--model", model];
  const { printed, stop } = startProgram([join(EXAMPLES, "run.ts"), "retrieval", ...flags], { PORT: "0" });
  await printed(new RegExp(`${documents.numPieces} pieces of 3 files`));
  const [, url] = await printed(/Chat at (\S+)/);
  expect(await (await fetch(`${url}/live/documents`)).json()).toEqual({ title: basename(folder) });
  const { body } = await postJson(`${url}/documents/ask`, { question: QUESTION, stream: false, max_tokens: 4 });
  expect(body["model"]).toBe("pocket");
  expect(await stop("SIGTERM")).toBe(0);
});

describe("a server with an encoder and a decoder", () => {
  let [decoder, server, browser] = [] as unknown as [ReadMeEngine, RunningServer, Browser];
  beforeAll(async () => {
    const path = join(await persistentFolder(), "pocket");
    await writeChattingPocket(path);
    decoder = await ReadMeEngine.open(path, { isolation: "thread", threads: 1 });
    server = await listen(
      chatbot({
        models: [{ name: "pocket", title: "pocket", engine: decoder }],
        documents: { title: "pets", encoder: { name: "encoder", engine: encoder }, routes: documentRoutes(documents) },
        pageFolder: await builtPage(await persistentFolder()),
      }).app,
    );
    if (executablePath !== undefined) browser = await launchChromium(executablePath);
  });
  afterAll(async () => {
    await browser?.close();
    await server?.[Symbol.asyncDispose]();
    await decoder?.dispose();
  });

  test("streams an answer whose header has the sources", async () => {
    const response = await fetch(`${server.url}/documents/ask`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ question: QUESTION, max_tokens: 8 }),
    });
    expect(response.headers.get("content-type")).toContain("text/event-stream");
    const sources = await documents.search(QUESTION);
    expect(JSON.parse(decodeURIComponent(response.headers.get("x-sources") ?? ""))).toEqual(
      sources.map(({ file, title, score }) => ({ file, title, score })),
    );
    const text = await response.text();
    expect(text).toContain('"finish_reason":"length"');
    expect(text.trimEnd()).toMatch(/data: \[DONE\]$/);
  });

  test("answers what the encoder and the decoder are asked on their own", async () => {
    const { body: embedded } = await postJson(`${server.url}/v1/embeddings`, { model: "encoder", input: QUESTION });
    expect(embedded["data"]).toHaveLength(1);
    const { body: chat } = await postJson(`${server.url}/v1/completions`, { prompt: "The ship", max_tokens: 4 });
    expect(chat["model"]).toBe("pocket");
  });

  test.each([{}, { question: 5 }, { question: " " }, { question: "x".repeat(4001) }])(
    "refuses a body without a question of fair length: %j",
    async (body) => {
      for (const path of ["search", "ask"]) {
        const { status, body: answer } = await postJson(`${server.url}/documents/${path}`, body);
        expect([status, JSON.stringify(answer)]).toEqual([400, expect.stringContaining("`question`")]);
      }
    },
  );

  test.skipIf(executablePath === undefined)(
    "the page asks the documents when its user wants that, and shows the sources of its answer (skipped without Chromium)",
    async () => {
      const { page, complaints } = await watchedPage(browser, server.url, {}, { live: false, answerTokens: 8 });
      await sayOnly(page, server.url, " the");
      const sent: string[] = [];
      const hosts = new Set<string>();
      page.on("request", (request) => {
        hosts.add(new URL(request.url()).host);
        if (request.url().endsWith("/v1/chat/completions")) sent.push(request.postData() ?? "");
      });
      await say(page, QUESTION);
      await lastAnswer(page);
      expect(await page.getByRole("region", { name: "Sources" }).count()).toBe(0);
      await page.getByLabel("Ask these documents").check();
      await say(page, QUESTION);
      await lastAnswer(page);
      const shown = page.getByRole("region", { name: "Sources" }).getByRole("listitem");
      const sources = await documents.search(QUESTION);
      expect(await shown.allInnerTexts()).toEqual(
        sources.map(({ file, title, score }) => `${title || file} ${file}, ${score.toFixed(2)}`),
      );
      // The model has the pieces; the conversation shows the question.
      const asked = sent.map(
        (body) => JSON.parse(body) as { readonly messages: readonly { readonly content: string }[] },
      );
      expect(asked.map(({ messages }) => messages.at(-1)?.content)).toEqual([QUESTION, promptOf(QUESTION, sources)]);
      expect(await page.locator(".message.user > .plain").allInnerTexts()).toEqual([QUESTION, QUESTION]);
      expect(await violations(page)).toEqual([]);
      await page.setViewportSize({ width: 360, height: 640 });
      expect(await page.evaluate<number>("document.documentElement.scrollWidth")).toBeLessThanOrEqual(360);
      // Sources and the choice stay.
      await page.reload();
      expect(await shown.count()).toBe(sources.length);
      expect(await page.getByLabel("Ask these documents").isChecked()).toBe(true);
      // Another answer to the same question searches again.
      await page.getByRole("button", { name: "Regenerate" }).click();
      await lastAnswer(page);
      expect(await shown.count()).toBe(sources.length);
      expect([...hosts]).toEqual([new URL(server.url).host]);
      expect(complaints).toEqual([]);
    },
  );
});

function cosine(a: Float32Array, b: Float32Array): number {
  return dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b));
}

function dot(a: Float32Array, b: Float32Array): number {
  return a.reduce((sum, value, i) => sum + value * (b[i] ?? 0), 0);
}
