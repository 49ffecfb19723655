import { existsSync } from "node:fs";
import { readdir, stat } from "node:fs/promises";
import { join, resolve } from "node:path";
import { ReadMeError } from "@readme-moe/core";
import { type DownloadPlan, type Precision, resolveModel, RUNNING_PRECISION } from "@readme-moe/model";
import { Command } from "commander";
import { shownDownload } from "../show-download.ts";
import { MODEL_ARGUMENT } from "../models.ts";
import { engineFlag, examples, jsonOption } from "../options.ts";
import { showStatus, sizeText } from "../terminal.ts";

interface PullFlags {
  readonly precision?: Precision;
  readonly revision?: string;
  readonly cacheFolder?: string;
  readonly json: boolean;
}

/** A model that is on this machine now. */
interface Pulled {
  readonly name: string;
  readonly path: string;
  readonly commit: string | null;
  readonly bytes: number;
  readonly downloaded_bytes: number;
}

export function pullCommand(signal: AbortSignal): Command {
  return new Command("pull")
    .summary("download models, and print their paths")
    .description(
      "Downloads models into the cache that all of Hugging Face's tools share, unless they are there, and prints their " +
        "paths. A call after an interrupted one continues it. Every file is checked against its hash.",
    )
    .argument("<models...>", MODEL_ARGUMENT)
    .addOption(
      engineFlag("precision", {
        about: "choose the weights of a short name for this precision",
        default: "the smallest that lose nothing",
      }),
    )
    .option("--revision <revision>", "branch, tag or commit (default: main, or the one in the name)")
    .addOption(engineFlag("cacheFolder"))
    .addOption(jsonOption())
    .addHelpText(
      "after",
      examples(
        "readme-moe pull smollm2:360m",
        "readme-moe pull qwen3:4b --precision int4",
        "readme-moe pull bartowski/Llama-3.2-1B-Instruct-GGUF:Q8_0",
      ),
    )
    .action(async (names: readonly string[], flags: PullFlags) => {
      const pulled = [];
      for (const name of names) {
        const one = await pull(name, flags, signal);
        if (!flags.json) console.log(one.path);
        pulled.push(one);
      }
      if (flags.json) console.log(JSON.stringify(pulled.length === 1 ? pulled[0] : pulled));
    });
}

async function pull(name: string, flags: PullFlags, signal: AbortSignal): Promise<Pulled> {
  const { precision = RUNNING_PRECISION, revision, cacheFolder } = flags;
  let plan: DownloadPlan | undefined;
  const download = shownDownload((announced) => {
    plan = announced;
    for (const line of planLines(name, announced)) console.error(line);
  });
  const found = await resolveModel(name, { precision, revision, cacheFolder, signal, ...download }).finally(() =>
    showStatus(),
  );
  const path = resolve(found);
  if (!existsSync(path)) throw new ReadMeError("ERR_FILE_NOT_FOUND", `${path}: no such file or folder`);
  const bytes = await bytesOf(path);
  const downloaded = plan?.missingBytes ?? 0;
  console.error(`${name}: ${downloaded > 0 ? "downloaded" : "is here already"}, ${sizeText(bytes)}`);
  return { name, path, commit: plan?.commit ?? null, bytes, downloaded_bytes: downloaded };
}

function planLines(name: string, plan: DownloadPlan): readonly string[] {
  const { files, bytes, missingBytes, folder, freeBytes } = plan;
  if (missingBytes === 0) return [];
  const rest = missingBytes < bytes ? `, of which ${sizeText(missingBytes)} are missing` : "";
  const free = freeBytes === undefined ? "" : ` (${sizeText(freeBytes)} free)`;
  const count = files.length === 1 ? "1 file" : `${files.length} files`;
  return [`${name}: ${sizeText(bytes)} in ${count}${rest}; into ${folder}${free}`];
}

/** Adds up a model's files, links followed. */
async function bytesOf(path: string): Promise<number> {
  if (!(await stat(path)).isDirectory()) return (await stat(path)).size;
  const names = await readdir(path, { recursive: true });
  const states = await Promise.all(names.map((name) => stat(join(path, name)).catch(() => undefined)));
  return states.reduce((sum, state) => sum + (state?.isFile() ? state.size : 0), 0);
}
