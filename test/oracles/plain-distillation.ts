// The loss that tuning minimizes, in plain loops and double precision, over the weights that tuning changes. The decoder
// is written a second time, for those weights: `plain-decoder.ts` runs the weights of an open model.

import { ropeFrequencies, ropeScale, type ModelConfig, type RopeConfig } from "@readme-moe/model";
import type { DecoderWeights, LayerWeights, WeightGroup } from "../../packages/refactor/src/tuning/weights.ts";

import { PLAIN_ACTIVATIONS } from "./plain-decoder.ts";

type Row = number[];

interface PlainSequence {
  readonly tokenIds: Int32Array;
  readonly experts: Uint16Array;
}

/** Averages `KL(teacher ‖ student) + labelShare · cross-entropy` over all predicted tokens; the teacher's only expert is 0. */
export function plainLoss(
  config: ModelConfig,
  weights: { readonly student: DecoderWeights; readonly teacher: DecoderWeights },
  sequences: readonly PlainSequence[],
  labelShare: number,
): number {
  let [sum, tokens] = [0, 0];
  for (const sequence of sequences) {
    const student = plainLogProbs(config, weights.student, sequence);
    const experts = new Uint16Array(sequence.experts.length);
    const teacher = plainLogProbs(config, weights.teacher, { ...sequence, experts });
    for (let t = 0; t + 1 < sequence.tokenIds.length; t++, tokens++) {
      teacher[t]!.forEach((logProb, id) => (sum += Math.exp(logProb) * (logProb - student[t]![id]!)));
      sum -= labelShare * student[t]![sequence.tokenIds[t + 1]!]!;
    }
  }
  return sum / tokens;
}

/** Changes of attention by expert, which the weights of a Read-ME model do not have. */
export interface PlainLayer extends LayerWeights {
  readonly attentions?: readonly WeightGroup[];
}

/** Returns the cross-entropy of each token's next one. */
export function plainCrossEntropies(config: ModelConfig, weights: DecoderWeights, sequence: PlainSequence): number[] {
  const logProbs = plainLogProbs(config, weights, sequence);
  return [...sequence.tokenIds.subarray(1)].map((id, t) => -logProbs[t]![id]!);
}

/** `[tokens][vocabulary]` */
function plainLogProbs(
  config: ModelConfig,
  { embedding, head, layers, finalNorm }: DecoderWeights,
  { tokenIds, experts }: PlainSequence,
): Row[] {
  const { hiddenSize, embeddingScale, logitScale } = config;
  let hidden = [...tokenIds].map((id) =>
    [...embedding.subarray(id * hiddenSize, (id + 1) * hiddenSize)].map((value) => value * embeddingScale),
  );
  for (const [index, layer] of layers.entries()) {
    hidden = attend(config, layer, hidden, { index, experts });
    hidden = hidden.map((row, t) => {
      const normed = optionalNorm(config, layer.common, "norm", row);
      const routed = feedForward(config, layer.experts[experts[t]!]!, "expert", normed);
      const shared = layer.common.has("shared.gate.weight")
        ? feedForward(config, layer.common, "shared", normed)
        : undefined;
      return join(config, layer.common, row, shared ? plus(routed, shared) : routed);
    });
  }
  return hidden.map((row) => {
    const normed = norm(config, row, finalNorm.values);
    const logits = times(head, head.length / hiddenSize, normed).map((logit) => logit * logitScale);
    const most = Math.max(...logits);
    const logSum = most + Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit - most), 0));
    return logits.map((logit) => logit - logSum);
  });
}

interface AttentionPlace {
  readonly index: number;
  readonly experts: Uint16Array;
}

function attend(
  config: ModelConfig,
  { attention, attentions }: PlainLayer,
  hidden: readonly Row[],
  { index, experts }: AttentionPlace,
): Row[] {
  const groupOf = (t: number): WeightGroup => attentions?.[experts[t]!] ?? attention;
  const window = config.layers[index]?.slidingWindow ?? Infinity;
  const { headSize, numHeads, numKvHeads, attentionScale } = config;
  const rope = config.ropes[config.layers[index]?.angleSet ?? -1];
  const normed = hidden.map((row) => optionalNorm(config, attention, "norm", row));
  const heads = (name: string): Row[][] =>
    normed.map((row, position) => {
      const product = linear(groupOf(position), name, row);
      const isWhole = config.qkNorm === "all-heads";
      const all = isWhole ? optionalNorm(config, attention, `${name}_norm`, product) : product;
      const scale = isWhole ? undefined : attention.get(`${name}_norm`)?.values;
      return Array.from({ length: all.length / headSize }, (_, head) => {
        const own = all.slice(head * headSize, (head + 1) * headSize);
        const scaled = scale ? norm(config, own, scale) : own;
        return name === "value" || !rope ? scaled : turn(rope, config.rotatedSize, scaled, position);
      });
    });
  const [queries, keys, values] = [heads("query"), heads("key"), heads("value")];
  return hidden.map((row, t) => {
    const joined = queries[t]!.flatMap((query, head) => {
      const group = Math.floor(head / (numHeads / numKvHeads));
      const first = Math.max(0, t + 1 - window);
      const seen = keys.slice(first, t + 1).map((key) => Math.exp(dot(query, key[group]!) * attentionScale));
      const total = seen.reduce((sum, share) => sum + share, 0);
      const mixed: Row = Array.from({ length: headSize }, () => 0);
      seen.forEach((share, s) =>
        values[first + s]![group]!.forEach((value, i) => (mixed[i]! += (share / total) * value)),
      );
      return mixed;
    });
    return join(config, attention, row, linear(groupOf(t), "output", joined));
  });
}

function optionalNorm(config: ModelConfig, group: WeightGroup, name: string, row: Row): Row {
  const scale = group.get(name)?.values;
  return scale ? norm(config, row, scale) : row;
}

function join(config: ModelConfig, group: WeightGroup, stream: Row, output: Row): Row {
  const normed = optionalNorm(config, group, "output_norm", output);
  return plus(
    stream,
    normed.map((value) => value * config.residualScale),
  );
}

function turn(rope: RopeConfig, rotatedSize: number, head: Row, position: number): Row {
  const half = rotatedSize / 2;
  const frequencies = ropeFrequencies(rope, rotatedSize);
  const scale = ropeScale(rope);
  return head.map((value, i) => {
    if (i >= rotatedSize) return value;
    const angle = position * frequencies[i % half]!;
    const other = i < half ? -head[i + half]! : head[i - half]!;
    return scale * (value * Math.cos(angle) + other * Math.sin(angle));
  });
}

function feedForward({ activation }: ModelConfig, group: WeightGroup, name: string, x: Row): Row {
  const activate = PLAIN_ACTIVATIONS[activation];
  const up = linear(group, `${name}.up`, x);
  const inner = linear(group, `${name}.gate`, x).map((gate, i) => activate(gate) * up[i]!);
  return linear(group, `${name}.down`, inner);
}

function linear(group: WeightGroup, name: string, x: Row): Row {
  const weight = group.get(`${name}.weight`)!;
  const result = times(weight.values, weight.shape[0]!, x);
  const bias = group.get(`${name}.bias`)?.values;
  const [left, right] = [group.get(`${name}.left`), group.get(`${name}.right`)];
  const change =
    left && right ? times(right.values, right.shape[0]!, times(left.values, left.shape[0]!, x)) : undefined;
  return result.map((value, i) => value + (bias?.[i] ?? 0) + (change?.[i] ?? 0));
}

function times(matrix: Float32Array, rows: number, x: Row): Row {
  return Array.from({ length: rows }, (_, row) => {
    let sum = 0;
    for (let i = 0; i < x.length; i++) sum += matrix[row * x.length + i]! * x[i]!;
    return sum;
  });
}

function norm({ rmsNormEpsilon, normOffset }: ModelConfig, x: Row, scale: Float32Array): Row {
  const rms = Math.sqrt(dot(x, x) / x.length + rmsNormEpsilon);
  return x.map((value, i) => (value / rms) * (scale[i]! + normOffset));
}

function dot(a: Row, b: Row): number {
  return a.reduce((sum, value, i) => sum + value * b[i]!, 0);
}

function plus(a: Row, b: Row): Row {
  return a.map((value, i) => value + b[i]!);
}
