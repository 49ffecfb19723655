import type { KvPrecision } from "@readme-moe/kernel";
import type { Precision } from "@readme-moe/model";

/** Precision in which keys and values are kept: what is asked for, by default float32 where weights are, else half precision. */
export function kvPrecisionOf(precision: Precision = "fp32", asked?: KvPrecision): KvPrecision {
  return asked ?? (precision === "fp32" ? "fp32" : "fp16");
}
