import { access } from "node:fs/promises";
import { ReadMeError } from "@readme-moe/core";
import type { ReadMeEngine } from "@readme-moe/engine";
import { writeFileAtomically } from "@readme-moe/model";
import { Command } from "commander";
import { withEngine, type EngineFlags } from "../engine.ts";
import { badLine, linesOf, parseLine, readTextData } from "../evaluation/text-data.ts";
import { MODEL_ARGUMENT } from "../model-path.ts";
import { isolationOption, requireOption, runtimeOptions } from "../options.ts";
import { samplingOptions, samplingParams, type SamplingFlags } from "../sampling-flags.ts";
import { showStatus } from "../progress.ts";

interface AnswerFlags extends EngineFlags, SamplingFlags {
  readonly prompts: string;
  readonly out: string;
}

/** Prompts that run at once. */
const TOGETHER = 16;

export function answerCommand(signal: AbortSignal): Command {
  const command = new Command("answer")
    .summary("let a model answer prompts, as text to tune with")
    .description(
      "Answers each prompt of a file, and writes the chats as text in the model's own format: data for `tune`. Each answer\n" +
        "has a seed of its own, so the same call gives the same file.",
    )
    .argument("<model>", MODEL_ARGUMENT)
    .option("--prompts <file>", 'a .jsonl file of {"prompt": …}, or a text file of one prompt a line')
    .option("--out <file>", "a .jsonl file that does not exist yet");
  for (const option of samplingOptions(0.8, 256)) command.addOption(option);
  for (const option of [...runtimeOptions(), isolationOption()]) command.addOption(option);
  return command.action(async (path: string, flags: AnswerFlags) => {
    for (const name of ["prompts", "out"]) requireOption(command, name);
    await refuseFile(flags.out);
    const prompts = await readPrompts(flags.prompts);
    await withEngine(path, flags, signal, (engine) => runAnswer(engine, prompts, flags, signal));
  });
}

async function runAnswer(
  engine: ReadMeEngine,
  prompts: readonly string[],
  flags: AnswerFlags,
  signal: AbortSignal,
): Promise<void> {
  const params = samplingParams(flags);
  const { seed = 1 } = flags;
  const lines = prompts.map(() => "");
  const left = prompts.entries();
  let answered = 0;
  // Whoever is done takes the next prompt, so that a long answer keeps no places empty.
  const answerNext = async (): Promise<void> => {
    for (const [place, prompt] of left) {
      const messages = [{ role: "user", content: prompt }];
      const own = { ...params, seed: seed + place };
      let content = "";
      for await (const chunk of engine.generate({ prompt: { messages }, params: own, signal })) content += chunk.text;
      const chat = [...messages, { role: "assistant", content }];
      const text = await engine.applyTemplate(chat, { addGenerationPrompt: false });
      lines[place] = `${JSON.stringify({ text })}\n`;
      showStatus(`${++answered} of ${prompts.length} prompts`);
    }
  };
  await Promise.all(Array.from({ length: TOGETHER }, answerNext));
  showStatus();
  await writeFileAtomically(flags.out, lines.join(""));
}

async function readPrompts(path: string): Promise<readonly string[]> {
  const lines = linesOf(await readTextData(path));
  if (lines.length === 0) throw badLine(path, 1, "expected at least one prompt, the file has none");
  if (!/\.jsonl(\.gz)?$/.test(path)) return lines.map(({ line }) => line.trim());
  return lines.map(({ line, number }) => {
    const value = parseLine(path, line, number);
    const isPrompt =
      typeof value === "object" && value !== null && "prompt" in value && typeof value.prompt === "string";
    if (!isPrompt) throw badLine(path, number, "expected an object with a string `prompt`");
    return value.prompt as string;
  });
}

async function refuseFile(path: string): Promise<void> {
  const isThere = await access(path).then(
    () => true,
    () => false,
  );
  if (isThere)
    throw new ReadMeError("ERR_WRITE_FAILED", `${path}: is there already; name a file that does not exist yet`);
}
