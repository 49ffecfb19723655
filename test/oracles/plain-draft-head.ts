// An independent, plain implementation of a draft head: each row's chain of drafts by itself, loops in float64.

import { ropeFrequencies, ropeScale, type RopeConfig } from "@readme-moe/model";

type Row = Float64Array;

/** Sizes of a head, and its weights by their names in its file. */
export interface PlainHead {
  readonly numHeads: number;
  readonly numKvHeads: number;
  readonly headSize: number;
  readonly rotatedSize: number;
  readonly rope: RopeConfig;
  readonly epsilon: number;
  readonly weights: ReadonlyMap<string, ArrayLike<number>>;
}

/** Inputs that a head takes from its model. */
export interface PlainHeadInputs {
  /** `[tokens][3 * hiddenSize]` */
  readonly states: readonly ArrayLike<number>[];
  /** Embedding of each token. */
  readonly embeddings: readonly ArrayLike<number>[];
  /** Rows of the model's head for the draft vocabulary. */
  readonly head: readonly ArrayLike<number>[];
}

/** Key and value of a row at its position. */
interface Seen {
  readonly key: Row;
  readonly value: Row;
}

/** Computes logits `[token][draft]`, as far as the text has the tokens that drafts read. */
export function plainDrafts(head: PlainHead, { states, embeddings, head: outputs }: PlainHeadInputs, drafts: number) {
  const firstSeen: Seen[] = [];
  return states.slice(0, -1).map((state, row) => {
    let stream = product(head, "fc.weight", state);
    let seen: readonly Seen[] = firstSeen;
    const logits: Row[] = [];
    for (let draft = 0; draft < drafts && row + 1 + draft < embeddings.length; draft++) {
      const { own, next } = layer(
        head,
        { stream, embedding: embeddings[row + 1 + draft]!, position: row + draft },
        seen,
      );
      if (draft === 0) firstSeen.push(own);
      seen = draft === 0 ? [...firstSeen] : [...seen, own];
      stream = next;
      const normed = norm(head, "norm.weight", stream);
      logits.push(Float64Array.from(outputs, (weights) => dot(weights, normed)));
    }
    return logits;
  });
}

function layer(
  head: PlainHead,
  { stream, embedding, position }: { stream: Row; embedding: ArrayLike<number>; position: number },
  seen: readonly Seen[],
): { readonly own: Seen; readonly next: Row } {
  const input = Float64Array.of(
    ...norm(head, "midlayer.input_layernorm.weight", embedding),
    ...norm(head, "midlayer.hidden_norm.weight", stream),
  );
  const part = (name: string): Row => product(head, `midlayer.self_attn.${name}_proj.weight`, input);
  const own = { key: rotated(head, part("k"), position), value: part("v") };
  const attended = attend(head, rotated(head, part("q"), position), [...seen, own]);
  const behind = sum(stream, product(head, "midlayer.self_attn.o_proj.weight", attended));
  const inner = norm(head, "midlayer.post_attention_layernorm.weight", behind);
  const gate = product(head, "midlayer.mlp.gate_proj.weight", inner);
  const up = product(head, "midlayer.mlp.up_proj.weight", inner);
  const gated = gate.map((x, i) => (x / (1 + Math.exp(-x))) * up[i]!);
  return { own, next: sum(behind, product(head, "midlayer.mlp.down_proj.weight", gated)) };
}

function attend({ numHeads, numKvHeads, headSize }: PlainHead, query: Row, seen: readonly Seen[]): Row {
  const result = new Float64Array(numHeads * headSize);
  for (let head = 0; head < numHeads; head++) {
    const from = Math.floor(head / (numHeads / numKvHeads)) * headSize;
    const own = query.subarray(head * headSize, (head + 1) * headSize);
    const scores = seen.map(({ key }) => Math.exp(dot(own, key.subarray(from, from + headSize)) / Math.sqrt(headSize)));
    const total = scores.reduce((a, b) => a + b);
    for (const [index, { value }] of seen.entries()) {
      for (let i = 0; i < headSize; i++) result[head * headSize + i]! += (scores[index]! / total) * value[from + i]!;
    }
  }
  return result;
}

function rotated({ headSize, rotatedSize, rope }: PlainHead, row: Row, position: number): Row {
  const result = row.slice();
  const scale = ropeScale(rope);
  const half = rotatedSize / 2;
  for (const [i, frequency] of ropeFrequencies(rope, rotatedSize).entries()) {
    const [cos, sin] = [scale * Math.cos(position * frequency), scale * Math.sin(position * frequency)];
    for (let at = i; at < row.length; at += headSize) {
      result[at] = row[at]! * cos - row[at + half]! * sin;
      result[at + half] = row[at + half]! * cos + row[at]! * sin;
    }
  }
  return result;
}

function norm({ weights, epsilon }: PlainHead, name: string, row: ArrayLike<number>): Row {
  const scale = weights.get(name)!;
  const inverse = 1 / Math.sqrt(dot(row, row) / row.length + epsilon);
  return Float64Array.from(row, (x, i) => x * inverse * scale[i]!);
}

function product({ weights }: PlainHead, name: string, row: ArrayLike<number>): Row {
  const all = weights.get(name)!;
  return Float64Array.from({ length: all.length / row.length }, (_, out) => {
    let total = 0;
    for (let i = 0; i < row.length; i++) total += all[out * row.length + i]! * row[i]!;
    return total;
  });
}

function sum(a: Row, b: Row): Row {
  return a.map((x, i) => x + b[i]!);
}

function dot(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let total = 0;
  for (let i = 0; i < a.length; i++) total += a[i]! * b[i]!;
  return total;
}
