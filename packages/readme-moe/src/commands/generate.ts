import type { GenerateChunk, FinishReason, Usage, AnswerFormat } from "@readme-moe/core";
import type { ReadMeEngine } from "@readme-moe/engine";
import { Command, Option } from "commander";
import { checkEngineFlags, MODEL_ARGUMENT, withEngine } from "../models.ts";
import {
  addOptions,
  type EngineFlags,
  engineOptions,
  examples,
  jsonOption,
  type SamplingFlags,
  samplingOptions,
  samplingParams,
} from "../options.ts";
import { pipedText, readTextData } from "../data-files.ts";

interface GenerateFlags extends EngineFlags, SamplingFlags, FormatFlags {
  readonly prompt?: readonly string[];
  readonly json: boolean;
}

interface Completion {
  readonly text: string;
  readonly tokens: readonly number[];
  readonly finish_reason: FinishReason | null;
  readonly usage: { readonly prompt_tokens: number; readonly completion_tokens: number; readonly total_tokens: number };
}

export function generateCommand(signal: AbortSignal): Command {
  const command = new Command("generate")
    .summary("continue a text")
    .description(
      "Continues prompts. Prints each prompt and its continuation while it is generated, or the continuation as JSON. " +
        "Several prompts run at once and are printed in their order (JSON: as a list). Without --prompt, the text that is " +
        "piped into standard input is the prompt, without its last line break.",
    )
    .argument("<model>", MODEL_ARGUMENT)
    .option(
      "--prompt <text...>",
      "the text to continue; several run at once (default: standard input, if it is piped)",
    );
  addOptions(command, ...samplingOptions("generate"), ...formatOptions(), ...engineOptions(), jsonOption());
  command.addHelpText(
    "after",
    examples(
      'readme-moe generate smollm2:135m --prompt "The ship was"',
      "cat letter.txt | readme-moe generate smollm2:135m",
    ),
  );
  return command.action(async (path: string, flags: GenerateFlags) => {
    checkEngineFlags(flags);
    const prompt = flags.prompt ?? (await pipedPrompt(signal));
    if (prompt === undefined)
      return command.error("error: required option '--prompt <text...>', or a text on standard input");
    return withEngine(path, flags, signal, (engine) => runGenerate(engine, { ...flags, prompt }, signal));
  });
}

/** Reads a prompt from a pipe, without the line break that `echo` adds; `undefined` if there is none. */
async function pipedPrompt(signal: AbortSignal): Promise<readonly string[] | undefined> {
  const prompt = (await pipedText(signal))?.replace(/\r?\n$/, "");
  return prompt === undefined || prompt === "" ? undefined : [prompt];
}

async function runGenerate(
  engine: ReadMeEngine,
  flags: GenerateFlags & { readonly prompt: readonly string[] },
  signal: AbortSignal,
): Promise<void> {
  const params = samplingParams(flags, "generate", engine.info.samplingDefaults);
  const format = await answerFormat(flags);
  const streams = flags.prompt.map((prompt) => engine.generate({ prompt, params, format, signal }));
  const completions: Completion[] = [];
  // All run at once. The first is printed while it is generated; the others are read after it.
  for (const [index, stream] of streams.entries()) {
    const write = (text: string): void => void (flags.json || process.stdout.write(text));
    write((index > 0 ? "\n" : "") + (flags.prompt[index] ?? ""));
    completions.push(await complete(stream, write));
    write("\n");
  }
  if (flags.json) console.log(JSON.stringify(completions.length === 1 ? completions[0] : completions));
}

async function complete(stream: AsyncIterable<GenerateChunk>, write: (text: string) => void): Promise<Completion> {
  const tokens: number[] = [];
  let text = "";
  let finishReason: FinishReason | null = null;
  let usage: Pick<Usage, "promptTokens" | "completionTokens"> = { promptTokens: 0, completionTokens: 0 };
  for await (const chunk of stream) {
    text += chunk.text;
    write(chunk.text);
    tokens.push(...chunk.tokens.map((token) => token.id));
    finishReason = chunk.finishReason ?? finishReason;
    usage = chunk.usage ?? usage;
  }
  const { promptTokens, completionTokens } = usage;
  return {
    text,
    tokens,
    finish_reason: finishReason,
    usage: {
      prompt_tokens: promptTokens,
      completion_tokens: completionTokens,
      total_tokens: promptTokens + completionTokens,
    },
  };
}

/** Flags that bind answers, of which at most one is given. */
interface FormatFlags {
  /** Path of a file with a JSON schema. */
  readonly jsonSchema?: string;
  readonly jsonObject?: true;
  readonly regex?: string;
  readonly choice?: readonly string[];
  /** Path of a file with a grammar in GBNF notation. */
  readonly grammar?: string;
}

const NAMES = [
  "jsonSchema",
  "jsonObject",
  "regex",
  "choice",
  "grammar",
] as const satisfies readonly (keyof FormatFlags)[];

function formatOptions(): readonly Option[] {
  const options = [
    new Option("--json-schema <file>", "bind answers to the JSON schema in this file"),
    new Option("--json-object", "bind answers to any JSON object"),
    new Option("--regex <pattern>", "bind answers to texts that this regular expression matches as a whole"),
    new Option("--choice <text...>", "bind answers to one of these texts"),
    new Option("--grammar <file>", "bind answers to the grammar in this file, in GBNF notation"),
  ];
  for (const option of options) option.conflicts(NAMES.filter((name) => name !== option.attributeName()));
  return options;
}

/**
 * Makes the format of the flags; `undefined` if answers are free.
 * @throws {ReadMeError} when a file cannot be read, {TypeError} when a schema is no JSON
 */
async function answerFormat(flags: FormatFlags): Promise<AnswerFormat | undefined> {
  const { jsonSchema, jsonObject, regex: pattern, choice: choices, grammar } = flags;
  if (jsonSchema !== undefined) return { type: "json_schema", schema: await readSchema(jsonSchema) };
  if (jsonObject) return { type: "json_object" };
  if (pattern !== undefined) return { type: "regex", pattern };
  if (choices !== undefined) return { type: "choice", choices };
  return grammar === undefined ? undefined : { type: "grammar", grammar: await readTextData(grammar) };
}

async function readSchema(path: string): Promise<Readonly<Record<string, unknown>> | boolean> {
  try {
    return JSON.parse(await readTextData(path));
  } catch (cause) {
    if (!(cause instanceof SyntaxError)) throw cause;
    throw new TypeError(`Expected --json-schema to name a file with JSON, got ${path}: ${cause.message}`, { cause });
  }
}
