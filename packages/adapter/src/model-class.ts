// A model of the host's own class whose `generate` runs in the engine.

import type { Engine, ReadMeEmitter, RoutedPrompt } from "@readme-moe/core";
import { ReadMeError } from "@readme-moe/core";
import { generateForHuggingface, type HuggingfaceOptions, type Serving } from "./generation/huggingface-call.ts";
import { generateForXenova, type XenovaOptions } from "./generation/xenova-call.ts";
import { generationOf, insideOf, type HostLike, type HostTensor } from "./host.ts";
import type { EngineLease } from "./load/engine-pool.ts";

/** Members that models of this package have besides the host's: `generator.model` of a pipeline. */
export interface ReadMeModel {
  readonly engine: Engine;
  /** Every decision of the engine as an event; shared by all pipelines with the same model and options. */
  readonly events: ReadMeEmitter;
  /** Returns the experts that a text's tokens would be routed to. */
  route(text: string): Promise<RoutedPrompt>;
}

export interface ModelParts {
  readonly lease: EngineLease;
  /** config.json */
  readonly config: object;
  /** generation_config.json; empty if the model has none. */
  readonly generationConfig: object;
  readonly isSpecial: (tokenId: number) => boolean;
}

/** Makes an instance of the host's `PreTrainedModel` that is also a `ReadMeModel`. */
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
        : generateForXenova(serving, first as HostTensor, { options, processors, mask });
    }

    /** Refuses a call of the model, which in the host runs one forward pass. */
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
  // In the newer generation this is a getter.
  if (generation === "xenova") Object.assign(model, { generation_config: generationConfig });
  return model;
}

/** Returns a model of this package with its own members; `undefined` for the host's own models. */
export function readMeModel(model: unknown): ReadMeModel | undefined {
  return isReadMeModel(model) ? model : undefined;
}

function isReadMeModel(model: unknown): model is ReadMeModel {
  return typeof model === "function" && "engine" in model && "events" in model && "route" in model;
}
