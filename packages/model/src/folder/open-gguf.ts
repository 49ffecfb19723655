import { ggufConfig } from "../config/gguf-config.ts";
import { GgufTensorStore } from "../gguf/gguf-tensor-store.ts";
import { fingerprintOf } from "../cache/fingerprint.ts";
import { loadGgufText } from "../text/load-text.ts";
import { once } from "../text/once.ts";
import { locateDense } from "../weights/backbone.ts";
import type { Model } from "./model.ts";

/** A GGUF file carries everything: weights, config, tokenizer and chat template. */
export async function openGguf(path: string): Promise<Model> {
  const store = await GgufTensorStore.open(path);
  try {
    const config = await ggufConfig(store);
    return {
      path,
      kind: "dense",
      config,
      ...locateDense(store, config),
      router: undefined,
      files: [path],
      fingerprint: await fingerprintOf([path]),
      loadText: once(async () => loadGgufText(path, store.file.metadata)),
      close: () => store.close(),
    };
  } catch (error) {
    await store.close();
    throw error;
  }
}
