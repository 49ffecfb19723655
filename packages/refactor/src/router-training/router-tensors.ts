import type { RouterConfig, SafetensorsInput } from "@readme-moe/model";
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
