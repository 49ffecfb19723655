// Estimates the time and memory of a larger model's refactoring: runs one layer of its shape with random weights, on
// fewer tokens and with fewer experts, and extrapolates.
//
//   npm run bench:refactor -- [--shape smollm2|qwen-0.5b|qwen-1.5b|1b|7b] [--domains 2] [--tokens 2048] [--threads 2]
//   npm run bench:refactor -- --shape qwen-1.5b --model FILE takes the weights of a file of that shape

import { parseArgs } from "node:util";
import { type Model, openModel, type TensorStore } from "@readme-moe/model";
import { parseConfig } from "../packages/model/src/config/parse-config.ts";
import { fitLayer } from "../test/support/fit-layer.ts";
import { layerSource, readDense } from "../packages/refactor/src/layers/layer-graphs.ts";
import { type Goal, goalOfBatch, runDense, runExperts, runMoments } from "../packages/refactor/src/layers/run-layer.ts";
import { type Batch, TokenStream } from "../packages/refactor/src/layers/token-stream.ts";
import { Products } from "../packages/refactor/src/linear-algebra/matrix.ts";

const SHAPES = {
  smollm2: { hidden: 576, ffn: 1536, layers: 30, heads: 9, kvHeads: 3, headSize: 64 },
  "qwen-0.5b": { hidden: 896, ffn: 4864, layers: 24, heads: 14, kvHeads: 2, headSize: 64 }, // Qwen2.5
  "qwen-1.5b": { hidden: 1536, ffn: 8960, layers: 28, heads: 12, kvHeads: 2, headSize: 128 },
  "1b": { hidden: 2048, ffn: 8192, layers: 16, heads: 32, kvHeads: 8, headSize: 64 }, // Llama 3.2
  "7b": { hidden: 4096, ffn: 11_008, layers: 32, heads: 32, kvHeads: 32, headSize: 128 }, // Llama 2
} as const;

type Range = { readonly from: number; readonly to: number };

// Refactoring that is extrapolated to.
const FULL = { domains: 7, tokens: 16_384, costShare: 1 / 3, staticShare: 1 / 4 };
const SEQUENCE_TOKENS = 512;

const { values } = parseArgs({
  options: {
    shape: { type: "string", default: "smollm2" },
    domains: { type: "string", default: "2" },
    tokens: { type: "string", default: "2048" },
    threads: { type: "string", default: "2" },
    model: { type: "string" },
  },
});
const shape = SHAPES[values.shape as keyof typeof SHAPES];
if (shape === undefined) throw new TypeError(`Expected --shape to be one of ${Object.keys(SHAPES).join(", ")}`);
const [numDomains, tokens, threads] = [Number(values.domains), Number(values.tokens), Number(values.threads)];

const model = values.model === undefined ? randomModel() : await openModel(values.model);
const texts = Array.from({ length: numDomains }, (_, domain) =>
  Array.from({ length: tokens / SEQUENCE_TOKENS }, (_sequence, sequence) =>
    Int32Array.from({ length: SEQUENCE_TOKENS }, (_token, token) => (token * 31 + sequence * 7 + domain * 101) % 500),
  ),
);
const stream = new TokenStream(model.config, texts, 1024);
const products = await Products.open(threads);
const source = layerSource(model, values.model === undefined ? 0 : 1);
const pass = { source, stream, options: { threads } };
const dense = await stream.embed(model);
const fitted = dense.slice();

const times: Record<string, { readonly ms: number; readonly cpuMs: number }> = {};
const { goal } = await timed("dense pass", () => runDense(pass, dense, 0.5));
const moments = await timed("statistics", () => runMoments(pass, fitted, { goal: goal.rows, share: 0.5 }));
const down = await readDense(source);
const settings = {
  usedSize: shape.ffn / 2,
  sharedSize: 0,
  selection: "elimination",
  refits: true,
  ownShare: 0.7,
  ridge: 1e-3,
} as const;
const layer = await timed("fit", () => fitLayer(moments, { dense: down, settings, products }));
const goalOf = (batch: Batch): Goal => goalOfBatch(stream, goal, batch);
await timed("errors", () => runExperts(pass, fitted, layer, { goalOf, share: 0.5 }));
await timed("experts", () => runExperts(pass, fitted, layer, { routesOf: ({ domain }) => domain }));
await products.dispose();
report();

function secondsOf(name: string): number {
  return (times[name]?.ms ?? NaN) / 1000;
}

function report(): void {
  for (const [name, { cpuMs }] of Object.entries(times)) {
    console.log(`${name.padEnd(12)} ${secondsOf(name).toFixed(2)} s, of processor ${(cpuMs / 1000).toFixed(2)} s`);
  }
  const { domains, costShare, staticShare } = FULL;
  const share = (domains * FULL.tokens) / stream.numTokens;
  // Measuring errors costs the same for each expert; the static expert's stream has a share of the tokens.
  const passes = secondsOf("dense pass") + (1 + staticShare) * (secondsOf("statistics") + secondsOf("experts"));
  const compared = costShare * secondsOf("errors") * (domains / numDomains);
  const fits = (secondsOf("fit") * (domains + 1)) / numDomains;
  const seconds = shape.layers * (share * (passes + compared) + fits);
  console.log(
    `this run: ${stream.numTokens} tokens, ${numDomains} experts, ${gigabytes(peakBytes())} of memory at its peak`,
  );
  console.log(
    `all ${shape.layers} layers with ${domains} experts of ${FULL.tokens} tokens each: ` +
      `${(seconds / 60).toFixed(0)} minutes, about ${gigabytes(projectedBytes())} of memory`,
  );
}

/** Extrapolates the memory that grows with tokens and experts; the rest stays the same. */
function projectedBytes(): number {
  const streams = (3 + FULL.staticShare) * stream.hiddenSize * 4; // dense, fitted, goal; the static expert's
  const ofDomain = 4 * shape.ffn * (shape.ffn / 2 + shape.hidden);
  const more = (FULL.domains * FULL.tokens - stream.numTokens) * streams + (FULL.domains + 1 - numDomains) * ofDomain;
  return peakBytes() + more;
}

function peakBytes(): number {
  return process.resourceUsage().maxRSS * 1024;
}

function gigabytes(bytes: number): string {
  return `${(bytes / 1e9).toFixed(1)} GB`;
}

/** Makes weights from a repeated list of random numbers. */
function randomModel(): Pick<Model, "config" | "weights"> {
  const noise = Float32Array.from({ length: 65_521 }, (_, i) => Math.sin(i * i * 12.9898));
  const { hidden, ffn, heads, kvHeads, headSize } = shape;
  const shapes = new Map<string, readonly number[]>();
  const floatsOf = (name: string, range?: Range): Float32Array => {
    const [height = 1, columns = 1] = shapes.get(name) ?? [];
    const { from, to } = range ?? { from: 0, to: height };
    const scale = name.endsWith("norm") ? 0 : 1 / Math.sqrt(columns);
    const offset = name.length * 7919 + from * columns;
    return Float32Array.from({ length: (to - from) * columns }, (_, i) =>
      scale === 0 ? 1 : scale * (noise[(i + offset + ((i + offset) >> 9)) % noise.length] as number),
    );
  };
  const store = {
    path: "random",
    info: (name: string) => {
      const own = shapes.get(name) ?? [];
      return { name, type: "F32", shape: own, byteLength: 4 * own.reduce((product, size) => product * size, 1) };
    },
    readFloats: async (name: string, range?: Range) => floatsOf(name, range),
    readBytes: async (name: string, range?: Range) => new Uint8Array(floatsOf(name, range).buffer),
  } as unknown as TensorStore;
  const ref = (name: string, ...size: readonly number[]) => {
    shapes.set(name, size);
    return { store, name, shape: size };
  };
  const linear = (name: string, out: number, size: number) => ({ weight: ref(name, out, size), bias: undefined });
  const embedding = ref("embedding", 512, hidden);
  const config = parseConfig("random", {
    model_type: "llama",
    vocab_size: 512,
    hidden_size: hidden,
    intermediate_size: ffn,
    num_hidden_layers: 1,
    num_attention_heads: heads,
    num_key_value_heads: kvHeads,
    head_dim: headSize,
    rms_norm_eps: 1e-5,
    max_position_embeddings: SEQUENCE_TOKENS,
  });
  const layerRefs = {
    attentionNorm: ref("input_norm", hidden),
    attention: {
      query: linear("query", heads * headSize, hidden),
      key: linear("key", kvHeads * headSize, hidden),
      value: linear("value", kvHeads * headSize, hidden),
      output: linear("output", hidden, heads * headSize),
      queryNorm: undefined,
      keyNorm: undefined,
    },
    attentionOutputNorm: undefined,
    ffnNorm: ref("post_norm", hidden),
    ffnOutputNorm: undefined,
    shared: undefined,
    experts: [{ gate: linear("gate", ffn, hidden), up: linear("up", ffn, hidden), down: linear("down", hidden, ffn) }],
  };
  return { config, weights: { embedding, head: embedding, finalNorm: ref("final_norm", hidden), layers: [layerRefs] } };
}

async function timed<Result>(name: string, work: () => Promise<Result>): Promise<Result> {
  const [start, cpu] = [performance.now(), process.cpuUsage()];
  const result = await work();
  const { user, system } = process.cpuUsage(cpu);
  times[name] = { ms: performance.now() - start, cpuMs: (user + system) / 1000 };
  return result;
}
