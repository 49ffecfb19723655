import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { openModel, writeReadMeFolder, type Tokenizer } from "@readme-moe/model";
import { describe, expect, onTestFinished, test } from "vitest";
import {
  expertOverlap,
  lossRow,
  routedText,
  type LossId,
  type LossRow,
  type Report,
} from "../../packages/refactor/src/report/report.ts";
import { reportDocuments, reportJson } from "../../packages/refactor/src/report/model-card.ts";
import { verdictOf } from "../../packages/refactor/src/report/verdict.ts";
import { madeUpReport } from "../support/made-up-report.ts";
import { POCKET } from "../support/pocket.ts";
import { randomInteger, seededRandom } from "../support/random.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { tinyContent } from "../support/tiny-read-me.ts";

describe("a row of losses", () => {
  const dense = { arxiv: 2.5, book: 3, github: 1.5 };

  test("has the mean over domains, and its difference from the dense model's", () => {
    const row = lossRow("static", 0.5, { arxiv: 3, book: 3.5, github: 2.5 }, dense);
    expect(row).toMatchObject({ id: "static", label: "One static expert, refitted", ffn_share: 0.5 });
    expect(row.mean).toBeCloseTo(3, 12);
    expect(row.above_dense).toBeCloseTo(2 / 3, 12);
  });

  test("leaves out domains that were not measured, also in the dense mean", () => {
    const row = lossRow("free", 0.5, { arxiv: 3, book: NaN }, dense);
    expect(row.losses).toEqual({ arxiv: 3 });
    expect(row.above_dense).toBeCloseTo(0.5, 12);
  });

  test("is refused without any loss, or without the dense model's", () => {
    expect(() => lossRow("free", 0.5, { arxiv: NaN }, dense)).toThrow(/`losses` of free to have a number/);
    expect(() => lossRow("free", 0.5, { c4: 3 }, dense)).toThrow(/`dense` to have the loss of "c4", got `undefined`/);
  });
});

describe("the verdict", () => {
  const denseLosses = { arxiv: 2.5, book: 3.5 };
  const dense = lossRow("dense", 1, denseLosses, denseLosses);
  const row = (id: LossId, arxiv: number, book: number): LossRow => lossRow(id, 0.5, { arxiv, book }, denseLosses);
  const verdict = (rows: readonly LossRow[], change: Partial<Report> = {}): readonly string[] =>
    verdictOf({
      ...madeUpReport({ domains: 2 }),
      losses: [dense, ...rows],
      expert_losses: undefined,
      router: undefined,
      ...change,
    });

  const against = (arxiv: number): readonly string[] => verdict([row("ours", 3, 4), row("oracle_domain", arxiv, 4)]);

  test("names the gain over one static expert, and the domains without one", () => {
    const sentences = verdict([row("ours", 2.6, 4.0), row("static", 2.9, 3.9)]);
    expect(sentences).toContain(
      "This model is 0.10 nats better than one static expert of the same size (3.300 against 3.400). It is worse on book.",
    );
    expect(sentences).toContain(
      "This model is 0.30 nats per token worse than the dense model (perplexity times 1.35), using 50 % of the FFN's neurons per token.",
    );
  });

  test("says when routing does not pay", () => {
    expect(verdict([row("ours", 3, 4), row("static", 2.9, 4)])).toContain(
      "This model is 0.05 nats worse than one static expert of the same size (3.500 against 3.450): routing does not pay here.",
    );
    expect(verdict([row("ours", 3, 4), row("static", 3.002, 4)])).toContain(
      "This model is no better than one static expert of the same size (3.500 against 3.501): routing gains nothing here.",
    );
  });

  test("compares the router with choosing by the document's domain", () => {
    expect(against(2.8)).toContain("The router is 0.10 nats worse than choosing the expert by each document's domain.");
    expect(against(3.2)).toContain(
      "The router is 0.10 nats better than choosing the expert by each document's domain.",
    );
    expect(against(3)).toContain("The router is as good as choosing the expert by each document's domain.");
  });

  test.each([
    [0.1, "This model is 0.10 nats per token worse than the dense model (perplexity times 1.11)"],
    [0.006, "This model is 0.01 nats per token worse than the dense model (perplexity times 1.01)"],
    [0.004, "This model is as good as the dense model"],
    [-0.004, "This model is as good as the dense model"],
    [-0.006, "This model is 0.01 nats per token better than the dense model"],
  ])("compares a model that is %d nats above the dense one", (above, sentence) => {
    const [first] = verdict([row("ours", 2.5 + above, 3.5 + above)]);
    expect(first).toBe(`${sentence}, using 50 % of the FFN's neurons per token.`);
  });

  test.each([
    ["paper", 0.1, "Selecting and refitting neurons is 0.10 nats better than the paper's selection."],
    ["paper", 0.004, "Selecting and refitting neurons is no better than the paper's selection."],
    ["paper", -0.1, "Selecting and refitting neurons is no better than the paper's selection."],
    ["random", 0.1, "Experts of randomly chosen neurons, refitted in the same way, are 0.10 nats worse."],
    [
      "random",
      0.004,
      "Experts of randomly chosen neurons, refitted in the same way, are as good: the selection does not matter here.",
    ],
    ["oracle_token", -0.1, "A router that chose the best expert for every token would be 0.10 nats better."],
    ["oracle_token", -0.004, undefined],
    ["oracle_domain", -0.1, "The router is 0.10 nats worse than choosing the expert by each document's domain."],
    ["oracle_domain", 0.004, "The router is as good as choosing the expert by each document's domain."],
  ] as const)("compares this model with %s, which is %d nats above it", (id, above, sentence) => {
    const alone = verdict([row("ours", 3, 4)]);
    const both = verdict([row("ours", 3, 4), row(id, 3 + above, 4 + above)]);
    expect(both.filter((one) => !alone.includes(one))).toEqual(sentence === undefined ? [] : [sentence]);
  });

  test("compares the selection of neurons with the domain's expert where it was measured", () => {
    const sentences = verdict([row("ours", 3, 4), row("oracle_domain", 2.8, 3.8), row("paper", 3.1, 4.1)]);
    expect(sentences).toContain("Selecting and refitting neurons is 0.30 nats better than the paper's selection.");
  });

  test("names the experts that fewer than one token in a thousand gets", () => {
    const { router, settings, data } = madeUpReport({ domains: 3 });
    const fewTokens = expect.stringContaining("only 12,288 tokens");
    for (const [expertShares, sentences] of [
      [[0.998, 0.001, 0.001], []],
      [[0.9985, 0.0009, 0.0006], ["The router hardly ever chooses book and c4."]],
      [[0, 1, 0.5], ["The router hardly ever chooses arxiv."]],
    ] as const) {
      const change = { data, settings, router: router && { ...router, expert_shares: expertShares } };
      expect(verdict([], change)).toEqual([...sentences, fewTokens]);
    }
  });

  test.each([
    [24_999, ["All of this was measured on only 49,998 tokens: differences of a few hundredths can be chance."]],
    [25_000, []],
  ])("warns of few tokens: %i on each of two domains", (evaluationTokens, sentences) => {
    const data = madeUpReport({ domains: 2 }).data.map((one) => ({ ...one, evaluation_tokens: evaluationTokens }));
    expect(verdict([], { data })).toEqual(sentences);
  });

  test("leaves out what was not measured, and does not compare rows of different domains", () => {
    const fewTokens = expect.stringContaining("only 8,192 tokens");
    expect(verdict([])).toEqual([fewTokens]);
    const partial = lossRow("static", 0.5, { arxiv: 2.6 }, denseLosses);
    expect(verdict([row("ours", 3, 4), partial])).toEqual([
      expect.stringContaining("worse than the dense model"),
      fewTokens,
    ]);
  });

  test("names domains on which another expert is better", () => {
    const better = [
      [2.6, 3.6],
      [2.7, 3.8],
    ];
    expect(verdict([], { expert_losses: better })).toContain("Another expert is better than the domain's own on book.");
  });

  test("judges each domain by the expert of the same name, in any order", () => {
    const { settings } = madeUpReport({ domains: 2 });
    const swapped = { settings: { ...settings, experts: ["book", "arxiv"] } };
    // A row for each expert, a column for each domain: the expert of books is worse on arxiv, and better on book.
    const losses = [
      [3, 3.6],
      [2.6, 4],
    ];
    const best = "On each domain, no expert is better than the domain's own.";
    expect(verdict([], { ...swapped, expert_losses: losses })).toContain(best);
    expect(verdict([], { ...swapped, expert_losses: losses.toReversed() })).toContain(
      "Another expert is better than the domain's own on book and arxiv.",
    );
  });

  test.each([1, 2, 3, 4, 5, 6])("names the domains that a search by name finds, in any order (seed %i)", (seed) => {
    const random = seededRandom(seed);
    for (let round = 0; round < 30; round++) {
      const { settings, data } = madeUpReport({ domains: 2 + randomInteger(random, 4) });
      const experts = settings.experts
        .map((name) => [random(), name] as const)
        .toSorted(([a], [b]) => a - b)
        .map(([, name]) => (random() < 0.1 ? `${name}-free` : name));
      const loss = new Map<string, Map<string, number>>();
      // Steps of 0.1, far from the difference that counts as none.
      for (const name of experts) loss.set(name, new Map(data.map((one) => [one.name, randomInteger(random, 4) / 10])));
      const beaten = experts.filter((name) => {
        const own = loss.get(name)?.get(name);
        return own !== undefined && experts.some((other) => (loss.get(other)?.get(name) as number) < own);
      });
      const sentences = verdict([], {
        settings: { ...settings, experts },
        data,
        expert_losses: experts.map((name) => data.map((one) => loss.get(name)?.get(one.name) as number)),
      });
      const named = sentences.filter((sentence) => sentence.startsWith("Another expert"));
      const list = beaten.length < 2 ? beaten.join("") : `${beaten.slice(0, -1).join(", ")} and ${beaten.at(-1)}`;
      const expected = `Another expert is better than the domain's own on ${list}.`;
      expect(named).toEqual(beaten.length === 0 ? [] : [expected]);
    }
  });
});

describe("report.json", () => {
  test("holds the whole report", () => {
    const report = madeUpReport();
    expect(JSON.parse(reportJson(report))).toEqual(report);
  });

  test.each([
    ["expert_losses[1][0]", { expert_losses: [[1], [NaN]] }],
    ["losses[0].losses.book", { losses: [{ ...madeUpReport().losses[0], losses: { book: Infinity } } as LossRow] }],
    ["time.total_ms", { time: { ...madeUpReport().time, total_ms: NaN } }],
  ])("names %s when it is not a finite number", async (path, change) => {
    const report = { ...madeUpReport(), ...change };
    const message = `Expected \`report.${path}\` to be a finite number`;
    expect(() => reportJson(report)).toThrow(message);
    await expect(reportDocuments(report)).rejects.toThrow(RangeError);
  });
});

test("writes the same documents for the same report, with pictures, into a model folder", async () => {
  const documents = await reportDocuments(madeUpReport());
  expect(await reportDocuments(madeUpReport())).toEqual(documents);
  const folder = join(await temporaryFolder(), "model");
  await writeReadMeFolder(folder, { ...tinyContent(), documents });
  for (const [name, text] of Object.entries(documents)) expect(await readFile(join(folder, name), "utf8")).toBe(text);
  expect(Object.keys(documents)).toContain("pictures/losses.svg");
});

function inCommon(a: Int32Array, b: Int32Array): number {
  return a.filter((neuron) => b.includes(neuron)).length / a.length;
}

test("computes the overlap as the share of common neurons", () => {
  const random = seededRandom(5);
  const draw = (): Int32Array => {
    const drawn = new Set<number>();
    while (drawn.size < 20) drawn.add(randomInteger(random, 50));
    return Int32Array.from(drawn).sort();
  };
  const layers = Array.from({ length: 3 }, () => [draw(), draw(), draw(), draw()]);
  const { mean, layers: matrices } = expertOverlap(layers);
  expect(matrices).toEqual(layers.map((experts) => experts.map((a) => experts.map((b) => inCommon(a, b)))));
  for (const [a, row] of mean.entries()) {
    expect(row[a]).toBe(1);
    for (const [b, share] of row.entries()) {
      expect(share).toBeCloseTo(matrices.reduce((sum, matrix) => sum + (matrix[a]?.[b] ?? NaN), 0) / 3, 12);
    }
  }
});

async function pocketTokenizer(): Promise<Tokenizer> {
  const model = await openModel(POCKET);
  onTestFinished(() => model.close());
  return (await model.loadText()).tokenizer;
}

describe("routed text", () => {
  test("gives a character of several tokens to the last of them", async () => {
    const tokenizer = await pocketTokenizer();
    const ids = tokenizer.encode("The 🌍 turns", { addSpecialTokens: false });
    const experts = Array.from(ids, (_, index) => index % 3);
    const pieces = routedText(tokenizer, ids, experts);
    expect(pieces.map(({ expert }) => expert)).toEqual(experts);
    expect(pieces.map(({ text }) => text).join("")).toBe("The 🌍 turns");
    expect(pieces.some(({ text }) => text === "")).toBe(true);
  });

  test("marks a character that is cut at the end", async () => {
    const tokenizer = await pocketTokenizer();
    const ids = tokenizer.encode("🌍", { addSpecialTokens: false });
    expect(ids.length).toBeGreaterThan(1);
    expect(routedText(tokenizer, ids.slice(0, -1), ids).at(-1)?.text).toBe("\uFFFD");
    expect(routedText(tokenizer, [], [])).toEqual([]);
  });
});
