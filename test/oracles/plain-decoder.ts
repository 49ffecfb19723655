// An independent, plain implementation of the model: one sequence, no cache, loops in float64. Slow on purpose; what
// the kernel and graphs compute is compared with it.

import { ropeFrequencies, ropeScale, type MixtureRefs, type Model, type TensorRef } from "@readme-moe/model";
import { plainChoices } from "./plain-choices.ts";

interface Linear {
  readonly weight: readonly Float64Array[]; // [out][in]
  readonly bias: Float64Array | undefined;
}

type Rows = Float64Array[];

/**
 * Logits of every position, `[tokens][vocabSize]`.
 *
 * @param experts - expert of each token, 0 in models that have one
 */
export async function plainLogits(
  model: Model,
  tokenIds: readonly number[],
  experts: ArrayLike<number>,
): Promise<readonly Float64Array[]> {
  const { config, weights } = model;
  const embedding = await matrix(weights.embedding);
  const { rmsNormEpsilon, embeddingScale, logitScale, residualScale } = config;
  const norm = async (rows: Rows, ref: TensorRef | undefined): Promise<Rows> =>
    ref ? rmsNorm(rows, await normScale(model, ref), rmsNormEpsilon) : rows;
  let hidden: Rows = tokenIds.map((id) => Float64Array.from(embedding[id] as Float64Array, (x) => x * embeddingScale));
  for (const [index, layer] of weights.layers.entries()) {
    const attended = await attention(model, index, await norm(hidden, layer.attentionNorm));
    hidden = add(hidden, scaled(await norm(attended, layer.attentionOutputNorm), residualScale));
    const y = await norm(hidden, layer.ffnNorm);
    const routed = layer.mixture
      ? await mixed(config, layer.mixture, y)
      : await expertsOf(config, layer.experts, experts, y);
    const fed = layer.shared ? add(routed, await ofAll(config, layer.shared, layer.mixture, y)) : routed;
    hidden = add(hidden, scaled(await norm(fed, layer.ffnOutputNorm), residualScale));
  }
  const head = { weight: await matrix(weights.head), bias: undefined };
  const logits = scaled(product(await norm(hidden, weights.finalNorm), head), logitScale);
  return logits.map((row) => row.map((logit) => capped(logit, config.caps?.logits)));
}

function capped(x: number, cap: number | undefined): number {
  return cap === undefined ? x : cap * Math.tanh(x / cap);
}

async function expertsOf(
  config: Model["config"],
  refs: readonly FeedForward[],
  experts: ArrayLike<number>,
  rows: Rows,
): Promise<Rows> {
  const routed: Rows = [];
  for (const [token, row] of rows.entries()) {
    routed.push((await feedForward(config, [row], refs[experts[token] as number] as FeedForward))[0] as Float64Array);
  }
  return routed;
}

/** The part of a layer that all rows use, times the sigmoid of the router's last output if it has one more. */
async function ofAll(
  config: Model["config"],
  shared: FeedForward,
  mixture: MixtureRefs | undefined,
  rows: Rows,
): Promise<Rows> {
  const outputs = await feedForward(config, rows, shared);
  if (!mixture || mixture.router.shape[0] === mixture.experts.length) return outputs;
  const logits = product(rows, { weight: await matrix(mixture.router), bias: undefined });
  return outputs.map((row, token) => row.map((value) => value / (1 + Math.exp(-(logits[token]!.at(-1) as number)))));
}

/** Adds up the outputs of each row's experts, in the order of their weights. */
async function mixed(config: Model["config"], { router, experts }: MixtureRefs, rows: Rows): Promise<Rows> {
  const { mixture } = config;
  if (!mixture) throw new TypeError("Expected the config of a mixture");
  const logits = product(rows, { weight: await matrix(router), bias: undefined });
  const outputs: Rows[] = [];
  for (const refs of experts) outputs.push(await feedForward(config, rows, refs));
  return logits.map((row, token) =>
    plainChoices(row.slice(0, experts.length), mixture.expertsPerToken, mixture.normalizesWeights)
      .map(({ expert, weight }) => ((outputs[expert] as Rows)[token] as Float64Array).map((value) => value * weight))
      .reduce((sum, output) => sum.map((value, i) => value + (output[i] as number))),
  );
}

/** What one dense layer's products take in, and what leaves it; each `[tokens][…]`. */
export interface PlainLayer {
  /** What queries, keys and values are made of. */
  readonly attentionInput: Rows;
  /** All heads' sums of values. */
  readonly heads: Rows;
  /** The residual stream behind attention. */
  readonly attended: Rows;
  readonly ffnInput: Rows;
  /** Each neuron's activation. */
  readonly neurons: Rows;
  /** What the FFN's last product puts out. */
  readonly fed: Rows;
  /** The residual stream behind the FFN. */
  readonly next: Rows;
}

/** Runs one dense layer on hidden states `[tokens][hiddenSize]`. */
export async function plainLayer(model: Model, index: number, hidden: Rows): Promise<PlainLayer> {
  const { rmsNormEpsilon, residualScale } = model.config;
  const layer = model.weights.layers[index] as Model["weights"]["layers"][number];
  const norm = async (rows: Rows, ref: TensorRef | undefined): Promise<Rows> =>
    ref ? rmsNorm(rows, await normScale(model, ref), rmsNormEpsilon) : rows;
  const attentionInput = await norm(hidden, layer.attentionNorm);
  const heads = await attendedHeads(model, index, attentionInput);
  const output = product(heads, await linear(layer.attention.output));
  const attended = add(hidden, scaled(await norm(output, layer.attentionOutputNorm), residualScale));
  const ffnInput = await norm(attended, layer.ffnNorm);
  const [refs] = layer.experts;
  if (!refs) throw new TypeError("Expected a dense layer");
  const neurons = await activations(model.config, ffnInput, refs);
  const fed = product(neurons, await linear(refs.down));
  return {
    attentionInput,
    heads,
    attended,
    ffnInput,
    neurons,
    fed,
    next: add(attended, scaled(await norm(fed, layer.ffnOutputNorm), residualScale)),
  };
}

async function attention(model: Model, layer: number, x: Rows): Promise<Rows> {
  const { output } = (model.weights.layers[layer] as (typeof model.weights.layers)[number]).attention;
  return product(await attendedHeads(model, layer, x), await linear(output));
}

async function attendedHeads({ config, weights }: Model, layer: number, x: Rows): Promise<Rows> {
  const refs = (weights.layers[layer] as (typeof weights.layers)[number]).attention;
  const { numHeads, numKvHeads, headSize } = config;
  const window = config.layers[layer]?.slidingWindow ?? Infinity;
  const rope = config.ropes[config.layers[layer]?.angleSet ?? -1];
  const frequencies = rope && ropeFrequencies(rope, config.rotatedSize);
  const factor = rope ? ropeScale(rope) : 1;
  const heads = async (ref: typeof refs.query, norm: TensorRef | undefined, count: number): Promise<Rows[]> => {
    const rows = product(x, await linear(ref));
    const scale = norm && (await normScale({ config }, norm));
    const isWhole = config.qkNorm === "all-heads";
    const normed = scale && isWhole ? rmsNorm(rows, scale, config.rmsNormEpsilon) : rows;
    return normed.map((row) =>
      Array.from({ length: count }, (_, head) => {
        const part = row.slice(head * headSize, (head + 1) * headSize);
        return scale && !isWhole ? (rmsNorm([part], scale, config.rmsNormEpsilon)[0] as Float64Array) : part;
      }),
    );
  };
  const turn = (rows: Rows[]): Rows[] =>
    frequencies
      ? rows.map((parts, position) => parts.map((part) => rotate(part, frequencies, { position, scale: factor })))
      : rows;
  const { queryGrowth: growth } = config;
  const queries = turn(await heads(refs.query, refs.queryNorm, numHeads)).map((parts, position) =>
    growth ? scaled(parts, 1 + growth.rate * Math.log(1 + Math.floor(position / growth.period))) : parts,
  );
  const keys = turn(await heads(refs.key, refs.keyNorm, numKvHeads));
  const values = await heads(refs.value, undefined, numKvHeads);
  return queries.map((parts, position) => {
    const row = new Float64Array(numHeads * headSize);
    parts.forEach((query, head) => {
      const kvHead = Math.floor(head / (numHeads / numKvHeads));
      const first = Math.max(0, position - window + 1);
      const scores: number[] = [];
      for (let other = first; other <= position; other++) {
        scores.push(
          capped(dot(query, keys[other]?.[kvHead] as Float64Array) * config.attentionScale, config.caps?.scores),
        );
      }
      softmax(scores).forEach((share, offset) => {
        const value = values[first + offset]?.[kvHead] as Float64Array;
        for (let i = 0; i < headSize; i++) {
          row[head * headSize + i] = (row[head * headSize + i] as number) + share * (value[i] as number);
        }
      });
    });
    return row;
  });
}

type FeedForward = Model["weights"]["layers"][number]["experts"][number];

async function feedForward(config: Model["config"], x: Rows, refs: FeedForward): Promise<Rows> {
  return product(await activations(config, x, refs), await linear(refs.down));
}

async function activations({ activation }: Model["config"], x: Rows, refs: FeedForward): Promise<Rows> {
  const gate = product(x, await linear(refs.gate));
  const up = product(x, await linear(refs.up));
  return gate.map((row, token) => row.map((g, i) => PLAIN_ACTIVATIONS[activation](g) * (up[token]?.[i] as number)));
}

/** Functions of an FFN's gate. */
export const PLAIN_ACTIVATIONS: Readonly<Record<Model["config"]["activation"], (x: number) => number>> = {
  silu: (x) => x / (1 + Math.exp(-x)),
  gelu: () => NaN,
  clamped: () => NaN,
  "gelu-tanh": (x) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))),
};

/** Rotates pairs of the first dimensions, as many as there are frequencies. */
function rotate(
  part: Float64Array,
  frequencies: Float32Array,
  { position, scale }: { readonly position: number; readonly scale: number },
): Float64Array {
  const half = frequencies.length;
  const turned = Float64Array.from(part);
  for (let i = 0; i < half; i++) {
    const angle = position * (frequencies[i] as number);
    const [a, b] = [part[i] as number, part[i + half] as number];
    turned[i] = scale * (a * Math.cos(angle) - b * Math.sin(angle));
    turned[i + half] = scale * (b * Math.cos(angle) + a * Math.sin(angle));
  }
  return turned;
}

function rmsNorm(rows: Rows, scale: Float64Array, epsilon: number): Rows {
  return rows.map((row) => {
    const rms = Math.sqrt(dot(row, row) / row.length + epsilon);
    return row.map((value, i) => (value / rms) * (scale[i] as number));
  });
}

function softmax(scores: readonly number[]): number[] {
  const top = Math.max(...scores);
  const raised = scores.map((score) => Math.exp(score - top));
  const sum = raised.reduce((total, value) => total + value, 0);
  return raised.map((value) => value / sum);
}

function product(rows: Rows, { weight, bias }: Linear): Rows {
  return rows.map((row) => Float64Array.from(weight, (w, out) => dot(row, w) + (bias?.[out] ?? 0)));
}

function scaled(rows: Rows, factor: number): Rows {
  return rows.map((row) => row.map((value) => value * factor));
}

function add(a: Rows, b: Rows): Rows {
  return a.map((row, token) => row.map((value, i) => value + (b[token]?.[i] as number)));
}

function dot(a: Float64Array, b: Float64Array): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += (a[i] as number) * (b[i] as number);
  return sum;
}

async function linear(refs: { readonly weight: TensorRef; readonly bias: TensorRef | undefined }): Promise<Linear> {
  return { weight: await matrix(refs.weight), bias: refs.bias && (await vector(refs.bias)) };
}

async function vector(ref: TensorRef): Promise<Float64Array> {
  return Float64Array.from(await ref.store.readFloats(ref.name));
}

async function normScale({ config }: Pick<Model, "config">, ref: TensorRef): Promise<Float64Array> {
  return (await vector(ref)).map((value) => value + config.normOffset);
}

async function matrix(ref: TensorRef): Promise<readonly Float64Array[]> {
  const values = await vector(ref);
  const [rows, columns] = ref.shape as readonly [number, number];
  return Array.from({ length: rows }, (_, row) => values.slice(row * columns, (row + 1) * columns));
}
