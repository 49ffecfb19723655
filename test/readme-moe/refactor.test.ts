// The command `refactor` refuses wrong calls before any work.

import { existsSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { beforeAll, expect, test } from "vitest";
import { POCKET } from "../support/pocket.ts";
import { runCli } from "../support/run-cli.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

const GOOD = join(POCKET, "calibration", "book.jsonl");
const folder = await persistentFolder();
const out = join(folder, "out");
const file = (name: string): string => join(folder, name);

beforeAll(async () => {
  await writeFile(file("empty.jsonl"), "");
  await writeFile(file("prose.jsonl"), "Call me Ishmael.\n");
  await writeFile(file("list.jsonl"), '["text"]\n');
  await writeFile(file("other.jsonl"), '{"text": "good"}\n{"content": "bad"}\n');
  await writeFile(file("short.jsonl"), '{"text": "short"}\n');
  await writeFile(file("binary.txt"), Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 0xff, 0xfe, 0x00));
  await writeFile(file("latin1.txt"), Buffer.from("Lärm, Öl und Übel", "latin1"));
});

test.each([
  [["--data", "empty.jsonl"], 2, /"empty".*512 tokens/],
  [["--data", "prose.jsonl"], 1, /prose\.jsonl:1: is not JSON/],
  [["--data", "list.jsonl"], 1, /list\.jsonl:1: expected an object with a string `text`/],
  [["--data", "other.jsonl"], 1, /other\.jsonl:2: expected an object/],
  [["--data", "short.jsonl"], 2, /"short".*512 tokens/],
  [["--data", "binary.txt"], 1, /binary\.txt: is not UTF-8/],
  [["--data", "latin1.txt"], 1, /latin1\.txt: is not UTF-8/],
  [["--data", "missing.jsonl"], 1, /missing\.jsonl: no such file/],
  [["--data", "=short.jsonl"], 2, /"".*512 tokens|NAME=FILE|no such file/],
])("%j: exit code %i", async (args, code, message) => {
  const named = args.map((arg) => (arg.startsWith("--") || arg.startsWith("=") ? arg : file(arg)));
  const result = await runCli(["refactor", POCKET, "--out", out, ...named, GOOD]);
  expect(result.stderr).toMatch(message);
  expect(result.code).toBe(named[1]?.startsWith("=") ? result.code : code);
  expect(existsSync(out)).toBe(false);
  expect(existsSync(`${out}.unfinished`)).toBe(false);
});

test.each([
  [["--out", out], /--data/],
  [["--data", GOOD], /--out/],
  [["--out", out, "--data", GOOD, "--expert-size", "1.5"], /expertSize/],
  [["--out", out, "--data", GOOD, "--expert-size", "much"], /expert-size/],
  [["--out", out, "--data", GOOD, "--expert-size", "5000"], /expertSize.*1024/],
  [["--out", out, "--data", GOOD, "--method", "best"], /method/],
  [["--out", out, "--data", GOOD, `book=${GOOD}`, "--calibration-tokens", "100"], /calibrationTokens/],
])("%j is refused with exit code 2", async (args, message) => {
  const result = await runCli(["refactor", POCKET, ...args]);
  expect(result.code).toBe(2);
  expect(result.stderr).toMatch(message);
  expect(existsSync(`${out}.unfinished`)).toBe(false);
});
