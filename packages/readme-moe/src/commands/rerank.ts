import { rankedDocuments } from "@readme-moe/core";
import type { ReadMeEngine } from "@readme-moe/engine";
import { Command } from "commander";
import { textsOrLines } from "../data-files.ts";
import { MODEL_ARGUMENT, withEngine } from "../models.ts";
import {
  wholeNumber,
  addOptions,
  type EngineFlags,
  engineFlag,
  jsonOption,
  memoryOptions,
  runtimeOptions,
  requireOption,
} from "../options.ts";

interface RerankFlags extends EngineFlags {
  readonly query: string;
  readonly instruction?: string;
  readonly topN?: number;
  readonly json: boolean;
}

export function rerankCommand(signal: AbortSignal): Command {
  const command = new Command("rerank")
    .summary("rank documents by their relevance for a query")
    .description(
      "Scores documents, with a model that was made for it. Documents are arguments, or lines of standard input. Prints " +
        "each score, 0 to 1, and its document, the most relevant first.",
    )
    .argument("<model>", MODEL_ARGUMENT)
    .argument("[documents...]", "texts (default: the lines of standard input that are not blank)")
    .option("--query <text>", "what the documents are searched for (required)")
    .option("--instruction <text>", "what makes a document relevant (default: what the model was trained on)")
    .option("--top-n <n>", "documents to print (default: all)", wholeNumber(1));
  addOptions(command, ...runtimeOptions(), ...memoryOptions(), engineFlag("isolation"), jsonOption());
  return command.action(async (path: string, given: readonly string[], flags: RerankFlags) => {
    requireOption(command, "query");
    const documents = await textsOrLines("documents", given, signal);
    await withEngine(path, flags, signal, (engine) => runRerank(engine, documents, flags, signal));
  });
}

async function runRerank(
  engine: ReadMeEngine,
  documents: readonly string[],
  { query, instruction, topN, json }: RerankFlags,
  signal: AbortSignal,
): Promise<void> {
  const { scores, usage } = await engine.rerank({ query, documents, instruction, signal });
  const ranked = rankedDocuments(scores, topN).map(({ index, score }) => ({
    index,
    relevance_score: score,
    document: { text: documents[index] ?? "" },
  }));
  if (json) {
    const tokens = { prompt_tokens: usage.promptTokens, total_tokens: usage.promptTokens };
    console.log(JSON.stringify({ results: ranked, usage: tokens }));
    return;
  }
  for (const { relevance_score: score, document } of ranked) console.log(`${score.toFixed(4)}  ${document.text}`);
}
