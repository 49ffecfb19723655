import { stat } from "node:fs/promises";
import { ReadMeError } from "@readme-moe/core";
import { addExpertSet, addLora, type ChangeSetOptions, type LoraSet, removeLora } from "@readme-moe/model";
import { Command, Option } from "commander";
import { describeExperts, expertLine } from "../loras/describe-expert.ts";
import { adapterName, adapterPath, isSet } from "../loras/find-adapters.ts";
import { MODEL_ARGUMENT, withModelFiles } from "../models.ts";
import { jsonOption } from "../options.ts";

interface OutputFlags {
  readonly json: boolean;
}

interface AddFlags extends OutputFlags, ChangeSetOptions {
  readonly name?: string;
}

interface RemoveFlags extends OutputFlags, ChangeSetOptions {}

/** Describes a model that experts are written beside. */
const OWN_FOLDER = "folder of a dense model: with safetensors, or with one GGUF file";

export function expertsCommand(signal: AbortSignal): Command {
  return new Command("experts")
    .summary("keep loras (LoRA adapters) beside a dense model")
    .description(
      "Adds adapters in PEFT's layout to the folder of a dense model, lists and removes them. A request then chooses one " +
        "of them by name, or a router does. `--lora` uses adapters without writing anything.",
    )
    .addCommand(addCommand(signal))
    .addCommand(listCommand(signal))
    .addCommand(removeCommand());
}

function addCommand(signal: AbortSignal): Command {
  return new Command("add")
    .summary("add an adapter to a model's folder")
    .description(
      "Checks an adapter against a dense model, and copies its two files into the model's folder. Of a set, all experts " +
        "are added, and the router if the folder had no experts.",
    )
    .argument("<model>", OWN_FOLDER)
    .argument("<adapter>", "folder in PEFT's layout, hub id (organisation/name), or folder of a set of experts")
    .option("--name <name>", "name of the expert (default: that of the folder or of the repository)")
    .addOption(dropRouterOption())
    .addOption(jsonOption())
    .action((folder: string, adapter: string, flags: AddFlags) => runAdd(folder, adapter, flags, signal));
}

function listCommand(signal: AbortSignal): Command {
  return new Command("list")
    .summary("list the experts in a model's folder")
    .description("Lists the loras in a model's folder, with their ranks, modules and sizes.")
    .argument("<model>", MODEL_ARGUMENT)
    .addOption(jsonOption())
    .action((name: string, { json }: OutputFlags) =>
      withModelFiles(name, signal, async (model) => {
        const experts = await describeExperts(model.loraSet?.experts ?? [], model);
        if (json) return console.log(JSON.stringify({ experts, router: model.loraSet?.router?.config ?? null }));
        for (const expert of experts) console.log(expertLine(expert));
        console.log(summary(model.loraSet));
      }),
    );
}

function removeCommand(): Command {
  return new Command("remove")
    .summary("remove an expert from a model's folder")
    .description("Removes a lora and its two files from a model's folder.")
    .argument("<model>", OWN_FOLDER)
    .argument("<name>", "name of the expert")
    .addOption(dropRouterOption())
    .addOption(jsonOption())
    .action(async (folder: string, name: string, flags: RemoveFlags) => {
      await expectOwnFolder(folder);
      await removeLora(folder, name, flags);
      console.log(flags.json ? JSON.stringify({ removed: name }) : `removed ${name}`);
    });
}

async function runAdd(folder: string, adapter: string, flags: AddFlags, signal: AbortSignal): Promise<void> {
  await expectOwnFolder(folder);
  const path = await adapterPath(adapter, signal);
  const isWholeSet = isSet(path);
  if (isWholeSet && flags.name !== undefined) {
    throw new TypeError(`Expected no --name with ${adapter}, since it is a set of experts with names`);
  }
  const name = isWholeSet ? undefined : (flags.name ?? adapterName(adapter));
  const { before, model } = await withModelFiles(folder, signal, async (opened) => ({
    before: new Set(opened.loraSet?.experts.map((expert) => expert.name)),
    model: { config: opened.config, experts: opened.experts },
  }));
  if (name === undefined) await addExpertSet(folder, { path, model }, flags);
  else await addLora(folder, { name, path, model }, flags);
  await withModelFiles(folder, signal, async (changed) => {
    const added = changed.loraSet?.experts.filter((expert) => !before.has(expert.name)) ?? [];
    const experts = await describeExperts(added, changed);
    if (flags.json) return console.log(JSON.stringify(isWholeSet ? { experts } : experts[0]));
    for (const expert of experts) console.log(`added ${expertLine(expert)}`);
  });
}

function dropRouterOption(): Option {
  const explanation = "remove the folder's router, which was trained for the experts of before";
  return new Option("--drop-router", explanation).default(false);
}

/** @throws {ReadMeError} when experts cannot be written there: into a file, or into a cache that programs share */
async function expectOwnFolder(path: string): Promise<void> {
  const stats = await stat(path).catch(() => undefined);
  if (stats?.isDirectory()) return;
  const problem = stats ? "is a file, which holds no experts; put it into a folder of its own" : "is no folder here";
  throw new ReadMeError(
    stats ? "ERR_MODEL_UNSUPPORTED" : "ERR_FILE_NOT_FOUND",
    `${path}: ${problem}. Adapters of a model elsewhere are given to each command by --lora`,
  );
}

function summary(set: LoraSet | undefined): string {
  const count = set?.experts.length ?? 0;
  const router = set?.router ? "; the router chooses" : "";
  return count === 0 ? "no loras" : `${count} ${count === 1 ? "lora" : "loras"}${router}`;
}
