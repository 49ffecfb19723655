import type { ReadMeEngine } from "@readme-moe/engine";
import { Command } from "commander";
import { textsOrLines } from "../data-files.ts";
import { MODEL_ARGUMENT, withEngine } from "../models.ts";
import {
  addOptions,
  type EngineFlags,
  engineFlag,
  jsonOption,
  memoryOptions,
  runtimeOptions,
  wholeNumber,
} from "../options.ts";

interface EmbedFlags extends EngineFlags {
  readonly dimensions?: number;
  readonly instruction?: string;
  readonly promptName?: string;
  readonly json: boolean;
}

export function embedCommand(signal: AbortSignal): Command {
  const command = new Command("embed")
    .summary("compute embeddings of texts")
    .description(
      "Computes embeddings, with a model that was made for them. Texts are arguments, or lines of standard input. Prints " +
        "one embedding per line, as a list of numbers.",
    )
    .argument("<model>", MODEL_ARGUMENT)
    .argument("[texts...]", "texts (default: the lines of standard input that are not blank)")
    .option("--dimensions <n>", "keep the first n numbers, as an embedding of length 1 (default: all)", wholeNumber(1))
    .option("--instruction <text>", "task of a query, in one sentence, put before each text (default: none)")
    .option(
      "--prompt-name <name>",
      "one of the model's own texts, put before each text (default: the model's, if it has one)",
    );
  addOptions(command, ...runtimeOptions(), ...memoryOptions(), engineFlag("isolation"), jsonOption());
  return command.action(async (path: string, given: readonly string[], flags: EmbedFlags) => {
    const inputs = await textsOrLines("texts", given, signal);
    await withEngine(path, flags, signal, (engine) => runEmbed(engine, inputs, flags, signal));
  });
}

async function runEmbed(
  engine: ReadMeEngine,
  inputs: readonly string[],
  { dimensions, instruction, promptName, json }: EmbedFlags,
  signal: AbortSignal,
): Promise<void> {
  const result = await engine.embed({ inputs, dimensions, instruction, promptName, signal });
  const embeddings = result.embeddings.map((values) => Array.from(values));
  const { promptTokens } = result.usage;
  if (json) {
    console.log(JSON.stringify({ embeddings, usage: { prompt_tokens: promptTokens, total_tokens: promptTokens } }));
    return;
  }
  for (const values of embeddings) console.log(JSON.stringify(values));
}
