// The pre-gating router by the book, in double precision: one sequence, all positions again for each.

import type { RouterConfig } from "@readme-moe/model";

/** A product's weights, `[numOut][numIn]`, and its bias. */
export interface PlainLinear {
  readonly weight: readonly Float32Array[];
  readonly bias: Float32Array;
}

type Linears = "query" | "key" | "value" | "output" | "expand" | "contract";

/** A layer with its weights in memory. */
type PlainRouterLayer = Readonly<Record<Linears, PlainLinear>> & {
  readonly inputNorm: Float32Array;
  readonly postAttentionNorm: Float32Array;
};

/** A router with its weights in memory. */
export interface PlainRouter {
  readonly config: RouterConfig;
  readonly embedding: readonly Float32Array[];
  readonly layers: readonly PlainRouterLayer[];
  readonly finalNorm: Float32Array;
  readonly head: PlainLinear;
}

type Vector = readonly number[];

/** Logits of every token. */
export function plainRouterLogits(router: PlainRouter, tokenIds: readonly number[]): readonly Vector[] {
  let stream: readonly Vector[] = tokenIds.map((id) => Array.from(router.embedding[id] as Float32Array));
  for (const layer of router.layers) {
    stream = sums(stream, attend(router.config, layer, stream));
    const expanded = stream.map((x) => linear(layer.expand, norm(x, layer.postAttentionNorm)).map(silu));
    stream = sums(
      stream,
      expanded.map((x) => linear(layer.contract, x)),
    );
  }
  return stream.map((x) => linear(router.head, norm(x, router.finalNorm)));
}

function attend(config: RouterConfig, layer: PlainRouterLayer, stream: readonly Vector[]): readonly Vector[] {
  const normed = stream.map((x) => norm(x, layer.inputNorm));
  const turned = (part: PlainLinear): Vector[][] =>
    normed.map((x, position) => heads(config, linear(part, x)).map((head) => rotated(config, head, position)));
  const [queries, keys] = [turned(layer.query), turned(layer.key)];
  const values = normed.map((x) => heads(config, linear(layer.value, x)));
  return queries.map((query, position) => {
    const attended = query.flatMap((head, index) => {
      const scores = keys.slice(0, position + 1).map((key) => dot(head, key[index] as Vector) / config.normalizer);
      const most = Math.max(...scores);
      const shares = scores.map((score) => Math.exp(score - most));
      const total = shares.reduce((sum, share) => sum + share, 0);
      return head.map((_, i) =>
        shares.reduce((sum, share, past) => sum + (share / total) * (values[past]?.[index]?.[i] ?? NaN), 0),
      );
    });
    return linear(layer.output, attended);
  });
}

function heads({ innerSize, numHeads }: RouterConfig, x: Vector): Vector[] {
  const size = innerSize / numHeads;
  return Array.from({ length: numHeads }, (_, head) => x.slice(head * size, (head + 1) * size));
}

function rotated({ ropeTheta }: RouterConfig, head: Vector, position: number): Vector {
  const half = head.length / 2;
  return head.map((value, i) => {
    const angle = position / ropeTheta ** ((2 * (i % half)) / head.length);
    const other = (i < half ? -1 : 1) * (head[(i + half) % head.length] as number);
    return value * Math.cos(angle) + other * Math.sin(angle);
  });
}

function norm(x: Vector, scales: Float32Array): Vector {
  const root = Math.sqrt(dot(x, x) / x.length + 1e-6);
  return x.map((value, i) => (value / root) * (scales[i] as number));
}

function linear({ weight, bias }: PlainLinear, x: Vector): Vector {
  return weight.map((row, out) => dot(x, row) + (bias[out] as number));
}

function silu(x: number): number {
  return x / (1 + Math.exp(-x));
}

function dot(a: Vector, b: ArrayLike<number>): number {
  return a.reduce((sum, value, i) => sum + value * (b[i] as number), 0);
}

function sums(a: readonly Vector[], b: readonly Vector[]): readonly Vector[] {
  return a.map((x, row) => x.map((value, i) => value + (b[row]?.[i] as number)));
}
