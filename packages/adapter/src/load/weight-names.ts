/** Whether a folder's names have weights that the engine reads, in the folder itself. */
export function hasWeights(names: Iterable<string>): boolean {
  return Array.from(names).some((name) => /^[^/]+\.(safetensors|safetensors\.index\.json|gguf)$/i.test(name));
}
