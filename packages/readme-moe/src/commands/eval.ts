import type { Question } from "@readme-moe/engine/evaluation";
import { Command, Option } from "commander";
import { readDocuments, shortName } from "../data-files.ts";
import { readQuestions } from "../evaluation/choice-requests.ts";
import { type EvalFlags, evaluateRequests, evaluateText } from "../evaluation/evaluate.ts";
import { loraOption, wholeNumber, addOptions, engineFlag, jsonOption, runtimeOptions } from "../options.ts";
import { MODEL_ARGUMENT, withRunningModel } from "../models.ts";
import { showStatus } from "../terminal.ts";

export function evalCommand(signal: AbortSignal): Command {
  const command = new Command("eval")
    .summary("measure loss and perplexity on text, and accuracy on multiple-choice questions")
    .description(
      "Prints a model's mean loss in nats and perplexity on each data file, and its accuracy on each file of requests.\n\n" +
        "Documents (the `text` of each line of a .jsonl file, or a whole text file) are each ended by the end-of-text " +
        "token, joined, and cut into sequences; each token is predicted from the tokens before it in its sequence. " +
        'Requests are lines of {"request": {"context", "continuation"}, "doc_id", "idx", "label"}, one for each choice. ' +
        "Files may be compressed with gzip.",
    )
    .argument("<model>", MODEL_ARGUMENT)
    .option("--data <file...>", '.jsonl files of {"text": …}, or text files')
    .option(
      "--sequence-length <tokens>",
      "tokens per sequence (default: 512; with requests: the model's context)",
      wholeNumber(2),
    )
    .option("--max-sequences <n>", "sequences per data file", wholeNumber(1), 8)
    .option("--stride <tokens>", "use windows that advance by so many tokens instead of sequences", wholeNumber(1))
    .option("--requests <file...>", "files of multiple-choice requests")
    .option("--limit <n>", "documents per file of requests (default: all)", wholeNumber(1))
    .addOption(engineFlag("expert"))
    .addOption(loraOption())
    .addOption(
      new Option("--per-expert", "losses on each data file with the router and with each expert alone, `none` included")
        .default(false)
        .conflicts("expert"),
    );
  // Losses are compared with those of other programs and papers, so the default is what the checkpoint has.
  addOptions(command, ...runtimeOptions("fp32"), jsonOption());
  return command.action((path: string, flags: EvalFlags) => {
    checkUsage(command, flags);
    return runEval(path, flags, signal);
  });
}

function checkUsage(command: Command, { data, requests, limit, perExpert, stride }: EvalFlags): void {
  if (!data && !requests) {
    command.error("error: required option '--data <file...>' or '--requests <file...>' not specified");
  }
  const needsData = perExpert ? "--per-expert" : stride === undefined ? undefined : "--stride";
  if (needsData !== undefined && !data) command.error(`error: option '${needsData}' needs '--data <file...>'`);
  if (limit !== undefined && !requests) command.error("error: option '--limit' needs '--requests <file...>'");
}

async function runEval(path: string, flags: EvalFlags, signal: AbortSignal): Promise<void> {
  // All files are read before the model: a mistake in one of them should not come up after minutes.
  const documents = await readAll(flags.data, async (file) => (await readDocuments(file)).map(({ text }) => text));
  const questions: ReadonlyMap<string, readonly Question[]> = await readAll(flags.requests, (file) =>
    readQuestions(file, flags.limit),
  );
  const print = (line: string): void => {
    if (flags.json) return;
    showStatus();
    console.log(line);
  };
  const result = await withRunningModel(path, flags, signal, async (running) => {
    const { tokenizer } = await running.model.loadText();
    const job = { ...running, tokenizer, flags, signal, print };
    try {
      const texts = documents.size > 0 ? await evaluateText(job, documents) : {};
      return { ...texts, ...(questions.size > 0 ? await evaluateRequests(job, questions) : {}) };
    } finally {
      showStatus();
    }
  });
  if (flags.json) console.log(JSON.stringify(result));
}

/** Reads files under their short names; under their paths where two would have the same name. */
async function readAll<Content>(
  files: readonly string[] = [],
  read: (file: string) => Promise<Content>,
): Promise<ReadonlyMap<string, Content>> {
  const contents = new Map<string, Content>();
  for (const file of files) {
    const name = shortName(file);
    const isAmbiguous = files.some((other) => other !== file && shortName(other) === name);
    contents.set(isAmbiguous ? file : name, await read(file));
  }
  return contents;
}
