// `embed` and `rerank` on the command line: the numbers of the engine, from arguments and from standard input.

import { beforeAll, expect, test } from "vitest";
import { writeEmbedder, writeEncoder, writeHead } from "../support/encoder-models.ts";
import { golden } from "../support/fixtures.ts";
import { EMBEDDING_MODEL, poolingGolden, writeReranker } from "../support/pooling-models.ts";
import { runCli } from "../support/run-cli.ts";
import { largestDifference } from "../support/running-model.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

const texts = poolingGolden.embeddings.filter(({ prompt, input }) => prompt === undefined && /^\S.*\S$/.test(input));
const inputs = texts.map(({ input }) => input);
let cache: readonly string[];
let reranker: string;

beforeAll(async () => {
  cache = ["--cache-folder", await persistentFolder(), "--threads", "1", "--precision", "fp32"];
  reranker = await writeReranker();
});

test("embed prints embeddings of arguments, or of lines of standard input", async () => {
  const { code, stdout } = await runCli(["embed", EMBEDDING_MODEL, ...inputs, "--json", ...cache]);
  expect(code).toBe(0);
  const { vectors, usage } = JSON.parse(stdout) as { vectors: number[][]; usage: object };
  for (const [index, { embedding }] of texts.entries()) {
    expect(largestDifference(vectors[index] ?? [], embedding)).toBeLessThan(1e-5);
  }
  const tokens = texts.reduce((sum, { input_ids: ids }) => sum + ids.length, 0);
  expect(usage).toEqual({ prompt_tokens: tokens, total_tokens: tokens });
  const lines = await runCli(["embed", EMBEDDING_MODEL, "--dimensions", "3", ...cache], `\n${inputs.join("\r\n")}\n`);
  const cut = lines.stdout
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as number[]);
  expect(cut).toHaveLength(inputs.length);
  for (const values of cut) expect(Math.hypot(...values)).toBeCloseTo(1, 6);
});

test("rerank prints scores and documents, the most relevant first", async () => {
  const [{ query, documents, scores }] = poolingGolden.rankings as [(typeof poolingGolden.rankings)[number]];
  const asked = ["rerank", reranker, "--query", query, ...cache];
  const { code, stdout } = await runCli([...asked, "--top-n", "2", "--json"], documents.join("\n"));
  expect(code).toBe(0);
  const order = documents.map((_, index) => index).toSorted((a, b) => scores[b]! - scores[a]!);
  const best = order.slice(0, 2).map((index) => ({
    index,
    relevance_score: expect.closeTo(scores[index]!, 4) as number,
    document: { text: documents[index] },
  }));
  expect(JSON.parse(stdout)).toMatchObject({ results: best });
  const plain = await runCli([...asked, ...documents]);
  const lines = order.map((index) => `${scores[index]!.toFixed(4)}  ${documents[index]}`);
  expect(plain.stdout.trim().split("\n")).toEqual(lines);
});

test("encoders are commands' models: texts and documents as options, states and scores of token ids", async () => {
  const encoder = await writeEmbedder("roberta");
  const embedded = await runCli(["embed", encoder, "--text", "green house", "--text", "dog", "--json", ...cache]);
  const { vectors } = JSON.parse(embedded.stdout) as { vectors: readonly (readonly number[])[] };
  const { stdout } = await runCli(["embed", encoder, "green house", ...cache]);
  expect(vectors).toHaveLength(2);
  expect(vectors[0]).toEqual(JSON.parse(stdout));
  const ranker = await writeEncoder("bert-rank");
  const documents = ["--document", "green house", "--document", "dog"];
  const ranked = await runCli(["rank", ranker, "--query", "dog", ...documents, "--json", ...cache]);
  const { scores, results } = JSON.parse(ranked.stdout) as {
    scores: readonly number[];
    results: readonly { readonly index: number; readonly relevance_score: number }[];
  };
  for (const { index, relevance_score: score } of results) expect(score).toBe(scores[index]);
  for (const [name, folder] of [
    ["roberta", encoder],
    ["bert-rank", ranker],
  ] as const) {
    const { cases } = golden(`encoders/${name}`) as {
      readonly cases: readonly ({ readonly input_ids: readonly number[] } & Record<string, readonly number[]>)[];
    };
    const { input_ids: ids, ...expected } = cases.at(-1)!;
    const inspected = await runCli(["inspect", folder, "--ids", ids.join(), "--json", ...cache]);
    const { states, scores: logits } = JSON.parse(inspected.stdout) as Record<string, Record<string, number[]>>;
    for (const [part, values] of Object.entries(expected)) {
      const found = part === "scores" ? (logits as unknown as readonly number[]) : states?.[part];
      expect(largestDifference(found ?? [], values)).toBeLessThan(1e-4);
    }
  }
});

interface Labelled {
  readonly label: string;
  readonly score: number;
  readonly logit: number;
}

test("classify prints labels of texts, of pairs, and of tokens", async () => {
  const [folder, tagger] = [await writeHead("bert", "classify"), await writeHead("bert", "tag")];
  const read = async (args: readonly string[]): Promise<unknown> => {
    const { stdout, stderr } = await runCli(["classify", ...args, "--json", ...cache]);
    expect(stderr).toBe("");
    return JSON.parse(stdout);
  };
  const given = ["dog runs", "--text", "green house"];
  const alone = (await read([folder, ...given])) as { results: readonly (readonly Labelled[])[]; labels: string[] };
  const paired = (await read([folder, ...given, "--pair", "paper"])) as typeof alone;
  expect(alone.labels).toEqual(["contradiction", "neutral", "entailment"]);
  for (const results of [alone.results, paired.results]) {
    expect(results).toHaveLength(2);
    for (const ranked of results) {
      expect(ranked.map(({ score }) => score)).toEqual(ranked.map(({ score }) => score).toSorted((a, b) => b - a));
      expect(ranked.reduce((sum, { score }) => sum + score, 0)).toBeCloseTo(1, 6);
    }
  }
  expect(paired.results).not.toEqual(alone.results);
  const [line] = (await runCli(["classify", folder, "dog runs", "--top-n", "1", ...cache])).stdout.split("\n");
  expect(line).toBe(`${alone.results[0]![0]!.label} ${alone.results[0]![0]!.score.toFixed(4)}`);
  const tagged = (await read([tagger, "dog runs"])) as {
    results: readonly (readonly { readonly token: string; readonly labels: readonly Labelled[] }[])[];
  };
  expect(tagged.results[0]!.map(({ token }) => token)).toEqual(["[CLS]", "dog", "runs", "[SEP]"]);
  const words = (await runCli(["classify", tagger, "dog runs", ...cache])).stdout.trim().split("  ");
  expect(words).toEqual(tagged.results[0]!.map(({ token, labels }) => `${token}/${labels[0]!.label}`));
  const { cases } = golden("encoders/bert-heads") as {
    readonly cases: readonly {
      readonly input_ids: readonly number[];
      readonly classify: readonly number[];
      readonly tag: readonly number[];
    }[];
  };
  const [{ input_ids: ids, classify, tag }] = cases as [(typeof cases)[number]];
  for (const [path, logits] of [
    [folder, classify],
    [tagger, tag],
  ] as const) {
    const { stdout } = await runCli(["inspect", path, "--ids", ids.join(), "--json", ...cache]);
    const { scores } = JSON.parse(stdout) as { readonly scores: readonly (number | readonly number[])[] };
    expect(largestDifference(scores.flat(), logits)).toBeLessThan(1e-4);
  }
});

test.each([
  [["classify", EMBEDDING_MODEL, "a text"], "gives embeddings: use `embed`"],
  [
    ["classify", EMBEDDING_MODEL, "a", "--pair", "b", "--pair", "c"],
    "Expected `--pair` once, or once for each of 1 texts, got 2",
  ],
  [["embed", EMBEDDING_MODEL], "Expected texts as arguments"],
  [["rerank", EMBEDDING_MODEL, "a document"], "required option '--query' not specified"],
  [["rerank", EMBEDDING_MODEL, "a document", "--query", "a"], "gives embeddings: use `embed`"],
])("%j is refused as a wrong call", async (args, message) => {
  const { code, stderr } = await runCli([...args, ...cache]);
  expect(code).toBe(2);
  expect(stderr).toContain(message);
});
