// A model of the host's own kind whose `generate` is the engine's.

import type { Engine, ReadMeEmitter, RoutedPrompt } from "@readme-moe/core";
import { ReadMeError } from "@readme-moe/core";
import { generateForHuggingface, type HuggingfaceOptions, type Serving } from "./generation/huggingface-call.ts";
import { generateForXenova, type XenovaOptions } from "./generation/xenova-call.ts";
import { generationOf, insideOf, type HostLike, type HostTensor } from "./host/host.ts";
import type { EngineLease } from "./load/engine-pool.ts";

/** What models have that this package loaded, beside what the host's have: `generator.model` of a pipeline. */
export interface ReadMeModel {
  readonly engine: Engine;
  /** Every decision of the engine as an event; shared by all pipelines with the same model and options. */
  readonly events: ReadMeEmitter;
  /** The experts that a text's tokens would go to. */
  route(text: string): Promise<RoutedPrompt>;
}

export interface ModelParts {
  readonly lease: EngineLease;
  /** config.json */
  readonly config: object;
  /** generation_config.json, empty where there is none. */
  readonly generationConfig: object;
  readonly isSpecial: (tokenId: number) => boolean;
}

/** @returns an instance of the host's `PreTrainedModel`, and a `ReadMeModel` */
export function hostModel(host: HostLike, { lease, config, generationConfig, isSpecial }: ModelParts): object {
  const { engine } = lease;
  const { PreTrainedModel, PretrainedConfig } = insideOf(host);
  const generation = generationOf(host);

  class ReadMeForCausalLM extends PreTrainedModel implements ReadMeModel {
    readonly engine: Engine = engine;
    readonly events: ReadMeEmitter = engine.events;

    route(text: string): Promise<RoutedPrompt> {
      return engine.route(text);
    }

    async generate(
      first: HuggingfaceOptions | HostTensor,
      options: XenovaOptions | null = null,
      processors: unknown = null,
      { inputs_attention_mask: mask }: { readonly inputs_attention_mask?: HostTensor | null } = {},
    ): Promise<unknown> {
      const serving: Serving = { host, model: this, engine, isSpecial };
      return generation === "huggingface"
        ? generateForHuggingface(serving, first as HuggingfaceOptions)
        : generateForXenova(serving, first as HostTensor, options, processors, mask);
    }

    /** Calling a model of the host runs one forward pass. */
    forward(): never {
      const message = "Models of Read-ME's engine generate; for logits, see `processLogits` of `model.engine.generate`";
      throw new ReadMeError("ERR_MODEL_UNSUPPORTED", message);
    }

    async dispose(): Promise<readonly unknown[]> {
      await lease.release();
      return [];
    }
  }

  const model = new ReadMeForCausalLM(new PretrainedConfig(config), {}, { generation_config: generationConfig });
  model.can_generate = true;
  // The newer generation has a getter for it.
  if (generation === "xenova") Object.assign(model, { generation_config: generationConfig });
  return model;
}

/** What of this package's a model is; `undefined` for the host's own models. */
export function readMeModel(model: unknown): ReadMeModel | undefined {
  const isOurs = typeof model === "function" && "engine" in model && "events" in model && "route" in model;
  return isOurs ? (model as unknown as ReadMeModel) : undefined;
}
