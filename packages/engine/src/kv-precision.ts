import type { KvPrecision } from "@readme-moe/kernel";
import type { Precision } from "@readme-moe/model";

/**
 * Resolves the number type of keys and values: the given one, else float32 with float32 weights, else half precision.
 */
export function kvPrecisionOf(precision: Precision = "fp32", asked?: KvPrecision): KvPrecision {
  return asked ?? (precision === "fp32" ? "fp32" : "fp16");
}
