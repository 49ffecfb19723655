// A draft head on a tape: one layer over the model's states, unrolled over several drafts.

import type { RopeConfig } from "@readme-moe/model";
import { add, linear, reshape, swiglu, timesNumber, transpose } from "../autodiff/arithmetic.ts";
import {
  causalMask,
  rmsNorm,
  rotary,
  rotaryTables,
  tapeWeights,
  type TapeWeights,
} from "../autodiff/layer-operations.ts";
import { candidateCrossEntropy } from "../autodiff/losses.ts";
import { Tape, type Tensor } from "../autodiff/tape.ts";
import type { Graph, Value } from "../graphs/graph-builder.ts";
import * as operators from "../graphs/operators.ts";

const { Add, Concat, FusedMatMul, Mul, ReduceSum, Reshape, Slice, Softmax, Sub, TopK, Unsqueeze } = operators;

/** Number of the model's states that a head reads for each token. */
export const TAPS = 3;

/** Sizes and numbers of a head. */
export interface HeadShape {
  readonly hiddenSize: number;
  readonly intermediate: number;
  readonly vocabulary: number;
  readonly numHeads: number;
  readonly numKvHeads: number;
  readonly headSize: number;
  readonly rope: RopeConfig;
  readonly epsilon: number;
}

/** Lists the trained weights by their names in the head's file. */
export function headWeights(shape: HeadShape): ReadonlyMap<string, readonly number[]> {
  const { hiddenSize: size, intermediate, numHeads, numKvHeads, headSize } = shape;
  const [queries, keys] = [numHeads * headSize, numKvHeads * headSize];
  return new Map([
    ["fc.weight", [size, TAPS * size]],
    ["midlayer.input_layernorm.weight", [size]],
    ["midlayer.hidden_norm.weight", [size]],
    ["midlayer.self_attn.q_proj.weight", [queries, 2 * size]],
    ["midlayer.self_attn.k_proj.weight", [keys, 2 * size]],
    ["midlayer.self_attn.v_proj.weight", [keys, 2 * size]],
    ["midlayer.self_attn.o_proj.weight", [size, queries]],
    ["midlayer.post_attention_layernorm.weight", [size]],
    ["midlayer.mlp.gate_proj.weight", [intermediate, size]],
    ["midlayer.mlp.up_proj.weight", [intermediate, size]],
    ["midlayer.mlp.down_proj.weight", [size, intermediate]],
    ["norm.weight", [size]],
  ]);
}

/** Length of a graph's sequence, and its numbers of drafts and of outputs. */
export interface Unrolling {
  readonly tokens: number;
  readonly drafts: number;
  readonly outputs: number;
  /** Weight of each further draft relative to the one before it. */
  readonly decay: number;
}

/**
 * Builds the graph of a sequence's loss, of each draft's cross-entropy with the model's best candidates. With `rows =
 * tokens + drafts - 1`, inputs are the weights; `head` `[outputs, hiddenSize]` and what is added to its logits,
 * `corrections` `[outputs]`; `states` `[tokens, TAPS * hiddenSize]`; and, for the tokens after the first one,
 * `embeddings` `[rows, hiddenSize]`, candidates' `ids` int64 `[rows, candidates]` among the outputs and their weights
 * `shares`.
 *
 * Outputs are `loss` `[1]` and, with gradients, those of the weights; else each draft's best token `best.<draft>`.
 */
export function headGraph(shape: HeadShape, { decay, outputs, ...lengths }: Unrolling, hasGradients: boolean): Graph {
  const tape = new Tape("draft-head");
  const weights = tapeWeights(headWeights(shape), (name, sizes) =>
    tape.declare(name, sizes, hasGradients ? "trained" : "data"),
  );
  const rows = unrolledRows(tape, weights, shape, lengths);
  const head = tape.data("head", "float32", [outputs, shape.hiddenSize]);
  const corrections = tape.data("corrections", "float32", [outputs]);
  const { tokens, drafts } = lengths;
  const sizes = [tokens + drafts - 1, -1];
  const [ids, shares] = [tape.data("ids", "int64", sizes), tape.data("shares", "float32", sizes)];
  const losses = rows.map((normed, draft) => {
    const logits = linear(tape, normed, head, corrections);
    if (!hasGradients) {
      const [, best] = TopK(tape.graph, logits.value, tape.graph.integers([1]));
      tape.graph.output(`best.${draft}`, best, "int64", [tokens, 1]);
    }
    const candidates = { ids: shifted(tape, ids, draft, tokens), shares: shifted(tape, shares, draft, tokens) };
    return timesNumber(tape, candidateCrossEntropy(tape, logits, candidates), decay ** draft);
  });
  const loss = losses.reduce((sum, next) => add(tape, sum, next));
  if (hasGradients) return tape.build(loss);
  tape.graph.output("loss", loss.value, "float32", [1]);
  return tape.graph.build();
}

/** Takes the rows of data that belong to a draft. */
function shifted(tape: Tape, { value, shape }: Tensor, draft: number, tokens: number): Tensor {
  const part = Slice(tape.graph, value, { start: draft, end: draft + tokens });
  return tape.record(part, [tokens, ...shape.slice(1)], []);
}

/** Computes each draft's normed rows `[tokens, hiddenSize]`. */
function unrolledRows(
  tape: Tape,
  weights: TapeWeights,
  shape: HeadShape,
  { tokens, drafts }: Pick<Unrolling, "tokens" | "drafts">,
): readonly Tensor[] {
  const { hiddenSize, numHeads, numKvHeads, headSize, rope, epsilon } = shape;
  const states = tape.data("states", "float32", [tokens, TAPS * hiddenSize]);
  const embeddings = tape.data("embeddings", "float32", [tokens + drafts - 1, hiddenSize]);
  const { cos, sin } = rotaryTables(tape, { set: 0, rope, rotatedSize: headSize, tokens: tokens + drafts - 1 });
  const product = (name: string, x: Tensor): Tensor => linear(tape, x, weights.get(`${name}_proj.weight`));
  const norm = (name: string, x: Tensor): Tensor => rmsNorm(tape, x, weights.get(`${name}.weight`), { epsilon });
  const heads = (x: Tensor, count: number): Tensor =>
    transpose(tape, reshape(tape, x, [tokens, count, headSize]), [1, 0, 2]);
  const keyRows: OwnRows[] = [];
  let stream = linear(tape, states, weights.get("fc.weight"));
  return Array.from({ length: drafts }, (_, draft) => {
    const positions = tape.constant(`first.${draft}`, "int64", [1], BigInt64Array.of(BigInt(draft)));
    const rotated = (x: Tensor, count: number): Tensor => {
      const one = reshape(tape, x, [1, tokens, count * headSize]);
      return heads(rotary(tape, one, { positions, cos, sin }), count);
    };
    const embedded = norm("midlayer.input_layernorm", shifted(tape, embeddings, draft, tokens));
    const input = joinColumns(tape, embedded, norm("midlayer.hidden_norm", stream));
    const query = rotated(product("midlayer.self_attn.q", input), numHeads);
    keyRows.push({
      key: rotated(product("midlayer.self_attn.k", input), numKvHeads),
      value: heads(product("midlayer.self_attn.v", input), numKvHeads),
    });
    const grouped = reshape(tape, query, [numKvHeads, (numHeads / numKvHeads) * tokens, headSize]);
    const attended = reshape(tape, unrolledAttention(tape, grouped, [...keyRows], tokens), query.shape);
    const joined = reshape(tape, transpose(tape, attended, [1, 0, 2]), [tokens, numHeads * headSize]);
    const behind = add(tape, stream, product("midlayer.self_attn.o", joined));
    const inner = norm("midlayer.post_attention_layernorm", behind);
    const gated = swiglu(tape, product("midlayer.mlp.gate", inner), product("midlayer.mlp.up", inner));
    stream = add(tape, behind, product("midlayer.mlp.down", gated));
    return norm("norm", stream);
  });
}

/** Joins `[rows, a]` and `[rows, b]` to `[rows, a + b]`. */
function joinColumns(tape: Tape, a: Tensor, b: Tensor): Tensor {
  const g = tape.graph;
  const [rows = 0, width = 0] = a.shape;
  const whole = width + (b.shape[1] ?? 0);
  return tape.record(
    Concat(g, [a.value, b.value], 1),
    [rows, whole],
    [
      [a, (gradient) => Slice(g, gradient, { start: 0, end: width, axis: 1 })],
      [b, (gradient) => Slice(g, gradient, { start: width, end: whole, axis: 1 })],
    ],
  );
}

/** Keys and values of a draft, `[numKvHeads, tokens, headSize]`. */
interface OwnRows {
  readonly key: Tensor;
  readonly value: Tensor;
}

/**
 * Computes attention of a draft's rows: row `t` sees the first draft's rows up to `t`, and of each later draft, its own
 * included, row `t` alone.
 *
 * @param query - `[numKvHeads, group * tokens, headSize]`, as the result
 * @param drafts - rows of the drafts so far
 */
function unrolledAttention(tape: Tape, query: Tensor, [first, ...later]: readonly OwnRows[], tokens: number): Tensor {
  if (!first) throw new TypeError("Expected the rows of at least one draft, got none");
  const g = tape.graph;
  const [numKvHeads = 0, flat = 0, headSize = 0] = query.shape;
  const group = flat / tokens;
  const alpha = 1 / Math.sqrt(headSize);
  const inGroups = (x: Value, width: number): Value => Reshape(g, x, [numKvHeads, group, tokens, width]);
  const inRows = (x: Value, width: number): Value => Reshape(g, x, [numKvHeads, flat, width]);
  const forGroup = (x: Value): Value => Unsqueeze(g, x, [1]);
  const along = (a: Value, b: Value): Value => Unsqueeze(g, ReduceSum(g, Mul(g, a, b), 3), [3]);
  const scaled = (x: Value): Value => Mul(g, x, g.floats([alpha]));
  /** Takes the columns of the first draft's rows, or that of a later draft. */
  const columns = (x: Value, draft: number): Value => {
    if (draft > 0) return Slice(g, x, { start: tokens + draft - 1, end: tokens + draft, axis: 3 });
    return inRows(later.length === 0 ? x : Slice(g, x, { start: 0, end: tokens, axis: 3 }), tokens);
  };
  const queries = inGroups(query.value, headSize);
  const square = inGroups(FusedMatMul(g, query.value, first.key.value, { transB: true, alpha }), tokens);
  const scores = [
    Add(g, square, causalMask(g, tokens)),
    ...later.map(({ key }) => scaled(along(queries, forGroup(key.value)))),
  ];
  const shares = Softmax(g, Concat(g, scores, 3), 3);
  const attended = later.reduce(
    (sum, { value }, index) => Add(g, sum, Mul(g, columns(shares, index + 1), forGroup(value.value))),
    inGroups(FusedMatMul(g, columns(shares, 0), first.value.value), headSize),
  );
  /** Computes the gradient of the scores once for all inputs. */
  let known: Value | undefined;
  const ofScores = (gradient: Value): Value => {
    if (known !== undefined) return known;
    const ofShares = Concat(
      g,
      [
        inGroups(FusedMatMul(g, gradient, first.value.value, { transB: true }), tokens),
        ...later.map(({ value }) => along(inGroups(gradient, headSize), forGroup(value.value))),
      ],
      3,
    );
    return (known = Mul(g, shares, Sub(g, ofShares, along(ofShares, shares))));
  };
  const ofQuery = (gradient: Value): Value => {
    const slopes = ofScores(gradient);
    const fromFirst = FusedMatMul(g, columns(slopes, 0), first.key.value, { alpha });
    return later.reduce((sum, { key }, index) => {
      const own = Mul(g, scaled(columns(slopes, index + 1)), forGroup(key.value));
      return Add(g, sum, inRows(own, headSize));
    }, fromFirst);
  };
  return tape.record(inRows(attended, headSize), query.shape, [
    [query, ofQuery],
    [first.key, (gradient) => FusedMatMul(g, columns(ofScores(gradient), 0), query.value, { transA: true, alpha })],
    [first.value, (gradient) => FusedMatMul(g, columns(shares, 0), gradient, { transA: true })],
    ...later.flatMap(({ key, value }, index): [Tensor, (gradient: Value) => Value][] => [
      [key, (gradient) => ReduceSum(g, Mul(g, scaled(columns(ofScores(gradient), index + 1)), queries), 1)],
      [value, (gradient) => ReduceSum(g, Mul(g, columns(shares, index + 1), inGroups(gradient, headSize)), 1)],
    ]),
  ]);
}
