// Questions to a folder of Markdown: an encoder finds pieces of it, and a decoder answers from them. This file is to be
// copied; it needs @readme-moe/engine, express, libsql and sqlite-vec.

import { createHash } from "node:crypto";
import { readdir, readFile } from "node:fs/promises";
import { join, sep } from "node:path";
import type { ReadMeEngine } from "@readme-moe/engine";
import express, { Router } from "express";
import Database from "libsql";
import { getLoadablePath } from "sqlite-vec";

/** Most tokens of a piece with its title. all-MiniLM-L6-v2 reads 256. */
const PIECE_TOKENS = 240;
/** Pieces that an answer is made from. */
const NUM_SOURCES = 5;
const MAX_QUESTION_CHARACTERS = 4000;

export interface Source {
  /** Path from the folder, with slashes. */
  readonly file: string;
  /** Headings above the piece. */
  readonly title: string;
  /** Cosine with the question, -1 to 1. */
  readonly score: number;
  readonly text: string;
}

export interface Documents {
  readonly numFiles: number;
  readonly numPieces: number;
  /** Finds the pieces that are nearest to a question, nearest first. */
  search(question: string): Promise<readonly Source[]>;
  close(): void;
}

export interface DocumentsOptions {
  readonly folder: string;
  readonly encoder: ReadMeEngine;
  /** SQLite file that keeps the index: only changed files are embedded again. @default memory */
  readonly index?: string | undefined;
  /** Least cosine of a source. Encoders differ: pieces about other things have below 0.3 of MiniLM. @default 0.3 */
  readonly minScore?: number | undefined;
  /** Called before a file is embedded. */
  readonly onFile?: ((file: string, done: number, of: number) => void) | undefined;
}

/**
 * Reads and embeds the Markdown files of a folder.
 * @throws {TypeError} for a model that gives no embeddings
 */
export async function openDocuments(options: DocumentsOptions): Promise<Documents> {
  const { folder, encoder, index = ":memory:", minScore = 0.3, onFile } = options;
  const { embedding: given, contextTokens, modelVersion, path } = encoder.info;
  if (!given) throw new TypeError(`Expected \`encoder\` to be a model that gives embeddings, got ${path}`);
  const db = new Database(index);
  db.loadExtension(getLoadablePath());
  // An index on disk may have embeddings of another length, too.
  const [table, hashes] = [`pieces_${given.dimensions}`, `files_${given.dimensions}`];
  db.exec(`
    create table if not exists ${hashes} (file text primary key, hash text);
    create virtual table if not exists ${table} using vec0(
      embedding float[${given.dimensions}] distance_metric=cosine, file text, +title text, +text text)`);
  const forget = (file: string): void => {
    db.prepare(`delete from ${hashes} where file = ?`).run(file);
    db.prepare(`delete from ${table} where file = ?`).run(file);
  };
  // Some encoders were trained with a text before questions, and another one before documents.
  const embed = async (inputs: readonly string[], prompt: string): Promise<readonly Float32Array[]> => {
    const promptName = Object.hasOwn(given.prompts, prompt) ? prompt : undefined;
    return inputs.length === 0 ? [] : (await encoder.embed({ inputs, promptName })).embeddings;
  };
  const fits = async (text: string): Promise<boolean> =>
    (await encoder.tokenize(text)).length <= Math.min(PIECE_TOKENS, contextTokens);

  const names = (await readdir(folder, { recursive: true })).map((name) => name.replaceAll(sep, "/"));
  const files = names.filter((name) => name.endsWith(".md") && !/(^|\/)(node_modules|\.[^/]+)\//.test(name)).sort();
  const known = new Map(db.prepare(`select file, hash from ${hashes}`).raw().all() as [string, string][]);
  for (const file of known.keys()) if (!files.includes(file)) forget(file);
  for (const [done, file] of files.entries()) {
    const markdown = await readFile(join(folder, file), "utf8");
    const hash = createHash("sha256").update(`${modelVersion}\0${markdown}`).digest("hex");
    if (known.get(file) === hash) continue;
    onFile?.(file, done, files.length);
    const pieces = await piecesOf(markdown, fits);
    const embeddings = await embed(pieces.map(textOf), "document");
    db.transaction(() => {
      forget(file);
      const insert = db.prepare(`insert into ${table} (embedding, file, title, text) values (?, ?, ?, ?)`);
      for (const [at, { title, text }] of pieces.entries()) insert.run(embeddings[at], file, title, text);
      db.prepare(`insert into ${hashes} values (?, ?)`).run(file, hash);
    })();
  }

  const nearest = db.prepare(`
    select file, title, text, 1 - distance as score from ${table} where embedding match ? and k = ? order by distance`);
  const { count } = db.prepare(`select count(*) as count from ${table}`).get() as { readonly count: number };
  return {
    numFiles: files.length,
    numPieces: count,
    async search(question) {
      const [embedding] = await embed([question], "query");
      const found = nearest.all(embedding, NUM_SOURCES) as readonly Source[];
      return found.filter(({ score }) => score >= minScore);
    },
    close: () => void db.close(),
  };
}

type Piece = Pick<Source, "title" | "text">;

const textOf = ({ title, text }: Piece): string => `${title}\n${text}`;

/** Splits a text at its headings, and sections that do not fit in halves, between paragraphs where that is possible. */
async function piecesOf(markdown: string, fits: (text: string) => Promise<boolean>): Promise<readonly Piece[]> {
  const path: string[] = [];
  const sections: { readonly title: string; readonly lines: string[] }[] = [{ title: "", lines: [] }];
  let isCode = false;
  for (const line of markdown.replaceAll(/<!--.*?-->/gs, "").split(/\r?\n/)) {
    if (/^\s*(```|~~~)/.test(line)) isCode = !isCode;
    const [, marks = "", heading = ""] = (!isCode && /^(#{1,6})\s+(.*)/.exec(line)) || [];
    if (marks === "") sections.at(-1)?.lines.push(line);
    else {
      path.splice(marks.length - 1, path.length, heading.replaceAll("`", "").slice(0, 80));
      sections.push({ title: path.join(" › "), lines: [] });
    }
  }
  const split = async (title: string, whole: string): Promise<readonly Piece[]> => {
    const text = whole.trim();
    if (text.length < 2 || (await fits(textOf({ title, text })))) return text === "" ? [] : [{ title, text }];
    const middle = text.length >> 1;
    const end = ["\n\n", "\n", " "].map((gap) => text.indexOf(gap, middle)).find((at) => at > 0) ?? middle;
    return [...(await split(title, text.slice(0, end))), ...(await split(title, text.slice(end)))];
  };
  return (await Promise.all(sections.map(({ title, lines }) => split(title, lines.join("\n"))))).flat();
}

/** Writes the message that asks for an answer from sources. Without any the model does not see the question. */
export function promptOf(question: string, sources: readonly Source[]): string {
  if (sources.length === 0) return "Write this sentence, and nothing else: The documents do not say.";
  const passages = sources.map((source, index) => `[${index + 1}] ${source.file}: ${textOf(source)}`).join("\n\n");
  return (
    "Answer the question in a few sentences, with what these passages say, and with nothing else. " +
    `If they are about other things, answer: The documents do not say.\n\n${passages}\n\nQuestion: ${question}`
  );
}

/**
 * Makes the routes `POST /documents/search`, which returns sources and a prompt, and `POST /documents/ask`, whose answer
 * streams as a chat of OpenAI's API, with its sources in the header `x-sources` as percent-encoded JSON. Both take
 * `{ question }`, `ask` also settings of a chat. Mount them where `readMe(…)` is mounted, before it.
 */
export function documentRoutes(documents: Documents): Router {
  const paths = ["/documents/search", "/documents/ask"];
  return Router().post(paths, express.json({ limit: "64kb" }), async (request, response, next) => {
    const { question, ...settings } = (request.body ?? {}) as { readonly question?: unknown };
    if (typeof question !== "string" || question.trim() === "" || question.length > MAX_QUESTION_CHARACTERS) {
      const message = `Expected \`question\` to be a text of 1 to ${MAX_QUESTION_CHARACTERS} characters`;
      response.status(400).json({ error: { message } });
      return;
    }
    const sources = await documents.search(question);
    const prompt = promptOf(question, sources);
    if (request.path.endsWith("/search")) {
      response.json({ sources, prompt });
      return;
    }
    const listed = sources.map(({ file, title, score }) => ({ file, title, score }));
    response.set("x-sources", encodeURIComponent(JSON.stringify(listed)));
    request.body = { temperature: 0.3, stream: true, ...settings, messages: [{ role: "user", content: prompt }] };
    request.url = "/v1/chat/completions";
    next();
  });
}
