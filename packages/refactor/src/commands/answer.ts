import { existsSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { dirname, join } from "node:path";
import { ReadMeError } from "@readme-moe/core";
import { writeFileAtomically } from "@readme-moe/model";
import { Command, Option } from "commander";
import { KINDS } from "../answers/kinds.ts";
import { answerQuestions, makeQuestions, type Question } from "../answers/questions.ts";
import {
  addOptions,
  badLine,
  type EngineFlags,
  engineFlag,
  isJsonLines,
  linesOf,
  memoryOptions,
  MODEL_ARGUMENT,
  readJsonLines,
  readTextData,
  requireOption,
  runtimeOptions,
  type SamplingFlags,
  samplingOptions,
  samplingParams,
  showStatus,
  wholeNumber,
  withEngine,
} from "readme-moe/command-parts";

interface AnswerFlags extends EngineFlags, SamplingFlags {
  readonly prompts?: string;
  readonly questions?: number;
  readonly kinds: readonly string[];
  readonly out: string;
}

const MAX_KIND_CHARACTERS = 100;

export function answerCommand(signal: AbortSignal): Command {
  const command = new Command("answer")
    .summary("let a model answer prompts, or questions of its own, as text to tune with")
    .description(
      "Answers each prompt of a file, or questions that the model makes itself, and writes the chats as text in the model's " +
        "own format: data for `refactor` and `tune`. Each answer has a seed of its own, so the same call writes the same files.",
    )
    .argument("<model>", MODEL_ARGUMENT)
    .option(
      "--prompts <file>",
      'a .jsonl file of {"prompt": …}, or a text file with one prompt per line (or --questions)',
    )
    .addOption(
      new Option("--questions <count>", "number of questions of each kind that the model makes itself")
        .argParser(wholeNumber(1))
        .conflicts("prompts"),
    )
    .addOption(
      new Option(
        "--kinds <name...>",
        `kinds of questions: ${KINDS.join(", ")}, or any words that say what they are about`,
      )
        .default(["python", "typescript", "json", "code"])
        .conflicts("prompts"),
    )
    .option(
      "--out <path>",
      "a .jsonl file that does not exist yet; of --questions a folder, for a file of each kind (required)",
    );
  addOptions(
    command,
    ...samplingOptions("answer"),
    ...runtimeOptions(),
    ...memoryOptions(),
    engineFlag("isolation"),
    engineFlag("samplingDefaults"),
  );
  return command.action(async (path: string, flags: AnswerFlags) => {
    const { prompts, questions: count, kinds, out } = flags;
    if (count === undefined) requireOption(command, "prompts");
    requireOption(command, "out");
    const files = count === undefined ? new Map([[out, "prompts"]]) : filesOf(kinds, out);
    for (const file of files.keys()) {
      if (!existsSync(file)) continue;
      throw new ReadMeError("ERR_WRITE_FAILED", `${file}: exists already; name a file that does not exist yet`);
    }
    const given = prompts === undefined ? [] : await readPrompts(prompts);
    await withEngine(path, flags, signal, async (engine) => {
      if (count !== undefined && kinds.includes("tools") && !engine.info.chatTemplateKnowsTools) {
        throw new RangeError(`Expected \`--kinds\` without tools: the chat template of ${path} shows none`);
      }
      const params = samplingParams(flags, "answer", engine.info.samplingDefaults);
      const job = { engine, params, seed: flags.seed ?? 1, signal };
      for (const [file, kind] of files) {
        const questions = count === undefined ? given : await makeQuestions(job, kind, count);
        const texts = await answerQuestions(job, questions, kind);
        showStatus();
        if (texts.length < (count ?? 0)) {
          console.error(`${file}: ${texts.length} of ${count} questions, since the model made no more that differ`);
        }
        if (texts.length === 0) continue;
        await mkdir(dirname(file), { recursive: true });
        await writeFileAtomically(file, texts.map((text) => `${JSON.stringify({ text })}\n`).join(""));
      }
    });
  });
}

/** Names the file of each kind. @throws {RangeError} for a kind that gives no name, or the name of another one */
function filesOf(kinds: readonly string[], folder: string): ReadonlyMap<string, string> {
  const files = new Map<string, string>();
  for (const kind of kinds) {
    const name = kind
      .toLowerCase()
      .replace(/[^\p{L}\p{N}]+/gu, "-")
      .replace(/^-|-$/g, "");
    const file = join(folder, `${name}.jsonl`);
    if (name === "" || kind.length > MAX_KIND_CHARACTERS || files.has(file)) {
      const expected = `to be different words of at most ${MAX_KIND_CHARACTERS} characters`;
      throw new RangeError(`Expected \`--kinds\` ${expected}, got ${JSON.stringify(kind)}`);
    }
    files.set(file, kind);
  }
  return files;
}

async function readPrompts(path: string): Promise<readonly Question[]> {
  const text = await readTextData(path);
  const lines = linesOf(text);
  if (lines.length === 0) throw badLine(path, 1, "expected at least one prompt, the file has none");
  if (!isJsonLines(path)) return lines.map(({ line }) => ({ content: line.trim() }));
  return readJsonLines(path, text).map(({ value, number }) => {
    if (typeof value === "object" && value !== null && "prompt" in value && typeof value.prompt === "string") {
      return { content: value.prompt };
    }
    throw badLine(path, number, "expected an object with a string `prompt`");
  });
}
