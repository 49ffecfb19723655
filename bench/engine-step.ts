// What the engine adds to the bare graph: decode steps of 1, 16 and 32 sequences, each followed by the graph alone on the
// same sequences, with feeds made beforehand. Medians.
//
//   pnpm bench:step <model> [--precision fp32] [--threads 2] [--past 120]

import { parseArgs } from "node:util";
import { fcfs, resolveSamplingParams, StopAutomaton } from "@readme-moe/core";
import { ModelRunner } from "@readme-moe/engine";
import { type Feeds, KvPool, type KvSlot, openModel, type Precision } from "@readme-moe/model";
import { fixedRouter } from "@readme-moe/router";
import { EngineCore } from "../packages/engine/src/engine-core.ts";
import { KvAdmission } from "../packages/engine/src/kv-admission.ts";
import { PrefixCache } from "../packages/engine/src/prefix-cache.ts";
import { planRun } from "../packages/engine/src/step-feeds.ts";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    precision: { type: "string", default: "fp32" },
    threads: { type: "string", default: "2" },
    past: { type: "string", default: "120" },
  },
});
const threads = Number(values.threads);
const past = Number(values.past);
const precision = values.precision as Precision;
const ROUNDS = 40;

const model = await openModel(positionals[0] ?? "models/pocket");
const { tokenizer } = await model.loadText();
const runner = await ModelRunner.open(model, { threads, precision });

console.log(
  `${model.path}, ${precision}, ${threads} threads, past of ${past} tokens; milliseconds a step, median of ${ROUNDS}`,
);
for (const numSeqs of [1, 16, 32]) {
  const engine = await decodingCore(numSeqs);
  const times = { engine: [] as number[], forward: engine.forwardMs, graph: [] as number[] };
  for (let round = 0; round < ROUNDS; round++) {
    times.engine.push(await timeMs(() => engine.core.step()));
    const feeds = nextFeeds(engine);
    times.graph.push(await timeMs(() => runner.session.run(feeds)));
  }
  const [step, alone, forward] = [median(times.engine), median(times.graph), median(times.forward.slice(-ROUNDS))];
  const share = `${(((step - alone) / alone) * 100).toFixed(1)} %`;
  console.log(
    `${String(numSeqs).padStart(2)} sequences: engine ${step.toFixed(2)} (graph with feeds and appending ${forward.toFixed(2)}), ` +
      `bare graph ${alone.toFixed(2)}, more by ${share}`,
  );
}
await runner.dispose();
await model.close();

interface DecodingCore {
  readonly core: EngineCore;
  readonly admission: KvAdmission;
  readonly forwardMs: number[];
}

/** A core whose sequences have all come to decoding, with a past of about `past` tokens. */
async function decodingCore(numSeqs: number): Promise<DecodingCore> {
  const forwardMs: number[] = [];
  const capacityTokens = numSeqs * (Math.ceil((past + ROUNDS + 64) / 64) * 64 + 64);
  const pool = new KvPool({ shape: runner.kvShape, capacityTokens });
  touch(pool);
  const { contextTokens: maxTokens } = model.config;
  const admission = new KvAdmission(pool, new PrefixCache(128, 0), { maxNumSeqs: numSeqs, maxTokens });
  const core = new EngineCore({
    runner,
    tokenizer,
    admission,
    scheduler: fcfs(),
    limits: { maxNumBatchedSeqs: numSeqs, maxNumBatchedTokens: 512, chunkTokens: 128 },
    maxTokens,
    output: {
      chunk: () => undefined,
      logits: () => undefined,
      failed: (_, error) => {
        throw error;
      },
      event: (name, payload) => {
        if (name === "batch:completed" && "forwardMs" in payload) forwardMs.push(payload.forwardMs);
      },
    },
    now: () => performance.now(),
  });
  const params = resolveSamplingParams({ temperature: 0, maxTokens: 1000, ignoreEos: true }, model.config);
  const router = fixedRouter(model.experts.names.length, 0);
  for (let index = 0; index < numSeqs; index++) {
    const promptIds = Array.from({ length: past }, (_, position) => 100 + ((index * 31 + position * 7) % 900));
    const id = `${index}`;
    const start = {
      id,
      requestId: id,
      choice: 0,
      arrival: index,
      arrivalMs: 0,
      priority: 0,
      promptIds,
      params,
      processesLogits: false,
      seed: 1,
    };
    core.add({ ...start, stops: new StopAutomaton([]) }, router);
  }
  do await core.step();
  while (pool.usedTokens === 0 || core.stats().completionTokens < 8 * numSeqs);
  return { core, admission, forwardMs };
}

/** Memory costs a page fault where it is touched first, once in the life of an engine; that is not what is measured here. */
function touch(pool: KvPool): void {
  const slot = pool.admit(pool.capacityTokens) as KvSlot;
  pool.writeBlock(slot, 0, new Float32Array((pool.bytesPerToken / 4) * pool.capacityTokens).fill(0.01));
  pool.release(slot);
}

/** What the engine's next step will feed. */
function nextFeeds({ admission }: DecodingCore): Feeds {
  const sequences = Array.from(admission.running.values(), ({ slot, tokenIds, experts }) => ({
    slot: slot as KvSlot,
    tokenIds: tokenIds.slice(-1),
    experts: experts.slice(-1),
    logitsOf: [0],
  }));
  const run = { decode: sequences.map((_, index) => index), decodeOther: [], continued: [], fresh: [] };
  return planRun(run, sequences, admission.pool, model.experts.names.length, 1).feeds;
}

async function timeMs(work: () => Promise<unknown>): Promise<number> {
  const start = performance.now();
  await work();
  return performance.now() - start;
}

function median(samples: readonly number[]): number {
  return samples.toSorted((a, b) => a - b)[Math.floor(samples.length / 2)] ?? 0;
}
