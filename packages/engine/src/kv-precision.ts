import { isKernelModel } from "@readme-moe/kernel";
import type { KvPrecision, Precision } from "@readme-moe/model";

/**
 * Precision in which a model's runner keeps keys and values. Graphs keep float32. The kernel keeps what is asked for, by
 * default float32 where weights are float32, else half precision.
 */
export function kvPrecisionOf(
  model: Parameters<typeof isKernelModel>[0],
  precision: Precision = "fp32",
  asked?: KvPrecision,
): KvPrecision {
  if (!isKernelModel(model)) return "fp32";
  return asked ?? (precision === "fp32" ? "fp32" : "fp16");
}
