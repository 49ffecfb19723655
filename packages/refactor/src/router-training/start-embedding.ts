// The router's embedding before training: what the language model knows of its tokens, and what costs say of them.

import type { RouterConfig } from "@readme-moe/model";
import { GraphBuilder, GraphSession, operators } from "@readme-moe/onnx";
import { seededRandom } from "@readme-moe/core";
import type { RouterExample } from "./router-example.ts";
import { normals } from "./router-start.ts";

/** A language model's embedding. */
export interface SourceEmbedding {
  /** `[vocabSize, size]` */
  readonly values: Float32Array;
  readonly size: number;
}

/** How many tokens of the average kind each token is taken to have been seen beside its own. */
const PRIOR_TOKENS = 5;

/**
 * `[vocabSize, embeddingSize]`: the model's embedding, centred and turned to fewer dimensions, of mean square 1.
 * Tokens that are alike to the model are alike to the router from the start, those it never meets in training included.
 */
export async function projectEmbedding(
  { values, size }: SourceEmbedding,
  config: Pick<RouterConfig, "vocabSize" | "embeddingSize">,
  seed: number,
  threads: number | undefined,
): Promise<Float32Array> {
  const { vocabSize, embeddingSize } = config;
  const rotation = orthogonal(embeddingSize, size, seededRandom(seed));
  const means = new Float32Array(size);
  for (let i = 0; i < values.length; i++)
    means[i % size] = (means[i % size] as number) + (values[i] as number) / vocabSize;
  const offset = new Float32Array(embeddingSize);
  for (let i = 0; i < rotation.length; i++) {
    const row = Math.floor(i / size);
    offset[row] = (offset[row] as number) - (rotation[i] as number) * (means[i % size] as number);
  }
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
 * Overwrites the last dimensions of `table`, one per expert, by the log of how much more often the expert is right for
 * a token than for the average token (which is what a naive Bayes classifier adds up), of mean square 1 over the text.
 * Attention that is spread evenly makes a good router of them at once.
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
    const rows = targets[index] as Float32Array;
    for (let i = 0; i < rows.length; i++) {
      const expert = i % numExperts;
      const cell = (tokenIds[(i - expert) / numExperts] as number) * numExperts + expert;
      mass[cell] = (mass[cell] as number) + (rows[i] as number);
      totals[expert] = (totals[expert] as number) + (rows[i] as number);
    }
  });
  const all = totals.reduce((sum, value) => sum + value, 0);
  const priors = totals.map((value) => Math.max(value / all, Number.EPSILON));
  const evidence = new Float64Array(numExperts);
  let [squares, weight] = [0, 0];
  for (let id = 0; id < vocabSize; id++) {
    const own = mass.subarray(id * numExperts, (id + 1) * numExperts);
    const count = own.reduce((sum, value) => sum + value, 0);
    let mean = 0;
    for (let expert = 0; expert < numExperts; expert++) {
      const prior = priors[expert] as number;
      const share = ((own[expert] as number) + PRIOR_TOKENS * prior) / (count + PRIOR_TOKENS);
      evidence[expert] = Math.log(share / prior);
      mean += (evidence[expert] as number) / numExperts;
    }
    const start = (id + 1) * embeddingSize - numExperts;
    for (let expert = 0; expert < numExperts; expert++) {
      const value = (evidence[expert] as number) - mean;
      table[start + expert] = value;
      squares += count * value * value;
      weight += count;
    }
  }
  const scale = squares > 0 ? Math.sqrt(weight / squares) : 0;
  for (let id = 0; id < vocabSize; id++) {
    const end = (id + 1) * embeddingSize;
    for (let i = end - numExperts; i < end; i++) table[i] = (table[i] as number) * scale;
  }
}

/** `[rows, columns]`: as many orthonormal vectors as there can be, along the longer axis (Gram and Schmidt). */
function orthogonal(rows: number, columns: number, random: () => number): Float32Array {
  const [count, length] = [Math.min(rows, columns), Math.max(rows, columns)];
  const vectors: Float32Array[] = [];
  while (vectors.length < count) {
    const vector = normals(length, 1, random);
    for (const other of vectors) {
      const along = dot(vector, other);
      for (let i = 0; i < length; i++) vector[i] = (vector[i] as number) - along * (other[i] as number);
    }
    const norm = Math.sqrt(dot(vector, vector));
    vectors.push(vector.map((value) => value / norm));
  }
  const result = new Float32Array(rows * columns);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const [vector, place] = rows <= columns ? [row, column] : [column, row];
      result[row * columns + column] = (vectors[vector] as Float32Array)[place] as number;
    }
  }
  return result;
}

function dot(a: Float32Array, b: Float32Array): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += (a[i] as number) * (b[i] as number);
  return sum;
}
