import type { Question } from "@readme-moe/engine/evaluation";
import { Command, Option } from "commander";
import { readQuestions } from "../evaluation/choice-requests.ts";
import { readDocuments } from "../evaluation/documents.ts";
import type { EvalFlags } from "../evaluation/eval-flags.ts";
import { evaluateRequests } from "../evaluation/evaluate-requests.ts";
import { evaluateText } from "../evaluation/evaluate-text.ts";
import { nameFiles } from "../evaluation/named-files.ts";
import { withModel } from "../open.ts";
import { MODEL_ARGUMENT } from "../model-path.ts";
import { expertOption, jsonOption, runtimeOptions, wholeNumber } from "../options.ts";
import { showStatus } from "../progress.ts";

export function evalCommand(signal: AbortSignal): Command {
  const command = new Command("eval")
    .summary("loss and perplexity on text, and accuracy on multiple-choice questions")
    .description(
      "Mean loss in nats and perplexity of a model on each data file, and its accuracy on each file of requests.\n\n" +
        "Documents (the `text` of each line of a .jsonl file, or a whole text file) are each ended by the end-of-text\n" +
        "token, joined, and cut into sequences; tokens are predicted from those before them in their sequence.\n" +
        'Requests are lines of {"request": {"context", "continuation"}, "doc_id", "idx", "label"}, one for each choice.\n' +
        "Files may be compressed with gzip.",
    )
    .argument("<model>", MODEL_ARGUMENT)
    .option("--data <file...>", '.jsonl files of {"text": …}, or text files')
    .option(
      "--sequence-length <tokens>",
      "tokens per sequence (default: 512; of requests: the model's context)",
      wholeNumber(2),
    )
    .option("--max-sequences <n>", "sequences per data file", wholeNumber(1), 8)
    .option("--stride <tokens>", "windows that advance by so many tokens, instead of sequences", wholeNumber(1))
    .option("--requests <file...>", "files of multiple-choice requests")
    .option("--limit <n>", "documents per file of requests (default: all)", wholeNumber(1))
    .addOption(expertOption())
    .addOption(
      new Option("--per-expert", "losses on each data file with the router and with each expert alone")
        .default(false)
        .conflicts("expert"),
    );
  for (const option of [...runtimeOptions(), jsonOption()]) command.addOption(option);
  return command.action((path: string, flags: EvalFlags) => {
    checkUsage(command, flags);
    return runEval(path, flags, signal);
  });
}

function checkUsage(command: Command, flags: EvalFlags): void {
  if (!flags.data && !flags.requests) {
    command.error("error: required option '--data <file...>' or '--requests <file...>' not specified");
  }
  for (const name of ["perExpert", "stride"] as const) {
    if (flags[name] && !flags.data)
      command.error(`error: option '${name === "stride" ? "--stride" : "--per-expert"}' needs '--data <file...>'`);
  }
  if (flags.limit !== undefined && !flags.requests) {
    command.error("error: option '--limit' needs '--requests <file...>'");
  }
}

async function runEval(path: string, flags: EvalFlags, signal: AbortSignal): Promise<void> {
  // All files before the model: a mistake in one of them should not come up after minutes.
  const documents = await readAll(flags.data, async (file) => (await readDocuments(file)).map(({ text }) => text));
  const questions: ReadonlyMap<string, readonly Question[]> = await readAll(flags.requests, (file) =>
    readQuestions(file, flags.limit),
  );
  const print = (line: string): void => {
    if (flags.json) return;
    showStatus();
    console.log(line);
  };
  const result = await withModel(path, flags, signal, async (opened) => {
    const { tokenizer } = await opened.model.loadText();
    const job = { ...opened, tokenizer, flags, signal, print };
    try {
      const texts = documents.size > 0 ? await evaluateText(job, documents) : {};
      return { ...texts, ...(questions.size > 0 ? await evaluateRequests(job, questions) : {}) };
    } finally {
      showStatus();
    }
  });
  if (flags.json) console.log(JSON.stringify(result));
}

async function readAll<Content>(
  files: readonly string[] = [],
  read: (file: string) => Promise<Content>,
): Promise<ReadonlyMap<string, Content>> {
  const contents = new Map<string, Content>();
  for (const [name, file] of nameFiles(files)) contents.set(name, await read(file));
  return contents;
}
