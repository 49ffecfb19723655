import type { SamplingDefaults } from "@readme-moe/core";

/**
 * Ollama's own sampling parameters, for models whose files recommend none. Its penalty of repeated tokens is left out:
 * it looks at 64 tokens, and ours at the whole prompt.
 */
export const SAMPLING_FALLBACKS: SamplingDefaults = { temperature: 0.8, topK: 40, topP: 0.9 };
