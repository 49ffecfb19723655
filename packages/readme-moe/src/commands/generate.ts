import type { GenerateChunk, FinishReason, Usage } from "@readme-moe/core";
import type { ReadMeEngine } from "@readme-moe/engine";
import { Command } from "commander";
import { withEngine, type EngineFlags } from "../engine.ts";
import { MODEL_ARGUMENT } from "../model-path.ts";
import {
  expertCacheOption,
  expertOption,
  isolationOption,
  jsonOption,
  requireOption,
  runtimeOptions,
} from "../options.ts";
import { samplingOptions, samplingParams, type SamplingFlags } from "../sampling-flags.ts";
import { recordTraceOption } from "../simulation/record-trace-file.ts";

interface GenerateFlags extends EngineFlags, SamplingFlags {
  readonly prompt: readonly string[];
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
      "Continues prompts. Prints prompt and continuation as it comes, or JSON of the continuation; with several prompts,\n" +
        "all run at once, and are printed in their order (JSON: a list).",
    )
    .argument("<model>", MODEL_ARGUMENT)
    .option("--prompt <text...>", "the text to continue; several run at once");
  for (const option of samplingOptions(0, 128)) command.addOption(option);
  for (const option of [expertOption(), ...runtimeOptions(), expertCacheOption(), isolationOption()])
    command.addOption(option);
  command.addOption(recordTraceOption()).addOption(jsonOption());
  return command.action((path: string, flags: GenerateFlags) => {
    requireOption(command, "prompt");
    return withEngine(path, flags, signal, (engine) => runGenerate(engine, flags, signal));
  });
}

async function runGenerate(engine: ReadMeEngine, flags: GenerateFlags, signal: AbortSignal): Promise<void> {
  const params = samplingParams(flags);
  const streams = flags.prompt.map((prompt) => engine.generate({ prompt, params, signal }));
  const completions: Completion[] = [];
  // All run at once; the first is shown as it comes, the others wait for their turn to be read.
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
  let usage: Usage = { promptTokens: 0, completionTokens: 0, cachedTokens: 0, queuedMs: 0 };
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
