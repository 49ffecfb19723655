// Random loras of a random model, once for the plain implementation and once as an expert.

import type { Lora, LoraProduct, LoraRefs } from "@readme-moe/model";
import type { PlainLoraFactors } from "../../oracles/plain-lora.ts";
import type { PlainLora, PlainModel } from "../../oracles/plain-kernel.ts";
import type { PlainWeights } from "../../oracles/plain-kernel-product.ts";
import { randomInteger, randomNormal } from "../random.ts";
import { memoryTensor } from "./memory-store.ts";

const PRODUCTS: readonly LoraProduct[] = ["query", "key", "value", "attentionOutput", "gate", "up", "down"];
const PRECISIONS = ["fp32", "fp16", "int8"] as const;

/** A lora in both forms. */
export interface TestLora {
  readonly plain: PlainLora;
  readonly packed: Pick<Lora, "layers" | "head">;
}

/** Makes a lora of about every second product, with ranks of 1 to 40. */
export function randomLora(random: () => number, model: PlainModel): TestLora {
  const products = new Map<PlainWeights, PlainLoraFactors>();
  const precision = PRECISIONS[randomInteger(random, PRECISIONS.length)] ?? "fp32";
  const refsOf = (weights: PlainWeights | undefined): LoraRefs | undefined => {
    if (!weights || random() < 0.5) return undefined;
    const low = randomFactors(random, weights);
    products.set(weights, low);
    const { rank, numIn, numOut, a, b, scale } = low;
    return { rank, scale, a: memoryTensor(a, [rank, numIn]), b: memoryTensor(b, [numOut, rank]) };
  };
  const layers = model.layers.map((layer) => {
    const weights = [layer.query, layer.key, layer.value, layer.attentionOutput];
    const all = [...weights, layer.shared?.gate, layer.shared?.up, layer.shared?.down];
    return Object.fromEntries(
      all.flatMap((one, index) => {
        const refs = refsOf(one);
        return refs ? [[PRODUCTS[index] as LoraProduct, refs]] : [];
      }),
    );
  });
  const head = refsOf(model.head);
  return { plain: { precision, products }, packed: { layers, head } };
}

function randomFactors(random: () => number, { numIn, numOut }: PlainWeights): PlainLoraFactors {
  const rank = random() < 0.2 ? 16 : 1 + randomInteger(random, 40);
  const floats = (length: number, size: number): Float32Array =>
    Float32Array.from({ length }, () => size * randomNormal(random));
  const [a, b] = [floats(rank * numIn, numIn ** -0.5), floats(numOut * rank, 1)];
  // A row of zeros has no scale of its own.
  if (random() < 0.3) a.fill(0, 0, numIn);
  return { rank, numIn, numOut, a, b, scale: 0.25 + random() };
}
