// Labels of texts and of tokens, held against the logits that PyTorch computes for the same token ids.

import { expect, test } from "vitest";
import { writeEmbedder, writeEncoder, writeHead } from "../../support/encoder-models.ts";
import { golden } from "../../support/fixtures.ts";
import { openPooling } from "../../support/pooling-models.ts";
import { largestDifference } from "../../support/running-model.ts";

interface HeadCase {
  readonly input_ids: readonly number[];
  readonly segments: readonly number[];
  readonly classify: readonly number[];
  readonly tag: readonly number[];
  readonly fill: readonly number[];
}

const LABELS = ["contradiction", "neutral", "entailment"];
const FAMILIES = ["bert", "roberta", "mpnet", "distilbert", "modernbert"];

/** Computes probabilities plainly. */
function softmax(logits: readonly number[]): readonly number[] {
  const total = logits.reduce((sum, logit) => sum + Math.exp(logit), 0);
  return logits.map((logit) => Math.exp(logit) / total);
}

test.for(FAMILIES)("labels of %s are those of PyTorch, of texts and of tokens", async (family) => {
  const { cases } = golden(`encoders/${family}-heads`) as { readonly cases: readonly HeadCase[] };
  const inputs = cases.map(({ input_ids: tokenIds, segments }) => ({ tokenIds, segments }));
  for (const head of ["classify", "tag"] as const) {
    const engine = await openPooling(await writeHead(family, head));
    try {
      const isOfTokens = head === "tag";
      const classification = { labels: LABELS, isOfTokens, activation: "softmax" };
      expect(engine.info).toMatchObject({ task: "classify", classification });
      const { logits, probabilities } = await engine.classify({ inputs });
      for (const [index, one] of cases.entries()) {
        expect(largestDifference(logits[index]!, one[head])).toBeLessThan(1e-4);
        const rows = Array.from({ length: one[head].length / 3 }, (_, row) => one[head].slice(3 * row, 3 * row + 3));
        expect(largestDifference(probabilities[index]!, rows.flatMap(softmax))).toBeLessThan(1e-4);
      }
    } finally {
      await engine.dispose();
    }
  }
});

test("pairs have segments, and labels the same bits alone and among others", async () => {
  const engine = await openPooling(await writeHead("bert", "classify", { problem_type: "multi_label_classification" }));
  try {
    const pairs = Array.from({ length: 20 }, (_, index) => ["dog runs".repeat(index % 4), "green house"] as const);
    const { logits, probabilities, usage } = await engine.classify({ inputs: pairs });
    const ids = await engine.tokenize(pairs[1]!.join(" "));
    const [first] = [await engine.tokenize(pairs[1]![0])];
    const tokenIds = [...first, ...ids.subarray(first.length - 1)];
    const segments = tokenIds.map((_, index) => (index < first.length ? 0 : 1));
    const plain = await engine.classify({ inputs: [{ tokenIds, segments }, tokenIds] });
    expect(plain.logits[0]).toEqual(logits[1]);
    expect(plain.logits[1]).not.toEqual(logits[1]);
    for (const [index, input] of pairs.entries()) {
      const alone = await engine.classify({ inputs: [input] });
      expect(alone.logits[0]).toEqual(logits[index]);
      const independent = Array.from(logits[index]!, (logit) => 1 / (1 + Math.exp(-logit)));
      expect(largestDifference(probabilities[index]!, independent)).toBeLessThan(1e-6);
    }
    expect(usage.promptTokens).toBeGreaterThan(20 * 5);
  } finally {
    await engine.dispose();
  }
});

test("a ranker gives the probability of its one label", async () => {
  const engine = await openPooling(await writeEncoder("bert-rank"));
  try {
    const { scores } = await engine.rerank({ query: "dog", documents: ["green house", "paper"] });
    const { probabilities } = await engine.classify({
      inputs: [
        ["dog", "green house"],
        ["dog", "paper"],
      ],
    });
    expect(engine.info.classification).toEqual({ labels: ["LABEL_0"], isOfTokens: false, activation: "sigmoid" });
    expect(
      largestDifference(
        probabilities.flatMap((own) => Array.from(own)),
        scores,
      ),
    ).toBeLessThan(1e-6);
  } finally {
    await engine.dispose();
  }
});

test("wrong requests and models of other tasks are refused, and name what they need", async () => {
  const engine = await openPooling(await writeHead("roberta", "tag"));
  const embedder = await openPooling(await writeEmbedder("bert"));
  try {
    const classify = (inputs: unknown) => engine.classify({ inputs } as never);
    await expect(classify([])).rejects.toThrow(/`inputs` to be an array of at least one text, got an empty array/);
    await expect(classify([7])).rejects.toThrow(/`inputs\[0\]` to be a text, a pair of texts or token ids, got/);
    await expect(classify([{ tokenIds: [2, 3], segments: [0] }])).rejects.toThrow(/`segments` to have 2 numbers/);
    await expect(classify([{ tokenIds: [2, 3], segments: [0, 1] }])).rejects.toThrow(/segments/);
    await expect(classify([{ tokenIds: [2, 66], segments: [0, 0] }])).rejects.toThrow(/tokenIds/);
    for (const wrong of [
      { tokenIds: [], segments: [] },
      { tokenIds: null, segments: [0] },
      { tokenIds: [2] },
      [],
      null,
    ]) {
      await expect(classify([wrong])).rejects.toThrow(/`inputs\[0\]` to be a text, a pair of texts or token ids/);
    }
    await expect(engine.embed({ inputs: ["dog"] })).rejects.toThrow(/gives labels: use `classify`/);
    await expect(embedder.classify({ inputs: ["dog"] })).rejects.toThrow(/gives embeddings: use `embed`/);
  } finally {
    await Promise.all([engine.dispose(), embedder.dispose()]);
  }
});

test.for([
  [{ id2label: { 0: "A", 2: "B" } }, /id2label/],
  [{ problem_type: "regression" }, /problem_type/],
  [{ id2label: {} }, /`id2label` to name a label/],
  [{ id2label: { 0: "A", 1: "B" } }, /classifier/],
] as const)("a folder with %j is refused by name", async ([config, message]) => {
  await expect(openPooling(await writeHead("bert", "classify", config))).rejects.toThrow(message);
});

test.for(FAMILIES)("logits of masks of %s are those of PyTorch", async (family) => {
  const { cases } = golden(`encoders/${family}-heads`) as { readonly cases: readonly HeadCase[] };
  const engine = await openPooling(await writeHead(family, "fill"));
  try {
    expect(engine.info).toMatchObject({ task: "embed", mask: { token: "[MASK]", tokenId: 4 } });
    const inputs = cases.map(({ input_ids: tokenIds, segments }) => ({ tokenIds, segments }));
    const all = await engine.fillMasks({ inputs, places: "all" });
    for (const [index, { fill, input_ids: ids }] of cases.entries()) {
      const { logits, places, tokenIds } = all.inputs[index]!;
      expect(Array.from(tokenIds)).toEqual(ids);
      expect(places).toEqual(Array.from(ids.keys()));
      expect(logits).toHaveLength(66 * ids.length);
      expect(largestDifference(logits.subarray(66, 132), fill)).toBeLessThan(1e-4);
    }
    const [{ places, logits }] = (await engine.fillMasks({ inputs: [inputs[2]!] })).inputs as [
      (typeof all.inputs)[number],
    ];
    expect(places).toEqual([1]);
    expect(logits).toEqual(all.inputs[2]!.logits.subarray(66, 132));
  } finally {
    await engine.dispose();
  }
});

test("masks of many texts at once have the same logits, and wrong requests are refused", async () => {
  const engine = await openPooling(await writeHead("bert", "fill"));
  const embedder = await openPooling(await writeEmbedder("bert"));
  try {
    const texts = ["[MASK] runs", "green [MASK] [MASK]", "walking [MASK]."];
    const each = await Promise.all(
      Array.from({ length: 12 }, (_, index) => engine.fillMasks({ inputs: [texts[index % 3]!] })),
    );
    const { inputs } = await engine.fillMasks({ inputs: texts });
    expect(inputs.map(({ places }) => places)).toEqual([[1], [2, 3], [3]]);
    for (const [index, one] of each.entries()) expect(one.inputs).toEqual([inputs[index % 3]]);
    await expect(engine.fillMasks({ inputs: ["dog"] })).rejects.toThrow(/`inputs\[0\]` to have the mask \[MASK\]/);
    await expect(engine.fillMasks({ inputs: [7 as never] })).rejects.toThrow(/`inputs\[0\]` to be a text or token ids/);
    await expect(engine.fillMasks({ inputs: ["[MASK]"], places: "some" as never })).rejects.toThrow(/`places`/);
    await expect(embedder.fillMasks({ inputs: ["[MASK]"] })).rejects.toThrow(/Expected a model that fills masks/);
    const long = engine.fillMasks({ inputs: ["[MASK] ".repeat(100)] });
    await expect(long).rejects.toMatchObject({ code: "ERR_CONTEXT_LENGTH" });
    const { embeddings } = await engine.embed({ inputs: texts });
    expect(embeddings[0]).toHaveLength(32);
  } finally {
    await Promise.all([engine.dispose(), embedder.dispose()]);
  }
});
