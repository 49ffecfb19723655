import { basename, extname } from "node:path";
import { evaluate, type Evaluation } from "@readme-moe/engine";
import { Command } from "commander";
import { readDocuments } from "../documents.ts";
import { withModel } from "../open.ts";
import { expertOption, jsonOption, requireOption, runtimeOptions, wholeNumber, type RuntimeFlags } from "../options.ts";

interface EvalFlags extends RuntimeFlags {
  readonly data: readonly string[];
  readonly sequenceLength: number;
  readonly maxSequences: number;
  readonly expert?: string;
  readonly json: boolean;
}

export function evalCommand(signal: AbortSignal): Command {
  const command = new Command("eval")
    .summary("loss and perplexity on text")
    .description(
      "Mean loss in nats and perplexity of a model on each data file.\n\n" +
        "Documents (the `text` of each line of a .jsonl file, or a whole text file) are each ended by the end-of-text\n" +
        "token, joined, and cut into sequences; tokens are predicted from those before them in their sequence.",
    )
    .argument("<model>", "model folder, GGUF file, or hub id (organisation/name)")
    .option("--data <file...>", '.jsonl files of {"text": …}, or text files')
    .option("--sequence-length <tokens>", "tokens per sequence", wholeNumber(2), 512)
    .option("--max-sequences <n>", "sequences per file", wholeNumber(1), 8)
    .addOption(expertOption());
  for (const option of [...runtimeOptions(), jsonOption()]) command.addOption(option);
  return command.action((path: string, flags: EvalFlags) => {
    requireOption(command, "data");
    return runEval(path, flags, signal);
  });
}

async function runEval(path: string, flags: EvalFlags, signal: AbortSignal): Promise<void> {
  const named = nameFiles(flags.data);
  const documents = new Map<string, readonly string[]>();
  for (const [name, file] of named) documents.set(name, await readDocuments(file));
  const results = new Map<string, Evaluation>();
  await withModel(path, flags, signal, async ({ model, runner, router }) => {
    const { tokenizer } = await model.loadText();
    for (const [name, texts] of documents) {
      const { sequenceLength, maxSequences } = flags;
      const result = await evaluate(runner, router, tokenizer, texts, { sequenceLength, maxSequences, signal });
      results.set(name, result);
      if (!flags.json) console.log(row(name, result.loss, result.perplexity, result.tokens));
    }
  });
  const losses = Array.from(results.values(), (result) => result.loss);
  const meanLoss = losses.reduce((sum, loss) => sum + loss, 0) / losses.length;
  if (!flags.json) return console.log(row("mean", meanLoss, Math.exp(meanLoss)));
  const files = Object.fromEntries(
    Array.from(results, ([name, { loss, perplexity, tokens }]) => [name, { loss, perplexity, tokens }]),
  );
  console.log(JSON.stringify({ files, mean_loss: meanLoss }));
}

/** Files by their name without folder and extension; whole paths where two would be called the same. */
function nameFiles(files: readonly string[]): ReadonlyMap<string, string> {
  const named = new Map<string, string>();
  for (const file of files) {
    const name = basename(file, extname(file));
    const isAmbiguous = files.some((other) => other !== file && basename(other, extname(other)) === name);
    named.set(isAmbiguous ? file : name, file);
  }
  return named;
}

function row(name: string, loss: number, perplexity: number, tokens?: number): string {
  const columns = [name.padEnd(20), `loss ${loss.toFixed(4)}`, `perplexity ${perplexity.toFixed(2)}`];
  return [...columns, ...(tokens === undefined ? [] : [`${tokens} tokens`])].join("  ");
}
