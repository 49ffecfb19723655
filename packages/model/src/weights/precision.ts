/** Precision of products. Everything between them is float32. */
export type Precision = "fp32" | "int8" | "int4" | "file";
