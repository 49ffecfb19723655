import { existsSync } from "node:fs";
import { createInterface } from "node:readline/promises";
import { ReadMeError } from "@readme-moe/core";
import {
  type CachedModel,
  type CachedModels,
  listModels,
  type PackedEntry,
  type Removal,
  removeModels,
  removeUnclaimed,
  selectModels,
} from "@readme-moe/model";
import { Command } from "commander";
import { bytesOf, sizeText } from "../terminal.ts";
import { engineFlag, examples, jsonOption } from "../options.ts";

interface RemoveFlags {
  readonly unused: boolean;
  readonly yes: boolean;
  readonly cacheFolder?: string;
  readonly json: boolean;
}

export function removeCommand(signal: AbortSignal): Command {
  return new Command("remove")
    .summary("remove models and their packed weights from this machine")
    .description(
      "Removes models from the cache, with the packed weights that were made from them, and asks before it does so on a " +
        "terminal. A short name or a repository stands for all its weights and revisions here. Of a folder or file of your " +
        "own only the packed weights are removed. A model that a process of readme-moe has open is not removed.",
    )
    .argument("[models...]", "names as `readme-moe list` shows them")
    .option("--unused", "remove packed weights whose model is gone or unknown", false)
    .option("--yes", "do not ask", false)
    .addOption(engineFlag("cacheFolder"))
    .addOption(jsonOption())
    .addHelpText(
      "after",
      examples(
        "readme-moe remove qwen3:0.6b",
        "readme-moe remove bartowski/Llama-3.2-1B-Instruct-GGUF:Q8_0 --yes",
        "readme-moe remove --unused",
      ),
    )
    .action((names: readonly string[], flags: RemoveFlags) => runRemove(names, flags, signal));
}

async function runRemove(names: readonly string[], flags: RemoveFlags, signal: AbortSignal): Promise<void> {
  const { unused, yes, cacheFolder, json } = flags;
  if (names.length === 0 && !unused) throw new TypeError("Expected the names of models, or --unused");
  const listed = await listModels({ cacheFolder });
  const models = selected(names, listed);
  if (unused) models.push(...listed.models.filter((model) => isGone(model) && !models.includes(model)));
  const entries = unused ? listed.unclaimed : [];
  if (models.length === 0 && entries.length === 0) {
    return console.log(json ? JSON.stringify({ removed: [], bytes: 0 }) : "nothing to remove");
  }
  // A model that is in use will be refused; a question before that would be in vain.
  const isFree = models.every(({ users }) => users.length === 0);
  if (isFree && !yes && !(await isConfirmed(models, entries, signal))) return console.error("nothing was removed");
  const removal: Removal =
    models.length === 0 ? { bytes: 0, packed: [] } : await removeModels(models, listed, { cacheFolder });
  const bytes = removal.bytes + (await removeUnclaimed(entries, { cacheFolder }));
  const removed = models.map(({ name }) => name);
  if (json) return console.log(JSON.stringify({ removed, bytes }));
  const what = removed.length === 0 ? "packed weights of unknown models" : removed.join(", ");
  console.log(`removed ${what}: ${sizeText(bytes)}`);
}

/** Whether only packed weights are left of a model. */
function isGone({ place, isComplete }: CachedModel): boolean {
  return place === "local" && !isComplete;
}

/** @throws {ReadMeError} `ERR_FILE_NOT_FOUND` for a name of which nothing is here */
function selected(names: readonly string[], { models }: CachedModels): CachedModel[] {
  const all = names.flatMap((name) => {
    const { models: found, near } = selectModels(models, name, existsSync);
    if (found.length > 0) return found;
    const hint = near === undefined ? "" : `; did you mean ${near}?`;
    const message = `${name}: nothing of it is here${hint} (\`readme-moe list\` shows all models)`;
    throw new ReadMeError("ERR_FILE_NOT_FOUND", message);
  });
  return [...new Set(all)];
}

/** Asks on a terminal. @throws {TypeError} without one, since silence is no consent */
async function isConfirmed(
  models: readonly CachedModel[],
  entries: readonly PackedEntry[],
  signal: AbortSignal,
): Promise<boolean> {
  if (!process.stdin.isTTY) throw new TypeError("Expected --yes, since standard input is no terminal to ask on");
  for (const model of models) console.error(descriptionOf(model));
  if (entries.length > 0) console.error(`  packed weights of unknown models: ${sizeText(bytesOf(entries))}`);
  if (models.some(({ place }) => place === "hub")) {
    console.error("Other tools that use the cache of Hugging Face lose these models as well.");
  }
  const terminal = createInterface({ input: process.stdin, output: process.stderr });
  try {
    const answer = await terminal.question("Remove? [y/N] ", { signal });
    return /^y(?:es)?$/i.test(answer.trim());
  } finally {
    terminal.close();
  }
}

function descriptionOf({ name, place, path, bytes, packed }: CachedModel): string {
  const own = place === "local" ? "stays as it is" : sizeText(bytes);
  return `  ${name}: ${own}; packed weights: ${sizeText(bytesOf(packed))}  ${path}`;
}
