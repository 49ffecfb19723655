import { type ClassifyRequest, rankedDocuments } from "@readme-moe/core";
import type { ReadMeEngine } from "@readme-moe/engine";
import { Command } from "commander";
import { textsOrLines } from "../data-files.ts";
import { MODEL_ARGUMENT, withEngine } from "../models.ts";
import {
  addOptions,
  type EngineFlags,
  engineFlag,
  jsonOption,
  memoryOptions,
  requireOption,
  runtimeOptions,
  wholeNumber,
} from "../options.ts";

interface PoolingFlags extends EngineFlags {
  readonly instruction?: string;
  readonly json: boolean;
}

interface EmbedFlags extends PoolingFlags {
  readonly text?: readonly string[];
  readonly dimensions?: number;
  readonly promptName?: string;
}

interface ClassifyFlags extends EngineFlags {
  readonly text?: readonly string[];
  readonly pair?: readonly string[];
  readonly topN?: number;
  readonly json: boolean;
}

interface RerankFlags extends PoolingFlags {
  readonly document?: readonly string[];
  readonly query: string;
  readonly topN?: number;
}

export function embedCommand(signal: AbortSignal): Command {
  const command = new Command("embed")
    .summary("compute embeddings of texts")
    .description(
      "Computes embeddings, with a model that was made for them. Texts are arguments, or lines of standard input. Prints " +
        "one embedding per line, as a list of numbers.",
    )
    .argument("<model>", MODEL_ARGUMENT)
    .argument("[texts...]", "texts (default: the lines of standard input that are not blank)")
    .option("--text <text>", "a further text; may be repeated", gathered)
    .option("--dimensions <n>", "keep the first n numbers, as an embedding of length 1 (default: all)", wholeNumber(1))
    .option("--instruction <text>", "task of a query, in one sentence, put before each text (default: none)")
    .option(
      "--prompt-name <name>",
      "one of the model's own texts, put before each text (default: the model's, if it has one)",
    );
  addPoolingOptions(command);
  return command.action(async (path: string, given: readonly string[], flags: EmbedFlags) => {
    const inputs = await textsOrLines("texts", [...given, ...(flags.text ?? [])], signal);
    await withEngine(path, flags, signal, (engine) => runEmbed(engine, inputs, flags, signal));
  });
}

export function classifyCommand(signal: AbortSignal): Command {
  const command = new Command("classify")
    .summary("compute labels of texts, or of their tokens")
    .description(
      "Computes probabilities of labels, with a model that was made for it. Texts are arguments, or lines of standard " +
        "input. Prints a line for each text: its labels, the most probable first, or its tokens, each with its label.",
    )
    .argument("<model>", MODEL_ARGUMENT)
    .argument("[texts...]", "texts (default: the lines of standard input that are not blank)")
    .option("--text <text>", "a further text; may be repeated", gathered)
    .option("--pair <text>", "second text of each pair, such as a hypothesis; once, or once for each text", gathered)
    .option("--top-n <n>", "labels to print of each text (default: all)", wholeNumber(1));
  addPoolingOptions(command);
  return command.action(async (path: string, given: readonly string[], flags: ClassifyFlags) => {
    const texts = await textsOrLines("texts", [...given, ...(flags.text ?? [])], signal);
    const { pair: [first, ...others] = [] } = flags;
    if (others.length > 0 && others.length + 1 !== texts.length) {
      throw new RangeError(
        `Expected \`--pair\` once, or once for each of ${texts.length} texts, got ${others.length + 1}`,
      );
    }
    const inputs = texts.map((text, index) =>
      first === undefined ? text : ([text, others[index - 1] ?? first] as const),
    );
    await withEngine(path, flags, signal, (engine) => runClassify(engine, inputs, flags, signal));
  });
}

export function rerankCommand(signal: AbortSignal): Command {
  const command = new Command("rerank")
    .alias("rank")
    .summary("rank documents by their relevance for a query")
    .description(
      "Scores documents, with a model that was made for it. Documents are arguments, or lines of standard input. Prints " +
        "each score, 0 to 1, and its document, the most relevant first.",
    )
    .argument("<model>", MODEL_ARGUMENT)
    .argument("[documents...]", "texts (default: the lines of standard input that are not blank)")
    .option("--query <text>", "what the documents are searched for (required)")
    .option("--document <text>", "a further document; may be repeated", gathered)
    .option("--instruction <text>", "what makes a document relevant (default: what the model was trained on)")
    .option("--top-n <n>", "documents to print (default: all)", wholeNumber(1));
  addPoolingOptions(command);
  return command.action(async (path: string, given: readonly string[], flags: RerankFlags) => {
    requireOption(command, "query");
    const documents = await textsOrLines("documents", [...given, ...(flags.document ?? [])], signal);
    await withEngine(path, flags, signal, (engine) => runRerank(engine, documents, flags, signal));
  });
}

function gathered(text: string, earlier: readonly string[] = []): readonly string[] {
  return [...earlier, text];
}

function addPoolingOptions(command: Command): void {
  addOptions(command, ...runtimeOptions(), ...memoryOptions(), engineFlag("isolation"), jsonOption());
}

async function runEmbed(
  engine: ReadMeEngine,
  inputs: readonly string[],
  { dimensions, instruction, promptName, json }: EmbedFlags,
  signal: AbortSignal,
): Promise<void> {
  const result = await engine.embed({ inputs, dimensions, instruction, promptName, signal });
  const vectors = result.embeddings.map((values) => Array.from(values));
  if (json) console.log(JSON.stringify({ vectors, embeddings: vectors, usage: usageJson(result.usage) }));
  else for (const values of vectors) console.log(JSON.stringify(values));
}

interface Labelled {
  readonly label: string;
  readonly score: number;
  readonly logit: number;
}

async function runClassify(
  engine: ReadMeEngine,
  inputs: ClassifyRequest["inputs"],
  { topN, json }: ClassifyFlags,
  signal: AbortSignal,
): Promise<void> {
  const { labels = [], isOfTokens = false } = engine.info.classification ?? {};
  if (isOfTokens && inputs.some((input) => typeof input !== "string")) {
    throw new TypeError("Expected no `--pair`: this model gives labels of tokens");
  }
  const { logits, probabilities, usage } = await engine.classify({ inputs, signal });
  const rowsOf = (index: number): readonly (readonly Labelled[])[] => {
    const own = logits[index] ?? new Float32Array();
    return Array.from({ length: own.length / labels.length }, (_, row) => {
      const [from, to] = [row * labels.length, (row + 1) * labels.length];
      return rankedDocuments(probabilities[index]?.subarray(from, to) ?? [], topN).map(({ index: place, score }) => ({
        label: labels[place] ?? "",
        score,
        logit: own[from + place] ?? 0,
      }));
    });
  };
  const results: (readonly Labelled[] | readonly LabelledToken[])[] = [];
  for (const [index, input] of inputs.entries()) {
    const rows = rowsOf(index);
    const tokens = isOfTokens && typeof input === "string" ? await tokenTexts(engine, input, rows.length) : [];
    const own = isOfTokens ? rows.map((row, place) => ({ token: tokens[place] ?? "", labels: row })) : (rows[0] ?? []);
    results.push(own);
    if (!json) console.log(own.map(describeLabel).join("  "));
  }
  if (json) console.log(JSON.stringify({ labels, results, usage: usageJson(usage) }));
}

interface LabelledToken {
  readonly token: string;
  readonly labels: readonly Labelled[];
}

function describeLabel(one: Labelled | LabelledToken): string {
  return "token" in one ? `${one.token}/${one.labels[0]?.label}` : `${one.label} ${one.score.toFixed(4)}`;
}

/** Decodes the tokens of a text one by one. A text that is cut keeps its last, special token. */
async function tokenTexts(engine: ReadMeEngine, text: string, numTokens: number): Promise<readonly string[]> {
  const ids = await engine.tokenize(text);
  const kept = [...ids.subarray(0, numTokens - 1), ids.at(-1) ?? 0];
  return Promise.all(kept.map((id) => engine.detokenize([id])));
}

async function runRerank(
  engine: ReadMeEngine,
  documents: readonly string[],
  { query, instruction, topN, json }: RerankFlags,
  signal: AbortSignal,
): Promise<void> {
  const { scores, usage } = await engine.rerank({ query, documents, instruction, signal });
  const results = rankedDocuments(scores, topN).map(({ index, score }) => ({
    index,
    relevance_score: score,
    document: { text: documents[index] ?? "" },
  }));
  if (json) console.log(JSON.stringify({ scores, results, usage: usageJson(usage) }));
  else for (const one of results) console.log(`${one.relevance_score.toFixed(4)}  ${one.document.text}`);
}

function usageJson({ promptTokens }: { readonly promptTokens: number }): object {
  return { prompt_tokens: promptTokens, total_tokens: promptTokens };
}
