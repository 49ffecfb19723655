// Drafts change when tokens come, and never which: random sequences with all kinds of parameters, in cores with and
// without drafts, compared bit for bit.

import type { Draft, SamplingParams } from "@readme-moe/core";
import type { KernelRunner, StepLogits } from "@readme-moe/engine";
import type { KvSlot } from "@readme-moe/kernel";
import { type DraftHead, findDraftHead, type Tokenizer } from "@readme-moe/model";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Sequence } from "../../../packages/engine/src/sequence.ts";
import type { Drafter } from "../../../packages/engine/src/speculation/drafter.ts";
import { HeadDrafter } from "../../../packages/engine/src/speculation/head-drafter.ts";
import { CoreBench, eagerDrafter, outcomesAlone, type Job, type Limits, SLOW_STEP } from "../../support/core-bench.ts";
import { kvFor } from "../../support/greedy.ts";
import { RUNS_LONG_TESTS } from "../../support/long-tests.ts";
import { pocketTexts } from "../../support/pocket-texts.ts";
import { POCKET, POCKET_HEAD } from "../../support/pocket.ts";
import { randomInteger, seededRandom } from "../../support/random.ts";
import { type RunningModel, runningModel } from "../../support/running-model.ts";
import { runningTinyMixture, runningTinyModel } from "../../support/running-tiny-model.ts";
import { persistentFolder } from "../../support/temporary-folder.ts";

let running: Awaited<ReturnType<typeof runningTinyModel>>;
let tokenizer: Tokenizer;

const VOCAB_SIZE = 4096;

/** Draws jobs with parameters of every kind. */
function jobsOf(count: number, seed: number): readonly Job[] {
  const random = seededRandom(seed);
  const pick = <Item>(...items: readonly Item[]): Item => items[randomInteger(random, items.length)] as Item;
  return Array.from({ length: count }, (_, index) => {
    const promptIds = Array.from({ length: 1 + randomInteger(random, 150) }, () => randomInteger(random, VOCAB_SIZE));
    const maxTokens = 1 + randomInteger(random, 60);
    const params: SamplingParams = {
      maxTokens,
      temperature: pick(0, 0, 0.3, 1),
      topK: pick(0, 1, 3, 40),
      topP: pick(0.5, 0.95, 1),
      minP: pick(0, 0, 0.1),
      repetitionPenalty: pick(1, 1, 1.3),
      frequencyPenalty: pick(0, 0, 0.5),
      presencePenalty: pick(0, 0, -0.4),
      logitBias: pick({}, {}, { 5: 3, 9: -100 }),
      logprobs: pick(0, 3, 20),
      minTokens: Math.min(maxTokens, pick(0, 0, 5)),
      stopTokenIds: pick([], [randomInteger(random, VOCAB_SIZE)]),
      ignoreEos: pick(true, false),
      seed: index,
    };
    return { id: `job-${index}`, promptIds, params };
  });
}

/** Proposes a sequence's own later tokens, which are known from a run without drafts, with some errors among them. */
class Oracle implements Drafter {
  readonly #outcomes: CoreBench["outcomes"];
  readonly #random: () => number;
  readonly #errorShare: number;

  constructor(outcomes: CoreBench["outcomes"], errorShare: number, seed: number) {
    this.#outcomes = outcomes;
    this.#errorShare = errorShare;
    this.#random = seededRandom(seed);
  }

  follow(): void {
    // The oracle knows all tokens.
  }

  isPromising: Drafter["isPromising"] = () => true;

  propose: Drafter["propose"] = async (questions) =>
    questions.map(({ sequence, mostTokens }) => ({ draft: this.#draft(sequence, mostTokens), drafterMs: 0 }));

  #draft({ id, completionTokens }: Sequence, mostTokens: number): Draft {
    const all = this.#outcomes.get(id)?.tokens ?? [];
    const length = 1 + randomInteger(this.#random, mostTokens);
    const tokenIds = Array.from({ length }, (_, place) => {
      const right = all[completionTokens + place] ?? 7;
      return this.#random() < this.#errorShare ? randomInteger(this.#random, VOCAB_SIZE) : right;
    });
    return { source: "prediction", tokenIds, classes: tokenIds.map(() => 0) };
  }

  suggest: Drafter["suggest"] = () => undefined;
  observe: Drafter["observe"] = () => undefined;
  forget: Drafter["forget"] = () => undefined;
}

/** Runs the job with the longest answer. @returns the number of its steps */
async function stepsOf(jobs: readonly Job[], drafter?: Drafter): Promise<number> {
  const bench = new CoreBench(running, tokenizer, { capacityTokens: 4096, ...(drafter && { drafter }) });
  const [job] = jobs.toSorted((a, b) => (b.params.maxTokens ?? 0) - (a.params.maxTokens ?? 0));
  if (!job) throw new Error("No job");
  bench.add(job.id, job.promptIds, job.params);
  await bench.finish();
  return bench.core.stats().steps;
}

const LIMITS: readonly (readonly [string, Limits])[] = [
  ["much room", { capacityTokens: 4096 }],
  ["few places in a step", { capacityTokens: 4096, maxNumBatchedSeqs: 3, maxNumBatchedTokens: 80 }],
  ["room for three sequences, so that some are preempted", { capacityTokens: 512 }],
  ["cached prefixes", { capacityTokens: 4096, prefixCacheBytes: 1e7 }],
];

describe.each([
  ["experts", 1, runningTinyModel],
  ["experts", 2, runningTinyModel],
  ["experts", 3, runningTinyModel],
  ["a mixture", 4, runningTinyMixture],
] as const)("random sequences of %s, seed %d", (_kind, seed, open) => {
  const jobs = jobsOf(24, seed);
  let alone: CoreBench["outcomes"];
  afterAll(() => running[Symbol.asyncDispose]());
  beforeAll(async () => {
    running = await open();
    ({ tokenizer } = running);
    alone = await outcomesAlone(jobs, running, tokenizer);
  });

  test.each(LIMITS)("give the same tokens with drafts and %s", async (_, limits) => {
    for (const errorShare of [0, 0.2, 1]) {
      const bench = new CoreBench(running, tokenizer, { ...limits, drafter: new Oracle(alone, errorShare, seed) });
      for (const { id, promptIds, params } of jobs) bench.add(id, promptIds, params);
      await bench.finish();
      expect(bench.outcomes).toEqual(alone);
      const { completionTokens } = bench.core.stats();
      const generated = bench.events.filter(({ name }) => name === "token:generated").length;
      expect(completionTokens).toBe(generated);
    }
  });

  test("run fewer steps with good drafts, and not many more tokens with wrong ones", async () => {
    const without = await stepsOf(jobs);
    expect(await stepsOf(jobs, new Oracle(alone, 0, seed))).toBeLessThan(0.6 * without);
    expect(await stepsOf(jobs, new Oracle(alone, 1, seed))).toBe(without);
  });
});

describe("with a trained head", () => {
  let pocket: RunningModel;
  let texts: readonly (readonly number[])[];
  afterAll(() => pocket[Symbol.asyncDispose]());
  beforeAll(async () => {
    pocket = await runningModel(POCKET);
    ({ tokenizer } = await pocket.model.loadText());
    const documents = (await pocketTexts(["book", "arxiv"])).flatMap((text) => text.documents.slice(0, 10));
    texts = documents.map((text) => Array.from(tokenizer.encode(text)).slice(0, 250));
  });

  /** Opens a drafter whose clock stands still, so that every draft pays. */
  async function openDrafter(runner: KernelRunner, head: DraftHead): Promise<HeadDrafter> {
    const options = { precision: "fp32", kvPrecision: "fp16", threads: 2, now: () => 0 } as const;
    const opening = { ...options, cacheFolder: await persistentFolder(), capacityTokens: 1024 };
    return new HeadDrafter(await runner.openHead(head, opening), pocket.model.config.eosTokenIds);
  }

  test("drafts are the same however the states came", async () => {
    await using own = await runningModel(POCKET);
    const runner = own.runner as KernelRunner;
    const head = (await findDraftHead(pocket.model, POCKET_HEAD))!;
    const drafter = await openDrafter(runner, head);
    const random = seededRandom(5);
    let numDrafted = 0;
    for (const [number, tokenIds] of texts.slice(0, 6).entries()) {
      const kv = kvFor(runner, tokenIds.length);
      const slot = kv.admit(tokenIds.length) as KvSlot;
      const step = { slot, tokenIds, experts: tokenIds.map(() => 0), logitsOf: [] };
      const [{ states = new Float32Array(0) }] = (await runner.forward(kv, [step])) as [StepLogits];
      const width = states.length / tokenIds.length;
      const draftsOf = (id: string, end: number): readonly number[] => {
        const [draft] = drafter.propose([{ id, tokenIds: tokenIds.slice(0, end), mostTokens: 4 }], SLOW_STEP);
        return draft?.tokenIds ?? [];
      };
      const follow = (id: string, from: number, to: number): void => {
        const rows = states.subarray(from * width, to * width);
        drafter.follow([{ id, tokenIds: tokenIds.slice(0, to + 1), from, states: rows }]);
      };
      for (let end = 20; end < tokenIds.length; end += 37) {
        const whole = `whole ${number} ${end}`;
        follow(whole, 0, end - 1);
        const expected = draftsOf(whole, end);
        drafter.forget(whole);
        const parts = `parts ${number}`;
        // Some rows come twice, and drafts in between are taken back.
        for (let from = 0; from < end - 1;) {
          const to = Math.min(end - 1, from + 1 + randomInteger(random, 30));
          follow(parts, Math.max(0, from - randomInteger(random, 3)), to);
          draftsOf(parts, to + 1);
          from = to;
        }
        follow(parts, end - 2, end - 1);
        expect(draftsOf(parts, end)).toEqual(expected);
        numDrafted += expected.length;
      }
    }
    expect(numDrafted).toBeGreaterThan(20);
    await drafter.dispose();
    await head.close();
  });

  test.each(LIMITS)("give the same tokens and log-probabilities with %s", async (_, limits) => {
    const jobs = jobsOf(RUNS_LONG_TESTS ? 250 : 24, 6).map((job, index) => {
      const promptIds = texts[index % texts.length]!.slice(0, job.promptIds.length);
      return { ...job, promptIds, params: { ...job.params, logitBias: {}, stopTokenIds: [] } };
    });
    const alone = await outcomesAlone(jobs, pocket, tokenizer);
    await using own = await runningModel(POCKET);
    const found = (await findDraftHead(pocket.model, POCKET_HEAD))!;
    const head = await openDrafter(own.runner as KernelRunner, found);
    // Steps of any number of tokens take the same time, so that drafts pay.
    let nowMs = 0;
    const drafts = { drafter: eagerDrafter(head), now: () => nowMs++ };
    const bench = new CoreBench(own, tokenizer, { ...limits, ...drafts, maxNumSeqs: 6 });
    for (const { id, promptIds, params } of jobs) bench.add(id, promptIds, params);
    await bench.finish();
    expect(bench.outcomes).toEqual(alone);
    expect(bench.core.stats().draftsBySource?.head?.acceptedDraftTokens).toBeGreaterThan(10);
    await head.dispose();
    await found.close();
  });
});
