import { isKernelModel } from "@readme-moe/kernel";
import type { KvPrecision, Precision } from "@readme-moe/model";

/**
 * How a runner keeps keys and values: graphs in float32; the kernel as asked for, by default in float32 where weights are,
 * else in halves.
 */
export function kvPrecisionOf(
  model: Parameters<typeof isKernelModel>[0],
  precision: Precision = "fp32",
  asked?: KvPrecision,
): KvPrecision {
  if (!isKernelModel(model)) return "fp32";
  return asked ?? (precision === "fp32" ? "fp32" : "fp16");
}
