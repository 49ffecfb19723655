// int8 with one scale per row loses most where a few channels are far larger than the others. A norm before the
// products can make them smaller, and the products' weights as much larger, with nothing else changed (SmoothQuant,
// arXiv 2211.10438, equation 4).

import type { Calibration } from "../calibration/calibration.ts";
import type { TensorRef } from "../weights/tensor-ref.ts";

/** What each channel of a products' input is divided by, `[in]`. */
export interface ChannelScales {
  read(): Promise<Float32Array>;
}

// How much of a channel's size goes over to the weights. 0.5 to 0.8 are alike for SmolLM2 (0.010 nats over float32
// where there are 0.020 without).
const SHARE = 0.6;
const LEAST = 1e-5;

/** @param refs - all weights `[out, in]` that take `product`'s input */
export function channelScales(calibration: Calibration, product: string, refs: readonly TensorRef[]): ChannelScales {
  let scales: Promise<Float32Array> | undefined;
  const compute = async (): Promise<Float32Array> =>
    balance(await calibration.inputMax(product), await largestOfColumns(refs));
  return { read: () => (scales ??= compute()) };
}

/** Rows of a weight, or a norm's scales as one row, times or over the channels' scales. In place. */
export function scaleChannels(values: Float32Array, scales: Float32Array, operation: "multiply" | "divide"): void {
  const numIn = scales.length;
  for (let start = 0; start < values.length; start += numIn) {
    for (let i = 0; i < numIn; i++) {
      const scale = scales[i] as number;
      const value = values[start + i] as number;
      values[start + i] = operation === "multiply" ? value * scale : value / scale;
    }
  }
}

function balance(inputMax: Float32Array, weightMax: Float32Array): Float32Array {
  const scales = inputMax.map(
    (largest, i) => Math.max(largest, LEAST) ** SHARE / Math.max(weightMax[i] as number, LEAST) ** (1 - SHARE),
  );
  const mean = scales.reduce((sum, scale) => sum + scale, 0) / scales.length;
  return scales.map((scale) => Math.max(scale / mean, 1e-3));
}

async function largestOfColumns(refs: readonly TensorRef[]): Promise<Float32Array> {
  const numIn = refs[0]?.shape[1] ?? 0;
  const largest = new Float32Array(numIn);
  for (const { store, name } of refs) {
    const values = await store.readFloats(name);
    for (let start = 0; start < values.length; start += numIn) {
      for (let i = 0; i < numIn; i++) {
        largest[i] = Math.max(largest[i] as number, Math.abs(values[start + i] as number));
      }
    }
  }
  return largest;
}
