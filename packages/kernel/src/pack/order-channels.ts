// The order of an encoder's channels. Layer norms make a few channels far larger than others. Blocks of 8 bits round
// least where channels of one size stand together.

import {
  blockLayoutOf,
  computedTensor,
  type LinearRefs,
  type ModelWeights,
  type NormRef,
  type TensorRef,
} from "@readme-moe/model";

/** The model's channel at each place. */
type Order = () => Promise<Uint32Array>;

/**
 * Orders the channels of an encoder's stream by their sizes behind all norms, the largest first. Fourth powers let a
 * channel that is large once stand before one that is often larger than others.
 *
 * @returns the same weights in this order, and the order; `undefined` for weights that are in blocks already
 */
export function orderChannels(
  weights: ModelWeights,
): { readonly weights: ModelWeights; readonly order: Order } | undefined {
  const { store, name } = weights.layers[0]!.attention.query.weight;
  if (store.blocks?.(name) ?? blockLayoutOf(store.info(name).type)) return undefined;
  let reading: Promise<Uint32Array> | undefined;
  const order: Order = () => (reading ??= readOrder(weights));
  return { weights: inOrder(weights, order), order };
}

async function readOrder({ embedding, layers, finalNorm, encoder }: ModelWeights): Promise<Uint32Array> {
  const norms = [
    encoder?.embeddingNorm,
    ...layers.flatMap((own) => [own.attentionNorm, own.attentionOutputNorm, own.ffnNorm, own.ffnOutputNorm]),
    finalNorm,
  ].flatMap((norm) => [norm, norm?.bias]);
  const sizes = new Float32Array(embedding.shape[1] ?? 0);
  for (const ref of norms) {
    const values = (await ref?.store.readFloats(ref.name)) ?? [];
    // Products are the same on every platform, powers are not.
    for (const [i, value] of values.entries()) sizes[i]! += value * value * (value * value);
  }
  return Uint32Array.from(sizes.keys()).sort((a, b) => sizes[b]! - sizes[a]! || a - b);
}

function inOrder(weights: ModelWeights, order: Order): ModelWeights {
  const columns = (ref: TensorRef): TensorRef => ordered(ref, order, false);
  const rows = (ref: TensorRef): TensorRef => ordered(ref, order, true);
  const norm = (ref: NormRef): NormRef => ({ ...rows(ref), bias: maybe(ref.bias, rows) });
  const input = ({ weight, bias }: LinearRefs): LinearRefs => ({ weight: columns(weight), bias });
  const output = ({ weight, bias }: LinearRefs): LinearRefs => ({ weight: rows(weight), bias: maybe(bias, rows) });
  const { encoder } = weights;
  return {
    ...weights,
    embedding: columns(weights.embedding),
    layers: weights.layers.map((layer) => ({
      ...layer,
      attentionNorm: maybe(layer.attentionNorm, norm),
      attention: {
        ...layer.attention,
        query: input(layer.attention.query),
        key: input(layer.attention.key),
        value: input(layer.attention.value),
        output: output(layer.attention.output),
      },
      attentionOutputNorm: maybe(layer.attentionOutputNorm, norm),
      ffnNorm: maybe(layer.ffnNorm, norm),
      shared: maybe(layer.shared, ({ gate, up, down }) => ({ gate: input(gate), up: input(up), down: output(down) })),
      plain: maybe(layer.plain, ({ up, down }) => ({ up: input(up), down: output(down) })),
      ffnOutputNorm: maybe(layer.ffnOutputNorm, norm),
    })),
    finalNorm: norm(weights.finalNorm),
    encoder: encoder && {
      ...encoder,
      positions: maybe(encoder.positions, columns),
      segments: maybe(encoder.segments, columns),
      embeddingNorm: norm(encoder.embeddingNorm),
    },
  };
}

function maybe<Ref>(ref: Ref | undefined, change: (ref: Ref) => Ref): Ref | undefined {
  return ref && change(ref);
}

/** Refers to the same floats with rows or columns in the order of the channels. */
function ordered(ref: TensorRef, order: Order, isRows: boolean): TensorRef {
  const { store, name, shape } = ref;
  const [, numColumns = 1] = shape;
  return computedTensor(ref, shape, async (rows) => {
    const places = await order();
    const values = await store.readFloats(name, isRows ? undefined : rows);
    const sorted = new Float32Array((rows.to - rows.from) * numColumns);
    for (let at = 0; at < sorted.length; at++) {
      const [row, column] = [Math.floor(at / numColumns), at % numColumns];
      sorted[at] = isRows
        ? values[places[rows.from + row]! * numColumns + column]!
        : values[row * numColumns + places[column]!]!;
    }
    return sorted;
  });
}
