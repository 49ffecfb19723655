// A lora merged into its dense model in float64: what the plain decoder then computes is what the expert
// means.

import type { LinearRefs, Lora, LoraRefs, Model, TensorRef, TensorStore } from "@readme-moe/model";

/** Makes the model with `weight + scale · b · a` in place of each weight that the expert changes. */
export async function mergedModel(model: Model, { layers, head }: Lora): Promise<Model> {
  const { weights } = model;
  const linear = async (refs: LinearRefs, change: LoraRefs | undefined): Promise<LinearRefs> => ({
    weight: await merged(refs.weight, change),
    bias: refs.bias,
  });
  return {
    ...model,
    weights: {
      ...weights,
      head: await merged(weights.head, head),
      layers: await Promise.all(
        weights.layers.map(async (layer, index) => {
          const changes = layers[index] ?? {};
          const [ffn] = layer.experts;
          if (ffn === undefined && !layer.mixture) throw new TypeError("Expected a dense model, or a mixture");
          return {
            ...layer,
            attention: {
              ...layer.attention,
              query: await linear(layer.attention.query, changes.query),
              key: await linear(layer.attention.key, changes.key),
              value: await linear(layer.attention.value, changes.value),
              output: await linear(layer.attention.output, changes.attentionOutput),
            },
            experts: ffn
              ? [
                  {
                    gate: await linear(ffn.gate, changes.gate),
                    up: await linear(ffn.up, changes.up),
                    down: await linear(ffn.down, changes.down),
                  },
                ]
              : [],
          };
        }),
      ),
    },
  };
}

async function merged(weight: TensorRef, change: LoraRefs | undefined): Promise<TensorRef> {
  if (change === undefined) return weight;
  const [outSize, inSize] = weight.shape as readonly [number, number];
  const { rank, scale } = change;
  const values = Float64Array.from(await weight.store.readFloats(weight.name));
  const a = await change.a.store.readFloats(change.a.name);
  const b = await change.b.store.readFloats(change.b.name);
  for (let out = 0; out < outSize; out++) {
    for (let inner = 0; inner < inSize; inner++) {
      let sum = 0;
      for (let r = 0; r < rank; r++) sum += (b[out * rank + r] as number) * (a[r * inSize + inner] as number);
      values[out * inSize + inner] = (values[out * inSize + inner] as number) + scale * sum;
    }
  }
  const store: Pick<TensorStore, "readFloats"> = { readFloats: async () => Float32Array.from(values) };
  return { ...weight, store: store as TensorStore };
}
