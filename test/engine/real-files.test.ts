// Real files of 4 bits against PyTorch's numbers: test/fixtures/qwen2.5-coder. `npm run fetch:models` fetches the files.

import { freemem } from "node:os";
import type { ChatMessage } from "@readme-moe/core";
import { ReadMeEngine } from "@readme-moe/engine";
import { evaluateSequences } from "@readme-moe/engine/evaluation";
import { applyChatTemplate, openModel, type Precision, type Tokenizer } from "@readme-moe/model";
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { REAL_MODELS, realModel, type RealModelSize } from "../../tools/models/real-models.ts";
import { complete } from "../support/complete.ts";
import { domainDocuments } from "../support/evaluation-documents.ts";
import { golden } from "../support/fixtures.ts";
import { greedyTokens } from "../support/greedy.ts";
import { RUNS_LONG_TESTS } from "../support/long-tests.ts";
import { promptLogits, runningModel, type RunningModel } from "../support/running-model.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

interface GoldenPrompt {
  readonly ids: readonly number[];
  readonly top_ids: readonly number[];
  readonly top_logits: readonly number[];
  readonly greedy: readonly number[];
  readonly smallest_gap: number;
}

interface Golden {
  readonly sha256: string;
  readonly texts: readonly (GoldenPrompt & { readonly text: string })[];
  readonly chats: readonly (GoldenPrompt & { readonly messages: readonly ChatMessage[]; readonly prompt: string })[];
  readonly losses: Readonly<Record<string, { readonly loss: number; readonly sequences: number }>>;
}

const SIZES: readonly RealModelSize[] = ["0.5b", "1.5b"];
const SEQUENCE_TOKENS = 512;
const TIMEOUT_MS = 1_800_000;

/** A precision, and how far it may be from float32. */
interface Bounds {
  readonly precision: Precision;
  /** Difference of a logit. */
  readonly logits: number;
  /** Distance of a greedy token's logit from the best one; greedy tokens are equal where gaps are larger. */
  readonly gap: number;
  /** Difference of the mean loss. */
  readonly nats: number;
  /** Memory that must be free, by size of the model. */
  readonly freeBytes: Readonly<Record<RealModelSize, number>>;
}

const BOUNDS: readonly Bounds[] = [
  { precision: "fp32", logits: 0.02, gap: 0.04, nats: 0.002, freeBytes: { "0.5b": 4e9, "1.5b": 10e9 } },
  { precision: "file", logits: 0.5, gap: 0.3, nats: 0.01, freeBytes: { "0.5b": 2e9, "1.5b": 3e9 } },
  { precision: "int8", logits: 1.5, gap: 0.3, nats: 0.01, freeBytes: { "0.5b": 2e9, "1.5b": 5e9 } },
  { precision: "int4", logits: 2.5, gap: 0.8, nats: 0.05, freeBytes: { "0.5b": 2e9, "1.5b": 5e9 } },
];

test.each(SIZES)("the fixture of %s is of the file that is fetched, whose parts have its bytes", (size) => {
  const { fileBytes, fileSha256, parts } = REAL_MODELS[size];
  expect((golden(`qwen2.5-coder/${size}`) as Golden).sha256).toBe(fileSha256);
  expect(parts.reduce((sum, part) => sum + part.fileBytes, 0)).toBe(fileBytes);
});

describe.each(SIZES)(
  "Qwen2.5-Coder %s (skipped outside test:long, without fetch:models or with little memory)",
  (size) => {
    const path = realModel(size);
    const { texts, chats, losses } = golden(`qwen2.5-coder/${size}`) as Golden;
    const isThere = RUNS_LONG_TESTS && path !== undefined;

    test.skipIf(!isThere)("has the tokens of its texts and chats", async () => {
      const model = await openModel(path as string);
      onTestFinished(() => model.close());
      const { tokenizer, chatTemplate } = await model.loadText();
      for (const { text, ids } of texts) expect(idsOf(tokenizer, text)).toStrictEqual(ids);
      for (const { messages, prompt, ids } of chats) {
        expect(idsOf(tokenizer, prompt)).toStrictEqual(ids);
        expect(Array.from(applyChatTemplate(tokenizer, chatTemplate, messages))).toStrictEqual(ids);
      }
    });

    test.skipIf(!isThere || freemem() < 3e9)("fills a gap", { timeout: TIMEOUT_MS }, async () => {
      await using engine = await ReadMeEngine.open(path as string, { cacheFolder: await persistentFolder() });
      const prompt = { prefix: "def add(a, b):\n    return ", suffix: "\n\nprint(add(1, 2))\n" };
      const { text, finishReason } = await complete(engine, { prompt, params: { temperature: 0, maxTokens: 16 } });
      expect([text.split("\n")[0], finishReason]).toEqual(["a + b", "stop"]);
    });

    describe.each(BOUNDS.map((bounds) => [bounds.precision, bounds] as const))("in %s", (precision, bounds) => {
      const runs = isThere && freemem() >= bounds.freeBytes[size];
      let running: RunningModel;
      beforeAll(async () => {
        if (runs) running = await runningModel(path, undefined, precision, await persistentFolder());
      }, TIMEOUT_MS);
      afterAll(() => running?.[Symbol.asyncDispose]());
      const prompts = [...texts, ...chats].map((one) => ["text" in one ? one.text : one.prompt, one] as const);

      test.skipIf(!runs).each(prompts)("continues %j as float32 does", { timeout: TIMEOUT_MS }, async (_, prompt) => {
        const { ids, greedy, top_ids, top_logits, smallest_gap } = prompt;
        const following = [...ids, ...greedy.slice(0, -1)];
        const positions = greedy.map((_token, at) => ids.length - 1 + at);
        const { fullLogits } = await promptLogits(running, following, positions);
        const rows = greedy.map((_token, row) => rowOf(fullLogits, row, greedy.length));
        const errors = top_ids.map((id, rank) => Math.abs((rows[0]?.[id] ?? NaN) - (top_logits[rank] ?? NaN)));
        expect(Math.max(...errors)).toBeLessThan(bounds.logits);
        const lags = rows.map((row, at) => largest(row) - (row[greedy[at] ?? -1] ?? NaN));
        expect(Math.max(...lags)).toBeLessThan(bounds.gap);
        if (smallest_gap > bounds.gap) expect(await greedyTokens(running, ids, greedy.length)).toStrictEqual(greedy);
      });

      test.skipIf(!runs)("has the loss of float32 on texts", { timeout: TIMEOUT_MS }, async ({ skip }) => {
        const { tokenizer } = await running.model.loadText();
        const differences: number[] = [];
        for (const [domain, { loss, sequences }] of Object.entries(losses)) {
          const documents = domainDocuments(domain);
          if (documents === undefined) skip("shared/data is not beside the repository");
          const long = firstSequences(tokenizer, documents ?? [], sequences);
          expect(long).toHaveLength(sequences);
          differences.push((await evaluateSequences(running, long)).loss - loss);
        }
        expect(Math.abs(differences.reduce((sum, one) => sum + one, 0) / differences.length)).toBeLessThan(bounds.nats);
      });
    });
  },
);

function idsOf(tokenizer: Tokenizer, text: string): readonly number[] {
  return Array.from(tokenizer.encode(text, { addSpecialTokens: false }));
}

/** Cuts the first documents that have enough tokens. */
function firstSequences(tokenizer: Tokenizer, documents: readonly string[], count: number): readonly Int32Array[] {
  const sequences: Int32Array[] = [];
  for (const text of documents) {
    const ids = tokenizer.encode(text, { addSpecialTokens: false });
    if (ids.length >= SEQUENCE_TOKENS) sequences.push(Int32Array.from(ids.slice(0, SEQUENCE_TOKENS)));
    if (sequences.length === count) break;
  }
  return sequences;
}

function rowOf(logits: Float32Array, row: number, numRows: number): Float32Array {
  const width = logits.length / numRows;
  return logits.subarray(row * width, (row + 1) * width);
}

function largest(values: Float32Array): number {
  return values.reduce((most, value) => Math.max(most, value), -Infinity);
}
