// Peers that targets name. The fastest one is no Node library, so that it is compared for itself.

/** Those that Node programs use, with weights of 8 bits. */
export const NODE_RIVALS: readonly string[] = ["transformers.js q8", "node-llama-cpp Q8_0"];

/** OpenVINO GenAI with weights of 8 bits, in a Python process. */
export const OPENVINO = "openvino int8";

export function isOpenVino(variant: string): boolean {
  return variant.startsWith("openvino ");
}
