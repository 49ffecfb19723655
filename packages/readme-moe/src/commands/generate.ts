import { generateGreedy, type FinishReason } from "@readme-moe/engine";
import { StreamingDecoder } from "@readme-moe/model";
import { Command, InvalidArgumentError } from "commander";
import { withModel } from "../open.ts";
import { expertOption, jsonOption, requireOption, runtimeOptions, wholeNumber, type RuntimeFlags } from "../options.ts";

interface GenerateFlags extends RuntimeFlags {
  readonly prompt: string;
  readonly maxNewTokens: number;
  readonly temperature: number;
  readonly expert?: string;
  readonly json: boolean;
}

export function generateCommand(signal: AbortSignal): Command {
  const command = new Command("generate")
    .summary("continue a text")
    .description("Continues a prompt. Prints prompt and continuation as they come, or JSON of the continuation.")
    .argument("<model>", "model folder or GGUF file")
    .option("--prompt <text>", "the text to continue")
    .option("--max-new-tokens <n>", "tokens to add at most", wholeNumber(1), 128)
    .option("--temperature <t>", "0 takes the most likely token each time", zero, 0)
    .addOption(expertOption());
  for (const option of [...runtimeOptions(), jsonOption()]) command.addOption(option);
  return command.action((path: string, flags: GenerateFlags) => {
    requireOption(command, "prompt");
    return runGenerate(path, flags, signal);
  });
}

async function runGenerate(path: string, flags: GenerateFlags, signal: AbortSignal): Promise<void> {
  await withModel(path, flags, async ({ model, runner, router }) => {
    const { tokenizer } = await model.loadText();
    const promptIds = tokenizer.encode(flags.prompt);
    if (promptIds.length === 0) throw new RangeError("Expected `--prompt` to hold at least one token, got none");
    const decoder = new StreamingDecoder(tokenizer, { skipSpecialTokens: true });
    const write = (piece: string): void => void (flags.json || process.stdout.write(piece));
    const tokens: number[] = [];
    let text = "";
    write(flags.prompt);
    const completion = generateGreedy(runner, router, promptIds, { maxNewTokens: flags.maxNewTokens, signal });
    let next = await completion.next();
    for (; next.done !== true; next = await completion.next()) {
      tokens.push(next.value);
      const piece = decoder.push(next.value);
      text += piece;
      write(piece);
    }
    const rest = decoder.flush();
    write(`${rest}\n`);
    if (flags.json) console.log(JSON.stringify(result(text + rest, tokens, next.value, promptIds.length)));
  });
}

function result(text: string, tokens: readonly number[], finishReason: FinishReason, promptTokens: number): object {
  const usage = {
    prompt_tokens: promptTokens,
    completion_tokens: tokens.length,
    total_tokens: promptTokens + tokens.length,
  };
  return { text, tokens, finish_reason: finishReason, usage };
}

function zero(text: string): number {
  if (Number(text) === 0 && text.trim() !== "") return 0;
  throw new InvalidArgumentError("Expected 0: so far, tokens are not sampled.");
}
