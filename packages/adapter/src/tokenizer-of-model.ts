import { insideOf, type HostLike, type HostTokenizer } from "./host/host.ts";

/**
 * The newer generation's `pipeline` loads a tokenizer only where the model's folder has a tokenizer_config.json; a GGUF
 * file has none beside it. A pipeline that is made without one takes its model's.
 *
 * @returns undoes it; pipelines keep what they have
 */
export function fillTokenizer(host: HostLike, tokenizerOf: (model: object) => HostTokenizer | undefined): () => void {
  const { prototype } = insideOf(host).TextGenerationPipeline as unknown as { readonly prototype: object };
  Object.defineProperty(prototype, "tokenizer", {
    configurable: true,
    // The host's constructor sets it last, the model before it.
    set(this: { readonly model?: object }, given: unknown) {
      const value = given ?? (this.model && tokenizerOf(this.model)) ?? given;
      Object.defineProperty(this, "tokenizer", { value, writable: true, enumerable: true, configurable: true });
    },
  });
  return () => {
    delete (prototype as { tokenizer?: unknown }).tokenizer;
  };
}
