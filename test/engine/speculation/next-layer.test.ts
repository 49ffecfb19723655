// Layers of checkpoints that predict a further token, as draft heads: against the numbers of transformers' own layer, in
// folders and in GGUF files, and with the same tokens as without.

import { join } from "node:path";
import { KernelRunner, ReadMeEngine, type StepLogits } from "@readme-moe/engine";
import type { KvSlot } from "@readme-moe/kernel";
import { findDraftHead, type Model, openModel, type Precision } from "@readme-moe/model";
import { openRouter } from "@readme-moe/router";
import { describe, expect, onTestFinished, test } from "vitest";
import { HeadDrafter } from "../../../packages/engine/src/speculation/head-drafter.ts";
import type { HeadRunner } from "../../../packages/engine/src/speculation/head-runner.ts";
import { completeAll } from "../../support/complete.ts";
import { type BenchModel, CoreBench, eagerDrafter, type Job, outcomesAlone } from "../../support/core-bench.ts";
import { golden } from "../../support/fixtures.ts";
import { writeHybridGguf } from "../../support/gguf/convert-hybrid.ts";
import { kvFor } from "../../support/greedy.ts";
import { addNextLayer } from "../../support/next-layer.ts";
import { randomInteger, seededRandom } from "../../support/random.ts";
import { readableFixture } from "../../support/readable-fixture.ts";
import { expectReadMeError } from "../../support/rejection.ts";
import { runningModel } from "../../support/running-model.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";

interface Golden {
  readonly input_ids: readonly number[];
  /** `[row][token]`: behind the model's state at a token and the token that follows. */
  readonly logits: readonly (readonly number[])[];
  /** Drafts behind a text, which go on from the layer's own states and take the text's tokens. */
  readonly chains: readonly { readonly end: number; readonly logits: readonly (readonly number[])[] }[];
}

const { input_ids: TOKENS, logits: LOGITS, chains: CHAINS } = golden("next-layer") as Golden;

/** Copies the fixture of Qwen 3.5 with its layer in it. @param flattened - as in `addNextLayer` */
async function withLayer(flattened?: string): Promise<string> {
  const folder = await readableFixture("hybrids/qwen3-5", await temporaryFolder());
  await addNextLayer(folder, flattened);
  return folder;
}

async function withLayerInFile(): Promise<string> {
  const path = join(await temporaryFolder(), "model.gguf");
  await writeHybridGguf(await withLayer(), path);
  return path;
}

interface Opened {
  readonly model: Model;
  readonly running: BenchModel;
  readonly head: HeadRunner;
  /** The model's states at the text's tokens. */
  readonly states: readonly Float32Array[];
}

async function opened(path: string, precision: Precision, kernel: "native" | "wasm" = "native"): Promise<Opened> {
  const model = await openModel(path);
  const cacheFolder = await temporaryFolder();
  const runner = await KernelRunner.open(model, { precision, kernel, threads: 2, cacheFolder });
  const router = await openRouter(model, undefined, { threads: 1 });
  const found = (await findDraftHead(model))!;
  const kvPrecision = precision === "fp32" ? "fp32" : "fp16";
  const options = {
    precision,
    kvPrecision,
    threads: 2,
    kernel,
    now: () => 0,
    cacheFolder,
    capacityTokens: 1024,
  } as const;
  const head = await runner.openHead(found, options);
  onTestFinished(async () => {
    await head.close();
    await router.dispose();
    await runner.dispose();
    await model.close();
  });
  const kv = kvFor(runner, TOKENS.length);
  const slot = kv.admit(TOKENS.length) as KvSlot;
  const { hiddenSize } = model.config;
  // In two steps, of which one wants no logits.
  const states: Float32Array[] = [];
  for (const [from, to] of [[0, 11] as const, [11, TOKENS.length] as const]) {
    const tokenIds = TOKENS.slice(from, to);
    const logitsOf = from === 0 ? [] : [tokenIds.length - 1];
    const step = { slot, tokenIds, experts: tokenIds.map(() => 0), logitsOf };
    const [result] = (await runner.forward(kv, [step])) as readonly [StepLogits];
    for (const row of tokenIds.keys()) states.push(result.states!.slice(row * hiddenSize, (row + 1) * hiddenSize));
  }
  return { model, running: { runner, router }, head, states };
}

function joined(rows: readonly Float32Array[]): Float32Array {
  return Float32Array.from(rows.flatMap((row) => Array.from(row)));
}

/** Checks the most likely token and its probability. */
function expectLikely(output: ReturnType<HeadRunner["run"]>[number], logits: readonly number[], bound: number): void {
  const largest = Math.max(...logits);
  const sum = logits.reduce((total, logit) => total + Math.exp(logit - largest), 0);
  if (bound < 0.1) expect(output?.tokenId).toBe(logits.indexOf(largest));
  expect(Math.abs((output?.probability ?? NaN) - 1 / sum)).toBeLessThan(bound);
}

describe.each([
  ["a folder, native", withLayer, "fp32", "native", 5e-4],
  ["a folder, wasm", withLayer, "fp32", "wasm", 5e-4],
  ["a GGUF file", withLayerInFile, "fp32", "native", 5e-4],
  ["a folder in 8 bits", withLayer, "int8", "native", 0.3],
] as const)("in %s", (_, pathOf, precision, kernel, bound) => {
  test("a text in random chunks, and drafts behind it, are as transformers computes them", async () => {
    const { head, states, model } = await opened(await pathOf(), precision, kernel);
    expect(head.head.layers).toEqual([model.config.numLayers]);
    const random = seededRandom(3);
    for (let run = 0; run < 4; run++) {
      const slot = head.kv.admit(TOKENS.length) as KvSlot;
      for (let from = 0; from < TOKENS.length - 1;) {
        const to = run === 0 ? TOKENS.length - 1 : Math.min(TOKENS.length - 1, from + 1 + randomInteger(random, 9));
        const tokenIds = TOKENS.slice(from + 1, to + 1);
        const [output] = head.run([{ slot, tokenIds, states: joined(states.slice(from, to)), isWanted: true }]);
        expectLikely(output, LOGITS[to - 1]!, bound);
        from = to;
      }
      head.kv.release(slot);
    }
    const slots = CHAINS.map(({ end }) => head.kv.admit(end + 4) as KvSlot);
    let outputs = head.run(
      CHAINS.map(({ end }, index) => {
        const rows = joined(states.slice(0, end + 1));
        return { slot: slots[index]!, tokenIds: TOKENS.slice(1, end + 2), states: rows, isWanted: true };
      }),
    );
    for (const draft of [0, 1, 2]) {
      for (const [index, { logits }] of CHAINS.entries()) expectLikely(outputs[index], logits[draft]!, bound);
      outputs = head.run(
        CHAINS.map(({ end }, index) => {
          const tokenIds = [TOKENS[end + 2 + draft]!];
          return { slot: slots[index]!, tokenIds, states: outputs[index]!.state, isWanted: true };
        }),
      );
    }
  });
});

test.each([
  ["all memory", { capacityTokens: 2048 }],
  ["little memory and short steps", { capacityTokens: 384, maxNumBatchedTokens: 64 }],
])("tokens are the same with its drafts, most of which are wrong, and %s", async (_, limits) => {
  const random = seededRandom(4);
  const jobs = Array.from({ length: 10 }, (_job, seed): Job => {
    const promptIds = Array.from({ length: 2 + randomInteger(random, 90) }, () => 3 + randomInteger(random, 125));
    const temperature = seed % 3 === 0 ? 0.5 : 0;
    return { id: `job-${seed}`, promptIds, params: { maxTokens: 40, temperature, seed, ignoreEos: true, logprobs: 2 } };
  });
  const path = await withLayer();
  await using alone = await runningModel(path, undefined, "fp32", await temporaryFolder());
  const { tokenizer } = await alone.model.loadText();
  const expected = await outcomesAlone(jobs, alone, tokenizer);
  const { head, running } = await opened(path, "fp32");
  let nowMs = 0;
  const drafts = { drafter: eagerDrafter(new HeadDrafter(head, [])), now: () => nowMs++ };
  const bench = new CoreBench(running, tokenizer, { ...limits, ...drafts, maxNumSeqs: 4 });
  for (const { id, promptIds, params } of jobs) bench.add(id, promptIds, params);
  await bench.finish();
  expect(bench.outcomes).toEqual(expected);
  expect(bench.core.stats().draftsBySource?.head?.draftedTokens).toBeGreaterThan(20);
});

test("an engine finds the layer, and opens without it", async () => {
  const path = await withLayer();
  for (const draftHead of [undefined, "none"]) {
    const options = { isolation: "thread", threads: 1, cacheFolder: await temporaryFolder(), draftHead } as const;
    await using engine = await ReadMeEngine.open(path, options);
    expect(engine.info.draftHead).toBe(draftHead === undefined ? path : undefined);
    const { choices } = await completeAll(engine, { prompt: TOKENS, params: { maxTokens: 3, ignoreEos: true } });
    expect(choices[0]?.ids).toHaveLength(3);
  }
});

test("a layer with a tensor of another shape is refused by its name", async () => {
  const broken = await withLayer("mtp.layers.0.self_attn.q_proj.weight");
  await expectReadMeError(openModel(broken), "ERR_MODEL_INVALID", "mtp.layers.0.self_attn.q_proj.weight");
});
