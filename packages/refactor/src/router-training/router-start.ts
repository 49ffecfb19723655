// Initial parameters of a router: random matrices, and an embedding made of the language model's embedding and of
// costs.

import { seededRandom } from "@readme-moe/core";
import type { RouterConfig } from "@readme-moe/model";
import * as operators from "../graphs/operators.ts";
import { GraphBuilder } from "../graphs/graph-builder.ts";
import { GraphSession } from "../graphs/session.ts";
import { normals } from "../random.ts";
import { routerShapes, type RouterParameters } from "./router-trainer.ts";
import type { RouterExample } from "./routes.ts";

/** Gain of residual branches and of the head: their outputs start small beside the residual stream. */
const BRANCH_GAIN = 0.3;
/** Tokens of the average kind that are added to each token's own counts. */
const PRIOR_TOKENS = 5;

/** Embedding of a language model. */
export interface SourceEmbedding {
  /** `[vocabSize, size]` */
  readonly values: Float32Array;
  readonly size: number;
}

/** Makes the parameters of `routerShapes`: random matrices, norms of one, biases of zero. */
export function startParameters(config: RouterConfig, seed: number): RouterParameters {
  const random = seededRandom(seed);
  const parameters = new Map<string, Float32Array>();
  for (const [name, [out = 0, size]] of routerShapes(config)) {
    if (size !== undefined) {
      const gain = /^(o_proj|proj_2|proj_out)/.test(name) ? BRANCH_GAIN : 1;
      parameters.set(name, normals(out * size, gain / Math.sqrt(size), random));
    } else parameters.set(name, new Float32Array(out).fill(name.includes("layernorm") ? 1 : 0));
  }
  return parameters;
}

/**
 * Projects the language model's embedding to `[vocabSize, embeddingSize]`, centred, with a mean square of 1. Tokens
 * that are similar to the language model are similar to the router from the start, even tokens that training never
 * meets.
 */
export async function projectEmbedding(
  { values, size }: SourceEmbedding,
  { vocabSize, embeddingSize }: Pick<RouterConfig, "vocabSize" | "embeddingSize">,
  seed: number,
  threads: number | undefined,
): Promise<Float32Array> {
  const rotation = orthogonal(embeddingSize, size, seededRandom(seed));
  const means = new Float32Array(size);
  for (let i = 0; i < values.length; i++) means[i % size]! += values[i]! / vocabSize;
  const offset = new Float32Array(embeddingSize);
  rotation.forEach((value, i) => (offset[Math.floor(i / size)]! -= value * means[i % size]!));
  const g = new GraphBuilder("project-embedding");
  const x = g.input("x", "float32", [vocabSize, size]);
  const w = g.input("w", "float32", [embeddingSize, size]);
  const bias = g.input("bias", "float32", [embeddingSize]);
  g.output("y", operators.Gemm(g, x, w, { bias }), "float32", [vocabSize, embeddingSize]);
  const session = await GraphSession.open(g.build(), { threads });
  const { y } = await session.run({
    x: { data: values, dims: [vocabSize, size] },
    w: { data: rotation, dims: [embeddingSize, size] },
    bias: { data: offset, dims: [embeddingSize] },
  });
  await session.dispose();
  const table = y?.data as Float32Array;
  const squares = table.reduce((sum, value) => sum + value * value, 0);
  const scale = squares > 0 ? Math.sqrt(table.length / squares) : 1;
  return table.map((value) => value * scale);
}

/**
 * Overwrites the last dimensions of `table`, one for each expert, with the log of how much more often the expert is
 * right for a token than for the average token, with a mean square of 1 over the text. A naive Bayes classifier adds up
 * these values: attention with uniform weights makes a good router of them at once.
 *
 * @param targets - of each example, see `routerTargets`
 */
export function addEvidence(
  table: Float32Array,
  examples: readonly RouterExample[],
  targets: readonly Float32Array[],
  { vocabSize, numExperts, embeddingSize }: Pick<RouterConfig, "vocabSize" | "numExperts" | "embeddingSize">,
): void {
  const mass = new Float64Array(vocabSize * numExperts);
  const totals = new Float64Array(numExperts);
  examples.forEach(({ tokenIds }, index) => {
    targets[index]?.forEach((share, at) => {
      const expert = at % numExperts;
      mass[tokenIds[(at - expert) / numExperts]! * numExperts + expert]! += share;
      totals[expert]! += share;
    });
  });
  const all = totals.reduce((sum, value) => sum + value, 0);
  const priors = totals.map((value) => Math.max(value / all, Number.EPSILON));
  let [squares, weight] = [0, 0];
  for (let id = 0; id < vocabSize; id++) {
    const own = mass.subarray(id * numExperts, (id + 1) * numExperts);
    const count = own.reduce((sum, value) => sum + value, 0);
    const evidence = priors.map((prior, expert) => {
      const share = (own[expert]! + PRIOR_TOKENS * prior) / (count + PRIOR_TOKENS);
      return Math.log(share / prior);
    });
    const mean = evidence.reduce((sum, value) => sum + value / numExperts, 0);
    const start = (id + 1) * embeddingSize - numExperts;
    evidence.forEach((logRatio, expert) => {
      const value = logRatio - mean;
      table[start + expert] = value;
      squares += count * value * value;
      weight += count;
    });
  }
  const scale = squares > 0 ? Math.sqrt(weight / squares) : 0;
  for (let end = embeddingSize; end <= table.length; end += embeddingSize) {
    for (let i = end - numExperts; i < end; i++) table[i]! *= scale;
  }
}

/** Makes `[rows, columns]` with orthonormal vectors along the longer axis (Gram and Schmidt). */
function orthogonal(rows: number, columns: number, random: () => number): Float32Array {
  const [count, length] = [Math.min(rows, columns), Math.max(rows, columns)];
  const vectors: Float32Array[] = [];
  while (vectors.length < count) {
    const vector = normals(length, 1, random);
    for (const other of vectors) {
      const along = dot(vector, other);
      for (let i = 0; i < length; i++) vector[i]! -= along * other[i]!;
    }
    const norm = Math.sqrt(dot(vector, vector));
    vectors.push(vector.map((value) => value / norm));
  }
  const result = new Float32Array(rows * columns);
  const [step, stride] = rows <= columns ? [columns, 1] : [1, columns];
  vectors.forEach((vector, index) => {
    vector.forEach((value, place) => (result[index * step + place * stride] = value));
  });
  return result;
}

function dot(a: Float32Array, b: Float32Array): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i]! * b[i]!;
  return sum;
}
