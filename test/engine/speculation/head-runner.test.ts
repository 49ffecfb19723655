// Runs of a draft head in the kernel, compared with plain loops: a text in one call and in chunks, and drafts that
// continue the head's own states.

import { KernelRunner, type StepLogits } from "@readme-moe/engine";
import { kernelInfo, type KvSlot } from "@readme-moe/kernel";
import { findDraftHead, type Model, openDraftHead, openModel } from "@readme-moe/model";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { SafetensorsFile } from "../../../packages/model/src/safetensors/safetensors-file.ts";
import type { HeadRunner } from "../../../packages/engine/src/speculation/head-runner.ts";
import { plainDrafts, type PlainHead } from "../../oracles/plain-draft-head.ts";
import { kvFor } from "../../support/greedy.ts";
import { POCKET, POCKET_HEAD } from "../../support/pocket.ts";
import { randomInteger, seededRandom } from "../../support/random.ts";
import { persistentFolder } from "../../support/temporary-folder.ts";

const TOKENS = Array.from({ length: 41 }, (_, i) => (i * i * 17 + 5) % 4000);
const DRAFTS = 3;

let model: Model;
let plain: readonly (readonly Float64Array[])[];
let tokenIds: Int32Array;
beforeAll(async () => {
  model = await openModel(POCKET);
});
afterAll(() => model.close());

async function plainHead(): Promise<PlainHead> {
  const head = await openDraftHead(POCKET_HEAD, model);
  const file = await SafetensorsFile.open(`${POCKET_HEAD}/model.safetensors`);
  const names = file.names.filter((name) => name !== "d2t");
  const weights = new Map(await Promise.all(names.map(async (name) => [name, await file.readFloats(name)] as const)));
  const { numHeads, numKvHeads, headSize, rotatedSize, rmsNormEpsilon: epsilon, ropes } = head.config;
  ({ tokenIds } = head);
  await Promise.all([file.close(), head.close()]);
  return { numHeads, numKvHeads, headSize, rotatedSize, rope: ropes[0]!, epsilon, weights };
}

/** Checks an output against a row of plain logits. */
function expectLikely(output: ReturnType<HeadRunner["run"]>[number], logits: Float64Array): void {
  const largest = Math.max(...logits);
  const sum = logits.reduce((total, logit) => total + Math.exp(logit - largest), 0);
  expect(output?.tokenId).toBe(tokenIds[logits.indexOf(largest)]);
  expect(output?.probability).toBeCloseTo(1 / sum, 4);
}

describe.each(["native", "wasm"] as const)("in the %s kernel", (kind) => {
  let runner: KernelRunner;
  let head: HeadRunner;
  let states: readonly Float32Array[];

  beforeAll(async () => {
    runner = await KernelRunner.open(model, { precision: "fp32", kernel: kind, threads: 2 });
    const found = (await findDraftHead(model, POCKET_HEAD))!;
    const options = { precision: "fp32", kvPrecision: "fp32", threads: 2, kernel: kind, now: () => 0 } as const;
    head = await runner.openHead(found, { ...options, cacheFolder: await persistentFolder(), capacityTokens: 1024 });
    const kv = kvFor(runner, TOKENS.length);
    const slot = kv.admit(TOKENS.length) as KvSlot;
    const step = { slot, tokenIds: TOKENS, experts: TOKENS.map(() => 0), logitsOf: [] };
    const [result] = (await runner.forward(kv, [step])) as readonly [StepLogits];
    const width = 3 * model.config.hiddenSize;
    states = TOKENS.map((_, row) => result.states!.slice(row * width, (row + 1) * width));
    const { hiddenSize } = model.config;
    const rowsOf = async ({ store, name }: Model["weights"]["head"], ids: ArrayLike<number>) => {
      const all = await store.readFloats(name);
      return Array.from(ids, (id) => all.subarray(id * hiddenSize, (id + 1) * hiddenSize));
    };
    const embeddings = await rowsOf(model.weights.embedding, TOKENS);
    const own = await plainHead();
    plain = plainDrafts(own, { states, embeddings, head: await rowsOf(model.weights.head, tokenIds) }, DRAFTS);
  });
  afterAll(async () => {
    await head.close();
    await head.head.close();
    await runner.dispose();
  });

  test("runs a text in one call and in random chunks as plain loops do", () => {
    expect(kernelInfo({ kernel: kind }, 2).kind).toBe(kind);
    const random = seededRandom(7);
    for (let run = 0; run < 6; run++) {
      const slot = head.kv.admit(TOKENS.length) as KvSlot;
      const probabilities: unknown[] = [];
      for (let from = 0; from < TOKENS.length - 1;) {
        const to = run === 0 ? TOKENS.length - 1 : Math.min(TOKENS.length - 1, from + 1 + randomInteger(random, 20));
        const part = Float32Array.from(states.slice(from, to).flatMap((row) => Array.from(row)));
        const [output] = head.run([{ slot, tokenIds: TOKENS.slice(from + 1, to + 1), states: part, isWanted: true }]);
        expectLikely(output, plain[to - 1]![0]!);
        probabilities.push(output?.probability);
        from = to;
      }
      head.kv.release(slot);
    }
  });

  test("continues its own states, of several texts at once, and takes drafts back", () => {
    const ends = [9, 23, 30];
    const slots = ends.map((end) => head.kv.admit(end + DRAFTS) as KvSlot);
    const rows = ends.map((end, index) => ({
      slot: slots[index]!,
      tokenIds: TOKENS.slice(1, end + 1),
      states: Float32Array.from(states.slice(0, end).flatMap((row) => Array.from(row))),
      isWanted: true,
    }));
    let outputs = head.run(rows);
    for (let draft = 1; draft < DRAFTS; draft++) {
      // Drafts follow the text, as the plain loops do.
      const next = ends.map((end, index) => ({
        slot: slots[index]!,
        tokenIds: [TOKENS[end + draft]!],
        states: outputs[index]!.state,
        isWanted: true,
      }));
      outputs = head.run(next);
      for (const [index, end] of ends.entries()) expectLikely(outputs[index], plain[end - 1]![draft]!);
    }
    for (const [index, end] of ends.entries()) head.kv.truncate(slots[index]!, end);
    const again = head.run(
      ends.map((end, index) => ({
        slot: slots[index]!,
        tokenIds: [TOKENS[end + 1]!],
        states: states[end]!,
        isWanted: true,
      })),
    );
    for (const [index, end] of ends.entries()) expectLikely(again[index], plain[end]![0]!);
    for (const slot of slots) head.kv.release(slot);
  });
});
