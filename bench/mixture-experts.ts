// Measures mixtures with a router in every layer under a budget: decode steps in int8 with all experts in memory, and
// with half of them, on demand (least recently used, and longest unused), and with a forecast. Beside them runs a Read-ME
// model with as many bytes of experts and as many bytes for each token, whose router is asked before the step.
//
//   pnpm bench:mixture-budget [--share 0.5] [--tokens 48] [--rounds 3] [--threads 2] [--small]
//
// Weights are random. In the first group tokens are independent, so routes are nearly so; in the second one tokens keep
// their topic, whose embeddings are alike. Contenders take turns. Reads come from the system's cache of files.

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { DEFAULT_READ_AHEAD, seededRandom } from "@readme-moe/core";
import { expertLayout, KernelRunner, type KernelRunnerOptions } from "@readme-moe/engine";
import { type KvSlot, wholeBlocks } from "@readme-moe/kernel";
import type { Model } from "@readme-moe/model";
import { median } from "./kit/statistics.ts";
import { randomMixture, SMALL_OLMOE, type MixtureShape, type Topics } from "./random-mixture.ts";
import { randomModel } from "./random-model.ts";

const { values } = parseArgs({
  options: {
    share: { type: "string", default: "0.5" },
    tokens: { type: "string", default: "48" },
    rounds: { type: "string", default: "3" },
    threads: { type: "string", default: "2" },
    small: { type: "boolean", default: false },
  },
});
const [share, numTokens, rounds, threads] = [values.share, values.tokens, values.rounds, values.threads].map(Number);
const SHAPE: MixtureShape = values.small
  ? { ...SMALL_OLMOE, hiddenSize: 256, numHeads: 4, expertSize: 256 }
  : SMALL_OLMOE;
const NUM_TOPICS = 16;
const PROMPT_TOKENS = 32;
/** Chance that a token keeps its topic. */
const STAYS = 0.9;

/** Tokens of one sequence after another: each keeps the topic of the one before, or changes it. */
function textOf(seed: number, length: number): readonly number[] {
  const random = seededRandom(seed);
  let topic = Math.floor(random() * NUM_TOPICS);
  return Array.from({ length }, () => {
    if (random() > STAYS) topic = Math.floor(random() * NUM_TOPICS);
    return topic + NUM_TOPICS * Math.floor((random() * SHAPE.vocabSize) / NUM_TOPICS);
  });
}

interface Contender {
  readonly name: string;
  readonly runner: KernelRunner;
  /** Number of experts that requests name; tokens use their topic's. */
  readonly numExperts: number;
  readonly speeds: Map<number, number[]>;
}

const cacheFolder = await mkdtemp(join(tmpdir(), "readme-moe-bench-"));
try {
  await measureGroup("independent tokens", { count: NUM_TOPICS, share: 0 });
  await measureGroup("tokens that keep their topic", { count: NUM_TOPICS, share: 0.5 });
} finally {
  await rm(cacheFolder, { recursive: true });
}

async function openContender(name: string, model: Model, options: KernelRunnerOptions): Promise<Contender> {
  const runner = await KernelRunner.open(model, { precision: "int8", threads, cacheFolder, ...options });
  return { name, runner, numExperts: model.experts.names.length, speeds: new Map() };
}

async function measureGroup(title: string, topics: Topics): Promise<void> {
  const mixture = randomMixture(SHAPE, topics);
  const { expertsPerToken, numExperts, expertSize } = SHAPE;
  const readMe = randomModel(SHAPE, numExperts / expertsPerToken, expertSize * expertsPerToken);
  const totalBytes = expertLayout(mixture).layerBytes.reduce((sum, bytes) => sum + bytes, 0);
  const expertCacheBytes = Math.floor((share ?? 0.5) * totalBytes);
  console.log(
    `${title}: ${(totalBytes / 1e6).toFixed(0)} MB of experts, ${(expertCacheBytes / 1e6).toFixed(0)} MB in memory`,
  );
  const contenders = [
    await openContender("all in memory", mixture, {}),
    await openContender("on demand, lru", mixture, { expertCacheBytes, policy: "lru", readAhead: false }),
    await openContender("on demand, belady", mixture, { expertCacheBytes, readAhead: false }),
    await openContender("chances, on demand", mixture, {
      expertCacheBytes,
      readAhead: { layersAhead: 0, leastChance: 1 },
    }),
    await openContender("forecast", mixture, { expertCacheBytes, readAhead: DEFAULT_READ_AHEAD }),
    await openContender("measured", mixture, { expertCacheBytes }),
    await openContender("pre-gated Read-ME", readMe, { expertCacheBytes }),
  ];
  for (let round = 0; round < (rounds ?? 1); round++) {
    const turns = round % 2 === 0 ? contenders : contenders.toReversed();
    for (const numSeqs of [1, 4]) for (const contender of turns) await takeTurn(contender, numSeqs, round);
  }
  for (const { name, runner, speeds } of contenders) {
    const fields = [1, 4].map((count) => `${count}: ${median(speeds.get(count) ?? []).toFixed(1)} tok/s`);
    console.log(`  ${name.padEnd(20)} ${fields.join(", ").padEnd(30)} ${cacheText(runner)}`);
    await runner.dispose();
  }
  console.log(`  experts of the token before, used again: ${percent(await repeatedShare(mixture))}`);
}

/** Prefills some sequences and measures decode steps. */
async function takeTurn({ runner, numExperts, speeds }: Contender, numSeqs: number, round: number): Promise<void> {
  const length = PROMPT_TOKENS + (numTokens ?? 1);
  const kv = runner.openKv({ capacityTokens: numSeqs * wholeBlocks(length) });
  const texts = Array.from({ length: numSeqs }, (_, index) => textOf(1000 * round + index, length));
  const slots = texts.map(() => kv.admit(length) as KvSlot);
  const step = (from: number, to: number) =>
    runner.forward(
      kv,
      texts.map((text, index) => {
        const tokenIds = text.slice(from, to);
        const experts = tokenIds.map((id) => (id % NUM_TOPICS) % numExperts);
        return { slot: slots[index] as KvSlot, tokenIds, experts, logitsOf: [tokenIds.length - 1] };
      }),
    );
  await step(0, PROMPT_TOKENS);
  const startMs = performance.now();
  for (let token = PROMPT_TOKENS; token < length; token++) await step(token, token + 1);
  const speed = (1000 * numSeqs * (length - PROMPT_TOKENS)) / (performance.now() - startMs);
  speeds.set(numSeqs, [...(speeds.get(numSeqs) ?? []), speed]);
  kv.dispose();
}

function cacheText(runner: KernelRunner): string {
  const stats = runner.memory?.stats;
  if (!stats) return "";
  const { uses, hits, bytesRead, stallMs, forecast } = stats;
  const text = `hits ${percent(hits / uses)}, ${(bytesRead / 1e6).toFixed(0)} MB read, waited ${stallMs.toFixed(0)} ms`;
  if (!forecast || forecast.loads === 0) return text;
  const { loads, hits: right, wastedLoads } = forecast;
  return `${text}; read ahead ${loads}, right ${right}, wasted ${wastedLoads}, on demand ${percent(forecast.misses / uses)}`;
}

/** Computes how many of a token's experts the token before used in the same layer. By chance it is 12.5 %. */
async function repeatedShare(model: Model): Promise<number> {
  const units = expertLayout(model).layerBytes[0] ?? 1;
  // Least recently used with room for a token's experts in each layer hits exactly those.
  const budget = Math.ceil((units / SHAPE.numExperts) * SHAPE.expertsPerToken * SHAPE.numLayers);
  const options = { precision: "int8", threads, cacheFolder, policy: "lru", readAhead: false } as const;
  const runner = await KernelRunner.open(model, { ...options, expertCacheBytes: budget });
  const kv = runner.openKv({ capacityTokens: wholeBlocks(64) });
  const slot = kv.admit(64) as KvSlot;
  for (const id of textOf(7, 64)) await runner.forward(kv, [{ slot, tokenIds: [id], experts: [0], logitsOf: [0] }]);
  const { hits, uses } = runner.memory?.stats ?? { hits: 0, uses: 1 };
  await runner.dispose();
  return hits / uses;
}

function percent(part: number): string {
  return `${(100 * part).toFixed(1)} %`;
}
