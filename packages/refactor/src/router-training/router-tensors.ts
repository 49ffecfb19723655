import type { ReadMeContent, RouterConfig, SafetensorsInput } from "@readme-moe/model";
import { routerShapes } from "./router-network.ts";
import { EMBEDDING } from "./router-trainer.ts";

/** Parameters as a Read-ME folder's router file has them, in its order. */
export function routerTensors(
  config: RouterConfig,
  parameters: ReadonlyMap<string, Float32Array>,
): readonly SafetensorsInput[] {
  const shapes = new Map([[EMBEDDING, [config.vocabSize, config.embeddingSize]], ...routerShapes(config)]);
  return [...shapes].map(([name, shape]) => {
    const values = parameters.get(name) as Float32Array;
    const bytes = async (): Promise<Uint8Array> => new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
    return { name, type: "F32", shape, bytes };
  });
}

/** What a Read-ME folder's config.json says of a trained router. */
export function routerSection(shape: RouterConfig): NonNullable<ReadMeContent["readme"]["router"]> {
  return {
    embedding_size: shape.embeddingSize,
    inner_size: shape.innerSize,
    num_heads: shape.numHeads,
    num_layers: shape.numLayers,
    normalizer: shape.normalizer,
    rope_theta: shape.ropeTheta,
    context_tokens: shape.contextTokens,
    activation: "silu",
  };
}
