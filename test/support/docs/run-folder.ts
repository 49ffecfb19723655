// A folder in which programs and commands of pages find what readers have: models by the names that pages use, and texts.

import { copyFile, mkdir, mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { CHAT_TEMPLATE, writeChattingPocket } from "../chatting-pocket.ts";
import { writeAdaptersOf } from "../expert-engine.ts";
import { COMMAND_LINE } from "../run-cli.ts";
import { POCKET } from "../pocket.ts";
import { writeReadingModel } from "../reading-model.ts";
import { ROOT } from "./markdown.ts";

/** What pages call models that were refactored: a tiny one stands for them all. */
const EXPERTS = ["models/pocket-experts", "my-experts", "my-model", "my-model-2", "smollm2-experts"];
/** What pages call SmolLM2: the pocket model stands for it. */
const DENSE = ["SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2-135m"];
/** Texts of one kind each, by the names that pages use. */
const TEXTS = { "news.jsonl": "c4", "code.jsonl": "github", "stories.jsonl": "book", "recipes.jsonl": "wikipedia" };

export interface RunFolder extends AsyncDisposable {
  readonly path: string;
  /** With `readme-moe` in its `PATH`. */
  readonly environment: NodeJS.ProcessEnv;
}

export async function runFolder(): Promise<RunFolder> {
  const path = await mkdtemp(join(tmpdir(), "readme-moe-docs-"));
  await symlink(join(ROOT, "node_modules"), join(path, "node_modules"));
  await mkdir(join(path, "models"));
  await symlink(POCKET, join(path, "models", "pocket"));
  for (const name of EXPERTS) {
    await writeReadingModel(join(path, name));
    await writeFile(join(path, name, "chat_template.jinja"), CHAT_TEMPLATE);
  }
  for (const name of DENSE) await writeChattingPocket(join(path, name));
  for (const [name, kind] of Object.entries(TEXTS)) {
    await copyFile(join(POCKET, "calibration", `${kind}.jsonl`), join(path, name));
  }
  await writeAdaptersOf(POCKET, { [join(path, "adapters", "legal")]: { size: 0.05 } });
  await writeFile(join(path, "book.txt"), "The ship was lost in the night, and nobody knew where it lay. ".repeat(200));
  return {
    path,
    environment: { ...process.env, ...(await command(join(path, ".bin"))) },
    [Symbol.asyncDispose]: () => rm(path, { recursive: true, force: true }),
  };
}

/** `readme-moe` as a command, and the cache folder of tests for it. */
async function command(folder: string): Promise<NodeJS.ProcessEnv> {
  await mkdir(folder);
  const node = [process.execPath, ...COMMAND_LINE].map((word) => JSON.stringify(word)).join(" ");
  await writeFile(join(folder, "readme-moe"), `#!/bin/sh\nexec ${node} "$@"\n`, { mode: 0o755 });
  const cache = join(ROOT, process.env["README_MOE_CACHE"] ?? "node_modules/.cache/readme-moe-test");
  return { PATH: `${folder}:${process.env["PATH"] ?? ""}`, README_MOE_CACHE: cache, HF_HUB_OFFLINE: "1" };
}
