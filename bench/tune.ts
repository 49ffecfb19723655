// Compares a tuning step with its upper bound, a plain matrix product: a model of SmolLM2-135M's shape with random
// weights and a few layers takes turns with a product in the same process.
//
//   pnpm bench:tune [--layers 4] [--method lora|full|low-rank] [--sequences 8] [--tokens 256] [--threads 2] [--rounds 4]

import { parseArgs } from "node:util";
import { parseConfig } from "../packages/model/src/config/parse-config.ts";
import { GraphBuilder, GraphSession, operators } from "@readme-moe/refactor/graphs";
import { median } from "./kit/statistics.ts";
import type { DecoderWeights, Weight, WeightGroup } from "../packages/refactor/src/tuning/weights.ts";
import { chooseParameters, type Rates } from "../packages/refactor/src/tuning/parameters.ts";
import { Trainer } from "../packages/refactor/src/tuning/train.ts";
import { AdaptedModel, newAdapter } from "../packages/refactor/src/lora/adapted-model.ts";
import { AdapterTrainer } from "../packages/refactor/src/lora/adapter-trainer.ts";
import { changedProducts } from "../packages/refactor/src/lora/model-graph.ts";

const SHAPE = { hidden: 576, ffn: 1536, heads: 9, kvHeads: 3, headSize: 64, vocabulary: 49_152, layers: 30 } as const;
const RANKS = { lora: 32, full: 32, "low-rank": 16 } as const;
const SIDE = 1024;
const PRODUCTS = 8;
const PRODUCT_FLOPS = PRODUCTS * 2 * SIDE ** 3;

const { values } = parseArgs({
  options: {
    layers: { type: "string", default: "4" },
    method: { type: "string", default: "lora" },
    sequences: { type: "string", default: "8" },
    tokens: { type: "string", default: "256" },
    threads: { type: "string", default: "2" },
    rounds: { type: "string", default: "4" },
  },
});
const [layers, sequences, tokens] = [Number(values.layers), Number(values.sequences), Number(values.tokens)];
const [threads, rounds] = [Number(values.threads), Number(values.rounds)];
const method = values.method === "full" || values.method === "low-rank" ? values.method : "lora";
const rank = RANKS[method];
const numTokens = sequences * tokens;
const noise = Float32Array.from({ length: 1 << 20 }, (_, i) => Math.sin(i * 12.9898 + (i % 97)));

const config = parseConfig("random", {
  model_type: "llama",
  vocab_size: SHAPE.vocabulary,
  hidden_size: SHAPE.hidden,
  intermediate_size: SHAPE.ffn,
  num_hidden_layers: layers,
  num_attention_heads: SHAPE.heads,
  num_key_value_heads: SHAPE.kvHeads,
  head_dim: SHAPE.headSize,
  rms_norm_eps: 1e-5,
});
const teacher = randomWeights(SHAPE.ffn, 1);
const trainer = method === "low-rank" ? loraTrainer() : distiller(method);
const batch = Array.from({ length: sequences }, (_, s) => ({
  tokenIds: Int32Array.from({ length: tokens }, (__, t) => (s * 7919 + t * 131) % SHAPE.vocabulary),
  experts: new Uint16Array(tokens).fill(s % 2),
  domain: 0,
}));
const product = await plainProduct();

await trainer.step(batch, { matrices: 1e-4, vectors: 1e-5, weightDecay: 0 });
await product.run();
const [steps, products]: [Times[], Times[]] = [[], []];
for (let round = 0; round < rounds; round++) {
  products.push(await timed(product.run));
  steps.push(await timed(() => trainer.step(batch, { matrices: 1e-4, vectors: 1e-5, weightDecay: 0 })));
  products.push(await timed(product.run));
}
await trainer.dispose();
await product.dispose();
report();

interface BenchTrainer {
  step(sequences: typeof batch, rates: Rates): Promise<unknown>;
  dispose(): Promise<void>;
}

/** Makes the trainer of a Read-ME model with a dense teacher. */
function distiller(kind: "lora" | "full"): BenchTrainer {
  const student = { ...randomWeights(SHAPE.ffn / 2, 2), embedding: teacher.embedding, head: teacher.head };
  const trained = chooseParameters(student, { method: kind, rank, attention: false, seed: 1 });
  const settings = { sequenceTokens: tokens, microSequences: sequences, labelShare: 0.3, threads, signal: undefined };
  return new Trainer(config, { student, teacher }, trained, settings);
}

/** Makes the trainer of an expert of low rank over a dense model. */
function loraTrainer(): BenchTrainer {
  const settings = { sequences, sequenceTokens: tokens, scale: 1, teacherShare: 0, threads };
  const model = new AdaptedModel(config, teacher, settings);
  const shared = newAdapter(teacher, { products: changedProducts(false), rank, seed: 1 });
  const one = new AdapterTrainer(model, { shared, own: [] });
  return { step: (some, rates) => one.step(some, rates), dispose: () => model.dispose() };
}

function report(): void {
  const wallMs = median(steps.map(({ wall }) => wall));
  const wholeMs = headMs(wallMs) + ((wallMs - headMs(wallMs)) * SHAPE.layers) / layers;
  const { needed, run } = flops();
  for (const clock of ["wall", "cpu"] as const) {
    const stepMs = median(steps.map((times) => times[clock]));
    const ceiling = PRODUCT_FLOPS / median(products.map((times) => times[clock]));
    const share = (amount: number): string => `${((amount / stepMs / ceiling) * 100).toFixed(0)} %`;
    console.log(
      `by ${clock === "wall" ? "wall time" : "processor time"}: plain product ${(ceiling / 1e6).toFixed(0)} GFLOP/s`,
    );
    console.log(`  required products: ${share(needed)} of that; with recomputed ones: ${share(run)}`);
  }
  console.log(
    `step of ${method}, ${sequences} x ${tokens} tokens, ${layers} layers, ${threads} thread(s): ${wallMs.toFixed(0)} ms, ` +
      `${((numTokens * 1000) / wallMs).toFixed(0)} tokens/s; extrapolated to all ${SHAPE.layers} layers: ` +
      `${((numTokens * 1000) / wholeMs).toFixed(0)} tokens/s`,
  );
}

/** Returns the time of a step that does not depend on the number of layers, by its share of products. */
function headMs(stepMs: number): number {
  return (stepMs * headFlops()) / flops().run;
}

/** Counts the products of the head: of the model, its gradient and, when there is one, its teacher. */
function headFlops(): number {
  return (method === "low-rank" ? 2 : 3) * 2 * numTokens * SHAPE.vocabulary * SHAPE.hidden;
}

/** Counts the products of a step: the required ones, and these with the products recomputed in the backward pass. */
function flops(): { readonly needed: number; readonly run: number } {
  const { hidden, ffn, heads, kvHeads, headSize } = SHAPE;
  const qkv = hidden * headSize * (heads + 2 * kvHeads);
  const output = hidden * heads * headSize;
  const scores = tokens * heads * headSize; // of a token and product, masked ones included
  const attention = qkv + output + 2 * scores;
  if (method === "low-rank") {
    const changes = 3 * rank * (hidden + ffn);
    const all = withHead(
      attention + 3 * hidden * ffn + changes + qkv + output + 4 * scores + 3 * hidden * ffn + 2 * changes,
    );
    return { needed: all, run: all };
  }
  const expert = (3 * hidden * ffn) / 2;
  const factors = 3 * rank * (hidden + ffn / 2);
  const ofMethod = method === "lora" ? 3 * factors : expert;
  const backward = qkv + output + 4 * scores + expert + ofMethod;
  const layer = attention + 2 * expert + attention + expert + backward;
  const again = qkv + 2 * scores + (expert * 2) / 3;
  return { needed: withHead(layer), run: withHead(layer + again) };
}

/** @param macs - multiply-accumulates of a token and layer */
function withHead(macs: number): number {
  return 2 * numTokens * layers * macs + headFlops();
}

interface Times {
  readonly wall: number;
  /** Processor time of all threads, which other processes disturb less than wall time. */
  readonly cpu: number;
}

/** Measures in milliseconds. */
async function timed(work: () => Promise<unknown>): Promise<Times> {
  const [start, before] = [performance.now(), process.cpuUsage()];
  await work();
  const { user, system } = process.cpuUsage(before);
  return { wall: performance.now() - start, cpu: (user + system) / 1000 };
}

async function plainProduct(): Promise<{ readonly run: () => Promise<void>; readonly dispose: () => Promise<void> }> {
  const g = new GraphBuilder("product");
  const [a, b] = ["a", "b"].map((name) => g.input(name, "float32", [SIDE, SIDE]));
  g.output("c", operators.FusedMatMul(g, a!, b!), "float32", [SIDE, SIDE]);
  const session = await GraphSession.open(g.build(), { threads });
  const square = { data: random([SIDE, SIDE], 1), dims: [SIDE, SIDE] };
  return {
    run: async () => {
      for (let i = 0; i < PRODUCTS; i++) await session.run({ a: square, b: square });
    },
    dispose: () => session.dispose(),
  };
}

function randomWeights(width: number, numExperts: number): DecoderWeights {
  const { hidden, heads, kvHeads, headSize, vocabulary } = SHAPE;
  const embedding = random([vocabulary, hidden], 0.1);
  const group = (shapes: Readonly<Record<string, readonly number[]>>, key: string): WeightGroup =>
    new Map(
      Object.entries(shapes).map(([name, shape]): [string, Weight] => {
        const scale = 1 / Math.sqrt(shape[1] ?? 1);
        return [name, { key: `${key}.${name}`, shape, values: shape.length > 1 ? random(shape, scale) : ones(hidden) }];
      }),
    );
  return {
    embedding,
    head: embedding,
    finalNorm: { key: "norm", shape: [hidden], values: ones(hidden) },
    layers: Array.from({ length: layers }, (_, layer) => ({
      attention: group(
        {
          norm: [hidden],
          "query.weight": [heads * headSize, hidden],
          "key.weight": [kvHeads * headSize, hidden],
          "value.weight": [kvHeads * headSize, hidden],
          "output.weight": [hidden, heads * headSize],
        },
        `${layer}.attention`,
      ),
      common: group({ norm: [hidden] }, `${layer}.common`),
      experts: Array.from({ length: numExperts }, (__, expert) =>
        group(
          {
            "expert.gate.weight": [width, hidden],
            "expert.up.weight": [width, hidden],
            "expert.down.weight": [hidden, width],
          },
          `${layer}.${expert}`,
        ),
      ),
    })),
  };
}

function random(shape: readonly number[], scale: number): Float32Array {
  const count = shape.reduce((product_, size) => product_ * size, 1);
  return Float32Array.from({ length: count }, (_, i) => scale * noise[(i + (i >> 13)) % noise.length]!);
}

function ones(length: number): Float32Array {
  return new Float32Array(length).fill(1);
}
