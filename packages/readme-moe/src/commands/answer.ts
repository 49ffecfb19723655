import { existsSync } from "node:fs";
import { ReadMeError } from "@readme-moe/core";
import type { ReadMeEngine } from "@readme-moe/engine";
import { writeFileAtomically } from "@readme-moe/model";
import { Command } from "commander";
import { badLine, isJsonLines, linesOf, readJsonLines, readTextData } from "../data-files.ts";
import { MODEL_ARGUMENT, withEngine } from "../models.ts";
import {
  addOptions,
  type EngineFlags,
  engineFlag,
  requireOption,
  memoryOptions,
  runtimeOptions,
  type SamplingFlags,
  samplingOptions,
  samplingParams,
} from "../options.ts";
import { showStatus } from "../terminal.ts";

interface AnswerFlags extends EngineFlags, SamplingFlags {
  readonly prompts: string;
  readonly out: string;
}

/** Number of prompts that run at once. */
const CONCURRENCY = 16;

export function answerCommand(signal: AbortSignal): Command {
  const command = new Command("answer")
    .summary("let a model answer prompts, as text to tune with")
    .description(
      "Answers each prompt of a file and writes the chats as text in the model's own format: data for `tune`. Each answer " +
        "has a seed of its own, so the same call writes the same file.",
    )
    .argument("<model>", MODEL_ARGUMENT)
    .option("--prompts <file>", 'a .jsonl file of {"prompt": …}, or a text file with one prompt per line (required)')
    .option("--out <file>", "a .jsonl file that does not exist yet (required)");
  addOptions(
    command,
    ...samplingOptions("answer"),
    ...runtimeOptions(),
    ...memoryOptions(),
    engineFlag("isolation"),
    engineFlag("samplingDefaults"),
  );
  return command.action(async (path: string, flags: AnswerFlags) => {
    for (const name of ["prompts", "out"]) requireOption(command, name);
    if (existsSync(flags.out)) {
      throw new ReadMeError("ERR_WRITE_FAILED", `${flags.out}: exists already; name a file that does not exist yet`);
    }
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
  const params = samplingParams(flags, "answer", engine.info.samplingDefaults);
  const { seed = 1 } = flags;
  const lines = prompts.map(() => "");
  const left = prompts.entries();
  let answered = 0;
  // Each of these takes the next prompt when it is done, so that a long answer holds up no other.
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
  await Promise.all(Array.from({ length: CONCURRENCY }, answerNext));
  showStatus();
  await writeFileAtomically(flags.out, lines.join(""));
}

async function readPrompts(path: string): Promise<readonly string[]> {
  const text = await readTextData(path);
  const lines = linesOf(text);
  if (lines.length === 0) throw badLine(path, 1, "expected at least one prompt, the file has none");
  if (!isJsonLines(path)) return lines.map(({ line }) => line.trim());
  return readJsonLines(path, text).map(({ value, number }) => {
    if (typeof value === "object" && value !== null && "prompt" in value && typeof value.prompt === "string") {
      return value.prompt;
    }
    throw badLine(path, number, "expected an object with a string `prompt`");
  });
}
